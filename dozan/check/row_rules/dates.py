"""DZ441 to DZ459: dates in arguments against the row's own "now" and the day that the request names.

Only what is certain is said: one date in the row, one day named, outside every quoted value, and no sum of days.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.view import RowView, texts
from dozan.rows.arabic import ascii_digits, fold
from dozan.rows.example import Json

NO_DATE = Rule(
    "DZ441",
    "no-such-date",
    "error",
    "row",
    "A date that no calendar has",
    "The model learns an impossible date.",
    "Correct it.",
)
OTHER_YEAR = Rule(
    "DZ442",
    "wrong-year",
    "warning",
    "row",
    "A date in a year before the row's now",
    "The request names no year, so the model learns a year by heart instead of reading the date in the prompt.",
    "Resolve the date against the date in the developer message.",
)
PAST = Rule(
    "DZ443",
    "past-date",
    "note",
    "row",
    "A date before the row's now",
    "Right for what has been, wrong for a booking or a reminder.",
    "Check it; the next such day may be meant.",
)
WEEKDAY = Rule(
    "DZ444",
    "weekday-contradicted",
    "warning",
    "row",
    "A date on another weekday than the request says",
    "The model learns to miscount.",
    "Correct the date.",
)
RELATIVE = Rule(
    "DZ445",
    "relative-day-wrong",
    "warning",
    "row",
    "Today, tomorrow or yesterday resolved to another day",
    "The model learns to ignore the date in the prompt.",
    "Count from the date in the developer message.",
)
PRAYER = Rule(
    "DZ446",
    "prayer-time",
    "note",
    "row",
    "A prayer time given as a clock time",
    "It differs by place and day, so no clock time can be read off the request.",
    "Keep the words, or ask for the time.",
)
HIJRI = Rule(
    "DZ447",
    "hijri-date",
    "note",
    "row",
    "A Hijri date given as a Gregorian one",
    "The conversion needs a calendar that a small model does not have.",
    "Keep the words, or add a calendar tool.",
)
NOT_ISO = Rule(
    "DZ448",
    "date-day-first",
    "warning",
    "row",
    "A date in numbers that is not year-month-day",
    "05-12 is two days; the model learns one by chance.",
    "Write YYYY-MM-DD.",
)

RULES = Catalog([NO_DATE, OTHER_YEAR, PAST, WEEKDAY, RELATIVE, PRAYER, HIJRI, NOT_ISO])

_ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ](\d{2}):(\d{2})(?::\d{2}(?:\.\d+)?)?(?:Z|[+-]\d{2}:?\d{2})?)?")
_OTHER = re.compile(r"(\d{1,2})[-/.](\d{1,2})(?:[-/.](\d{4}|\d{2}))?")
_CLOCK = re.compile(r"(?:.*[T ])?\d{1,2}:\d{2}(?::\d{2})?")
_YEAR = re.compile(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_BEEN = re.compile(
    r"\b(?:امس|امبارح|مبارح|البارح|البارحه|الماضي|الماضيه|الفائت|الفايت|اللي فات|اللي راح|السابق|كان|كانت|منذ|من زمان"
    r"|تاريخ|مواليد|ولد|yesterday|last|ago|previous|past|was|were|did|since)\b"
)
_SUMS = re.compile(
    r"\b(?:(?:ال)?اسبوع\w*|(?:ال)?شهر\w*|سنه|يومين|ايام|ليالي|(?:ال)?سيمانه|(?:ال)?سمانه|الجاي|الجايه"
    r"|القادم|القادمه|المقبل|المقبله|weeks?|months?|days|years?)\b"
)
_SHORT_NIGHT = 5
_DAYS = {
    "الاثنين": 0, "يوم الاتنين": 0, "التنين": 0, "الثلاثاء": 1, "الثلاثا": 1, "التلات": 1, "الاربعاء": 2, "الاربعا": 2,
    "الخميس": 3, "الجمعه": 4, "السبت": 5, "الاحد": 6, "monday": 0, "tuesday": 1, "wednesday": 2, "thursday": 3,
    "friday": 4, "saturday": 5, "sunday": 6,
}  # fmt: skip
_DAY = re.compile(r"(?<!\w)(?:[وبفل]|ل)?(" + "|".join(sorted(_DAYS, key=len, reverse=True)) + r")(?!\w)")
_NOT_THAT_DAY = re.compile(r"(?:ليله|قبل|بعد|عقب|من|حتي|الي|لحد|before|after|until|by|from|to)\s*(?:يوم\s*)?$")
_RELATIVE = {
    "بعد بكره": 2, "بعد بكرا": 2, "بعد غد": 2, "بعد غدا": 2, "عقب باكر": 2, "بعد غدوه": 2, "day after tomorrow": 2,
    "بكره": 1, "بكرا": 1, "غدا": 1, "الغد": 1, "tomorrow": 1, "غدوه": 1,
    "اليوم": 0, "النهارده": 0, "هاليوم": 0, "today": 0,
    "امس": -1, "امبارح": -1, "مبارح": -1, "البارح": -1, "البارحه": -1, "yesterday": -1, "اول امس": -2, "اول امبارح": -2,
}  # fmt: skip
_WORD_OF_DAY = re.compile(r"(?<!\w)(?:[وبفل])?(" + "|".join(sorted(_RELATIVE, key=len, reverse=True)) + r")(?!\w)")
_PRAYERS = re.compile(r"\b(?:قبل|بعد|عقب|مع|عند|وقت|صلاه|اذان)\s+(?:صلاه\s+|اذان\s+)?"
                      r"(?:الفجر|الظهر|العصر|المغرب|العشاء|العشا)\b")  # fmt: skip
_SAID_CLOCK = re.compile(r"\d|الساعه|ساعه|clock")
_HIJRI = re.compile(
    r"هجري|\b14[45]\d\s*ه\b|\d+\s*(?:من\s+)?(?:شهر\s+)?(?:محرم|صفر|ربيع\s+(?:ال)?(?:اول|ثاني|اخر)|جمادي\s+\w+"
    r"|رجب|شعبان|رمضان|شوال|ذو\s+القعده|ذي\s+القعده|ذو\s+الحجه|ذي\s+الحجه)"
)


@dataclass(frozen=True)
class _Date:
    path: str
    value: str
    day: date
    hour: int | None


def date_findings(view: RowView) -> Iterator[Found]:
    """The dates of the row's calls against its now and its request."""
    dates: list[_Date] = []
    for path, call in view.calls:
        for where, value in texts(call.arguments, f"{path}.arguments") if call.arguments else ():
            plain = ascii_digits(value).strip()
            if not plain[:1].isdigit() or len(plain) > 40:
                continue
            yield from _read(where, value, plain, view, dates)
            yield from _clock(where, value, plain, view)
    if dates:
        yield from _against_request(view, dates)


def _read(where: str, value: str, plain: str, view: RowView, dates: list[_Date]) -> Iterator[Found]:
    """One value as a date: put into `dates`, or said to be none."""
    found = _ISO.fullmatch(plain)
    if found is None:
        other = _OTHER.fullmatch(plain)
        if other and other.group(3) is None and "." in plain:
            return
        if other and 1 <= int(other.group(1)) <= 31 and 1 <= int(other.group(2)) <= 31 and value not in view.query:
            yield NOT_ISO, where, f"{value!r} is not YYYY-MM-DD: which number is the month?"
            if other.group(3) and len(other.group(3)) == 4 and _is_year_off(int(other.group(3)), view):
                yield OTHER_YEAR, where, _off(value, view)
        return
    year, month, day = (int(part) for part in found.group(1, 2, 3))
    hour, minute = (int(part) if part else None for part in found.group(4, 5))
    try:
        dates.append(_Date(where, value, date(year, month, day), hour))
    except ValueError as error:
        yield NO_DATE, where, f"{value!r}: {error}"
        return
    if (hour or 0) > 23 or (minute or 0) > 59:
        yield NO_DATE, where, f"{value!r} is no time of day"


def _clock(where: str, value: str, plain: str, view: RowView) -> Iterator[Found]:
    query = fold(view.query)
    if _CLOCK.fullmatch(plain) and _PRAYERS.search(query) and not _SAID_CLOCK.search(query):
        yield PRAYER, where, f"{value!r} for a prayer time"
    if _ISO.fullmatch(plain) and _HIJRI.search(query):
        yield HIJRI, where, f"{value!r} for a Hijri date"


def _is_year_off(year: int, view: RowView) -> bool:
    return view.now is not None and year < view.now.year and not _YEAR.search(ascii_digits(view.query))


def _off(value: str, view: RowView) -> str:
    assert view.now is not None
    return f"{value!r}, but now is {view.now:%Y-%m-%d} and the request names no year"


def _against_request(view: RowView, dates: list[_Date]) -> Iterator[Found]:
    query = fold(view.query)
    been = _BEEN.search(query) is not None
    for found in dates:
        if view.now is None or been:
            break
        if _is_year_off(found.day.year, view):
            yield OTHER_YEAR, found.path, _off(found.value, view)
        elif found.day < view.now.date() and str(found.day) not in ascii_digits(view.query):
            yield PAST, found.path, f"{found.value!r} is before now, {view.now:%Y-%m-%d}"
    if len(dates) == 1 and not _SUMS.search(query):
        yield from _named_day(view, dates[0], query)


def _named_day(view: RowView, found: _Date, query: str) -> Iterator[Found]:
    """The row's one date against the one day that the request names."""
    said = _spoken(view)
    relative = [m for m in _WORD_OF_DAY.finditer(query) if m.group(1) not in said]
    weekdays = [m for m in _DAY.finditer(query) if m.group(1) not in said]
    night = found.hour is not None and found.hour < _SHORT_NIGHT
    if len(weekdays) == 1 and not relative and not _NOT_THAT_DAY.search(query[: weekdays[0].start(1)]):
        wanted = _DAYS[weekdays[0].group(1)]
        if found.day.weekday() != wanted and not (night and found.day.weekday() == (wanted + 1) % 7):
            message = f"{found.value!r} is a {found.day:%A}, the request says {weekdays[0].group(1)}"
            yield WEEKDAY, found.path, message
    elif len(relative) == 1 and not weekdays and view.now is not None and not _counted_from(query, relative[0]):
        word = relative[0].group(1)
        day = view.now.date() + timedelta(days=_RELATIVE[word])
        told = _RELATIVE[word] < 0 and found.day >= view.now.date()
        if (
            found.day != day
            and not told
            and not (night and found.day == day + timedelta(days=1))
            and not _other_date(query)
        ):
            yield RELATIVE, found.path, f"{found.value!r} for {word}, which is {day} when now is {view.now:%Y-%m-%d}"


def _counted_from(query: str, word: re.Match[str]) -> bool:
    """Whether the day is only where a sum begins: before, from, until it."""
    return re.search(r"(?:قبل|من|حتي|لحد|بعد|after|before|from)\s*$", query[: word.start(1)]) is not None


def _other_date(query: str) -> bool:
    """Whether the request also gives a day of the month."""
    return re.search(r"\d{1,2}\s*[-/]\s*\d{1,2}|\bيوم\s+\d|\d\s*(?:يناير|فبراير|مارس|ابريل|مايو|يونيو|يوليو|اغسطس"
                     r"|سبتمبر|اكتوبر|نوفمبر|ديسمبر|شهر)", query) is not None  # fmt: skip


def _spoken(view: RowView) -> str:
    """The folded text of all other values of the row's calls: a day named there belongs to them."""
    values: list[str] = []
    for _, call in view.calls:
        values += [value for _, value in texts(_without_dates(call.arguments), "")]
    return fold(" ".join(values))


def _without_dates(arguments: Mapping[str, Json]) -> dict[str, Json]:
    return {k: v for k, v in arguments.items() if not (isinstance(v, str) and _ISO.fullmatch(ascii_digits(v).strip()))}
