"""How likely a count is by chance: exact binomial tails, and normal and chi-square tails; no table, no dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence

SIGNIFICANT = 0.001
"""The chance below which a set-level finding is made; sets are large, so that 1 in 20 would always be found."""


def binomial_at_most(count: int, trials: int, chance: float) -> float:
    """P(X <= count) for `trials` independent tries."""
    return min(1.0, math.fsum(_binomial(k, trials, chance) for k in range(count + 1)))


def binomial_at_least(count: int, trials: int, chance: float) -> float:
    """P(X >= count) for `trials` independent tries."""
    return min(1.0, math.fsum(_binomial(k, trials, chance) for k in range(count, trials + 1)))


def normal_two_sided(z: float) -> float:
    """P(|Z| >= |z|) of the standard normal distribution; 0.0 below 1e-300."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square(counts: Sequence[float], expected: Sequence[float]) -> float:
    """P of a chi-square statistic as large as that of `counts` against `expected` (all above 0, same total)."""
    statistic = math.fsum((o - e) ** 2 / e for o, e in zip(counts, expected, strict=True))
    return _upper_gamma((len(counts) - 1) / 2, statistic / 2)


def said(p: float) -> str:
    """A p-value in words: `p = 0.0004`, `p = 3e-12`, `p < 1e-300`."""
    if p < 1e-300:
        return "p < 1e-300"
    return f"p = {p:.1g}" if p < 0.0001 else f"p = {p:.4f}"


def _binomial(k: int, n: int, p: float) -> float:
    if p <= 0 or p >= 1:
        return float(k == (n if p >= 1 else 0))
    logarithm = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(logarithm + k * math.log(p) + (n - k) * math.log1p(-p))


def _upper_gamma(a: float, x: float) -> float:
    """The regularised upper incomplete gamma function Q(a, x), by series or continued fraction (DLMF 8.7.1, 8.9.2)."""
    if x <= 0:
        return 1.0
    scale = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while abs(term) > abs(total) * 1e-16:
            k += 1
            term *= x / k
            total += term
        return max(0.0, 1 - total * scale)
    b, c = x + 1 - a, 1e300
    d = 1 / b
    fraction = d
    for i in range(1, 10_000):
        b += 2
        d = 1 / (b - i * (i - a) * d)
        c = b - i * (i - a) / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return scale * fraction
