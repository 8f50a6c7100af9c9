"""Time expressions: a phrase of a dialect and the moment that it means, given now."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from scripts.mobile_actions_ar.dialects.base import TimeWords

DAY_KINDS = {
    "train": {"today": 10, "tonight": 8, "tomorrow": 20, "after_tomorrow": 20, "weekday": 32, "next_week": 5,
    "in_days": 5}, "test": {"today": 14, "tonight": 8, "tomorrow": 30, "after_tomorrow": 13, "weekday": 24,
    "next_week": 3, "in_days": 4},
}
PERIOD_HOURS = {"morning": range(5, 12), "noon": range(12, 15), "afternoon": range(15, 18), "evening": range(17, 21),
                "night": range(20, 24)}
PERIOD_SHARES = {
    "set_alarm": {"morning": 60, "noon": 6, "afternoon": 12, "evening": 12, "night": 10},
    "create_calendar_event": {"morning": 34, "noon": 14, "afternoon": 20, "evening": 20, "night": 12},
}
USUAL_HOURS = {"set_alarm": range(4, 24), "create_calendar_event": range(8, 23)}
MINUTE_SHARES = {"train": {0: 46, 30: 17, 15: 14, 45: 15, -1: 8}, "test": {0: 62, 30: 15, 15: 8, 45: 7, -1: 8}}
LEAD_MINUTES = {"train": (5, 10, 15, 20, 25, 30, 45, 60, 120, 240), "test": (12, 35, 40, 50, 90, 180)}
TIMER_MINUTES = {"test": (8, 12, 18, 22, 27, 35, 40, 50, 55, 65, 90)}
TIMER_MINUTES["train"] = tuple(n for n in (*range(1, 61), 70, 75, 80, 100, 120, 150) if n not in TIMER_MINUTES["test"])
RELATIVE_SHARE = 0.09
TEST_SHARE = 6
for _by_side in (DAY_KINDS, MINUTE_SHARES, LEAD_MINUTES, TIMER_MINUTES):
    _by_side["dev"] = _by_side["test"]
ARABIC_DIGITS = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


@dataclass(frozen=True)
class Moment:
    """A time expression: now, its parts as said, the moment meant, and the key that one side of the split owns."""

    now: datetime
    day: str
    clock: str
    meant: datetime
    key: str


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


def side(key: str) -> str:
    """The side of the split that owns a time key; one key in six is for test."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % TEST_SHARE == 0 else "train"


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


def clock_phrase(words: TimeWords, tool: str, where: str, night: bool, rng: random.Random) -> tuple[str, int, int]:
    """A clock phrase with its period, and the hour and minute that it means; the tool has its usual hours."""
    period = rng.choice(("evening", "night")) if night else pick(PERIOD_SHARES[tool], rng)
    hours = [hour for hour in PERIOD_HOURS[period] if hour in USUAL_HOURS[tool]]
    hour = rng.choice([h for h in hours if not night or h >= 18])
    shares = MINUTE_SHARES[where]
    minute = rng.choices(list(shares), weights=list(shares.values()))[0]
    if minute == 45 and hour + 1 not in hours:
        minute = 0
    if minute == -1:
        minute = rng.choice((5, 10, 20, 25, 35, 40, 50, 55))
    text = rng.choice(words.clocks).format(h=hour_text(words, hour, minute, rng), p=rng.choice(words.periods[period]))
    return text, hour, minute


def relative_moment(words: TimeWords, where: str, rng: random.Random) -> Moment:
    """A moment some minutes or hours from now."""
    minutes = rng.choice(LEAD_MINUTES[where])
    said, _ = lasting(words, minutes, rng, 0.5)
    now = random_now(rng)
    return Moment(now, "", f"{rng.choice(words.after)} {said}", now + timedelta(minutes=minutes), f"after {minutes}")


def fixed_moment(words: TimeWords, tool: str, where: str, rng: random.Random) -> Moment:
    """A moment on a named day by the clock, later than now, from the side's own combinations."""
    while True:
        now = random_now(rng)
        kind = pick(DAY_KINDS[where], rng)
        day, ahead = day_phrase(words, kind, now, rng)
        clock, hour, minute = clock_phrase(words, tool, where, kind == "tonight", rng)
        meant = now.replace(hour=hour, minute=minute) + timedelta(days=ahead)
        key = f"{day} {hour:02d}:{minute:02d}".translate({value: key for key, value in ARABIC_DIGITS.items()})
        if meant > now and (side(key) == "train") == (where == "train"):
            return Moment(now, day, clock, meant, key)


def say(moment: Moment, rng: random.Random) -> str:
    """Day and clock in one phrase, the day first more often."""
    parts = [part for part in (moment.day, moment.clock) if part]
    return " ".join(parts if rng.random() < 0.7 else parts[::-1])
