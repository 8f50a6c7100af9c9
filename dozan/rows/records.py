"""Files as a stream of raw records: one JSON value with its line, or what is broken there; nothing kept in memory.

JSONL, a JSON array, an object with a list of rows, values one after another, CSV, TSV and Parquet, each also gzipped.
What a row means, and whether it can be trained on, is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dozan.rows.example import Json

_CHARACTERS = ("not-utf-8", "lone-surrogate")
"""Where the words come before the column: the character itself cannot be shown."""


@dataclass(frozen=True)
class Record:
    """One value as it stands in a file.

    place: the file and line (`rows.jsonl:12`), in a JSON array with the item too (`rows.json:1[3]`). line: from 1; the
    row's number in Parquet. raw: the line's bytes in JSONL, without its line end; None otherwise.
    """

    value: Json
    place: str
    line: int
    raw: bytes | None


@dataclass(frozen=True)
class Broken:
    """Something wrong with a file or a line, by the name of a reading rule (`dozan data rules`, DZ1xx).

    line 0 is the whole file, column 0 the whole line, both from 1 otherwise, columns in characters. path: where in the
    row. usable: the row was read all the same; without it, there is no row.
    """

    place: str
    line: int
    column: int
    code_name: str
    message: str
    path: str = ""
    usable: bool = False

    def __str__(self) -> str:
        if self.code_name in _CHARACTERS:
            return f"{self.place}: {self.message} (column {self.column}{self.path and f', {self.path}'})"
        where = f"{self.place}:{self.column}" if self.column else self.place
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


def read_records(path: str | Path, name: str = "") -> Iterator[Record | Broken]:
    """Every record of a file, and everything that is broken in it, in the file's order; `name` is for one in a cache.

    Raises InputError for a file that is not there or that is of no kind known here, and nothing else.
    """
    from dozan.rows.files import open_records

    return open_records(Path(path), name or Path(path).name)
