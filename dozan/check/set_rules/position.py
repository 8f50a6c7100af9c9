"""DZ621: whether the place of the right tool in its list gives it away.

A tool that stands where it stands whether it is right or not gives nothing away, as in lists of a fixed or a sorted
order. So each tool is compared with itself, over the rows where it is right and those where it is not (a
Cochran-Mantel-Haenszel test, a stratum a tool; a tool that is never wrong is compared with chance, 1 in the list's
length). Bonferroni over the positions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from dozan.check.finding import Catalog, Rule
from dozan.check.set_rules.chance import SIGNIFICANT, normal_two_sided, said
from dozan.check.set_rules.facts import RowFacts
from dozan.check.set_rules.found import Places, SetFound, share
from dozan.rows.tool_lists import Tools

POSITION = Rule(
    "DZ621", "position-bias", "warning", "set", "The right tool's place in the list gives it away",
    "The model learns the place instead of the tool, and picks wrongly when an application orders its tools otherwise.",
    "Shuffle the tools of each row, or give all rows one list in one order.",
)  # fmt: skip
RULES = Catalog([POSITION])

_FEWEST = 30
_LEAST_EXCESS = 0.1
_MOST_TOOLS, _MOST_POSITIONS = 5_000, 32
_LAST = -1


class Position:
    """Counts by tool of its positions, right and wrong, from the front and as the last."""

    def __init__(self) -> None:
        self.rows = 0
        self._right: dict[str, Counter[int]] = {}
        self._wrong: dict[str, Counter[int]] = {}
        self._right_rows: Counter[str] = Counter()
        self._wrong_rows: Counter[str] = Counter()
        self._by_chance: dict[str, Counter[int]] = {}
        self._observed: Counter[int] = Counter()
        self._places: dict[int, Places] = {}
        self._lengths: Counter[int] = Counter()

    def add(self, facts: RowFacts, tools: Tools) -> None:
        names = facts.names
        if len(names) < 2 or not facts.called or facts.called[0] not in names or len(set(names)) < len(names):
            return
        right = names.index(facts.called[0])
        if names[right] not in self._right and len(self._right) >= _MOST_TOOLS:
            return
        self.rows += 1
        self._lengths[len(names)] += 1
        self._right_rows[names[right]] += 1
        chances = self._by_chance.setdefault(names[right], Counter())
        for at in range(min(len(names), _MOST_POSITIONS)):
            chances[at] += 1 / len(names)  # type: ignore[assignment]
        chances[_LAST] += 1 / len(names)  # type: ignore[assignment]
        for at in _positions(right, len(names)):
            self._right.setdefault(names[right], Counter())[at] += 1
            self._observed[at] += 1
            self._places.setdefault(at, Places()).add(facts.place)
        for other, name in enumerate(names):
            if name not in facts.called and (name in self._wrong or len(self._wrong) < _MOST_TOOLS):
                self._wrong_rows[name] += 1
                self._wrong.setdefault(name, Counter()).update(_positions(other, len(names)))

    def findings(self) -> Iterator[SetFound]:
        if self.rows < _FEWEST:
            return
        tested = sorted(self._observed, key=lambda at: -self._observed[at])
        for at in tested:
            excess, p = self._test(at)
            p = min(1.0, p * len(tested))
            if p < SIGNIFICANT and excess >= _LEAST_EXCESS * self.rows:
                yield self._found(at, p)
                return

    def _found(self, at: int, p: float) -> SetFound:
        count = self._observed[at]
        expected = sum(chances[at] for chances in self._by_chance.values())
        words = (
            f"the right tool is the {_ordinal(at)} {_of(self._lengths)} in {count} of {self.rows} rows "
            f"({share(count, self.rows)}; {share(expected, self.rows)} by chance, {said(p)})"
        )
        return SetFound(POSITION, "tools", words, count, self._places[at].first)

    def _test(self, at: int) -> tuple[float, float]:
        """How many more right tools stand there than expected, and how likely so many are by chance."""
        excess = variance = 0.0
        for name, right in self._right_rows.items():
            wrong, here = self._wrong_rows[name], self._right[name][at]
            if wrong == 0:
                expected = self._by_chance[name][at]
                excess += here - expected
                variance += expected * (1 - expected / right)
                continue
            total = right + wrong
            there = here + self._wrong.get(name, Counter())[at]
            excess += here - right * there / total
            variance += right * wrong * there * (total - there) / (total * total * max(1, total - 1))
        return excess, normal_two_sided(excess / math.sqrt(variance)) if variance > 0 else 1.0


def _positions(at: int, length: int) -> list[int]:
    """The positions to count: from the front, and the last as such."""
    return [at] * (at < _MOST_POSITIONS) + [_LAST] * (at == length - 1)


def _ordinal(at: int) -> str:
    names = ("first", "second", "third", "fourth", "fifth")
    return "last" if at == _LAST else names[at] if at < len(names) else f"{at + 1}th"


def _of(lengths: Counter[int]) -> str:
    sizes: Sequence[int] = sorted(lengths)
    return f"of {sizes[0]}" if len(sizes) == 1 else f"of {sizes[0]} to {sizes[-1]}"
