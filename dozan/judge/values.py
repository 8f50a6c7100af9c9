"""When two argument values are the same: strictly, as typed JSON, or after normalising by what the schema declares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation

from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.example import Json

Schema = Mapping[str, Json]

_DATE = r"(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
_TIME = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d{1,6})\d*)?)?"
_ZONE = r"(?P<zone>[Zz]|(?P<sign>[+-])(?P<zone_hour>\d{2}):?(?P<zone_minute>\d{2})?)"
_DAY_AND_TIME = re.compile(rf"{_DATE}(?:[Tt ]\s*{_TIME}\s*{_ZONE}?)?")
_TIME_OF_DAY = re.compile(_TIME)
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_PHONE_KEY = re.compile(r"phone|mobile|whatsapp|\btel\b|^tel_|_tel$|fax|هاتف|جوال|موبايل", re.IGNORECASE)
_PHONE = re.compile(r"\+?[\d\s().\-/]+")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_MARKS = "\u200e\u200f\u061c"
_SCRIPTS = {"arabic": re.compile("[\u0620-\u064a\u066e-\u06d3]"), "latin": re.compile("[A-Za-z]")}


def strictly_equal(left: Json, right: Json) -> bool:
    """Typed JSON equality: 1 is 1.0, but not "1" and not true; lists in order, objects by key."""
    if isinstance(left, bool) or isinstance(right, bool):
        return isinstance(left, bool) and isinstance(right, bool) and left == right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(strictly_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(strictly_equal, left, right))
    if _is_number(left) and _is_number(right):
        return bool(left == right)
    return type(left) is type(right) and bool(left == right)


def normally_equal(gold: Json, predicted: Json, schema: Schema, key: str = "") -> bool:
    """Equality after normalising both by `schema`, the argument's own declaration (`{}` when there is none).

    Numbers may be spelt as text in either digits; dates and times are compared as instants, phone numbers by their
    digits, e-mail addresses without case; an enum's value is exact; other text is folded (marks, alef and ya forms,
    digits, case, spaces).
    """
    if strictly_equal(gold, predicted):
        return True
    if schema.get("enum") or isinstance(gold, bool) or isinstance(predicted, bool):
        return False
    if isinstance(gold, list):
        items = _schema(schema.get("items"))
        same = isinstance(predicted, list) and len(gold) == len(predicted)
        return same and all(normally_equal(g, p, items, key) for g, p in zip(gold, predicted, strict=True))
    if isinstance(gold, Mapping):
        inner = _schema(schema.get("properties"))
        same = isinstance(predicted, Mapping) and gold.keys() == predicted.keys()
        return same and all(normally_equal(gold[k], predicted[k], _schema(inner.get(k)), k) for k in gold)
    if gold is None or predicted is None or isinstance(predicted, (list, Mapping)):
        return False
    wanted = canonical(gold, schema, key)
    return wanted == canonical(predicted, schema, key, kind=wanted[0])


def canonical(value: Json, schema: Schema, key: str = "", kind: str | None = None) -> tuple[str, object]:
    """(kind, comparable form) of a number or a string; a value that is not of the asked `kind` is of kind "other"."""
    kinds = [kind] if kind else _kinds(value, schema, key)
    for name in kinds:
        found = _CANONICAL[name](value)
        if found is not None:
            return name, found
    return ("other", value) if kind else ("text", _text(value))


def _kinds(value: Json, schema: Schema, key: str) -> list[str]:
    """The kinds to try for a gold value, the likeliest first."""
    declared = declared_types(schema)
    if declared & {"number", "integer"} or (not declared and _is_number(value)):
        return ["number", "text"]
    phone = ["phone"] if _is_phone(value, schema, key) else []
    return [*phone, "instant", "email", "text"]


def declared_types(schema: Schema) -> set[str]:
    """The JSON types that a schema allows, in lower case; empty when it names none."""
    found = schema.get("type")
    names = found if isinstance(found, list) else [found]
    return {name.lower() for name in names if isinstance(name, str)}


def suits_type(value: Json, schema: Schema) -> bool:
    """Whether a value has one of the types that the schema declares (1.0 is an integer)."""
    declared = declared_types(schema)
    return not declared or bool(declared & _types(value))


def _types(value: Json) -> set[str]:
    if isinstance(value, bool):
        return {"boolean"}
    if value is None:
        return {"null"}
    if _is_number(value):
        return {"number", "integer"} if value == value // 1 else {"number"}
    return {"string"} if isinstance(value, str) else {"array"} if isinstance(value, list) else {"object"}


def is_copied(value: Json, text: str) -> bool:
    """Whether a value stands verbatim in `text`; a list or an object when each of its leaves does."""
    if isinstance(value, (list, Mapping)):
        leaves = list(value.values()) if isinstance(value, Mapping) else value
        return bool(leaves) and all(is_copied(leaf, text) for leaf in leaves)
    if isinstance(value, bool) or value is None or value == "":
        return False
    if isinstance(value, str):
        return value in text
    spelt = str(int(value)) if value == value // 1 else str(value)
    return re.search(rf"(?<![\d.]){re.escape(spelt)}(?!\d|\.\d)", text) is not None


def script(value: Json) -> str | None:
    """The script that the letters of a value's strings are in, "arabic" or "latin"; None for both or neither."""
    text = " ".join(leaf for leaf in _leaves(value) if isinstance(leaf, str))
    found = [name for name, letter in _SCRIPTS.items() if letter.search(text)]
    return found[0] if len(found) == 1 else None


def differ_in_digits(left: Json, right: Json) -> bool:
    """Whether two unequal values are equal once their strings have ASCII digits."""
    return not strictly_equal(left, right) and strictly_equal(_in_ascii_digits(left), _in_ascii_digits(right))


def differ_in_year(left: Json, right: Json) -> bool:
    """Whether two dates (with or without a time) are the same day of different years."""
    days = [found for found in (read_instant(left), read_instant(right)) if isinstance(found, date)]
    if len(days) < 2:
        return False
    (one, other) = days
    return one.year != other.year and (one.month, one.day) == (other.month, other.day)


def _leaves(value: Json) -> list[Json]:
    if not isinstance(value, (list, Mapping)):
        return [value]
    return [leaf for item in (value.values() if isinstance(value, Mapping) else value) for leaf in _leaves(item)]


def _in_ascii_digits(value: Json) -> Json:
    if isinstance(value, Mapping):
        return {key: _in_ascii_digits(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_ascii_digits(item) for item in value]
    return ascii_digits(value) if isinstance(value, str) else value


def read_number(value: Json) -> Decimal | None:
    """A number from JSON, or from text in Arabic or ASCII digits and separators; None if it is not one."""
    if _is_number(value):
        return Decimal(repr(value))
    if not isinstance(value, str):
        return None
    plain = _ascii(value).replace("٫", ".").replace("٬", ",").replace("−", "-")
    plain = plain.replace(",", "") if _GROUPED.fullmatch(plain) else plain
    try:
        return Decimal(plain) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", plain) else None
    except InvalidOperation:
        return None


def read_instant(value: Json) -> date | time | datetime | None:
    """A date, a time of day or a date-time (in UTC when it names its zone) in ISO order; None if it is not one."""
    if not isinstance(value, str):
        return None
    text = _ascii(value)
    found = _DAY_AND_TIME.fullmatch(text) or _TIME_OF_DAY.fullmatch(text)
    try:
        return _instant(found.groupdict()) if found else None
    except (ValueError, OverflowError):
        return None


def _instant(parts: Mapping[str, str | None]) -> date | time | datetime:
    """Raises ValueError for a month 13, and OverflowError for a zone that leaves year 1 or 9999."""
    part = {name: int(parts.get(name) or 0) for name in ("year", "month", "day", "hour", "minute", "second")}
    at = time(part["hour"], part["minute"], part["second"], int((parts.get("fraction") or "0").ljust(6, "0")))
    if not parts.get("year"):
        return at
    on = date(part["year"], part["month"], part["day"])
    if not parts["hour"]:
        return on
    moment = datetime.combine(on, at)
    if not parts["zone"]:
        return moment
    offset = timedelta(hours=int(parts["zone_hour"] or 0), minutes=int(parts["zone_minute"] or 0))
    return moment.replace(tzinfo=timezone(-offset if parts["sign"] == "-" else offset)).astimezone(UTC)


def _is_number(value: Json) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_phone(value: Json, schema: Schema, key: str) -> bool:
    return schema.get("format") == "phone" or bool(_PHONE_KEY.search(key)) or str(value).startswith(("+", "00"))


def _ascii(text: str) -> str:
    return ascii_digits(text).translate(dict.fromkeys(map(ord, _MARKS))).strip()


def _phone(value: Json) -> str | None:
    """The digits of a phone number, without the + or 00 before a country's code."""
    text = _ascii(str(value))
    digits = re.sub(r"\D", "", text)
    if not _PHONE.fullmatch(text) or len(digits) < 3:
        return None
    return digits[2:] if digits.startswith("00") else digits


def _email(value: Json) -> str | None:
    text = _ascii(value) if isinstance(value, str) else ""
    return text.casefold() if _EMAIL.fullmatch(text) else None


def _text(value: Json) -> str:
    return " ".join(fold(str(value)).casefold().split())


def _schema(found: Json) -> Schema:
    return found if isinstance(found, Mapping) else {}


_CANONICAL = {"number": read_number, "instant": read_instant, "phone": _phone, "email": _email, "text": _text}
