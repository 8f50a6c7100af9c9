"""Compares models scored on the same rows: one table, and between the first two the rows won, lost, and their odds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dozan.errors import InputError
from dozan.judge.summary import RowScore, Scores

COLUMNS = ("parse_failures", "tool_name", "strict", "normalised", "graded_f1")
TITLES = {
    "parse_failures": "parse failures", "tool_name": "tool name", "strict": "strict", "normalised": "normalised",
    "graded_f1": "graded F1",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A share with the rows it is over and its 95 % interval; no interval for F1, no value over nothing."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Paired:
    """The second model against the first, by a score: ids of rows won and lost, and McNemar's exact two-sided p."""

    wins: tuple[str, ...]
    regressions: tuple[str, ...]
    p: float


@dataclass(frozen=True)
class Comparison:
    """Figures by model name and column (`COLUMNS`); `strict` and `normalised` pair the first two models, if any."""

    n: int
    figures: Mapping[str, Mapping[str, Figure]]
    strict: Paired | None
    normalised: Paired | None


def compare(scores_by_name: Mapping[str, Scores]) -> Comparison:
    """Raises InputError when there are no scores, or when they are not over the same rows in the same order."""
    if not scores_by_name:
        raise InputError("nothing to compare; give at least one model's scores")
    (first, reference), *others = scores_by_name.items()
    for name, scores in others:
        if [row.id for row in scores.rows] != [row.id for row in reference.rows]:
            raise InputError(
                f"{name} was scored on other rows than {first} ({len(scores.rows)} and {len(reference.rows)} rows); "
                "score both on the same file"
            )
    strict = normalised = None
    if others:
        strict = _pair(reference.rows, others[0][1].rows, "strict")
        normalised = _pair(reference.rows, others[0][1].rows, "normalised")
    figures = {name: _figures(scores) for name, scores in scores_by_name.items()}
    return Comparison(len(reference.rows), figures, strict, normalised)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p that as uneven a split of the differing rows is chance (McNemar 1947, binomial with 1/2)."""
    total = wins + losses
    tail = sum(comb(total, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)


def print_table(comparison: Comparison, console: Console | None = None) -> None:
    """Prints the figures with their intervals, then what changed between the first two models."""
    console = console or Console()
    titles = ("", *(TITLES[column] for column in COLUMNS))
    table = Table(*titles, title=f"{comparison.n} rows", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in comparison.figures.items():
        table.add_row(name, *(show_figure(figures[column]) for column in COLUMNS))
    console.print(table)
    names = list(comparison.figures)
    for title, paired in (("strict", comparison.strict), ("normalised", comparison.normalised)):
        if paired is not None:
            console.print(f"{title}: {describe_pair(paired, *names[:2])}", highlight=False)


def show_figure(figure: Figure) -> str:
    """`93.5 % (90.1–95.8)`; a dash for a share of nothing."""
    if figure.value is None:
        return "–"
    interval = "" if figure.low is None or figure.high is None else f" ({100 * figure.low:.1f}–{100 * figure.high:.1f})"
    return f"{100 * figure.value:.1f} %{interval}"


def describe_pair(paired: Paired, first: str, second: str) -> str:
    """One sentence: rows won and lost by `second` against `first`, and p."""
    odds = "p < 0.0001" if paired.p < 1e-4 else f"p = {paired.p:.4f}"
    won, lost = len(paired.wins), len(paired.regressions)
    return f"{second} wins {won} rows over {first} and loses {lost} (McNemar {odds})"


def _pair(before: Sequence[RowScore], after: Sequence[RowScore], score: str) -> Paired:
    rows = list(zip(before, after, strict=True))
    wins = tuple(b.id for a, b in rows if getattr(b, score) and not getattr(a, score))
    losses = tuple(b.id for a, b in rows if getattr(a, score) and not getattr(b, score))
    return Paired(wins, losses, mcnemar(len(wins), len(losses)))


def _figures(scores: Scores) -> dict[str, Figure]:
    summary = scores.summary()
    figures = {}
    for column in COLUMNS[:-1]:
        interval = summary["intervals"][column]
        figures[column] = Figure(summary[column], interval["n"], interval["low"], interval["high"])
    return {**figures, "graded_f1": Figure(summary["graded"]["f1"], summary["n"])}
