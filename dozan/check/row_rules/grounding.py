"""DZ421 to DZ439: string values that the conversation does not support, and in which way they are written.

A value is grounded when it, its digits, or its words with their clitics and endings taken off stand in the text before
the call. What is chosen from a declared list, computed (a date, a time) or spoken otherwise (an e-mail address, a code
of a currency or language that the request names) needs no words of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dozan.chat.tokens import find_control
from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.codes import is_named_code
from dozan.check.row_rules.found import Found
from dozan.check.row_rules.validators import listed_values
from dozan.check.view import RowView, Schema
from dozan.rows.arabic import ascii_digits, fold, has_marks
from dozan.rows.example import Json

UNGROUNDED = Rule(
    "DZ421",
    "ungrounded",
    "warning",
    "row",
    "A value that nothing in the conversation supports",
    "The model learns to invent: names, numbers, places that nobody said.",
    "Copy the value from the request, leave the argument out, or list the values in the schema.",
)
TRANSLATED = Rule(
    "DZ422",
    "translated",
    "warning",
    "row",
    "A value in another script than the request",
    "The model learns to translate; a small one does it badly, and scores lose more here than anywhere.",
    "Give the value as it was said, or list the values in the schema.",
)
CODED = Rule(
    "DZ423",
    "undeclared-code",
    "note",
    "row",
    "A code word that neither request nor schema has",
    "The model can only know it by heart.",
    "Declare the values as an enum.",
)
EMPTY_VALUE = Rule(
    "DZ424",
    "empty-value",
    "warning",
    "row",
    "An empty string as a value",
    "The model learns to fill arguments with nothing.",
    "Leave the argument out.",
    True,
)
PLACEHOLDER = Rule(
    "DZ425",
    "placeholder",
    "warning",
    "row",
    "A placeholder as a value",
    "A stand-in of the generator was left where the value belongs.",
    "Give the value, or leave the argument out.",
)
ARABIC_DIGITS = Rule(
    "DZ426",
    "arabic-digits",
    "warning",
    "row",
    "Arabic-Indic digits in a number, phone number, id or date",
    "Programs expect 0-9 there; both kinds in a set halve what the model learns of either.",
    "Write 0-9.",
    True,
)
TATWEEL = Rule(
    "DZ427",
    "tatweel-added",
    "warning",
    "row",
    "Tatweel in a value",
    "A stroke for looks is no letter: the value matches nothing.",
    "Take it out.",
    True,
)
MARKS_ADDED = Rule(
    "DZ428",
    "tashkeel-added",
    "warning",
    "row",
    "Tashkeel in a value where the request has none",
    "The model learns to add marks that nobody wrote.",
    "Write the value as it was said.",
    True,
)
UNTRIMMED = Rule(
    "DZ429", "untrimmed", "warning", "row", "A value with spaces around it", "The spaces are trained.", "Trim it.", True
)
DIGITS_IN_TEXT = Rule(
    "DZ430",
    "arabic-digits-in-text",
    "note",
    "row",
    "Arabic-Indic digits inside a text value",
    "Right when the request has them so; wrong when the set writes 0-9 elsewhere.",
    "Keep to one kind in all values.",
    True,
)
NOT_VERBATIM = Rule(
    "DZ431",
    "not-verbatim",
    "note",
    "row",
    "A string value that does not stand verbatim in the request",
    "The model has to do more than copy: fold, count, translate. The warnings say where that goes too far.",
    "Copy values letter by letter wherever the tool allows it.",
)

RULES = Catalog([UNGROUNDED, TRANSLATED, CODED, EMPTY_VALUE, PLACEHOLDER, ARABIC_DIGITS, TATWEEL, MARKS_ADDED,
                 UNTRIMMED, DIGITS_IN_TEXT, NOT_VERBATIM])  # fmt: skip

_COMPUTED = re.compile(r"[0-9]{4}-[0-9]{2}(-[0-9]{2})?([T ].*)?|T?[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( ?[AaPp][Mm])?"
                       r"|[0-9]{1,2}[-/.][0-9]{1,2}([-/.][0-9]{2,4})?|P[0-9T].*")  # fmt: skip
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_STAND_IN = re.compile(
    r"string|text|value|n/?a|none|null|nil|undefined|unknown|todo|tbd|xxx+|\.\.\.|…|example|placeholder|lorem ipsum.*"
    r"|<[^<>]+>|\[[^\[\]]+\]|\{[^{}]*\}|your[_ ].*|غير محدد|غير معروف|لا يوجد|مجهول",
    re.IGNORECASE,
)
_CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*|[A-Z]{2,3}|[A-Z]+(_[A-Z]+)+")
_DAY_WORD = re.compile(r"today|tonight|tomorrow|yesterday|now|weekend|[a-z]+day")
_WORD = re.compile(r"[^\W_]+")
_ARABIC = re.compile("[\u0620-\u064a]")
_LATIN = re.compile("[A-Za-z]{2}")
_EASTERN = re.compile("[٠-٩۰-۹]")
_NUMERIC = re.compile(r"[+]?[٠-٩۰-۹0-9][٠-٩۰-۹0-9T\s\-/.:٫٬,()]*")
_IDENTIFIER = re.compile(r"[A-Za-z]{0,4}[٠-٩۰-۹0-9][A-Za-z٠-٩۰-۹0-9-]{4,}")
_CLITICS = re.compile(r"(?:[وف]?(?:[بكل]?ال|لل|[بكل])|[وف]|ه?ال|عال)?")
_ENDINGS = re.compile(r"(?:ات|ين|ون|يه|ها|هم|كم|نا|ني|ه|ي|ك|ا|ت)$")
_MOST_WORDS_ALL = 3
_SHARE_OF_MANY = 0.6
_LONG_NUMBER = 5
_SHORT = 4


def grounding_findings(view: RowView) -> Iterator[Found]:
    """The string values of every call against the text before it."""
    for (path, call), source in zip(view.calls, view.sources, strict=True):
        schema = view.schemas.get(call.name)
        if not call.arguments:
            continue
        text = _Source(source)
        for where, value, inner in _strings(call.arguments, schema or {}, f"{path}.arguments"):
            yield from _form(where, value, text)
            if value not in view.query:
                yield NOT_VERBATIM, where, f"{value!r:.60} is not in the request letter by letter"
            found = _support(value, inner, text)
            if found is not None:
                yield found[0], where, found[1]


def unsupported(value: Json, schema: Schema, text: str) -> Rule | None:
    """The first rule that a string in `value` breaks for want of support in `text`; None when all are supported."""
    source = _Source(text)
    found = (_support(string, inner, source) for _, string, inner in _strings(value, schema, ""))
    return next((each[0] for each in found if each is not None), None)


def _strings(value: Json, schema: Schema, path: str) -> Iterator[tuple[str, str, Schema]]:
    """Every string in arguments with its path and schema."""
    if isinstance(value, str):
        yield path, value, schema
    elif isinstance(value, Mapping):
        properties = schema.get("properties")
        for key, item in value.items():
            inner = properties.get(key) if isinstance(properties, Mapping) else None
            yield from _strings(item, inner if isinstance(inner, Mapping) else {}, f"{path}.{key}")
    elif isinstance(value, list):
        items = schema.get("items")
        for i, item in enumerate(value):
            yield from _strings(item, items if isinstance(items, Mapping) else {}, f"{path}[{i}]")


class _Source:
    """A text that values are looked up in; folded, stemmed and stripped to digits when first asked."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._folded: str | None = None
        self._stems: set[str] | None = None
        self._beginnings: set[str] | None = None
        self._digits: str | None = None

    @property
    def folded(self) -> str:
        if self._folded is None:
            self._folded = fold(self.text)
        return self._folded

    @property
    def stems(self) -> set[str]:
        if self._stems is None:
            self._stems = {stem for word in _WORD.findall(self.folded) for stem in _stems(word)}
        return self._stems

    @property
    def beginnings(self) -> set[str]:
        if self._beginnings is None:
            self._beginnings = {stem[:4] for stem in self.stems}
        return self._beginnings

    @property
    def digits(self) -> str:
        if self._digits is None:
            self._digits = re.sub(r"[\s\-()./]", "", ascii_digits(self.text))
        return self._digits


def _form(where: str, value: str, source: _Source) -> Iterator[Found]:
    """How a value is written: empty, a stand-in, with digits, strokes or marks that do not belong there."""
    if not value.strip():
        yield EMPTY_VALUE, where, "empty; leave the argument out"
        return
    if value != value.strip():
        yield UNTRIMMED, where, f"{value!r:.60} has spaces around it"
    if _STAND_IN.fullmatch(value.strip()) and fold(value) not in source.folded:
        yield PLACEHOLDER, where, f"{value!r:.60} stands for a value, and is none"
    if value.isascii():
        return
    if _EASTERN.search(value):
        is_number = _NUMERIC.fullmatch(value) or _IDENTIFIER.fullmatch(value)
        yield (
            ARABIC_DIGITS if is_number else DIGITS_IN_TEXT,
            where,
            f"{value!r:.60}; in 0-9: {ascii_digits(value)!r:.60}",
        )
    if "\u0640" in value:
        yield TATWEEL, where, f"{value!r:.60} holds tatweel (U+0640)"
    if has_marks(value) and not has_marks(source.text):
        yield MARKS_ADDED, where, f"{value!r:.60} has tashkeel, the request has none"


def _support(value: str, schema: Schema, source: _Source) -> tuple[Rule, str] | None:
    """Why the value is not grounded, or None."""
    text = value.strip()
    if not text or _is_declared(value, schema) or _COMPUTED.fullmatch(ascii_digits(text)):
        return None
    if _STAND_IN.fullmatch(text) or find_control(text):
        return None
    folded = fold(text)
    if _stands(folded, source.folded) or _has_digits(folded, source):
        return None
    if _EMAIL.fullmatch(folded):
        local = folded.split("@")[0]
        asked = "@" not in source.folded and not _LATIN.search(source.folded)
        return (
            None if asked or local in source.folded else (UNGROUNDED, f"{value!r:.60} is in no message before the call")
        )
    if is_named_code(text, source.folded):
        return None
    if folded.isdigit() and len(folded) < _LONG_NUMBER:
        return None
    other = bool(_LATIN.search(text)) and not _ARABIC.search(text) and bool(_ARABIC.search(source.text))
    if other and _CODE.fullmatch(text) and not _DAY_WORD.fullmatch(text):
        return CODED, f"{value!r:.60} is in neither the request nor the schema; declare it as an enum"
    if _IDENTIFIER.fullmatch(text) or not _words_supported(folded, source):
        rule = TRANSLATED if other and not _IDENTIFIER.fullmatch(text) and not text.isupper() else UNGROUNDED
        said = "is not in the script of the request" if rule is TRANSLATED else "is in no message before the call"
        return rule, f"{value!r:.60} {said}"
    return None


def _stands(folded: str, text: str) -> bool:
    """Whether a folded value stands in the folded text; a short one in ASCII must be a word of its own there."""
    if folded.isascii() and len(folded) < _SHORT:
        return re.search(rf"(?<![a-z0-9]){re.escape(folded)}(?![a-z0-9])", text) is not None
    return folded in text


def _is_declared(value: str, schema: Schema) -> bool:
    """Whether the schema offers the value or lists the values; what is of another type is a matter of its own."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind.lower() not in ("string", "str", "any"):
        return True
    if schema.get("enum") or schema.get("const") is not None or value == schema.get("default"):
        return True
    description = schema.get("description")
    if not isinstance(description, str):
        return False
    return bool(listed_values(description)) or (len(value) > 1 and value in description)


def _has_digits(folded: str, source: _Source) -> bool:
    """Whether a phone number or id stands in the text in other groups, or with another country code."""
    digits = re.sub(r"[\s\-()./+]", "", folded)
    if not digits.isdigit() or len(digits) < _LONG_NUMBER:
        return False
    return digits in source.digits or (len(digits) > 9 and digits[-8:] in source.digits)


def _words_supported(folded: str, source: _Source) -> bool:
    """Whether enough words of a value stand in the text: all of up to three, six of ten beyond that."""
    words = [word for word in _WORD.findall(folded) if len(word) > 2 or not word.isascii()]
    words = [word for word in words if len(word) > 1] or words
    if not words:
        return True
    hits = sum(_is_said(word, source) for word in words)
    return hits == len(words) if len(words) <= _MOST_WORDS_ALL else hits >= _SHARE_OF_MANY * len(words)


def _is_said(word: str, source: _Source) -> bool:
    if word.isascii() and len(word) > 4:
        return word[:4] in source.beginnings
    return not source.stems.isdisjoint(_stems(word))


def _stems(word: str) -> set[str]:
    """A folded word without its clitics, and without one ending."""
    start = _CLITICS.match(word)
    bare = word[start.end() :] if start and len(word) - start.end() >= 3 else word
    return {word, bare, *(stem for stem in (_ENDINGS.sub("", word), _ENDINGS.sub("", bare)) if len(stem) >= 3)}
