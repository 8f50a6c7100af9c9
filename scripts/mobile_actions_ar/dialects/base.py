"""What one variety of Arabic must supply: time words, sentence frames, message bodies and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeWords:
    """Time expressions of one variety.

    `days` maps today, tonight, tomorrow, after_tomorrow, next_week and in_days to phrases ("{n}" is a number of days);
    `weekdays` lists Monday first, `weekday_frames` are phrases around a weekday's name ("{w}"); `hours` are the words
    for 1 to 12; `periods` maps morning, noon, afternoon, evening and night to words; `clocks` are phrases around an
    hour ("{h}", its minutes included) and a period ("{p}"); `lasting` maps minutes to a phrase; `minute_words` are the
    plural (3 to 10) and the singular (11 and over); `after` are the phrases before a length of time from now.
    """

    days: Mapping[str, tuple[str, ...]]
    weekdays: tuple[str, ...]
    weekday_frames: tuple[str, ...]
    hours: tuple[str, ...]
    periods: Mapping[str, tuple[str, ...]]
    clocks: tuple[str, ...]
    half: str
    quarter: str
    quarter_to: str
    lasting: Mapping[int, str]
    minute_words: tuple[str, str]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Half:
    """What one side of the split (train, dev or test) may use: frames by tool, clauses, bodies, kin, and no-call pairs.

    A frame is one line of `grammar.expand`. `clauses` are short frames ("tool: frame") that join into a parallel
    request. Bodies are `bodies` and each of `body_heads` followed by each of `body_objects`. `no_call` pairs a request
    with its answers. `women` are those of `kin` that are women (`names.FEMALE` has others).
    """

    frames: Mapping[str, str]
    clauses: str
    bodies: str
    body_heads: str
    body_objects: str
    kin: str
    no_call: tuple[tuple[str, str], ...]
    women: str = ""


@dataclass(frozen=True)
class Dialect:
    """One variety: its name, politeness before and after a request, joins of two requests, time words, its halves."""

    name: str
    openers: tuple[str, ...]
    tails: tuple[str, ...]
    joins: tuple[str, ...]
    time: TimeWords
    train: Half
    test: Half
    dev: Half | None = None
