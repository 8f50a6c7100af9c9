"""What each side of a set may use: patterns, clauses, values, numbers and times, divided so that sides share none."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dozan.errors import InputError
from dozan.rows.arabic import fold
from dozan.rows.generate.lexicon import MOMENTS, Dialect, Lexicon, Pair, Pattern, Value
from dozan.rows.generate.moments import sayable_minutes

_T = TypeVar("_T")
_DIVIDED_NUMBERS = 10
"""Fewer numbers than these are needed whole on both sides."""


@dataclass(frozen=True)
class Pools:
    """What one side may use. share: of the moments that can be said, this side owns those hashed below it (or above).

    patterns and numbers by (dialect, tool, ...), clauses and pairs by dialect.
    """

    lexicon: Lexicon
    patterns: Mapping[tuple[str, str], tuple[Pattern, ...]]
    clauses: Mapping[str, tuple[Pattern, ...]]
    pairs: Mapping[str, tuple[Pair, ...]]
    values: Mapping[tuple[str, str, str], tuple[Value, ...]]
    numbers: Mapping[tuple[str, str, str], tuple[int, ...]]
    held: bool
    share: float

    def owns(self, key: str) -> bool:
        """Whether the side may use a moment of this key; both may use one without."""
        if not self.share or not key:
            return True
        first = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")
        return (first < self.share * 2**32) == self.held


def whole(lexicon: Lexicon) -> Pools:
    """One side that may use everything."""
    return Pools(
        lexicon,
        {(d.name, tool): lines for d in lexicon.dialects for tool, lines in d.patterns.items()},
        {d.name: d.clauses for d in lexicon.dialects},
        {d.name: d.no_call for d in lexicon.dialects},
        lexicon.values,
        {(d.name, *key): numbers for d in lexicon.dialects for key, numbers in _numbers(lexicon, d).items()},
        False,
        0.0,
    )


def divided(lexicon: Lexicon, share: float, seed: int) -> tuple[Pools, Pools]:
    """(training, held out): about `share` of the lines and of the values of each list are held out, at least one.

    Equal values stand on one side whatever lists they are in. Values that a schema lists and numbers of which there are
    fewer than ten are on both. Raises InputError naming each line that is alone where two are needed.
    """
    everything = whole(lexicon)
    rng = random.Random(f"sides {seed}")
    problems: list[str] = []
    patterns = {key: _cut(lines, share, rng) for key, lines in everything.patterns.items()}
    pairs = {key: _cut(lines, share, rng) for key, lines in everything.pairs.items()}
    clauses = {name: _cut_clauses(lines, share, rng) for name, lines in everything.clauses.items()}
    for (dialect, tool), (kept, held) in patterns.items():
        if not kept or not held:
            lines = kept + held
            problems.append(f"{lines[0].line}: {lines[0].where}: 1 pattern in {dialect}; write another for {tool}")
    for dialect, (kept_pairs, held_pairs) in pairs.items():
        if bool(kept_pairs) != bool(held_pairs):
            line = (kept_pairs + held_pairs)[0].line
            problems.append(f"{line}: dialects.{dialect}.no_call: 1 pair; write another, so that each side has one")
    values, alone = _cut_values(lexicon, share, rng)
    problems += [
        f" values.{argument}: 1 value for {tool} in {dialect}; write another" for dialect, tool, argument in alone
    ]
    if problems:
        remedy = "or make one file (no --eval-out)"
        raise InputError("\n".join(f"{lexicon.path}:{problem}, {remedy}" for problem in dict.fromkeys(problems)))
    numbers = {key: _cut_numbers(found, share, seed) for key, found in everything.numbers.items()}
    train, held_out = (
        Pools(
            lexicon,
            {key: both[side] for key, both in patterns.items()},
            {key: both[side] for key, both in clauses.items()},
            {key: both[side] for key, both in pairs.items()},
            values[side],
            {key: both[side] for key, both in numbers.items()},
            bool(side),
            share,
        )
        for side in (0, 1)
    )
    return train, held_out


def _numbers(lexicon: Lexicon, dialect: Dialect) -> Mapping[tuple[str, str], tuple[int, ...]]:
    """The numbers that a dialect can say, by tool and argument."""
    found: dict[tuple[str, str], tuple[int, ...]] = {}
    for key, kind in lexicon.kinds.items():
        if kind.name in ("duration", "number"):
            minutes = kind.name == "duration" and kind.unit != "hours"
            found[key] = tuple(number for number in range(kind.low, kind.high + 1, kind.step)
                               if not minutes or sayable_minutes(dialect.words, number))  # fmt: skip
    return found


def _cut(lines: Sequence[_T], share: float, rng: random.Random) -> tuple[tuple[_T, ...], tuple[_T, ...]]:
    """(kept, held): about `share` of the lines held, one at least where there are two."""
    held = set(rng.sample(range(len(lines)), _many(len(lines), share)))
    kept = tuple(line for i, line in enumerate(lines) if i not in held)
    return kept, tuple(line for i, line in enumerate(lines) if i in held)


def _many(lines: int, share: float) -> int:
    return min(lines - 1, max(1, round(share * lines))) if lines > 1 else 0


def _cut_clauses(
    lines: Sequence[Pattern], share: float, rng: random.Random
) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """(kept, held) clauses of two tools or more on each side; held is empty when there are too few for that."""
    order = list(lines)
    rng.shuffle(order)
    held: list[Pattern] = []
    while order and (len(held) < share * len(lines) or len({line.tool for line in held}) < 3):
        held.append(order.pop())
    if len({line.tool for line in order}) < 2:
        return tuple(lines), ()
    return tuple(line for line in lines if line not in held), tuple(line for line in lines if line in held)


def _cut_values(
    lexicon: Lexicon, share: float, rng: random.Random
) -> tuple[tuple[dict[tuple[str, str, str], tuple[Value, ...]], ...], list[tuple[str, str, str]]]:
    """The values of both sides, and the lists that have nothing for one of them."""
    sides: dict[Hashable, int] = {}
    found: tuple[dict[tuple[str, str, str], tuple[Value, ...]], ...] = ({}, {})
    alone: list[tuple[str, str, str]] = []
    names = {dialect.name for dialect in lexicon.dialects}
    for key, values in lexicon.values.items():
        dialect, tool, argument = key
        if lexicon.is_closed(tool, argument) or dialect not in names:
            found[0][key] = found[1][key] = values
            continue
        new = [fold(value.said) for value in values if fold(value.said) not in sides]
        wanted = _many(len(values), share) - sum(sides.get(fold(value.said), 0) for value in values)
        held = set(rng.sample(new, min(len(new), max(0, wanted))))
        sides.update({said: int(said in held) for said in new})
        for side in (0, 1):
            found[side][key] = tuple(value for value in values if sides[fold(value.said)] == side)
        if not (found[0][key] and found[1][key]):
            alone.append(key)
    return found, alone


def _cut_numbers(numbers: Sequence[int], share: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(kept, held), the same of the same numbers in every dialect."""
    if len(numbers) < _DIVIDED_NUMBERS:
        return tuple(numbers), tuple(numbers)
    return _cut(numbers, share, random.Random(f"numbers {seed}"))


def used_tools(pools: Pools, dialect: str) -> set[str]:
    """The tools that the side's clauses of a dialect call."""
    return {clause.tool for clause in pools.clauses[dialect]}


MOMENT_WAYS = 1_000
"""Ways to say a moment, about: what counts is that they are many."""


def ways(pools: Pools, dialect: str, tool: str, argument: str) -> int:
    """How many ways there are to say an argument."""
    kind = pools.lexicon.kinds[tool, argument]
    if kind.name in (*MOMENTS, "digits"):
        return MOMENT_WAYS
    key = (dialect, tool, argument)
    return len(pools.numbers[key]) if key in pools.numbers else len(pools.values.get(key, ()))
