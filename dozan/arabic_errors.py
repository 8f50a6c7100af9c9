"""Error messages in Arabic where the locale asks for it: a finished English message is matched to the catalogue.

The messages are written in English where they are raised, and stay what is logged and tested. The catalogue beside this
file, `arabic_errors.txt`, has an Arabic line for each of their lines. A message is taken line by line; the entry with
the most letters that fits wins; a value that is itself a known text is translated too. Every other value, and every
stretch of Latin, is isolated (U+2068 … U+2069), so that paths and commands keep their order in a line of Arabic.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TextIO

from dozan.check.visible import isolate

CATALOGUE = Path(__file__).with_suffix(".txt")
_HOLE = re.compile(r"\{(\d+)\}")
_LATIN = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_AFTER_PLACE = re.compile(r"(?<=\d\})(?=: )|(?= \(\{\d+\}\))")
_LONGEST, _MOST_PLACES = 1500, 8
"""Longer texts and more parts are not looked into: no message takes longer than it is worth."""
_DIM, _PLAIN = "\033[2m", "\033[0m"


@dataclass(frozen=True)
class Entry:
    """A line of a message. english: the literal parts around its values; letters: how many letters these have."""

    english: tuple[str, ...]
    arabic: str
    letters: int


@dataclass(frozen=True)
class Found:
    """A text in Arabic, and how many letters of the English it stands for were known."""

    text: str
    letters: int


def speaks_arabic(environment: Mapping[str, str] | None = None) -> bool:
    """Whether messages are wanted in Arabic: LC_ALL, else LC_MESSAGES, else LANG names the locale, and LANGUAGE, a list
    that counts only beside a locale other than C, goes before it, as in GNU gettext. Its first of ar and en decides."""
    environment = os.environ if environment is None else environment
    chosen = next((value for key in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(key))), "C")
    if _language(chosen) in ("c", "posix"):
        return False
    listed = [_language(name) for name in environment.get("LANGUAGE", "").split(":") if name]
    return next((name for name in listed if name in ("ar", "en")), _language(chosen)) == "ar"


def told(message: str, shown: str, stream: TextIO | None = None) -> str:
    """What to print of an error: `shown`, its English in full; where the locale asks for it, under its Arabic.

    A stream (standard error) that is not UTF-8 cannot show the isolates and gets the English alone. In a terminal the
    English is dim, unless NO_COLOR is set.
    """
    stream = sys.stderr if stream is None else stream
    if not speaks_arabic() or (stream.encoding or "").lower().replace("-", "") != "utf8":
        return shown
    translated = arabic(message)
    if translated is None:
        return shown
    dim = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"{isolate('dozan')}: {translated}\n{f'{_DIM}{shown}{_PLAIN}' if dim else shown}"


def arabic(message: str) -> str | None:
    """A message in Arabic; None where nothing of it is known. A line that is not known stays as it is, isolated."""
    lines = message.split("\n")
    found = [_line(line) for line in lines]
    if all(line is None for line in found):
        whole = _line(message) if len(lines) > 1 else None
        return None if whole is None else whole.text
    both = zip(lines, found, strict=True)
    shown = [there.text if there else isolate(line) if line.strip() else line for line, there in both]
    return "\n".join(shown)


@cache
def entries() -> tuple[Entry, ...]:
    """The catalogue, the entries with the most letters first."""
    lines = [line for line in CATALOGUE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) % 2 == 0, f"{CATALOGUE}: an entry without its Arabic"
    found = []
    for english, translation in zip(lines[::2], lines[1::2], strict=True):
        parts = tuple(_HOLE.split(english)[::2])
        found.append(Entry(parts, translation, sum(letter.isalpha() for part in parts for letter in part)))
    return tuple(sorted(found, key=lambda entry: (-entry.letters, -sum(map(len, entry.english)))))


def _language(locale: str) -> str:
    return re.split(r"[_.@]", locale, maxsplit=1)[0].lower()


@cache
def _line(text: str) -> Found | None:
    """A line, or a value, in Arabic, with the spaces around it; None where it is not known."""
    said = text.strip()
    found = _whole(said) or _in_parts(said) if " " in said and len(said) <= _LONGEST else None
    if found is None:
        return None
    before = text[: len(text) - len(text.lstrip())]
    return Found(f"{before}{found.text}{text[len(text.rstrip()) :]}", found.letters)


@cache
def _whole(text: str) -> Found | None:
    """The Arabic of the entry that fits all of a text best, its values included."""
    fitting = ((entry, _values(entry.english, text)) for entry in entries())
    found = [_filled(entry, values) for entry, values in fitting if values is not None]
    return max(found, key=lambda one: one.letters, default=None)


def _in_parts(text: str) -> Found | None:
    """A text of which a part is known: after a place and a colon, after other words, or between semicolons."""
    for colon in islice(re.finditer(": ", text), _MOST_PLACES):
        rest = text[colon.end() :]
        found = _whole(rest) or _between_semicolons(rest)
        if found is not None:
            return Found(f"{isolate(text[: colon.start()])}: {found.text}", found.letters)
    return _with_tail(text) or _between_semicolons(text)


def _between_semicolons(text: str) -> Found | None:
    parts = text.split("; ")
    found = [_whole(part) for part in parts] if 1 < len(parts) <= _MOST_PLACES else []
    if not any(found):
        return None
    both = zip(parts, found, strict=True)
    said = "؛ ".join(isolate(part) if there is None else there.text for part, there in both)
    return Found(said, sum(there.letters for there in found if there is not None))


def _with_tail(text: str) -> Found | None:
    """A text that ends in an entry which begins with a sign, such as `(did you mean x?)`."""
    for entry in entries():
        opening = entry.english[0]
        if opening and not opening[0].isalnum() and (at := text.find(opening)) > 0:
            values = _values(entry.english, text[at:])
            if values is not None:
                head, tail = text[:at].rstrip(), _filled(entry, values)
                return Found(f"{isolate(head)}{text[len(head) : at]}{tail.text}", tail.letters)
    return None


def _values(parts: tuple[str, ...], text: str) -> list[str] | None:
    """The values between the literal parts of a text, each as short as it can be; None where the text is another."""
    if not (text.startswith(parts[0]) and text.endswith(parts[-1])):
        return None
    if len(parts) == 1:
        return [] if text == parts[0] else None
    at, end = len(parts[0]), len(text) - len(parts[-1])
    values = []
    for part in parts[1:-1]:
        found = text.find(part, at, end)
        if found < 0:
            return None
        values.append(text[at:found])
        at = found + len(part)
    return [*values, text[at:end]] if at <= end else None


def _filled(entry: Entry, values: list[str]) -> Found:
    """The Arabic of an entry with its values, and every stretch of Latin isolated."""
    known = [_line(value) for value in values]
    shown = [isolate(text) if there is None else there.text for text, there in zip(values, known, strict=True)]

    def value(hole: re.Match[str]) -> str:
        at = int(hole[1])
        return shown[at] if values[at] else ""

    def stretch(latin: re.Match[str]) -> str:
        return "".join(part(found) for found in _AFTER_PLACE.split(latin[0]))

    def part(text: str) -> str:
        core = _core(text)
        if not core:
            return _HOLE.sub(value, text)
        before, after = text.split(core, 1)
        filled = _HOLE.sub(value, core)
        return before + (filled if _HOLE.fullmatch(core) else isolate(filled)) + after

    letters = entry.letters + sum(there.letters for there in known if there is not None)
    return Found(_LATIN.sub(stretch, entry.arabic).replace("؟؛", "؟"), letters)


def _core(text: str) -> str:
    """What of a stretch of Latin is Latin: without the signs at its ends that belong to the Arabic sentence."""
    core = text.strip(" ").removeprefix(": ")
    while core != (shorter := _shorter(core).strip(" ")):
        core = shorter
    return core if re.search(r"\w", core) else ""


def _shorter(core: str) -> str:
    opens, closes = core.count("("), core.count(")")
    if core.startswith("(") and opens > closes:
        return core[1:]
    of_the_sentence = core.endswith((":", ",", "(")) or (core.endswith(".") and not core.endswith(".."))
    return core[:-1] if of_the_sentence or (core.endswith(")") and closes > opens) else core
