"""Reads FunctionGemma's calls back from text: a recursive-descent parser that never raises and names what is malformed.

call   := "<start_function_call>call:" NAME object "<end_function_call>"
object := "{" [KEY ":" value ("," KEY ":" value)*] "}"
value  := "<escape>" raw "<escape>" | number | "true" | "false" | "[" [value ("," value)*] "]" | object
"""

from __future__ import annotations

import math
import re

from dozan.chat.format import Call, Parsed
from dozan.chat.schema import original_name
from dozan.chat.tokens import END_CALL, END_TURN, EOS, ESCAPE, START_CALL, START_RESPONSE, find_control
from dozan.rows.example import Json

_STOPS = re.compile("|".join(map(re.escape, (EOS, END_TURN, START_RESPONSE))))
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NAME = re.compile(r"[^\s{}\[\]<>:,]+")
_KEY = re.compile(r"[^{}\[\]<>:,\n]+")
_BARE = re.compile(r"[^{}\[\],<]*")
_ARABIC_DIGIT = re.compile("[٠-٩۰-۹]")
_DEPTH = 64
_DIGITS = 4000


class _Malformed(Exception):
    """A call that cannot be read on from `at`."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


def parse_calls(text: str) -> Parsed:
    """The calls and text of one model turn. A problem reads `at CHARACTER: what`.

    A call is listed when its arguments could be read to the end, even if something in them is a problem: an unknown
    literal stands as its raw text. Other malformed calls are only named in `problems`.
    """
    return _Reader(text).read()


class _Reader:
    """A position in the text, and what was found so far."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.problems: list[str] = []

    def read(self) -> Parsed:
        self._cut_at_stop()
        calls: list[Call] = []
        outside: list[str] = []
        while True:
            start = self.text.find(START_CALL, self.at)
            self._outside(self.text[self.at : start] if start >= 0 else self.text[self.at :], outside)
            if start < 0:
                break
            self.at = start + len(START_CALL)
            try:
                calls.append(self._call())
            except _Malformed as error:
                self._problem(error.at, str(error))
                self._recover()
        return Parsed(tuple(calls), " ".join(part for part in outside if part), tuple(self.problems))

    def _cut_at_stop(self) -> None:
        stop = _STOPS.search(self.text)
        if stop:
            if self.text[stop.end() :].strip():
                self._problem(stop.end(), f"text after the stop token {stop.group()}")
            self.text = self.text[: stop.start()]

    def _outside(self, part: str, outside: list[str]) -> None:
        """Text outside calls, which belongs before the first one."""
        control = find_control(part)
        if control:
            self._problem(self.at + part.index(control), f"{control} outside a call")
        if part.strip() and self.at:
            self._problem(self.at, "text after a call")
        outside.append(part.strip())

    def _recover(self) -> None:
        """Goes on after the malformed call's end, or at the next call."""
        end = self.text.find(END_CALL, self.at)
        following = self.text.find(START_CALL, self.at)
        if end >= 0 and (following < 0 or end < following):
            self.at = end + len(END_CALL)
        else:
            self.at = following if following >= 0 else len(self.text)

    def _call(self) -> Call:
        self._expect("call:")
        name = self._match(_NAME, "a function name")
        arguments = self._object(0)
        if self.text.startswith(END_CALL, self.at):
            self.at += len(END_CALL)
        else:
            self._problem(self.at, f"{END_CALL} is missing")
        return Call(name, arguments)

    def _object(self, depth: int) -> dict[str, Json]:
        self._expect("{")
        found: dict[str, Json] = {}
        while not self._skip("}"):
            if found:
                self._expect(",", " or }")
            self._spaces()
            start = self.at
            key = original_name(self._key())
            self._expect(":")
            if key in found:
                self._problem(start, f"the key {key!r} twice")
            found[key] = self._value(depth + 1)
        return found

    def _key(self) -> str:
        if self.text.startswith(ESCAPE, self.at):
            self._problem(self.at, f"a key in {ESCAPE}")
            return self._string()
        return self._match(_KEY, "a key or }").strip()

    def _list(self, depth: int) -> list[Json]:
        self._expect("[")
        found: list[Json] = []
        while not self._skip("]"):
            if found:
                self._expect(",", " or ]")
            found.append(self._value(depth + 1))
        return found

    def _value(self, depth: int) -> Json:
        if depth > _DEPTH:
            raise _Malformed(self.at, f"nested more than {_DEPTH} deep")
        self._spaces()
        if self.text.startswith(ESCAPE, self.at):
            return self._string()
        if self.text.startswith("{", self.at):
            return self._object(depth)
        if self.text.startswith("[", self.at):
            return self._list(depth)
        return self._literal()

    def _string(self) -> str:
        start = self.at + len(ESCAPE)
        end = self.text.find(ESCAPE, start)
        raw = self.text[start:end] if end >= 0 else ""
        if end < 0 or find_control(raw):
            raise _Malformed(self.at, "the string is not closed")
        self.at = end + len(ESCAPE)
        return raw

    def _literal(self) -> Json:
        """A number, true or false; anything else is a problem and stands as its raw text."""
        start = self.at
        found = _BARE.match(self.text, start)
        raw = found.group() if found else ""
        self.at += len(raw)
        word = raw.strip()
        if word in ("true", "false"):
            return word == "true"
        number = _NUMBER.fullmatch(word)
        if number and len(word) < _DIGITS:
            value = float(word) if number.group(1) or number.group(2) else int(word)
            if math.isfinite(value):
                return value
        if not word:
            raise _Malformed(start, "a value is missing")
        self._problem(start, _literal_problem(word, number is not None))
        return None if word in ("null", "None") else word

    def _spaces(self) -> None:
        start = self.at
        while self.at < len(self.text) and self.text[self.at] in " \n\t":
            self.at += 1
        if self.at > start:
            self._problem(start, "a space between arguments")

    def _match(self, pattern: re.Pattern[str], what: str) -> str:
        found = pattern.match(self.text, self.at)
        if not found:
            raise _Malformed(self.at, f"expected {what}")
        self.at = found.end()
        return found.group()

    def _skip(self, expected: str) -> bool:
        found = self.text.startswith(expected, self.at)
        self.at += len(expected) if found else 0
        return found

    def _expect(self, expected: str, more: str = "") -> None:
        if not self._skip(expected):
            raise _Malformed(self.at, f"expected {expected}{more}, found {self.text[self.at : self.at + 12]!r}")

    def _problem(self, at: int, message: str) -> None:
        self.problems.append(f"at {at}: {message}")


def _literal_problem(word: str, number: bool) -> str:
    if number:
        return f"the number {word[:40]} is out of range"
    if word in ("null", "None"):
        return f"{word} has no form; the argument should be left out"
    if _ARABIC_DIGIT.match(word.lstrip("-")):
        return f"bare Arabic digit in {word[:40]!r}"
    return f"unknown literal {word[:40]!r}"
