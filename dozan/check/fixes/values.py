"""Repairs of arguments by their schema: types without loss, digits, and the schema's own spelling of its values."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping

from dozan.check.fixes.repair import Log
from dozan.check.row_rules.validators import listed_values, plain_schema
from dozan.rows.arabic import ascii_digits, fold, has_marks, strip_marks
from dozan.rows.example import Json
from dozan.rows.json_text import JsonText

Schema = Mapping[str, Json]
_WHOLE = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(r"[+-]?(?:0|[1-9][0-9]*)\.[0-9]+")
_ARABIC_GROUPS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:٬[0-9]{3})+(?:\.[0-9]+)?")
_ASCII_GROUPS = re.compile(r"[+-]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?")
_MOST_DIGITS = 15
_EASTERN = re.compile("[٠-٩۰-۹]")
_NUMERIC = re.compile(r"[+]?[٠-٩۰-۹0-9][٠-٩۰-۹0-9T\s\-/.:٫٬,()]*")
_IDENTIFIER = re.compile(r"[A-Za-z]{0,4}[٠-٩۰-۹0-9][A-Za-z٠-٩۰-۹0-9-]{4,}")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}(?:-[0-9]{1,2})?(?:[T ][0-9:.]+)?|[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_NUMBER_WORDS = re.compile(
    r"phone|mobile|number|\bid\b|_id\b|iban|code|date|time|account|iso|هاتف|جوال|رقم|هوية|تاريخ|وقت|رمز", re.IGNORECASE
)
_LONG_NUMBER = 5
_CLOSEST = 0.8


class Values:
    """Repairs the arguments of one call; `said` is the text before the call."""

    def __init__(self, log: Log, said: str) -> None:
        self.log = log
        self.said = said

    def fixed(self, value: Json, schema: Schema, path: str) -> Json:
        """The value repaired by its schema, and all that it holds; the same object when nothing changed."""
        if isinstance(value, Mapping):
            return self._object(value, schema, path)
        if isinstance(value, list):
            items = schema.get("items")
            inner = items if isinstance(items, Mapping) else {}
            fixed = [self.fixed(item, inner, f"{path}[{i}]") for i, item in enumerate(value)]
            return value if all(a is b for a, b in zip(fixed, value, strict=True)) else fixed
        kinds = _kinds(schema)
        if isinstance(value, str):
            if kinds and "string" not in kinds:
                return self._typed(value, kinds, schema, path)
            return self._text(value, schema, path)
        if kinds == {"string"} and isinstance(value, int) and not isinstance(value, bool):
            return self._as_text(value, path)
        return value

    def _object(self, value: Mapping[str, Json], schema: Schema, path: str) -> Json:
        properties = schema.get("properties")
        known = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        fixed: dict[str, Json] = {}
        same = True
        for key, item in value.items():
            where = f"{path}.{key}"
            if item is None and self.log.wants("DZ209"):
                self.log.add("DZ209", where, None, None)
                same = False
                continue
            if item == "" and self.log.wants("DZ424") and not (isinstance(required, list) and key in required):
                self.log.add("DZ424", where, "", None)
                same = False
                continue
            name = self._name(key, value, known, where)
            inner = known.get(name)
            fixed[name] = self.fixed(item, inner if isinstance(inner, Mapping) else {}, where)
            same = same and name == key and fixed[name] is item
        return value if same else fixed

    def _name(self, key: str, value: Schema, known: Schema, path: str) -> str:
        """The declared name that an unknown one clearly means; asked for only."""
        if not known or key in known or not self.log.wants("DZ403") or len(key) > 100:
            return key
        near = difflib.get_close_matches(key, [name for name in known if name not in value], 2, _CLOSEST)
        if len(near) != 1:
            return key
        self.log.add("DZ403", path, key, near[0])
        return near[0]

    def _typed(self, text: str, kinds: set[str], schema: Schema, path: str) -> Json:
        """A text as the number, boolean, list or object that the schema wants, when it says just that."""
        if kinds & {"number", "integer"}:
            number = read_number(text, "number" in kinds)
            if number is not None and self.log.wants("DZ408"):
                self.log.add("DZ408", path, text, number)
                return number
        elif kinds == {"boolean"} and text.strip().lower() in ("true", "false") and self.log.wants("DZ404"):
            truth = text.strip().lower() == "true"
            self.log.add("DZ404", path, text, truth)
            return truth
        elif kinds in ({"array"}, {"object"}) and self.log.wants("DZ404"):
            found, problems = JsonText().parse(text)
            if not problems and isinstance(found, list if kinds == {"array"} else dict):
                self.log.add("DZ404", path, text, found)
                return self.fixed(found, schema, path)
        return text

    def _as_text(self, number: int, path: str) -> Json:
        """The digits of a number that the conversation has as they are, with no zero or plus sign lost before them."""
        digits = str(number)
        found = re.search(rf"(?<![0-9+.,]){re.escape(digits)}(?![0-9])", ascii_digits(self.said))
        if found is None or not self.log.wants("DZ409"):
            return number
        self.log.add("DZ409", path, number, digits)
        return digits

    def _text(self, text: str, schema: Schema, path: str) -> str:
        enum = schema.get("enum")
        offered = [value for value in enum if isinstance(value, str)] if isinstance(enum, list) else []
        listed = () if offered else listed_values(schema.get("description"))
        for code, values in (("DZ405", offered), ("DZ406", listed)):
            if values:
                return text if text in values else self._spelt(text, values, code, path)
        text = self._step(text, "DZ426", path, lambda value: _digits(value, schema, path))
        text = self._step(text, "DZ430", path, ascii_digits)
        return text if has_marks(self.said) else self._step(text, "DZ428", path, strip_marks)

    def _spelt(self, text: str, values: Iterable[str], code: str, path: str) -> str:
        """The schema's own spelling of a value that differs in case, marks or forms of letters alone."""
        alike = [value for value in values if fold(value) == fold(text)]
        return self._step(text, code, path, lambda _: alike[0]) if len(alike) == 1 else text

    def _step(self, text: str, code: str, path: str, change: Callable[[str], str]) -> str:
        changed = change(text) if self.log.wants(code) else text
        if changed != text:
            self.log.add(code, path, text, changed)
        return changed


def _kinds(schema: Schema) -> set[str]:
    """The JSON types that a schema allows, null aside; empty when it does not say."""
    kind = plain_schema({"type": schema.get("type")}).get("type", [])
    return {kind} - {"null"} if isinstance(kind, str) else set(kind) - {"null"}


def read_number(text: str, fraction: bool) -> int | float | None:
    """The number that a text is, in either kind of digits; None when it is none, or writing it would lose something.

    A comma before three digits is a decimal sign in some texts, so it counts as a thousands sign only in integers and
    where it comes twice.
    """
    plain = ascii_digits(text.strip())
    if _ARABIC_GROUPS.fullmatch(plain) or _ASCII_GROUPS.fullmatch(plain) and (not fraction or plain.count(",") > 1):
        plain = plain.replace("٬", "").replace(",", "")
    if sum(map(str.isdigit, plain)) > _MOST_DIGITS:
        return None
    if _WHOLE.fullmatch(plain):
        return int(plain)
    return float(plain) if fraction and _FRACTION.fullmatch(plain) else None


def _digits(text: str, schema: Schema, path: str) -> str:
    """Numbers, phone numbers, ids and dates in 0-9; what may be a text of its own (a page, a message) stays."""
    if not _EASTERN.search(text) or not (_NUMERIC.fullmatch(text) or _IDENTIFIER.fullmatch(text)):
        return text
    plain = ascii_digits(text)
    name = path.rpartition(".")[2]
    described = f"{name} {schema.get('description')} {schema.get('format')}"
    certain = sum(map(str.isdigit, plain)) >= _LONG_NUMBER or _DATE.fullmatch(plain.strip())
    return plain if certain or _NUMBER_WORDS.search(described) else text
