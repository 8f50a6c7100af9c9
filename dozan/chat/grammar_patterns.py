"""The regular parts of the grammar of calls: free text, keys, numbers, dates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from dozan.chat.grammar_rules import Choice, Literal, Node, Repeat, Series, characters, optional
from dozan.chat.tokens import CONTROL_TOKENS
from dozan.rows.example import Json

_TOLD = re.compile(r"(?<![\w:-])(?:YYYY-MM-DD(?:[T ]HH:MM(?::SS)?)?|HH:MM(?::SS)?)(?![\w:+-])")
_LOOSE = re.compile(r"\b(?:or|e\.g|i\.e|example|such as|أو|او)\b|/", re.IGNORECASE)
_FORMATS = {"date-time": "date_time", "date": "date", "time": "time"}
_TEMPLATES = {
    "YYYY-MM-DDTHH:MM:SS": "day_t_second", "YYYY-MM-DD HH:MM:SS": "day_second", "YYYY-MM-DDTHH:MM": "day_t_minute",
    "YYYY-MM-DD HH:MM": "day_minute", "YYYY-MM-DD": "date", "HH:MM:SS": "second", "HH:MM": "minute",
}  # fmt: skip
_UNUSED = "<unused"


def written_form(schema: Mapping[str, Json]) -> str | None:
    """The name of the pattern that a string's schema asks for, by its `format` or by the one form of a date or time
    that its description spells out; None for free text, and for a description that leaves a choice."""
    told = _FORMATS.get(str(schema.get("format")))
    if told is not None:
        return told
    description = str(schema.get("description") or "")
    forms = set(_TOLD.findall(description))
    return _TEMPLATES[forms.pop()] if len(forms) == 1 and not _LOOSE.search(description) else None


def _digits(least: int, most: int | None = None) -> Node:
    return Repeat(characters("0-9"), least, least if most is None else most)


def _series(*parts: Node | str) -> Node:
    return Series(tuple(Literal(part) if isinstance(part, str) else part for part in parts))


def _either(*parts: Node | str) -> Node:
    return Choice(tuple(Literal(part) if isinstance(part, str) else part for part in parts))


def _of(spelt: str) -> Node:
    return characters(spelt)


def _text() -> Node:
    """Text of any script, at least one character, in which no control token is spelt: what follows a `<` is checked. No
    NUL, at which llama.cpp ends a token's text."""
    plain = characters("<\0", but=True)
    after = optional(_after([token[1:] for token in CONTROL_TOKENS]))
    pieces = Repeat(_series("<", after), 0, None)
    return _either(_series(Repeat(plain, 1, None), pieces), Repeat(_series("<", after), 1, None))


def _after(tails: Iterable[str]) -> Node:
    """What may follow a `<` up to the next one: not empty, and beginning with none of the tails (`eos>`, ...).

    `unused>` stands for any `unusedN>`, so after `unused` a number may not be followed by `>`.
    """
    tails = set(tails)
    assert all(tail and "<" not in tail for tail in tails)
    return _other(tails | {_UNUSED[1:] + "#"})


def _other(tails: set[str]) -> Node:
    """Not empty text without `<` and NUL that begins with none of the tails; `#` stands for digits and `>`."""
    rest = Repeat(characters("<\0", but=True), 0, None)
    if tails == {"#"}:
        end = optional(_series(characters("<>\x000-9", but=True), rest))
        return _either(_series(characters("<\x000-9", but=True), rest), _series(Repeat(_of("0-9"), 1, None), end))
    firsts = sorted({tail[0] for tail in tails})
    assert "#" not in firsts, "a token's name goes on after `unused`"
    options: list[Node] = [_series(characters("<\0" + "".join(firsts), but=True), rest)]
    for first in firsts:
        following = {tail[1:] for tail in tails if tail[0] == first}
        if "" not in following:
            options.append(_series(first, optional(_other(following))))
    return _either(*options)


def _date() -> Node:
    """Days that the calendar has, of the years 1000 to 9999."""
    year = _series(_of("1-9"), _digits(3))
    leap = _either(
        _series(_of("1-9"), _of("0-9"), _either(_series("0", _of("48")), _fourth())),
        _series(_fourth(), "00"),
    )
    long = _series(_either(_series("0", _of("13578")), _series("1", _of("02"))), "-", _days("12", "3", "01"))
    short = _series(_either(_series("0", _of("469")), "11"), "-", _days("12", "3", "0"))
    february = _series("02-", _either(_series("0", _of("1-9")), _series("1", _of("0-9")), _series("2", _of("0-8"))))
    return _either(_series(year, "-", _either(long, short, february)), _series(leap, "-02-29"))


def _fourth() -> Node:
    """12 to 96 by fours."""
    return _either(_series(_of("2468"), _of("048")), _series(_of("13579"), _of("26")))


def _days(tens: str, last: str, ones: str) -> Node:
    return _either(_series("0", _of("1-9")), _series(_of(tens), _of("0-9")), _series(last, _of(ones)))


def _patterns() -> dict[str, Node]:
    whole = _either("0", _series(_of("1-9"), _digits(0, 18)))
    power = _either(_series(optional(Literal("+")), _either(_digits(1, 2), _series(_of("12"), _of("0-7"), _of("0-9")))),
                    _series("-", _digits(1, 3)))  # fmt: skip
    integer = _series(optional(Literal("-")), whole)
    number = _series(integer, optional(_series(".", _digits(1, 24))), optional(_series(_of("eE"), power)))
    key_end = characters("{}[]<>:,\n\r\t \u00a0", but=True)
    key = _series(key_end, optional(_series(Repeat(characters("{}[]<>:,\n\r", but=True), 0, 60), key_end)))
    minute = _series(_either(_series(_of("01"), _of("0-9")), _series("2", _of("0-3"))), ":", _of("0-5"), _of("0-9"))
    second = _series(minute, ":", _of("0-5"), _of("0-9"))
    zone = optional(_either("Z", _series(_of("+-"), minute)))
    time = _series(second, optional(_series(".", _digits(1, 9))), zone)
    date = _date()
    return {
        "text": _text(), "key": key, "integer": integer, "number": number, "date": date, "minute": minute,
        "second": second, "time": time, "date_time": _series(date, "T", time),
        "day_t_second": _series(date, "T", second), "day_second": _series(date, " ", second),
        "day_t_minute": _series(date, "T", minute), "day_minute": _series(date, " ", minute),
    }  # fmt: skip


PATTERNS = _patterns()
"""By name; each says characters only, and is never empty."""
