"""Opens a file of rows by what it holds, not by its name alone: lines of JSON, a JSON document, CSV, TSV or Parquet."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from dozan.errors import InputError
from dozan.rows.documents import document_records
from dozan.rows.json_text import JsonText, Problem
from dozan.rows.kept import require_kept
from dozan.rows.records import Broken, Record
from dozan.rows.tables import parquet_records, table_records
from dozan.rows.tool_lists import LineParser

KINDS = ".jsonl, .json, .csv, .tsv or .parquet, each also with .gz"
_UTF8_MARK, _PEEK = b"\xef\xbb\xbf", 1 << 16
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")


def open_records(path: Path, name: str) -> Iterator[Record | Broken]:
    """The records of a file; InputError when it is not there, of no known kind, or not as the run wrote it whose it
    is."""
    head, packed = _peek(path)
    require_kept(path)
    suffix = _suffix(Path(name))
    if head[:2] in _WIDE_MARKS or (head[:1] != b"P" and b"\x00" in head[:2]):
        yield Broken(name, 0, 0, "utf-16", "saved as UTF-16; save the file as UTF-8")
    elif head[:4] == b"PAR1" and not packed:
        yield from parquet_records(path, name)
    elif suffix in (".csv", ".tsv"):
        yield from _unpacked(path, name, packed, lambda file: table_records(file, name, suffix))
    elif suffix == ".parquet":
        yield Broken(name, 0, 0, "bad-parquet", "no Parquet file: it does not start with PAR1; write it again")
    elif suffix in (".jsonl", ".ndjson", ".json", "") or head.lstrip(_UTF8_MARK).lstrip()[:1] in (b"{", b"["):
        read = document_records if _is_document(head, suffix) else line_records
        yield from _unpacked(path, name, packed, lambda file: read(file, name))
    else:
        raise InputError(f"{path}: {suffix} is no kind of file that is read here; give {KINDS}")


def line_records(file: IO[bytes], name: str) -> Iterator[Record | Broken]:
    """JSONL: a value a line; blank lines are skipped."""
    parser = LineParser()
    begin = end = 0
    for number, line in enumerate(file, 1):
        begin, end = end, end + len(line)
        raw = line.rstrip(b"\r\n")
        place = f"{name}:{number}"
        if raw.startswith(_UTF8_MARK):
            if number > 1:
                words = "a byte order mark inside the file, as when files are joined; passed over"
                yield Broken(place, number, 1, "byte-order-mark", words, usable=True)
            raw = raw[len(_UTF8_MARK) :]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _undecodable(raw, error, place, number, begin)
            continue
        if not text.strip():
            continue
        value, problems = parser.parse(text)
        yield from (broken_at(problem, place, number, problem.at + 1) for problem in problems)
        if all(problem.usable for problem in problems):
            yield Record(value, place, number, raw)


def broken_at(problem: Problem, place: str, line: int, column: int) -> Broken:
    return Broken(place, line, column, problem.code_name, problem.message, problem.path, problem.usable)


def _undecodable(raw: bytes, error: UnicodeDecodeError, place: str, line: int, begin: int) -> Broken:
    column = len(raw[: error.start].decode("utf-8")) + 1
    words = f"not UTF-8 (byte {begin + error.start}); save the file as UTF-8"
    return Broken(place, line, column, "not-utf-8", words)


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix.lower() == ".gz" else path.suffix.lower()


def _peek(path: Path) -> tuple[bytes, bool]:
    """The first bytes of a file, unpacked, and whether it is gzipped."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; name a JSONL file in it")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.jsonl")) if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(near[:5])}" if near else ""
        raise InputError(f"{path}: no such file{hint}")
    try:
        with path.open("rb") as file:
            head = file.read(_PEEK)
        if head[:2] != b"\x1f\x8b":
            return head, False
        with gzip.open(path) as packed:
            return packed.read(_PEEK), True
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return b"", True
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a file that you may read") from None


def _unpacked(
    path: Path, name: str, packed: bool, read: Callable[[IO[bytes]], Iterator[Record | Broken]]
) -> Iterator[Record | Broken]:
    """What `read` finds in the file; a gzip file that ends too early is named after the rows that it still gave."""
    try:
        with path.open("rb") as file:
            yield from read(gzip.GzipFile(fileobj=file) if packed else file)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        words = f"not a whole gzip file ({error}); compress it again with gzip"
        yield Broken(name, 0, 0, "cut-gzip", words)


def _is_document(head: bytes, suffix: str) -> bool:
    """Whether the file is one JSON document over many lines (or an array), and not a value a line."""
    start = head.removeprefix(_UTF8_MARK).lstrip()
    if suffix in (".jsonl", ".ndjson") or not start:
        return False
    first, _, rest = start.partition(b"\n")
    if start[:1] == b"[":
        return True
    if rest.lstrip()[:1] == b"{" or first.rstrip()[-1:] == b"}" and rest.strip():
        return False
    parsed, _ = JsonText().parse(first.decode("utf-8", "replace"))
    return parsed is None or not rest.strip()
