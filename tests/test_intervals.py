"""Intervals against known ones and in simulations: they hold what they should in 93 to 97 of 100 samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dozan.judge import intervals
from dozan.judge.intervals import bootstrap, mean_of_shares, ratio_interval, wilson

SAMPLES = 1000


def test_wilson_is_the_published_one() -> None:
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 81/263
    assert math.isclose(low, 0.2553, abs_tol=5e-5) and math.isclose(high, 0.3662, abs_tol=5e-5)
    low, high = wilson(1, 29)  # the same table: 1/29
    assert math.isclose(low, 0.0061, abs_tol=5e-5) and math.isclose(high, 0.1718, abs_tol=5e-5)
    assert wilson(0, 20)[0] == 0.0 and math.isclose(wilson(0, 20)[1], 0.1611, abs_tol=5e-5) and wilson(20, 20)[1] == 1


@pytest.mark.parametrize("n", [50, 200, 1000])
@pytest.mark.parametrize("band", [(0.002, 0.05), (0.05, 0.5), (0.5, 0.95), (0.95, 0.998)])
def test_wilson_covers(n: int, band: tuple[float, float]) -> None:
    """Exactly, over shares spread evenly in a band: for one share and one n, no interval of a count covers 95 %."""
    ends = [wilson(right, n) for right in range(n + 1)]
    right = np.arange(n + 1)
    log_choose = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in right])
    covered = []
    for share in np.linspace(*band, 400):
        odds = np.exp(log_choose + right * math.log(share) + (n - right) * math.log1p(-share))
        held = np.array([low <= share <= high for low, high in ends])
        covered.append(float(odds @ held))
    assert 0.93 <= np.mean(covered) <= 0.97


def draw_rows(random: np.random.Generator, n: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """(2 x in common, predicted + gold) of rows of 1 to 6 arguments that stand and fall together."""
    units = random.integers(1, 7, n)
    chance = random.beta(share * 5, (1 - share) * 5, n)
    common = random.binomial(units, chance)
    extra = random.binomial(1, (1 - chance) / 2)
    return 2 * common, 2 * units + extra


@pytest.mark.parametrize(("share", "n"), [(0.02, 200), (0.5, 100), (0.9, 300), (0.97, 200), (0.99, 200)])
def test_the_bootstrap_of_a_ratio_covers(share: float, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_REPLICATES", 1000)
    random = np.random.default_rng(3)
    above, below = draw_rows(random, 1_000_000, share)
    truth = above.sum() / below.sum()
    held = 0
    for _ in range(SAMPLES):
        above, below = draw_rows(random, n, share)
        found = ratio_interval(list(zip(above.tolist(), below.tolist(), strict=True)))
        held += found is not None and found[0] <= truth <= found[1]
    assert 0.93 <= held / SAMPLES <= 0.97


@pytest.mark.parametrize("shares", [(0.5, 0.8, 0.3), (0.99, 0.97, 0.95), (0.02, 0.01, 0.03)])
def test_the_mean_of_shares_covers(shares: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "_REPLICATES", 1000)
    random = np.random.default_rng(4)
    held = 0
    for _ in range(SAMPLES):
        counts = [(int(random.binomial(n, share)), n) for n, share in zip((100, 200, 150), shares, strict=True)]
        low, high = mean_of_shares(counts)
        held += low <= np.mean(shares) <= high
    assert 0.93 <= held / SAMPLES <= 0.97


def beta_quantile(a: float, b: float, tail: float) -> float:
    """By summing the density over a fine grid; a and b above 1."""
    at = np.linspace(0, 1, 2_000_001)[1:-1]
    mass = np.cumsum(np.exp((a - 1) * np.log(at) + (b - 1) * np.log1p(-at)))
    return float(at[np.searchsorted(mass, tail * mass[-1])])


@pytest.mark.parametrize(("right", "n"), [(3, 20), (9, 20), (190, 200)])
def test_rows_that_count_one_each_give_jeffreys_interval(right: int, n: int) -> None:
    found = ratio_interval([(1, 1)] * right + [(0, 1)] * (n - right))
    wanted = [beta_quantile(right + 0.5, n - right + 0.5, tail) for tail in (0.025, 0.975)]
    assert found is not None and np.allclose(found, wanted, atol=0.1 * (wanted[1] - wanted[0]))


def test_the_ends_of_what_is_all_right_or_all_wrong() -> None:
    right, wrong = ratio_interval([(2, 2), (6, 6)]), ratio_interval([(0, 2), (0, 6)])
    assert right is not None and right[1] == 1.0 and 0 < right[0] < 1
    assert wrong is not None and wrong[0] == 0.0 and 0 < wrong[1] < 1
    assert mean_of_shares([(3, 3), (5, 5)])[1] == 1.0 and mean_of_shares([(0, 3), (0, 5)])[0] == 0.0
    assert ratio_interval([]) is None and ratio_interval([(0, 0)]) is None


def test_the_same_rows_give_the_same_interval_and_rows_of_nothing_change_none() -> None:
    rows = [(2, 2), (0, 4), (4, 6), (2, 2)]
    assert ratio_interval(rows) == ratio_interval(rows) == ratio_interval([*rows, (0, 0), (0, 0)])
    few, many = ratio_interval(rows), ratio_interval(rows * 50)
    assert few is not None and many is not None and few[0] < many[0] < many[1] < few[1]


def test_a_mixture_of_sums_lies_about_its_value() -> None:
    rows = [(1, 1), (1, 0), (1, 1), (1, 1)] * 25
    low, high = bootstrap(rows, lambda sums: sums[:, 1] / sums[:, 0], (1, 1), (1, 0))
    assert low < 0.75 < high and high - low < 0.2
