"""One JSON text at a time: its value as typed, or what is wrong with it and at which character.

Python's parser lets repeated keys, NaN, 1e999 and half surrogates pass; here each is named with its place. Brackets
nested more than `MOST_LEVELS` deep are refused, so that nothing later in the flow can run out of stack.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import isinf

from dozan.rows.example import Json

MOST_LEVELS = 256
MOST_DIGITS = 4300
_WIDEST = 2**63
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_ARABIC_DIGIT = re.compile("[٠-٩۰-۹]")
_PYTHON = re.compile(r"None\b|True\b|False\b|undefined\b|'")


@dataclass(frozen=True)
class Problem:
    """What is wrong in a JSON text: a name of the reading rules, the character (from 0), the path, and the words.

    `usable` tells that the value can be used all the same.
    """

    code_name: str
    at: int
    path: str
    message: str
    usable: bool = False


class JsonText:
    """Parses JSON texts one after another. `odd` tells that the last one held what Python lets pass."""

    def __init__(self) -> None:
        self.odd = False
        self.decoder = json.JSONDecoder(
            object_pairs_hook=self._pairs,
            parse_constant=self._constant,
            parse_float=self._float,
            parse_int=self._int,
        )

    def parse(self, text: str) -> tuple[Json, list[Problem]]:
        """The value (None when it cannot be used) and all problems; never raises."""
        self.odd = False
        try:
            value = self.decoder.decode(text)
        except json.JSONDecodeError as error:
            return None, [_syntax(text, error.msg, error.pos)]
        except RecursionError:
            return None, [_deep()]
        return self.judge(text, value)

    def judge(self, text: str, value: Json) -> tuple[Json, list[Problem]]:
        """`parse` for a text whose value was just decoded by `decoder`."""
        if text.count("{") + text.count("[") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
            return None, [_deep()]
        if not self.odd and ("\\u" not in text or not _HALF.search(text)):
            return value, []
        problems = list(_oddities(text))
        return (value if all(problem.usable for problem in problems) else None), problems

    def _pairs(self, pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        made = dict(pairs)
        if len(made) != len(pairs):
            self.odd = True
        return made

    def _constant(self, name: str) -> float:
        self.odd = True
        return float(name)

    def _float(self, digits: str) -> float:
        number = float(digits)
        if isinf(number):
            self.odd = True
        return number

    def _int(self, digits: str) -> int:
        if len(digits) < 19:
            return int(digits)
        self.odd = True
        return int(digits) if len(digits) < MOST_DIGITS else 0


def _levels(value: Json) -> int:
    """How deep lists and objects are nested in a value."""
    level, layer = 0, [value]
    while layer := [part for part in layer if isinstance(part, dict | list)]:
        level += 1
        layer = [item for part in layer for item in (part.values() if isinstance(part, dict) else part)]
    return level


def _deep() -> Problem:
    words = f"not readable JSON: more than {MOST_LEVELS} levels of brackets; nest less deeply"
    return Problem("too-deep", 0, "", words)


@dataclass
class _Frame:
    """An object or list that a scan is inside of: its path, the keys seen, the next index, the key being read."""

    path: str
    keys: set[str] | None
    index: int = 0
    key: str | None = None

    def here(self) -> str:
        if self.keys is None:
            return f"{self.path}[{self.index}]"
        return f"{self.path}.{self.key}" if self.path else self.key or ""


def _oddities(text: str) -> Iterator[Problem]:
    """Repeated keys, NaN, numbers out of range and half surrogates of a text that Python's parser accepts."""
    stack: list[_Frame] = []
    for found in _TOKEN.finditer(text):
        token, frame = found.group(), stack[-1] if stack else None
        path = frame.here() if frame else ""
        if token in "{[":
            stack.append(_Frame(path, set() if token == "{" else None))
        elif token in "}]":
            stack.pop()
        elif token == ",":
            assert frame is not None
            frame.index, frame.key = frame.index + 1, None
        elif token[0] == '"':
            if frame is not None and frame.keys is not None and frame.key is None:
                frame.key = json.loads(token)
                path = frame.here()
                if frame.key in frame.keys:
                    yield Problem("duplicate-key", found.start(), path, f"the key {frame.key!r} is given twice")
                frame.keys.add(frame.key)
            yield from _halves(token, found.start(), path)
        elif token != ":":
            yield from _number(token, found.start(), path)


def _halves(token: str, at: int, path: str) -> Iterator[Problem]:
    half = _HALF.search(token)
    if half and not _encodes(json.loads(token)):
        words = "holds half of a surrogate pair, which is no character; write the character itself"
        yield Problem("lone-surrogate", at + half.start(), path, words)


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _number(token: str, at: int, path: str) -> Iterator[Problem]:
    digits = token.removeprefix("-")
    if digits in ("NaN", "Infinity") or (digits[0].isdigit() and not digits.isdigit() and isinf(float(digits))):
        yield Problem("not-finite", at, path, f"{token:.20} is no JSON number; use a finite number or leave it out")
    elif digits.isdigit() and len(token) >= MOST_DIGITS:
        words = f"not readable JSON: a number of {len(digits)} digits; write the number as text"
        yield Problem("endless-number", 0, path, words)
    elif digits.isdigit() and not -_WIDEST <= int(token) < _WIDEST:
        yield Problem("wide-integer", at, path, f"{token:.30} needs more than 64 bits; write ids as text", usable=True)


def _syntax(text: str, words: str, at: int) -> Problem:
    """The problem behind a parser's complaint, told apart by what stands there."""
    name, remedy = _cause(text, words, at)
    return Problem(name, at, "", f"not JSON: {words} at {text[at : at + 20]!r}{remedy}")


def _cause(text: str, words: str, at: int) -> tuple[str, str]:
    rest, before = text[at:].lstrip(), text[:at].rstrip()
    if "\x00" in text[max(0, at - 1) : at + 1]:
        return "nul-byte", "; a NUL byte: the file was damaged or is UTF-16; write it again"
    if words.startswith("Invalid control"):
        return "control-character", r"; write line breaks and tabs inside strings as \n and \t"
    if words.startswith("Invalid \\"):
        return "bad-escape", r"; write a backslash as \\"
    if words == "Extra data":
        return _extra(text, rest, at)
    if words.startswith("Unterminated") or not rest:
        return "cut-short", "; the text ends too early: was the file cut, or a row broken over lines?"
    if rest[0] in "}]" and before.endswith(",") or rest.startswith(",") and before.endswith(","):
        return "extra-comma", "; take out the comma"
    if _ARABIC_DIGIT.match(rest.removeprefix("-")) or _ARABIC_DIGIT.match(rest[:1]):
        return "arabic-digit", "; write numbers in JSON with the digits 0-9"
    if _PYTHON.match(rest):
        return "python-literal", "; written by Python's str(), not by json.dumps: write it with json.dumps"
    if rest[0] in "“”„«»،؛" or before.endswith(("،", "؛")):
        return "word-processor", '; JSON knows only the straight quote " and the comma ,'
    if rest.startswith(("//", "/*", "#")):
        return "comment", "; JSON has no comments: take it out"
    return "not-json", ""


def _extra(text: str, rest: str, at: int) -> tuple[str, str]:
    if rest.strip() == ",":
        return "extra-comma", "; take out the comma at the end of the line"
    if "\r" in text[:at].strip() or "\r" in text[at - 1 : at]:
        return "lone-carriage-return", r"; lines end with CR alone: end them with \n"
    if rest.startswith(("{", ",", "[")):
        return "two-values", "; two values on one line: put each row on a line of its own"
    return "not-json", "; take out what follows the row"
