"""When AISA-ArabicFC's score takes two arguments to be the same (the task's published rules, v1.3).

In order: numbers (not in identifiers), then text with ASCII digits, folded Arabic letters and number words as digits,
then the closed list of spellings for the argument's name. Lists in text are compared without order.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache

from dozan.judge import preset_aisa_words as words
from dozan.rows.example import Json

_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "01234567890123456789")
_MARKS = re.compile("[\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
_LETTERS = str.maketrans({**dict.fromkeys("إأآٱ", "ا"), "ى": "ي", "ة": "ه", "ؤ": "و", "ئ": "ي", "ء": ""})
_IDENTIFIERS = frozenset({
    "id_number", "iqama_number", "visa_number", "recipient_iban", "iban", "insurance_number", "passport_number",
    "phone", "phone_number", "national_id", "account_number", "reference_number",
})  # fmt: skip
_LISTS = frozenset({"items", "country", "destination_country"})
_DATES = frozenset({"date", "check_in", "check_out", "departure_date", "return_date", "appointment_date"})
_BETWEEN = re.compile(r"\s*(?:،|,|;|&|/|\bو\b|\band\b|\n)\s*")
_AND_THE = re.compile(r"\sو(?=ال\S)")
_COMING = re.compile(r"\s+(?:القادم|القادمه|الجاي|الجايه|المقبل|المقبله)$")


def same_arguments(made: Mapping[str, Json], gold: Mapping[str, Json], tool: str) -> bool:
    """Whether a call's arguments are those of gold's call of `tool`; empty values and unscored names do not count."""
    left, right = _scored(made, tool), _scored(gold, tool)
    return left.keys() == right.keys() and all(same_value(left[name], right[name], name) for name in right)


def same_value(made: Json, gold: Json, name: str) -> bool:
    """Whether two values of the argument `name` are the same answer."""
    if name not in _IDENTIFIERS:
        numbers = _number(made), _number(gold)
        if None not in numbers:
            return numbers[0] == numbers[1]
    if name in _LISTS:
        return _items(made, name) == _items(gold, name)
    return canonical(made, name) == canonical(gold, name)


def canonical(value: Json, name: str) -> str:
    """The one spelling of all that are the same for the argument `name`."""
    number = _table(words.NUMBERS)
    plain = " ".join(number.get(word, word) for word in _fold(str(value)).split()).casefold()
    if name in words.ALIASES:
        return _table(words.ALIASES[name]).get(plain, plain)
    return _FORMS.get(name, _unchanged)(plain)


def _scored(arguments: Mapping[str, Json], tool: str) -> dict[str, Json]:
    unscored = words.UNSCORED.get(tool, frozenset())
    kept = {name: value for name, value in arguments.items() if name not in unscored and value is not None}
    return {name: value for name, value in kept.items() if str(value).strip()}


def _number(value: Json) -> float | None:
    try:
        return float(str(value).translate(_DIGITS).replace(",", "").strip())
    except ValueError:
        return None


def _items(value: Json, name: str) -> frozenset[str]:
    text = _AND_THE.sub(" ، ", str(value).translate(_DIGITS))
    return frozenset(canonical(part, name) for part in _BETWEEN.split(text) if part.strip()) or frozenset({""})


def _fold(text: str) -> str:
    plain = unicodedata.normalize("NFKC", text.translate(_DIGITS))
    return _MARKS.sub("", plain).translate(_LETTERS)


@cache
def _table(lines: str) -> dict[str, str]:
    """Folded spelling -> canonical, of lines `canonical: spelling | spelling`."""
    found: dict[str, str] = {}
    for line in lines.strip().splitlines():
        name, _, spellings = line.partition(": ")
        found.update({_fold(spelling).strip().casefold(): name for spelling in spellings.split("|")})
    return found


@cache
def _folded_words(text: str) -> frozenset[str]:
    return frozenset(_fold(text).split())


def _unchanged(plain: str) -> str:
    return plain


def _without_article(word: str, shortest: int) -> str:
    return word[2:] if word.startswith("ال") and len(word) > shortest else word


def _product(plain: str) -> str:
    """Without words for "device" and the article; brands in Latin letters, model numbers kept."""
    carriers, brands = _folded_words(words.CARRIERS), _table(words.BRANDS)
    bare = [(word, _without_article(word, 4)) for word in plain.split()]
    kept = [brands.get(stem, word) for word, stem in bare if word not in carriers and stem not in carriers]
    return " ".join(kept) or plain


def _specialty(plain: str) -> str:
    titles = _folded_words(words.TITLES)
    bare = [_without_article(word, 3) for word in plain.split()]
    core = " ".join(word for word in bare if word not in titles)
    return _table(words.SPECIALTIES).get(core, core or plain)


def _day(plain: str) -> str:
    """Named and relative days, and months, in English; an ISO date stays as it is."""
    named, days = _table(words.DAYS + words.RELATIVE_DAYS), _table(words.DAYS)
    text = plain.replace("_", " ").strip()
    if text in named:
        return named[text]
    text = _COMING.sub("", re.sub(r"^يوم\s+", "", text))
    if text in named:
        return named[text]
    tokens = {**days, **_table(words.MONTHS)}
    return " ".join(tokens.get(word, word) for word in text.split())


def _person(plain: str) -> str:
    kin = _table(words.KIN)
    return kin[plain] if plain in kin else " ".join(_table(words.NAMES).get(word, word) for word in plain.split())


_FORMS: Mapping[str, Callable[[str], str]] = {
    "product_name": _product, "specialty": _specialty, **dict.fromkeys(_DATES, _day),
    "recipient_name": _person, "doctor_name": _person,
}  # fmt: skip
