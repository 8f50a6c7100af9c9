"""JSON documents as records: an array of rows, values one after another, or one object with a list of rows.

Arrays are read a piece at a time, so that memory holds one row. After a row that does not parse, reading goes on at the
next one: at the end of its brackets when they close, else where text comes that begins as the row did.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO

from dozan.rows.example import Json
from dozan.rows.json_text import JsonText, Problem
from dozan.rows.records import Broken, Record

LIST_KEYS = ("data", "rows", "examples", "train", "validation", "test", "items", "instances", "samples", "records")
_CHUNK, _NEAR, _FARTHEST, _LARGEST_ROW = 1 << 16, 64, 1 << 20, 1 << 26
_BRACKETS = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|[\[\]{}]')
_OPENING = re.compile(r'\{\s*"[^"\n]{0,80}"')
_SPACE = re.compile(r"[ \t\r\n]*")
_BYTES = re.compile("[\udc80-\udcff]")


def document_records(file: IO[bytes], name: str) -> Iterator[Record | Broken]:
    """The rows of a JSON document, and what is broken in it."""
    text = _Window(file)
    is_array = text.peek() == "["
    if is_array:
        text.advance(1)
    first: Record | None = None
    count = 0
    for item in _items(text, name, is_array):
        count += isinstance(item, Record)
        if is_array or isinstance(item, Broken):
            yield item
        elif count == 1:
            first = item
        else:
            if first is not None:
                yield first
                first = None
            yield item
    if first is not None:
        yield from _expanded(first, name)


def _expanded(record: Record, name: str) -> Iterator[Record]:
    """The rows inside the only object of a document; the object itself when it has no list of rows."""
    value = record.value
    keys = [key for key in LIST_KEYS if isinstance(value, dict) and _is_rows(value.get(key))]
    if not keys:
        yield record
    for key in keys:
        for i, row in enumerate(value[key]):
            wrapped = row.get("row") if set(row) == {"row_idx", "row", "truncated_cells"} else None
            place = f"{name}:{record.line}.{key}[{i}]"
            yield Record(wrapped if isinstance(wrapped, dict) else row, place, record.line, None)


def _is_rows(value: Json) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


class _Window:
    """A piece of a text file, moved along: what lies before `at` has been read and counted."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text, self.at, self.ended = "", 0, False
        self.line, self._line_start = 1, 0

    def fill(self, size: int = _CHUNK) -> bool:
        """Reads on; False at the end of the file."""
        if self.ended:
            return False
        data = self._file.read(size)
        self.ended = not data
        self._line_start -= self.at
        self.text = self.text[self.at :] + self._decoder.decode(data, final=not data)
        self.at = 0
        return True

    def peek(self) -> str:
        """The next character that is no space, moved to; "" at the end."""
        while True:
            self.advance(_SPACE.match(self.text, self.at).end() - self.at)  # type: ignore[union-attr]
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.fill():
                return ""

    def advance(self, size: int) -> None:
        self.line, self._line_start = self.position(self.at + size)
        self.at += size

    def position(self, at: int) -> tuple[int, int]:
        """The line of a character, and the character at which that line starts."""
        breaks = self.text.count("\n", self.at, at)
        return self.line + breaks, self.text.rfind("\n", self.at, at) + 1 if breaks else self._line_start


def _items(text: _Window, name: str, is_array: bool) -> Iterator[Record | Broken]:
    parser = JsonText()
    index, needs_comma = 0, False
    while (mark := text.peek()) not in ("", "]" if is_array else ""):
        if mark == "," and is_array:
            if not needs_comma:
                yield _at(text, name, Problem("extra-comma", text.at, "", "not JSON: a comma with no row before it"))
            text.advance(1)
            needs_comma = False
            continue
        if needs_comma and is_array:
            words = "not JSON: no comma between two rows; passed over"
            yield _at(text, name, Problem("missing-comma", text.at, "", words, usable=True))
        line = text.line
        value, problems, size = _read_item(text, parser)
        yield from (_at(text, name, problem) for problem in problems)
        if all(problem.usable for problem in problems):
            yield Record(value, f"{name}:{line}[{index}]" if is_array else f"{name}:{line}", line, None)
        text.advance(size)
        index, needs_comma = index + 1, True
    if is_array:
        yield from _end_of_array(text, name)


def _end_of_array(text: _Window, name: str) -> Iterator[Broken]:
    if text.peek() == "":
        words = "not JSON: the list is not closed with ]; the file was cut: write it again"
        yield _at(text, name, Problem("cut-short", text.at, "", words))
        return
    text.advance(1)
    if text.peek():
        words = "not JSON: text after the end of the list, which is not read; put all rows into one list"
        yield _at(text, name, Problem("text-after-list", text.at, "", words))


def _at(text: _Window, name: str, problem: Problem) -> Broken:
    """A problem at a character of the window, as line and column."""
    line, start = text.position(problem.at)
    words, path = problem.message, problem.path
    return Broken(f"{name}:{line}", line, problem.at - start + 1, problem.code_name, words, path, problem.usable)


def _read_item(text: _Window, parser: JsonText) -> tuple[Json, list[Problem], int]:
    """The value at the window's start, its problems (characters counted in the window), and its length."""
    size = _CHUNK
    while True:
        parser.odd = False
        try:
            value, end = parser.decoder.raw_decode(text.text, text.at)
        except json.JSONDecodeError as error:
            near = error.pos > len(text.text) - _NEAR or error.msg.startswith("Unterminated")
            if near and len(text.text) - text.at < _LARGEST_ROW and text.fill(size):
                size *= 2
                continue
            end = _resume(text, error.pos)
            _, problems = parser.parse(text.text[text.at : end].rstrip() or text.text[text.at :])
            return None, _moved(problems, text.at) or [_stray(text, error.pos)], max(1, end - text.at)
        except RecursionError:
            end = _resume(text, text.at)
            return None, _moved(parser.parse(text.text[text.at : end])[1], text.at), end - text.at
        if end == len(text.text) and text.fill(size):
            continue
        own = text.text[text.at : end]
        value, problems = parser.judge(own, value)
        found = _BYTES.search(own)
        if found:
            problems.append(Problem("not-utf-8", found.start(), "", "not UTF-8; save the file as UTF-8"))
        return value, _moved(problems, text.at), end - text.at


def _stray(text: _Window, at: int) -> Problem:
    return Problem("not-json", at, "", f"not JSON at {text.text[at : at + 20]!r}")


def _moved(problems: list[Problem], by: int) -> list[Problem]:
    return [Problem(p.code_name, p.at + by, p.path, p.message, p.usable) for p in problems]


def _resume(text: _Window, error_at: int) -> int:
    """Where a row that does not parse ends: its brackets' end, or the next text that begins as it did, or the end."""
    begin = text.at
    opening = _OPENING.match(text.text, begin)
    while len(text.text) - error_at < _FARTHEST and text.fill(_FARTHEST):
        error_at, begin = error_at - (begin - text.at), text.at
    level = 0
    for token in _BRACKETS.finditer(text.text, begin):
        level += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token.group(), 0)
        if level <= 0 and token.end() > error_at:
            follows = _SPACE.match(text.text, token.end()).end()  # type: ignore[union-attr]
            if text.text[follows : follows + 1] in (",", "]", "", "{"):
                return token.end() if level == 0 else token.start()
            break
    found = text.text.find(opening.group(), begin + 1) if opening else -1
    if found < 0:
        return len(text.text)
    return len(text.text[:found].rstrip().removesuffix(","))
