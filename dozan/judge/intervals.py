"""95 % intervals: Wilson's for a proportion, a Bayesian bootstrap over rows for ratios and mixtures of sums."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sums = NDArray[Any]
"""Weighted sums of each column of the rows, float64 [replicates, columns]."""

_REPLICATES, _SEED = 4000, 20240229
_TAILS = (0.025, 0.975)


def wilson(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927); n > 0."""
    share, spread = right / n, z * z / n
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    low, high = (middle - half) / (1 + spread), (middle + half) / (1 + spread)
    return (0.0 if right == 0 else low, 1.0 if right == n else high)


def bootstrap(
    rows: Iterable[Sequence[float]], statistic: Callable[[Sums], Sums], best: Sequence[float], worst: Sequence[float]
) -> tuple[float, float]:
    """The 95 % interval of a statistic of the rows' column sums, by the Bayesian bootstrap (Rubin 1981).

    `statistic` maps sums [replicates, columns] to values [replicates]. Half a row like `best` and half a row like
    `worst` are drawn with the others: an all-right sample does not pretend to be certain, and where each row counts one
    the interval is Jeffreys' (Brown, Cai and DasGupta 2001). The same rows give the same interval. At least one row.
    """
    counts = Counter(tuple(row) for row in rows)
    distinct = np.array([*counts, best, worst], np.float64)
    shapes = np.array([*counts.values(), 0.5, 0.5], np.float64)
    weights = np.random.default_rng(_SEED).standard_gamma(shapes, (_REPLICATES, len(shapes)))
    low, high = np.quantile(statistic(weights @ distinct), _TAILS)
    shapes[-2:] = 0.0
    ends = np.array([shapes @ distinct, best, worst])
    found, most, least = statistic(ends)
    return (float(found) if found <= least else float(low), float(found) if found >= most else float(high))


def ratio_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The interval of sum of numerators / sum of denominators, one pair a row; None when all denominators are 0."""
    used = [pair for pair in pairs if pair[1]]
    if not used:
        return None
    mean = sum(pair[1] for pair in used) / len(used)
    return bootstrap(used, lambda sums: sums[:, 0] / sums[:, 1], (mean, mean), (0.0, mean))


def mean_of_shares(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """The interval of the plain mean of independent shares, each (right, n) drawn from its Jeffreys posterior."""
    draw = np.random.default_rng(_SEED)
    drawn = np.mean([draw.beta(right + 0.5, n - right + 0.5, _REPLICATES) for right, n in counts], axis=0)
    low, high = np.quantile(drawn, _TAILS)
    none, all_right = not any(right for right, _ in counts), all(right == n for right, n in counts)
    return (0.0 if none else float(low), 1.0 if all_right else float(high))
