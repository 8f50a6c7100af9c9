"""Relative dates in English: a phrase and the instant it means, given now.

Day and clock words may be Arabic, from the glossary: they are values. Conventions: a weekday's name is the next such
day strictly after today; "next week" is seven days on; a clock time comes with its part of the day; seconds are 00.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta

from tiny_corpus.glossary import arabic_of

Moment = tuple[str, datetime]

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WEEKDAYS_AR = ("الاثنين", "الثلاثاء", "الأربعاء", "الخميس", "الجمعة", "السبت", "الأحد")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
MINUTES = {5: "five", 10: "ten", 15: "fifteen", 20: "twenty", 25: "twenty five", 30: "thirty", 45: "forty five"}
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
# Hours that each part of the day may name, on the 24-hour clock.
PARTS = (
    (("in the morning", "in the morning", "am", "AM"), (4, 5, 6, 7, 8, 9, 10, 11)),
    (("at noon", "at noon", "pm"), (12, 13, 14)),
    (("in the afternoon",), (15, 16, 17)),
    (("in the evening",), (17, 18, 19, 20)),
    (("at night",), (20, 21, 22, 23)),
    (("pm", "PM"), tuple(range(12, 24))),
)
DURATIONS = {
    5: "five minutes", 10: "ten minutes", 15: "a quarter of an hour", 20: "twenty minutes", 30: "half an hour", 40: "forty minutes",
    45: "forty-five minutes", 50: "fifty minutes", 60: "an hour", 75: "an hour and a quarter", 90: "an hour and a half",
    120: "two hours", 150: "two hours and a half", 180: "three hours", 240: "four hours",
}  # fmt: skip


def either(rng: random.Random, english: str, share: float = 0.45) -> str:
    """The English words, or at times what the glossary calls them in Arabic."""
    known = arabic_of().get(english.lower()) if rng.random() < share else None
    return rng.choice(known) if known else english


def random_now(rng: random.Random) -> datetime:
    """Any minute of 2023 to 2029."""
    return datetime(2023, 1, 1) + timedelta(minutes=rng.randrange(7 * 365 * 24 * 60))


def digits(rng: random.Random, number: int) -> str:
    """A number as its user might write it: mostly ASCII digits, often Arabic-Indic ones."""
    return str(number).translate(ARABIC_DIGITS) if rng.random() < 0.4 else str(number)


def spoken(rng: random.Random, number: int) -> str:
    if number <= 12 and rng.random() < 0.35:
        return either(rng, NUMBERS[number - 1], 0.6)
    return digits(rng, number)


def day(rng: random.Random, now: datetime) -> tuple[str, int]:
    """A day phrase and how many days on it is."""
    kind = rng.random()
    if kind < 0.14:
        return either(rng, "today"), 0
    if kind < 0.34:
        return either(rng, "tomorrow"), 1
    if kind < 0.52:
        return either(rng, rng.choice(("the day after tomorrow", "the day after tomorrow", "in two days"))), 2
    if kind < 0.86:
        target = rng.randrange(7)
        name = either(rng, rng.choice(("", "", "next ")) + WEEKDAYS[target])
        return rng.choice(("on ", "this ", "")) + name if name.isascii() else name, (target - now.weekday() - 1) % 7 + 1
    if kind < 0.91:
        return rng.choice(("next week", "a week from now", "in a week", "this day next week", "in seven days")), 7
    count = rng.randrange(2, 15)
    return f"{either(rng, rng.choice(('in', 'after')))} {spoken(rng, count)} {either(rng, 'days')}", count


def clock(rng: random.Random, after: int = -1) -> tuple[str, int, int] | None:
    """A clock phrase with hour and minute, later than `after` minutes into the day; None if this draw is earlier."""
    words, hours = rng.choice(PARTS)
    word, hour = rng.choice(words), rng.choice(hours)
    if " " in word:
        word = either(rng, word)
    shape, minute = rng.random(), 0
    small = (hour - 1) % 12 + 1
    if shape < 0.46:
        phrase = spoken(rng, small)
    elif shape < 0.78:
        minute, phrase = _quarters(rng, small)
    elif shape < 0.84:
        minute = rng.choice((5, 10, 20, 25))
        phrase = (
            f"{spoken(rng, small)} {either(rng, 'and')} {rng.choice((MINUTES[minute], digits(rng, minute)))} minutes"
        )
    else:
        minute = rng.randrange(60)
        colon = f"{small}:{minute:02d}"
        phrase = colon.translate(ARABIC_DIGITS) if rng.random() < 0.4 else colon
    total = hour * 60 + minute
    return (f"{phrase} {word}", total // 60, total % 60) if total > after else None


def _quarters(rng: random.Random, hour: int) -> tuple[int, str]:
    """Minutes from the hour and a phrase: half past, a quarter past, a quarter to."""
    minute, english, after = rng.choice(
        ((30, "half past", "and a half"), (15, "quarter past", "and a quarter"), (-15, "quarter to", "minus a quarter"))
    )
    said = either(rng, english, 0.6)
    if not said.isascii():
        return minute, f"{spoken(rng, hour)} {said}"
    return minute, rng.choice((f"{said} {spoken(rng, hour)}", f"{spoken(rng, hour)} {after}"))


def moment(rng: random.Random, now: datetime) -> Moment:
    """A phrase for an instant after now."""
    if rng.random() < 0.12:
        return _soon(rng, now)
    phrase, days = day(rng, now)
    elapsed = now.hour * 60 + now.minute if days == 0 else -1
    for _ in range(20):
        drawn = clock(rng, elapsed)
        if drawn:
            break
    else:
        return _soon(rng, now)
    words, hour, minute = drawn
    instant = datetime(now.year, now.month, now.day, hour, minute) + timedelta(days=days)
    at = rng.choice(("at ", "at ", "", "الساعة " if not words.isascii() else "at "))
    if days == 0 and hour >= 18 and rng.random() < 0.4:
        phrase = either(rng, "tonight")
    both = (f"{phrase} {at}{words}", f"{at}{words} {phrase}", f"{phrase} {at}{words}", f"{phrase}, {at}{words}")
    return rng.choice(both), instant


def duration(rng: random.Random) -> tuple[str, int]:
    """A length of time and its minutes."""
    draw = rng.random()
    if draw < 0.4:
        minutes, english = rng.choice(tuple(DURATIONS.items()))
        return either(rng, english, 0.7), minutes
    if draw < 0.85:
        count = rng.choice((5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 90, rng.randrange(2, 60)))
        return f"{spoken(rng, count)} {either(rng, 'minutes')}", count
    count = rng.randrange(2, 12)
    return f"{spoken(rng, count)} {either(rng, 'hours')}", 60 * count


def _soon(rng: random.Random, now: datetime) -> Moment:
    phrase, minutes = duration(rng)
    shape = rng.choice(("{in} {p}", "{after} {p}", "{p} from now"))
    return shape.format(**{"in": "in", "after": either(rng, "after"), "p": phrase}), now + timedelta(minutes=minutes)


def calendar_day(rng: random.Random, now: datetime) -> tuple[str, str]:
    """A phrase for a day and its date as YYYY-MM-DD."""
    if rng.random() < 0.4:
        instant = now + timedelta(days=rng.randrange(1, 300))
        phrase = rng.choice(
            (
                f"on {MONTHS[instant.month - 1]} {digits(rng, instant.day)}",
                f"on {digits(rng, instant.day)} {MONTHS[instant.month - 1]}",
            )
        )
        return phrase, f"{instant:%Y-%m-%d}"
    phrase, days = day(rng, now)
    return phrase, f"{now + timedelta(days=days):%Y-%m-%d}"


def clock_only(rng: random.Random, now: datetime) -> tuple[str, str]:
    """A phrase for a time of day and the time as HH:MM."""
    drawn = clock(rng)
    assert drawn is not None
    return f"at {drawn[0]}", f"{drawn[1]:02d}:{drawn[2]:02d}"


def iso(draw: Callable[[random.Random, datetime], Moment]) -> Callable[[random.Random, datetime], tuple[str, str]]:
    """The same draw with its instant written as YYYY-MM-DDTHH:MM:SS."""

    def written(rng: random.Random, now: datetime) -> tuple[str, str]:
        phrase, instant = draw(rng, now)
        return phrase, f"{instant:%Y-%m-%dT%H:%M:%S}"

    return written
