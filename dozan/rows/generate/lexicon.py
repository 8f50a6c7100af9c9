"""What a lexicon holds, once read: patterns and values by tool and dialect, and how each argument is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dozan.rows.example import Json
from dozan.rows.generate.tools import Tool
from dozan.rows.generate.words import TimeWords

KindName = Literal["text", "free", "datetime", "date", "time", "duration", "number", "digits"]
MOMENTS = ("datetime", "date", "time")
PARTS = ("day", "clock")
UNITS = {"seconds": 60, "minutes": 1, "hours": 1}
"""How many of the unit one said minute (or hour) is."""


@dataclass(frozen=True)
class Kind:
    """How an argument is said.

    text: one of the lexicon's values. free: the same, and the value may be a sentence that runs on, so that nothing
    follows it. datetime, date, time: counted from now, written YYYY-MM-DDTHH:MM:SS, YYYY-MM-DD, HH:MM. duration: a
    length of time from `low` to `high` in `unit`. number: one of `low`, `low + step`, ... `high`. digits: random digits
    for each # of one of the `forms`, said in digits of either kind.
    """

    name: KindName
    unit: str = "minutes"
    low: int = 1
    high: int = 60
    step: int = 1
    forms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Value:
    """The words for a value, and the value."""

    said: str
    value: Json


@dataclass(frozen=True)
class Pattern:
    """One line: the plain frames that it stands for, and the arguments that it fixes; `where` is its path."""

    tool: str
    text: str
    line: int
    where: str
    frames: tuple[str, ...]
    fixed: Mapping[str, Json]


@dataclass(frozen=True)
class Pair:
    """Requests that no tool serves, and answers that fit any of them."""

    line: int
    requests: tuple[str, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Dialect:
    """One variety: its time words, politeness before and after, joins of two requests, its patterns by tool."""

    name: str
    line: int
    words: TimeWords
    openers: tuple[str, ...]
    tails: tuple[str, ...]
    joins: tuple[str, ...]
    patterns: Mapping[str, tuple[Pattern, ...]]
    clauses: tuple[Pattern, ...]
    no_call: tuple[Pair, ...]


@dataclass(frozen=True)
class Lexicon:
    """All of it, checked against the tools.

    kinds: by tool and argument. values: by dialect, tool and argument, for kinds `text` and `free`. apart: pairs of
    tools that no request joins. no_call, parallel: shares of the rows.
    """

    path: Path
    tools: Mapping[str, Tool]
    kinds: Mapping[tuple[str, str], Kind]
    values: Mapping[tuple[str, str, str], tuple[Value, ...]]
    apart: frozenset[frozenset[str]]
    no_call: float
    parallel: float
    dialects: tuple[Dialect, ...]

    def is_closed(self, tool: str, argument: str) -> bool:
        """Whether an argument's values are listed in its schema, or are no words: both sides need all of them."""
        schema = self.tools[tool].arguments[argument]
        return "enum" in schema or str(schema.get("type", "")).lower() not in ("string", "")

    @property
    def tells_time(self) -> bool:
        """Whether any argument is counted from now."""
        return any(kind.name in MOMENTS for kind in self.kinds.values())
