"""Rows to token ids with a training weight for each: labels come from spans of the rendered text, not from markers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dozan.chat.format import ChatFormat, Parsed, Rendered
from dozan.chat.keys import key
from dozan.chat.messages import Notes, read_turns
from dozan.chat.tokenizer import Span, Tokenizer
from dozan.chat.tokens import BOS
from dozan.errors import InputError
from dozan.rows.example import Example

_SHOWN = 20
_TOGETHER = 256
_T = TypeVar("_T")
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Tokens:
    """A row as the model trains on it: `weights[i]` is that of predicting `ids[i]`, 0 where nothing is trained."""

    row: str
    ids: tuple[int, ...]
    weights: tuple[float, ...]

    @cached_property
    def key(self) -> bytes:
        """The ids as bytes that sort and compare as they do."""
        return key(self.ids)

    @cached_property
    def supervised(self) -> tuple[Numbers, Numbers]:
        """Which ids are trained, int64 [S], and their weights, float32 [S]."""
        weights = np.array(self.weights, np.float32)
        (at,) = np.nonzero(weights > 0)
        return at, weights[at]


def encode_example(example: Example, chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """One row's tokens. Raises InputError for a row that is malformed, trains nothing or is too long."""
    return encode_rows([example], chat, tokenizer, max_tokens)[0]


def encode_rows(examples: Sequence[Example], chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int) -> list[Tokens]:
    """Every row's tokens, in order; nothing is truncated or dropped. All bad rows are named in one InputError."""
    errors: list[str] = []
    rows: list[Tokens] = []
    for at in range(0, len(examples), _TOGETHER):
        rows += _encode_some(examples[at : at + _TOGETHER], chat, tokenizer, max_tokens, errors)
    _raise(errors, len(examples))
    return rows


def encode_prompt(example: Example, chat: ChatFormat, tokenizer: Tokenizer) -> list[int]:
    """The conversation before its last assistant message (all of it when there is none), the model's turn left open."""
    last = _last_assistant(example)
    messages = example.messages if last is None else example.messages[:last]
    rendered = chat.render(messages, example.tools, generate=True, place=_name(example))
    return tokenizer.encode_rendered(rendered)[0]


def gold(example: Example) -> Parsed:
    """The answer a row asks for: the calls and text of its last assistant message.

    Raises InputError when the row has none, or when its arguments cannot be read.
    """
    last = _last_assistant(example)
    if last is None:
        raise InputError(f"{_name(example)}: no assistant message; add the answer that the row should be scored on")
    notes = Notes(_name(example))
    turn = read_turns(example.messages[last : last + 1], notes)
    notes.raise_errors()
    return Parsed(turn[0].calls, turn[0].text)


def _encode_some(
    examples: Sequence[Example], chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int, errors: list[str]
) -> list[Tokens]:
    """The tokens of the rows that can be used; what is wrong with the others goes to `errors`."""
    rendered: list[tuple[Example, Rendered]] = []
    for example in examples:
        row = _attempt(partial(_render, example, chat), errors)
        if row is not None:
            rendered.append((example, row))
    encoded = tokenizer.encode_many([row for _, row in rendered])
    rows = [
        _attempt(partial(_tokens, example, row, found, chat, tokenizer, max_tokens), errors)
        for (example, row), found in zip(rendered, encoded, strict=True)
    ]
    return [row for row in rows if row is not None]


def _render(example: Example, chat: ChatFormat) -> Rendered:
    rendered = chat.render(example.messages, example.tools, place=_name(example))
    if not rendered.trained:
        raise InputError(f"{_name(example)}: nothing to train on; add an assistant message with the answer")
    return rendered


def _tokens(
    example: Example, rendered: Rendered, encoded: tuple[list[int], list[Span]], chat: ChatFormat,
    tokenizer: Tokenizer, max_tokens: int,
) -> Tokens:  # fmt: skip
    ids, spans = encoded
    if len(ids) > max_tokens:
        raise InputError(
            f"{_name(example)}: {len(ids)} tokens, more than the {max_tokens} allowed; "
            "shorten the row, or raise data.max_tokens as far as the model's context goes"
        )
    weights = span_weights(spans, rendered.trained)
    bos = tokenizer.id(BOS)
    assert ids[0] == bos and ids.count(bos) == 1, f"{_name(example)}: exactly one {BOS} must come first"
    stops = {tokenizer.id(token) for token in chat.stop_tokens if tokenizer.has(token)}
    assert _stops(ids, spans, weights, rendered.trained, stops), (
        f"{_name(example)}: a trained span must end in its only stop token"
    )
    return Tokens(example.id, tuple(ids), weights)


def span_weights(spans: Sequence[Span], trained: Sequence[Span]) -> tuple[float, ...]:
    """1.0 for each token whose characters lie in a trained span, else 0.0. A token across a border is a bug of ours."""
    starts = [start for start, _ in spans]
    weights = [0.0] * len(spans)
    for begin, stop in trained:
        first, after = bisect_left(starts, begin), bisect_left(starts, stop)
        for border, at in ((begin, first - 1), (stop, after - 1)):
            assert at < 0 or spans[at][1] <= border, f"a token at {spans[at]} lies across the border {border}"
        weights[first:after] = [1.0] * (after - first)
    return tuple(weights)


def _stops(
    ids: Sequence[int], spans: Sequence[Span], weights: Sequence[float], trained: Sequence[Span], stops: set[int]
) -> bool:
    """Whether each trained span ends in a supervised stop token, and holds no other."""
    stopped = [end for i, (_, end), weight in zip(ids, spans, weights, strict=True) if weight and i in stops]
    return stopped == [end for _, end in trained]


def _last_assistant(example: Example) -> int | None:
    """The index of the last assistant message."""
    found = [i for i, message in enumerate(example.messages) if message.get("role") == "assistant"]
    return found[-1] if found else None


def _name(example: Example) -> str:
    """How a row is named in messages: its place, then its id."""
    return f"{example.place} ({example.id})" if example.place else f"row {example.id}"


def _attempt(work: Callable[[], _T], errors: list[str]) -> _T | None:
    try:
        return work()
    except InputError as error:
        errors.append(str(error))
        return None


def _raise(errors: list[str], rows: int) -> None:
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        head = f"{len(errors)} of {rows} rows cannot be used:\n" if rows > 1 else ""
        raise InputError(head + "\n".join(errors[:_SHOWN]) + more)
