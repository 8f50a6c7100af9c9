"""What llama-server makes of a row before its Jinja engine writes it with the checkpoint's template.

From runs of the llama.cpp inside the xllamacpp wheel. Beside the sorting of keys by code point: a tool's response is
text in its interface, and a fraction has at most six digits behind the point and never an exponent (1e-07 is 0.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from dozan.chat.format import Call
from dozan.chat.messages import Turn, texts_of
from dozan.rows.example import Json


def as_llama_cpp(turn: Turn) -> Turn:
    """The turn with its responses as text and its fractions as that engine prints them."""
    calls = tuple(Call(call.name, _printed(call.arguments)) for call in turn.calls)
    return replace(turn, calls=calls, responses=texts_of(turn.responses))


def _printed(value: Json) -> Json:
    if isinstance(value, float):
        digits = f"{value:.6f}".rstrip("0")
        # A Decimal keeps the digits that it is given, and is printed without an exponent down to 1e-6.
        return Decimal(digits + "0" if digits.endswith(".") else digits)
    if isinstance(value, Mapping):
        return {key: _printed(inner) for key, inner in value.items()}
    return [_printed(inner) for inner in value] if isinstance(value, list) else value
