"""What a set rule says before the files are put to it, and what every set rule is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from dozan.check.finding import Rule
from dozan.check.set_rules.facts import RowFacts
from dozan.rows.tool_lists import Tools

MOST_PLACES = 100


@dataclass(frozen=True)
class SetFound:
    """A rule broken by the set: the path (tool and argument, or ""), the particulars, how many, at most 100 places."""

    rule: Rule
    path: str
    message: str
    count: int
    places: tuple[str, ...] = ()


class SetRule(Protocol):
    """An accumulator over the training rows, in memory that does not grow with them."""

    def add(self, facts: RowFacts, tools: Tools) -> None: ...

    def findings(self) -> Iterator[SetFound]: ...


class Places:
    """The first hundred places of something, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[str] = []

    def add(self, place: str) -> None:
        self.count += 1
        if len(self._first) < MOST_PLACES:
            self._first.append(place)

    @property
    def first(self) -> tuple[str, ...]:
        return tuple(self._first)


def share(count: float, total: int) -> str:
    """A share in per cent: `91.3 %`."""
    return f"{100 * count / max(1, total):.1f} %"


def ordered(names: Sequence[str]) -> str:
    """Some names for a message, at most six."""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
