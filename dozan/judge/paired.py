"""Two models on the same rows: rows won and lost with McNemar's odds, and differences with a paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from dozan.judge.intervals import bootstrap
from dozan.judge.summary import RowScore

_REPLICATES, _SEED = 4000, 20240229

Rows = Sequence[tuple[RowScore, RowScore]]
"""Each row as the first and as the second model answered it."""

SHARES: dict[str, Callable[[RowScore], bool]] = {
    "parse_failures": lambda row: bool(row.problems),
    "tool_name": lambda row: row.tool_name,
    "strict": lambda row: row.strict,
    "normalised": lambda row: row.normalised,
}
"""The scores that are shares of rows; `tool_name` is over those that ask for a call."""


@dataclass(frozen=True)
class Paired:
    """The second model against the first, by a score: ids of rows won and lost, and McNemar's exact two-sided p."""

    wins: tuple[str, ...]
    regressions: tuple[str, ...]
    p: float


@dataclass(frozen=True)
class Difference:
    """The second model's score less the first's, with its 95 % interval; None over nothing."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class DialectChange:
    """One dialect's rows: how many, both models' share that is strictly right, and the rows won and lost."""

    n: int
    first: float
    second: float
    paired: Paired


@dataclass(frozen=True)
class Versus:
    """A model against the first: differences by score, rows won and lost by strict and normalised, by dialect."""

    differences: Mapping[str, Difference]
    strict: Paired
    normalised: Paired
    by_dialect: Mapping[str, DialectChange]


def versus(before: Sequence[RowScore], after: Sequence[RowScore]) -> Versus:
    """Rows in the same order."""
    rows = list(zip(before, after, strict=True))
    dialects: dict[str, list[tuple[RowScore, RowScore]]] = {}
    for pair in rows:
        dialects.setdefault(pair[0].dialect, []).append(pair)
    changes = {name: _dialect(dialects[name]) for name in sorted(dialects) if name}
    differences = {**{name: _share(rows, name) for name in SHARES}, "graded_f1": _graded(rows)}
    return Versus(differences, pair_rows(rows, "strict"), pair_rows(rows, "normalised"), changes)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p that as uneven a split of the differing rows is chance (McNemar 1947, binomial with 1/2)."""
    total = wins + losses
    tail = sum(comb(total, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)


def pair_rows(rows: Rows, score: str) -> Paired:
    """Rows won and lost by a score of `SHARES`."""
    right = SHARES[score]
    wins = tuple(b.id for a, b in rows if right(b) and not right(a))
    losses = tuple(b.id for a, b in rows if right(a) and not right(b))
    return Paired(wins, losses, mcnemar(len(wins), len(losses)))


def mean_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Sum of the first over sum of the second of each pair, one pair a row, and its 95 % interval: the Bayesian
    bootstrap (Rubin 1981). For figures without bounds, such as losses. Some row has a weight."""
    rows = np.array(pairs, np.float64)
    weights = np.random.default_rng(_SEED).standard_exponential((_REPLICATES, len(rows)))
    sums = weights @ rows
    low, high = np.quantile(sums[:, 0] / sums[:, 1], (0.025, 0.975))
    total, weight = rows.sum(0)
    return float(total / weight), float(low), float(high)


def _dialect(rows: Rows) -> DialectChange:
    first, second = (sum(pair[i].strict for pair in rows) / len(rows) for i in (0, 1))
    return DialectChange(len(rows), first, second, pair_rows(rows, "strict"))


def _share(rows: Rows, name: str) -> Difference:
    right = SHARES[name]
    asked = [pair for pair in rows if pair[0].gold] if name == "tool_name" else rows
    if not asked:
        return Difference(None, None, None)
    changes = [(float(right(b)) - float(right(a)), 1.0) for a, b in asked]
    low, high = bootstrap(changes, lambda sums: sums[:, 0] / sums[:, 1], (1.0, 1.0), (-1.0, 1.0))
    return Difference(sum(change for change, _ in changes) / len(changes), low, high)


def _graded(rows: Rows) -> Difference:
    """F1 over all units, the rows drawn in pairs."""
    units = [(2 * a.graded.common, a.graded.predicted + a.graded.gold,
              2 * b.graded.common, b.graded.predicted + b.graded.gold) for a, b in rows]  # fmt: skip
    _, first, _, second = (sum(column) for column in zip(*units, strict=True))
    if not (first and second):
        return Difference(None, None, None)
    value = sum(unit[2] for unit in units) / second - sum(unit[0] for unit in units) / first
    mean = (first + second) / (2 * len(units))
    low, high = bootstrap(
        units, lambda sums: sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1], (0.0, mean, mean, mean),
        (mean, mean, 0.0, mean),
    )  # fmt: skip
    return Difference(value, low, high)
