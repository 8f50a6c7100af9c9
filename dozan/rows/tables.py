"""CSV, TSV and Parquet as records: an object a row, by the names of the columns.

Cells of CSV are text and stay text. Parquet stores every field of a struct in every row and fills what was absent with
nulls; inside a cell they are left out again, and each row where that happens says so.
"""

from __future__ import annotations

import csv
import datetime
import decimal
import io
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.records import Broken, Record

_LARGEST_CELL = 2**31 - 1
_BATCH = 256


def table_records(file: IO[bytes], name: str, suffix: str) -> Iterator[Record | Broken]:
    """The rows of a table with a line of column names; the separator of a .csv is the one that its header uses."""
    csv.field_size_limit(_LARGEST_CELL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    header = text.readline()
    separator = "\t" if suffix == ".tsv" else max(",;\t", key=header.count)
    names, problem = _names(header, separator, name)
    if problem is not None:
        yield problem
    if not names:
        return
    rows = csv.reader(text, delimiter=separator, strict=True)
    while True:
        line = rows.line_num + 2
        place = f"{name}:{line}"
        try:
            cells = next(rows, None)
        except csv.Error as error:
            words = f'not CSV: {error} (lines {line} to {rows.line_num + 1}); write a quote inside a cell as ""'
            yield Broken(place, line, 0, "bad-quotes", words)
            continue
        if cells is None:
            return
        if cells:
            yield _table_record(names, cells, place, line)


def _names(header: str, separator: str, name: str) -> tuple[list[str], Broken | None]:
    try:
        names = next(csv.reader([header], delimiter=separator, strict=True), [])
    except csv.Error as error:
        return [], Broken(f"{name}:1", 1, 0, "bad-header", f"the column names cannot be read: {error}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated or not all(map(str.strip, names)):
        words = f"column names must be there and differ, found {names!r:.200}; name each column once"
        return [], Broken(f"{name}:1", 1, 0, "bad-header", words)
    return names, None


def _table_record(names: list[str], cells: list[str], place: str, line: int) -> Record | Broken:
    if len(cells) != len(names):
        words = f"{len(cells)} cells under {len(names)} column names; quote cells that hold the separator"
        return Broken(place, line, 0, "cell-count", words)
    for i, cell in enumerate(cells):
        if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
            words = f"column {names[i]!r} is not UTF-8; save the file as UTF-8"
            return Broken(place, line, 0, "not-utf-8", words)
    return Record(dict(zip(names, cells, strict=True)), place, line, None)


def parquet_records(path: Path, name: str) -> Iterator[Record | Broken]:
    """The rows of a Parquet file; place and line are the row's number from 1. Needs the extra `parquet`."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InputError(f"{path}: reading Parquet needs pyarrow: pip install 'dozan[parquet]'") from None
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield from _typed_record(row, f"{name}:{number}", number)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        words = f"not a whole Parquet file ({str(error).splitlines()[0]:.200}); write it again"
        yield Broken(name, 0, 0, "bad-parquet", words)


def _typed_record(row: dict[str, Any], place: str, line: int) -> Iterator[Record | Broken]:
    cells = _Cells()
    value = {name: cells.json(cell, name, 0) for name, cell in row.items()}
    for path, words in cells.unreadable:
        yield Broken(place, line, 0, "no-json-value", words, path)
    if cells.filled:
        words = f"{cells.filled} nulls that Parquet fills in for absent fields were left out (or were nulls before)"
        yield Broken(place, line, 0, "filled-nulls", words, cells.first, usable=True)
    if not cells.unreadable:
        yield Record(value, place, line, None)


class _Cells:
    """Turns the cells of one row into JSON values, noting what has no such form and which nulls were left out."""

    def __init__(self) -> None:
        self.unreadable: list[tuple[str, str]] = []
        self.filled, self.first = 0, ""

    def json(self, cell: Any, path: str, level: int) -> Json:
        if cell is None or isinstance(cell, str | bool | int):
            return cell
        if isinstance(cell, dict):
            return self._object(cell, path, level)
        if isinstance(cell, list | tuple):
            return [self.json(item, f"{path}[{i}]", level + 1) for i, item in enumerate(cell)]
        if isinstance(cell, float) and math.isfinite(cell):
            return cell
        if isinstance(cell, datetime.date | datetime.time):
            return cell.isoformat()
        if isinstance(cell, decimal.Decimal):
            return int(cell) if cell == cell.to_integral_value() else float(cell)
        if isinstance(cell, bytes):
            return self._text(cell, path)
        self.unreadable.append((path, f"{cell!r:.40} ({type(cell).__name__}) is no JSON value; store it as text"))
        return None

    def _object(self, cell: dict[str, Any], path: str, level: int) -> Json:
        kept = {}
        for key, item in cell.items():
            if item is None:
                self.filled += 1
                self.first = self.first or f"{path}.{key}"
            else:
                kept[key] = self.json(item, f"{path}.{key}", level + 1)
        return kept

    def _text(self, cell: bytes, path: str) -> Json:
        try:
            return cell.decode("utf-8")
        except UnicodeDecodeError:
            self.unreadable.append((path, f"{len(cell)} bytes that are no text; leave the column out"))
            return None
