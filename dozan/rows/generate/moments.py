"""Time expressions: a phrase of a dialect and the moment that it means, given now."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from dozan.rows.generate.words import TimeWords

ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
PERIOD_HOURS = {"morning": range(5, 12), "noon": range(12, 15), "afternoon": range(15, 18), "evening": range(17, 21),
                "night": range(20, 24)}  # fmt: skip
_DAY_SHARES = {"today": 12, "tonight": 8, "tomorrow": 24, "after_tomorrow": 16, "weekday": 30, "next_week": 4,
               "in_days": 6}  # fmt: skip
_MINUTE_SHARES = {0: 48, 30: 17, 15: 13, 45: 12, -1: 10}
_OTHER_MINUTES = (5, 10, 20, 25, 35, 40, 50, 55)
_RELATIVE_SHARE = 0.09
_FIRST_HOUR = 6
_LEAST_WORDED = 3
_HOUR = 60


def digits(text: str, rng: random.Random) -> str:
    """The text with its digits in one of the two kinds, about as often each."""
    return text.translate(ARABIC_DIGITS) if rng.random() < 0.5 else text


def pick(shares: dict[str, int], rng: random.Random) -> str:
    """A key drawn by its share."""
    return rng.choices(list(shares), weights=list(shares.values()))[0]


def random_now(rng: random.Random) -> datetime:
    """A minute of waking hours between 2025 and 2027."""
    day = datetime(2025, 1, 1) + timedelta(days=rng.randrange(1095))
    return day + timedelta(minutes=rng.randrange(6 * 60, 23 * 60))


def stamp(now: datetime) -> str:
    """The developer turn that says what time it is."""
    return f"Now is {now:%Y-%m-%dT%H:%M} {now:%A}"


def lasting(words: TimeWords, minutes: int, rng: random.Random, worded: float = 0.35) -> tuple[str, bool]:
    """A length of time as said, and whether its digits were said."""
    if minutes in words.lasting and (rng.random() < worded or minutes in (1, 2) or minutes >= 60):
        return words.lasting[minutes], False
    assert minutes > 2, "one and two minutes need a word"
    plural, singular = words.minute_words
    return f"{digits(str(minutes), rng)} {plural if minutes <= 10 else singular}", True


def day_phrase(words: TimeWords, kind: str, now: datetime, rng: random.Random) -> tuple[str, int]:
    """A phrase for a day of the kind, and the days from now that it means."""
    if kind == "weekday":
        weekday = rng.randrange(7)
        phrase = rng.choice(words.weekday_frames).format(w=words.weekdays[weekday])
        return phrase, (weekday - now.weekday() - 1) % 7 + 1
    phrase = rng.choice(words.days[kind])
    if kind == "in_days":
        number = rng.choice((3, 4, 5, 6, 10))
        return phrase.format(n=digits(str(number), rng)), number
    return phrase, {"today": 0, "tonight": 0, "tomorrow": 1, "after_tomorrow": 2, "next_week": 7}[kind]


def hour_text(words: TimeWords, hour: int, minute: int, rng: random.Random) -> str:
    """The hour (0 to 23) with its minutes: as digits, as 7:40, or in words."""
    said = hour + 1 if minute == 45 else hour
    number = (said - 1) % 12 + 1
    if minute not in (0, 15, 30, 45) or (minute and rng.random() < 0.3):
        return digits(f"{(hour - 1) % 12 + 1}:{minute:02d}", rng)
    name = words.hours[number - 1] if rng.random() < 0.3 else digits(str(number), rng)
    tail = {0: "", 15: words.quarter, 30: words.half, 45: words.quarter_to}[minute]
    return f"{name} {tail}".strip()


@dataclass(frozen=True)
class Told:
    """A moment as said: its day and its clock (each may be ""), what is meant, and the key that one side may own."""

    day: str
    clock: str
    meant: datetime
    key: str


def tell(words: TimeWords, kind: str, whole: bool, now: datetime, rng: random.Random) -> Told:
    """A moment later than now, for a `datetime`, `date` or `time`; `whole`: one slot takes all of it.

    A date has no key: days that can be named are few, and what they mean changes with now.
    """
    if kind == "datetime" and whole and rng.random() < _RELATIVE_SHARE:
        minutes = rng.choice([n for n in words.lasting if n > 2])
        said, _ = lasting(words, minutes, rng, 0.5)
        return Told("", f"{rng.choice(words.after)} {said}", now + timedelta(minutes=minutes), f"after {minutes}")
    while True:
        name = "today" if kind == "time" else pick(_DAY_SHARES, rng)
        if kind == "date" and name in ("today", "tonight"):
            continue
        day, ahead = day_phrase(words, name, now, rng)
        clock, hour, minute = _clock(words, name == "tonight", rng)
        meant = now.replace(hour=hour, minute=minute) + timedelta(days=ahead)
        if kind == "date":
            return Told(day, "", meant, "")
        if kind == "time":
            return Told("", clock, meant, f"{hour:02d}:{minute:02d}")
        if meant > now:
            plain = day.translate({value: key for key, value in ARABIC_DIGITS.items()})
            return Told(day, clock, meant, f"{plain} {hour:02d}:{minute:02d}")


def say(told: Told, rng: random.Random) -> str:
    """Day and clock in one phrase, the day first more often."""
    parts = [part for part in (told.day, told.clock) if part]
    return " ".join(parts if rng.random() < 0.7 else parts[::-1])


def sayable_minutes(words: TimeWords, minutes: int) -> bool:
    """Whether there is a phrase for so many minutes: one and two need a word of their own."""
    return minutes in words.lasting or minutes >= _LEAST_WORDED


def length(words: TimeWords, number: int, unit: str, rng: random.Random) -> str:
    """A length of time as said: `number` of `minutes` or `hours`."""
    if unit == "minutes":
        return lasting(words, number, rng)[0]
    if number * _HOUR in words.lasting and (number <= 2 or rng.random() < 0.5):
        return words.lasting[number * _HOUR]
    plural, singular = words.hour_words
    return f"{digits(str(number), rng)} {plural if number <= 10 else singular}"


def number_phrase(words: TimeWords, number: int, rng: random.Random) -> str:
    """A number in digits of either kind; tens below a hundred sometimes in words."""
    if number in range(20, 100, 10) and rng.random() < 0.3:
        return words.tens[number // 10 - 2]
    return digits(str(number), rng)


def _clock(words: TimeWords, night: bool, rng: random.Random) -> tuple[str, int, int]:
    """A clock phrase with its part of the day, and the hour and minute that it means."""
    period = rng.choice(("evening", "night")) if night else rng.choice(list(PERIOD_HOURS))
    hours = [hour for hour in PERIOD_HOURS[period] if hour >= (18 if night else _FIRST_HOUR)]
    hour = rng.choice(hours)
    minute = rng.choices(list(_MINUTE_SHARES), weights=list(_MINUTE_SHARES.values()))[0]
    if minute == 45 and hour + 1 not in hours:
        minute = 0
    if minute == -1:
        minute = rng.choice(_OTHER_MINUTES)
    text = rng.choice(words.clocks).format(h=hour_text(words, hour, minute, rng), p=rng.choice(words.periods[period]))
    return text, hour, minute
