"""Files to repaired rows: what is sound keeps its very bytes, what cannot be repaired comes with its reasons."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import IO, Literal

from dozan.chat import chat_format
from dozan.chat.format import ChatFormat
from dozan.check.finding import Finding
from dozan.check.fixes.repair import Chosen, Repair
from dozan.check.fixes.row import RowFixer
from dozan.check.reading_rules import reading_finding
from dozan.check.row_rules import check_row
from dozan.check.view import view_row
from dozan.errors import InputError
from dozan.rows.example import Example, Json
from dozan.rows.hub import is_hub_id
from dozan.rows.readers import CANONICAL, SEEN_FIRST, Say, detect_file, read_examples
from dozan.rows.records import Broken
from dozan.rows.renames import FIELD

State = Literal["clean", "repaired", "converted", "quarantined"]
QUARANTINE = "quarantine"
"""The key of a quarantined row that says where it stood and why it is there; the row's own keys follow."""

_TOOLS_FILE = re.compile(rb'"tools"\s*:\s*"([^"\\/]+)"')
_TABLES = (".csv", ".tsv", ".parquet")
_MARK = b"\xef\xbb\xbf"
_DUPLICATE_ID, _BYTE_ORDER_MARK = "DZ140", "DZ109"


@dataclass(frozen=True)
class Outcome:
    """What became of one row: `line` are its bytes in the output (or in the quarantine), with their line end.

    before: as it was read, None when it could not be. after: as it is written. findings: what the rules say of `after`;
    in quarantine, the errors. tools_file: the file beside the input that the row's `tools` name, or None.
    """

    state: State
    place: str
    line: bytes
    before: Example | None
    after: Example | None
    repairs: tuple[Repair, ...] = ()
    findings: tuple[Finding, ...] = ()
    tools_file: Path | None = None


def repaired_rows(
    files: Sequence[str | Path], chosen: Chosen, shape: str | None = None, chat: str = "auto", say: Say | None = None
) -> Iterator[Outcome]:
    """Every row and every broken line of the files, in order; memory holds an id's hash a row, and nothing else grows.

    Raises InputError for a file that is not there or of no known kind.
    """
    form = _form(chat, files, shape)
    fixer = RowFixer(chosen)
    ids: set[int] = set()
    for file in files:
        with closing(_Lines(file, shape)) as lines:
            for item in _items(file, shape, say):
                if isinstance(item, Example):
                    yield _outcome(item, lines, fixer, form, ids)
                else:
                    yield _broken(item, lines)


def _form(chat: str, files: Sequence[str | Path], shape: str | None) -> ChatFormat:
    """The chat format that judges the rows; `auto`: FunctionGemma's when the first rows have tools."""
    if chat != "auto":
        return chat_format(chat)
    if not files:
        raise InputError("no file is given; name at least one file of rows")
    first = islice(read_examples(files[0], shape, lambda broken: None), SEEN_FIRST)
    return chat_format("functiongemma" if any(example.tools for example in first) else "gemma3")


def _items(file: str | Path, shape: str | None, say: Say | None) -> Iterator[Example | list[Broken]]:
    """Rows, and what is broken by place, as they stand in the file."""
    waiting: list[Broken] = []
    end: tuple[None] = (None,)
    for example in chain(read_examples(file, shape, waiting.append, say), end):
        broken = [one for one in waiting if not one.usable]
        waiting.clear()
        yield from (list(group) for _, group in groupby(broken, key=lambda one: one.place))
        if example is not None:
            yield example


class _Lines:
    """The lines of a JSONL file by number, read once from the first to the last."""

    def __init__(self, file: str | Path, shape: str | None) -> None:
        self.folder = Path(file).parent
        self._file: IO[bytes] | None = None
        self._number = 0
        self._line = b""
        suffixes = [suffix.lower() for suffix in Path(file).suffixes[-2:]]
        if is_hub_id(file) or not Path(file).is_file() or any(suffix in _TABLES for suffix in suffixes):
            self.canonical = False
            return
        found = detect_file(file) if shape is None else None
        self.canonical = shape == CANONICAL or found is not None and found.name == CANONICAL
        with Path(file).open("rb") as head:
            packed = head.read(2) == b"\x1f\x8b"
        self._file = gzip.open(file) if packed else Path(file).open("rb")  # type: ignore[assignment]  # noqa: SIM115

    def at(self, place: str) -> bytes | None:
        """The line at a place such as `rows.jsonl:12`; None when the place is no line, or comes too late."""
        number = place.rpartition(":")[2]
        if self._file is None or not number.isdecimal() or int(number) < self._number:
            return None
        while self._number < int(number):
            self._line = self._file.readline()
            self._number += 1
        return self._line or None

    def row(self, place: str) -> bytes | None:
        """The line at a place when it is a canonical row, whose bytes can be kept."""
        line = self.at(place) if self.canonical else None
        bare = b"" if line is None else line.removeprefix(_MARK).strip()
        return line if bare[:1] == b"{" and bare[-1:] == b"}" else None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _outcome(example: Example, lines: _Lines, fixer: RowFixer, form: ChatFormat, ids: set[int]) -> Outcome:
    raw = lines.row(example.place)
    fixed = fixer.fix(example)
    after, repairs = fixed.example, list(fixed.repairs)
    number = hash(after.id)
    if number in ids and fixer.chosen.repairs(_DUPLICATE_ID):
        after = replace(after, id=f"{after.id} ({after.place})")
        repairs.append(Repair(_DUPLICATE_ID, "id", example.id, after.id))
    if raw is not None and raw.startswith(_MARK) and not example.place.endswith(":1"):
        raw = raw.removeprefix(_MARK)
        repairs.append(Repair(_BYTE_ORDER_MARK, "", "\ufeff", ""))
    findings, errors = _judged(after, form, fixer.chosen)
    if errors and fixed.repairs:
        found, left = _judged(example, form, fixer.chosen)
        if not left:
            after, repairs, findings, errors = example, [], found, left
    tools_file = _tools_file(raw, lines.folder) if _same_tools(example, after) else None
    if errors:
        kept = _value(raw) if raw is not None else _written(example)
        line = _line({QUARANTINE: _reasons(example.place, errors), **kept})
        return Outcome("quarantined", example.place, line, example, None, (), tuple(errors), tools_file)
    ids.add(number)
    said = tuple(repairs)
    if raw is not None and not repairs:
        return Outcome("clean", example.place, raw, example, after, (), tuple(findings), tools_file)
    value = _changed(_value(raw), example, after) if raw is not None else _written(after)
    state: State = "repaired" if repairs else "converted"
    return Outcome(state, example.place, _line(value), example, after, said, tuple(findings), tools_file)


def _judged(example: Example, form: ChatFormat, chosen: Chosen) -> tuple[list[Finding], list[Finding]]:
    """What the rules say of a row, and the errors that keep it out."""
    findings = check_row(view_row(example, form))
    return findings, [finding for finding in findings if finding.severity == "error" and chosen.judges(finding.code)]


def _broken(broken: list[Broken], lines: _Lines) -> Outcome:
    """A line, or a file, that gave no row: its text as it is, or in base64 when it is no UTF-8."""
    findings = tuple(map(reading_finding, broken))
    value: dict[str, Json] = {QUARANTINE: _reasons(broken[0].place, findings)}
    raw = lines.at(broken[0].place)
    if raw is not None:
        try:
            value["line"] = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            value["line_base64"] = base64.b64encode(raw).decode("ascii")
    return Outcome("quarantined", broken[0].place, _line(value), None, None, (), findings)


def _reasons(place: str, findings: Sequence[Finding]) -> dict[str, Json]:
    reasons = [{"code": f.code, "name": f.rule.name, "path": f.path, "message": f.message, "remedy": f.rule.remedy}
               for f in findings]  # fmt: skip
    return {"place": place, "reasons": reasons}


def _value(raw: bytes) -> dict[str, Json]:
    value: dict[str, Json] = json.loads(raw.removeprefix(_MARK))
    return value


def _same_tools(before: Example, after: Example) -> bool:
    return all(a is b for a, b in zip(before.tools, after.tools, strict=True))


def _changed(value: dict[str, Json], before: Example, after: Example) -> dict[str, Json]:
    """The row as it was written, with what was repaired in its place and all else as it is."""
    changed = dict(value)
    if not _same_tools(before, after):
        changed["tools"] = list(after.tools)
    if list(after.messages) != list(before.messages):
        changed["messages"] = list(after.messages)
    if after.id != before.id:
        changed["id"] = after.id
    if after.meta.get(FIELD) != before.meta.get(FIELD):
        changed[FIELD] = after.meta[FIELD]
    return changed


def _written(example: Example) -> dict[str, Json]:
    """The canonical row; an id that is only its place is left out."""
    named = {"id": example.id} if example.id != example.place else {}
    return {**named, "tools": list(example.tools), "messages": list(example.messages), **example.meta}


def _line(value: Mapping[str, Json]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(value).encode() + b"\n"


def _tools_file(raw: bytes | None, folder: Path) -> Path | None:
    """The file that a row names as its tools."""
    if raw is None or b'"tools"' not in raw or not _TOOLS_FILE.search(raw):
        return None
    name = _value(raw).get("tools")
    return folder / name if isinstance(name, str) and name[:1] != "[" else None
