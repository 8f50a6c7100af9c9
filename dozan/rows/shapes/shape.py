"""What a shape is: a way that people write rows, told by its fields and read to the canonical row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dozan.rows.example import Example, Json
from dozan.rows.records import Broken, Record

Fields = Mapping[str, Json]


class ShapeError(ValueError):
    """A row that its shape cannot read: the JSON path, what is wrong there, and the name of a reading rule.

    `also` holds what else is wrong with the same row.
    """

    def __init__(self, path: str, message: str, code_name: str = "bad-field", also: Sequence[ShapeError] = ()) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
        self.code_name = code_name
        self.also = tuple(also)


@dataclass(frozen=True)
class Options:
    """What shapes need besides the row.

    file: the file read, for files beside it. system: a system text for rows that have none. ask: the user's text for
    rows of raw text, which have no question. memory: what a shape keeps from row to row. beside: gets the files beside
    it that were read.
    """

    file: Path = Path()
    system: str = ""
    ask: str = ""
    memory: dict[str, Any] = field(default_factory=dict, compare=False)
    beside: list[Path] = field(default_factory=list, compare=False)


@dataclass(frozen=True)
class Shape:
    """One shape.

    fields: what makes the conversation, in words. detect: whether a row's fields fit. read: the canonical row, or
    ShapeError. gather: for rows that together make one conversation, joins a stream of records to one of whole ones.
    note: what must be said about a file besides its shape, or "".
    """

    name: str
    fields: str
    detect: Callable[[Fields], bool]
    read: Callable[[Fields, str, Options], Example]
    gather: Callable[[Iterator[Record | Broken]], Iterator[Record | Broken]] | None = None
    note: Callable[[Options], str] | None = None


def refuse(errors: Sequence[ShapeError]) -> None:
    """Raises all errors of a row as one; nothing when there are none."""
    if errors:
        first, *others = errors
        raise ShapeError(first.path, first.message, first.code_name, others)


def text_field(fields: Fields, key: str, may_be_empty: bool = False) -> str:
    """A field that must be text."""
    value = fields.get(key)
    if value is None and may_be_empty:
        return ""
    if not isinstance(value, str):
        raise ShapeError(key, f"expected text, found {kind(value)}")
    if not value.strip() and not may_be_empty:
        raise ShapeError(key, "empty; fill it in, or take the row out", "empty-field")
    return value


def parsed(value: Json, path: str) -> Json:
    """A value, or the one that its text holds as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ShapeError(path, f"text that is no JSON: {error}; write it with json.dumps", "text-not-json") from None


def looks_listed(value: Json) -> bool:
    """Whether a value is a list, or text that begins like one in JSON, as tables have it."""
    return isinstance(value, list) or isinstance(value, str) and value.lstrip()[:1] == "["


def kind(value: Json) -> str:
    """The JSON name of a value's type."""
    names = {"str": "text", "dict": "an object", "list": "a list", "bool": "a boolean", "NoneType": "nothing"}
    return names.get(type(value).__name__, "a number")


def made(
    fields: Fields, used: Sequence[str], place: str, tools: Sequence[Fields], messages: Sequence[Fields]
) -> Example:
    """The canonical row; every field that was not used is kept in `meta`."""
    given = fields.get("id")
    meta = {key: value for key, value in fields.items() if key != "id" and key not in used}
    name = place if given is None or isinstance(given, dict | list) else str(given)
    return Example(name, tuple(tools), tuple(messages), meta, place)


def system_message(fields: Fields, options: Options) -> list[Fields]:
    """The row's own system text (`system` or `system_prompt`), else the one of the options, as a message; or none."""
    given = fields.get("system") or fields.get("system_prompt")
    text = given if isinstance(given, str) and given.strip() else options.system
    return [{"role": "system", "content": text}] if text else []


@dataclass(frozen=True)
class Detected:
    """The shape of a file and why: `alpaca: 100 of the first 100 rows have instruction and output`."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
