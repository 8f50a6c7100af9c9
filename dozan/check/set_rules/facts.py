"""What the set rules need of one row: small, picklable, made where the row is viewed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dozan.check.near import Keys, Sketch, sketch
from dozan.check.row_rules.dialect import LABEL_KEYS
from dozan.check.view import RowView, content_text
from dozan.rows.arabic import fold
from dozan.rows.example import Example, Json
from dozan.rows.groups import hash_text
from dozan.rows.identity import MadeOnce
from dozan.rows.splits import sentence_pattern
from dozan.rows.tool_lists import Tools

_LONGEST_VALUE = 200


@dataclass(frozen=True)
class Value:
    """One argument of a call; an object or a list stands as its JSON, texts are cut at 200 characters.

    copied: whether the value is a text that stands in the request, both folded.
    """

    tool: str
    name: str
    value: str | int | float | bool | None
    copied: bool


@dataclass(frozen=True)
class RowFacts:
    """One row for the set rules.

    names: its tools, in order. called: the tools called, in order. answer: the final text of a row without calls.
    now: the date and time that the developer's text gives, to the minute. request: the user's text, cut. seen: what the
    near-duplicate index keeps, with the hashes by which rows are equal.
    """

    place: str
    row: str
    names: tuple[str, ...]
    called: tuple[str, ...]
    values: tuple[Value, ...]
    answer: str
    now: str
    dialect: str
    request: str
    pattern: str
    seen: Sketch
    keys: Keys


_NAMES: MadeOnce[tuple[str, ...]] = MadeOnce()
_TOOL_HASH: MadeOnce[int] = MadeOnce()


def facts_of(views: list[RowView]) -> list[RowFacts]:
    """The facts of some rows, in order; their sketches are made together."""
    sketches = sketch([compared_text(view) for view in views])
    return [_facts(view, seen) for view, seen in zip(views, sketches, strict=True)]


def compared_text(view: RowView) -> str:
    """The text by which rows are alike: the user's; where there is none, all that is said."""
    return view.query or "\n".join(content_text(message.get("content")) for message in view.example.messages)


def tool_names(tools: Tools) -> tuple[str, ...]:
    """The declared names of a row's tools, in order; worked out once for rows that share a list."""
    return _NAMES.get(tools, lambda: tuple(map(_tool_name, tools)))


def _facts(view: RowView, seen: Sketch) -> RowFacts:
    example = view.example
    folded = fold(compared_text(view))
    values = tuple(
        Value(call.name, name, _short(value), isinstance(value, str) and fold(value) in folded)
        for _, call in view.calls
        for name, value in call.arguments.items()
    )
    answer = "" if view.calls else _answer(example)
    return RowFacts(
        place=view.place,
        row=example.id,
        names=tool_names(example.tools),
        called=tuple(call.name for _, call in view.calls),
        values=values,
        answer=answer,
        now=view.now.isoformat(timespec="minutes") if view.now else "",
        dialect=next((str(example.meta[key]) for key in LABEL_KEYS if example.meta.get(key)), ""),
        request=view.query[:_LONGEST_VALUE],
        pattern="" if view.deep else sentence_pattern(example)[:_LONGEST_VALUE],
        seen=seen,
        keys=_keys(view, folded),
    )


def _keys(view: RowView, folded: str) -> Keys:
    example = view.example
    said = json.dumps([[call.name, call.arguments] for _, call in view.calls], ensure_ascii=False, sort_keys=True)
    texts = [content_text(message.get("content")) for message in example.messages if message.get("role") == "assistant"]
    system = [content_text(m.get("content")) for m in example.messages if m.get("role") in ("developer", "system")]
    tools = _TOOL_HASH.get(example.tools, lambda: hash_text(json.dumps(example.tools, sort_keys=True)))
    return Keys(
        request=hash_text(folded),
        context=hash_text(f"{tools} {fold(' '.join(system))}"),
        answer=hash_text(fold(" ".join([said, *texts]))),
        id=hash_text(example.id),
    )


def _answer(example: Example) -> str:
    texts = [content_text(message.get("content")) for message in example.messages if message.get("role") == "assistant"]
    return texts[-1][:_LONGEST_VALUE] if texts else ""


def _tool_name(tool: Mapping[str, Json]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _short(value: Json) -> str | int | float | bool | None:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value
