"""Calls against the tools of their row: a call that the row's tools do not declare can only teach a mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

from dozan.rows.example import Example, Json
from dozan.rows.readers import raise_all


def require_known_tools(examples: Sequence[Example]) -> None:
    """Raises one InputError that names each call to a tool its row does not declare, with the nearest that it does."""
    raise_all([problem for example in examples for problem in unknown_tools(example)])


def unknown_tools(example: Example) -> list[str]:
    """A sentence for each call of the row to a tool that it does not declare."""
    known = [str(name) for tool in example.tools if (name := _function(tool).get("name"))]
    return [
        f"{example.place or example.id}: {where}: {name!r} is not among the row's tools{_hint(name, known)}"
        for where, name in _calls(example)
        if name not in known
    ]


def _calls(example: Example) -> Iterator[tuple[str, str]]:
    """Place and name of every well-formed call; what is malformed is for the chat format to refuse."""
    for i, message in enumerate(example.messages):
        calls = message.get("tool_calls")
        for j, call in enumerate(calls if isinstance(calls, list) else ()):
            name = _function(call).get("name") if isinstance(call, Mapping) else None
            if isinstance(name, str):
                yield f"messages[{i}].tool_calls[{j}]", name


def _function(found: Mapping[str, Json]) -> Mapping[str, Json]:
    inner = found.get("function", found)
    return inner if isinstance(inner, Mapping) else {}


def _hint(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f" ({', '.join(known[:8])}); declare it or correct the call" if known else ", which are none; declare it"
