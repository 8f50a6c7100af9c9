"""What a shape is: a way that people write rows, told by its fields and read to the canonical row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dozan.rows.example import Example, Json
from dozan.rows.records import Broken, Record

Fields = Mapping[str, Json]


class ShapeError(ValueError):
    """A row that its shape cannot read: the JSON path, what is wrong there, and the name of a reading rule."""

    def __init__(self, path: str, message: str, code_name: str = "bad-field") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message
        self.code_name = code_name


@dataclass(frozen=True)
class Options:
    """What shapes may need besides the row: `file` (for companion files beside it), and a system text to begin with."""

    file: Path
    system: str = ""


@dataclass(frozen=True)
class Shape:
    """One shape.

    detect: whether a row's fields fit. read: the canonical row, or ShapeError. fields: what `detect` looked for, in
    words. gather: for rows that together make one conversation, joins a stream of records to one of whole ones.
    """

    name: str
    fields: str
    detect: Callable[[Fields], bool]
    read: Callable[[Fields, str, Options], Example]
    gather: Callable[[Iterator[Record | Broken]], Iterator[Record | Broken]] | None = None


@dataclass(frozen=True)
class Detected:
    """The shape of a file and why: `alpaca: 100 of the first 100 rows have instruction and output`."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
