"""Time expressions: a phrase of a dialect and the moment that it means, given now."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from dozan.rows.generate.moments import (
    ARABIC_DIGITS,
    PERIOD_HOURS,
    day_phrase,
    digits,
    hour_text,
    lasting,
    pick,
    random_now,
    stamp,
)
from dozan.rows.generate.words import TimeWords

__all__ = ["ARABIC_DIGITS", "digits", "stamp"]

DAY_KINDS = {
    "train": {"today": 10, "tonight": 8, "tomorrow": 20, "after_tomorrow": 20, "weekday": 32, "next_week": 5,
    "in_days": 5}, "test": {"today": 14, "tonight": 8, "tomorrow": 30, "after_tomorrow": 13, "weekday": 24,
    "next_week": 3, "in_days": 4},
}
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


@dataclass(frozen=True)
class Moment:
    """A time expression: now, its parts as said, the moment meant, and the key that one side of the split owns."""

    now: datetime
    day: str
    clock: str
    meant: datetime
    key: str


def side(key: str) -> str:
    """The side of the split that owns a time key; one key in six is for test."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % TEST_SHARE == 0 else "train"


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
