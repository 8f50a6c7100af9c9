"""DZ641 to DZ643: one argument over the whole set: how it writes dates and digits, and how varied it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.validators import listed_values
from dozan.check.set_rules.facts import RowFacts, Value
from dozan.check.set_rules.found import Places, SetFound
from dozan.check.set_rules.tally import Tally
from dozan.check.view import read_parameters
from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.identity import MadeOnce
from dozan.rows.tool_lists import Tools

MIXED_DATES = Rule(
    "DZ641", "mixed-dates", "warning", "set", "One argument writes dates in several ways",
    "The model picks a way by chance, and an exact comparison fails.",
    "Choose one, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, say so in the description, and resolve words to it.",
)  # fmt: skip
MIXED_DIGITS = Rule(
    "DZ642", "mixed-digits", "warning", "set", "One argument keeps Arabic digits in some rows only",
    "The model picks a way by chance, and an exact comparison fails.",
    "Convert all of them (`data fix`), or none.",
)  # fmt: skip
FEW_VALUES = Rule(
    "DZ643", "few-values", "warning", "set", "Few different values of an argument that is copied from the request",
    "The model recites what it has seen instead of copying from the request.",
    "Use more values; names and places that come once or twice teach to copy.",
)  # fmt: skip
RULES = Catalog([MIXED_DATES, MIXED_DIGITS, FEW_VALUES])

_MOST_ARGUMENTS, _MOST_VALUES = 2_000, 1_000
_FORMS = (
    ("YYYY-MM-DDTHH:MM", re.compile(r"\d{4}-\d{1,2}-\d{1,2}T\d.*")),
    ("YYYY-MM-DD HH:MM", re.compile(r"\d{4}-\d{1,2}-\d{1,2} \d.*")),
    ("YYYY-MM-DD", re.compile(r"\d{4}-\d{1,2}-\d{1,2}")),
    ("YYYY/MM/DD", re.compile(r"\d{4}[/.]\d{1,2}[/.]\d{1,2}.*")),
    ("DD-MM-YYYY", re.compile(r"\d{1,2}-\d{1,2}-\d{2,4}.*")),
    ("DD/MM/YYYY", re.compile(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}.*")),
    ("DD-MM", re.compile(r"\d{1,2}[-/]\d{1,2}")),
    ("HH:MM", re.compile(r"\d{1,2}:\d{2}(?::\d{2})?\s*(?:am|pm|ص|م)?")),
)
_DAY_FORMS = frozenset(name for name, _ in _FORMS if name != "HH:MM")
_MONTHS = re.compile(
    r"(?<!\w)(?:يناير|فبراير|مارس|ابريل|مايو|يونيو|يوليو|اغسطس|سبتمبر|اكتوبر|نوفمبر|ديسمبر|شباط|اذار|نيسان|ايار|حزيران|تموز"
    r"|ايلول|تشرين|كانون|january|february|march|april|may|june|july|august|september|october|november|december)(?!\w)"
)
_ARABIC = re.compile("[\u0620-\u064a]")
_DATED_NAME = re.compile(r"(?:^|_)(?:date|datetime|day|when|deadline|birthday|check_?in|check_?out|تاريخ)(?:_|$)", re.I)
_ARABIC_DIGITS = re.compile("[٠-٩۰-۹]")
_RUN = re.compile("[0-9]+")
_TO_ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
_FEWEST_DATES, _FEWEST_VALUES = 2, 30
_SHOWN = 5


class _Argument:
    """What is counted of one argument of one tool."""

    def __init__(self) -> None:
        self.forms: Tally[str] = Tally(16)
        self.values: Tally[str] = Tally(_MOST_VALUES)
        self.examples: dict[str, str] = {}
        self.kept = Places()
        self.converted = 0


class Values:
    """Counts by tool and argument (the first 2,000 of them)."""

    def __init__(self) -> None:
        self._arguments: dict[tuple[str, str], _Argument] = {}
        self._closed: set[tuple[str, str]] = set()
        self._known: MadeOnce[bool] = MadeOnce()

    def add(self, facts: RowFacts, tools: Tools) -> None:
        self._known.get(tools, lambda: self._learn(tools))
        for value in facts.values:
            key = (value.tool, value.name)
            if isinstance(value.value, str) and (key in self._arguments or len(self._arguments) < _MOST_ARGUMENTS):
                _count(self._arguments.setdefault(key, _Argument()), value, value.value, facts)

    def findings(self) -> Iterator[SetFound]:
        for (tool, name), argument in self._arguments.items():
            path = f"{tool}.{name}"
            yield from _dates(path, name, argument)
            if argument.kept.count and argument.converted:
                words = (
                    f"Arabic digits of the request are kept in {argument.kept.count} values and written as 0-9 in "
                    f"{argument.converted}"
                )
                yield SetFound(MIXED_DIGITS, path, words, argument.kept.count, argument.kept.first)
            if (tool, name) not in self._closed:
                yield from _diversity(path, argument)

    def _learn(self, tools: Tools) -> bool:
        """Which arguments have a closed list of values."""
        for tool in tools:
            function = tool.get("function", tool)
            if not isinstance(function, Mapping):
                continue
            properties = read_parameters(function.get("parameters")).get("properties")
            for name, schema in properties.items() if isinstance(properties, Mapping) else ():
                is_closed = isinstance(schema, Mapping) and (
                    schema.get("enum") or listed_values(schema.get("description"))
                )
                if is_closed and len(self._closed) < _MOST_ARGUMENTS:
                    self._closed.add((str(function.get("name")), name))
        return True


def date_form(value: str) -> str:
    """How a text writes a date: a pattern, `month by name`, `Arabic words`; "" for an empty text."""
    plain = ascii_digits(value).strip().lower()
    found = next((name for name, form in _FORMS if form.fullmatch(plain.replace("t", "T", 1))), "")
    if found or not plain:
        return found
    if _MONTHS.search(fold(plain)) and _RUN.search(plain):
        return "month by name"
    return "Arabic words" if _ARABIC.search(plain) else "Latin words"


def _count(argument: _Argument, value: Value, text: str, facts: RowFacts) -> None:
    form = date_form(text)
    argument.forms.add(form, facts.place)
    argument.examples.setdefault(form, text)
    if value.copied:
        argument.values.add(text, facts.place)
    if _ARABIC_DIGITS.search(text):
        argument.kept.add(facts.place)
    elif any(run.translate(_TO_ARABIC) in facts.request and run not in facts.request for run in _RUN.findall(text)):
        argument.converted += 1


def _dates(path: str, name: str, argument: _Argument) -> Iterator[SetFound]:
    forms = [(form, count) for form, count in argument.forms.top() if form]
    total = sum(count for _, count in forms)
    dated = sum(count for form, count in forms if form in _DAY_FORMS)
    is_date = 2 * dated > total or (dated or _DATED_NAME.search(name)) and _DATED_NAME.search(name)
    if len(forms) < 2 or total <= _FEWEST_DATES or not is_date:
        return
    listed = ", ".join(f"{form} in {count} ({argument.examples[form]:.24})" for form, count in forms[:_SHOWN])
    words = f"{len(forms)} ways of writing a date in {total} values: {listed}"
    yield SetFound(
        MIXED_DATES, path, words, total - forms[0][1], tuple(argument.forms.place(form) for form, _ in forms)
    )


def _diversity(path: str, argument: _Argument) -> Iterator[SetFound]:
    """Fewer effective values than half the root of the number of values, 25 at most."""
    total = argument.values.total
    if total < _FEWEST_VALUES or not argument.values.is_exact:
        return
    effective = argument.values.effective
    if effective < min(25.0, total**0.5 / 2):
        value, most = argument.values.top(1)[0]
        words = (
            f"{len(argument.values)} different values copied in {total} calls, as varied as {effective:.1f} equally "
            f"frequent ones; {value[:40]!r} comes {most} times"
        )
        yield SetFound(FEW_VALUES, path, words, total, (argument.values.place(value),))
