"""Compares models scored on the same rows: one table, and against the first the rows won, lost, and their odds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dozan.chat.format import Call
from dozan.check.visible import isolate
from dozan.errors import InputError
from dozan.judge.paired import Difference, Paired, Versus, mcnemar, versus
from dozan.judge.summary import RowScore, Scores
from dozan.rows.example import Json

__all__ = ["COLUMNS", "TITLES", "Comparison", "Figure", "Paired", "compare", "describe_pair", "mcnemar", "print_table",
           "print_versus", "show_figure", "to_json"]  # fmt: skip

COLUMNS = ("parse_failures", "tool_name", "strict", "normalised", "graded_f1")
TITLES = {
    "parse_failures": "parse failures", "tool_name": "tool name", "strict": "strict", "normalised": "normalised",
    "graded_f1": "graded F1",
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A score with the rows it is over and its 95 % interval; no value over nothing."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Figures by model name and column (`COLUMNS`); `strict` and `normalised` pair the first two models, if any;
    `versus` has every model but the first, against it."""

    n: int
    figures: Mapping[str, Mapping[str, Figure]]
    strict: Paired | None
    normalised: Paired | None
    versus: Mapping[str, Versus] = field(default_factory=dict)


def compare(scores_by_name: Mapping[str, Scores]) -> Comparison:
    """Raises InputError when there are no scores, or when they are not over the same rows in the same order, asked
    under the same tools."""
    if not scores_by_name:
        raise InputError("nothing to compare; give at least one model's scores")
    (first, reference), *others = scores_by_name.items()
    for name, scores in others:
        _same_rows(first, reference.rows, name, scores.rows)
    against = {name: versus(reference.rows, scores.rows) for name, scores in others}
    second = next(iter(against.values()), None)
    figures = {name: _figures(scores) for name, scores in scores_by_name.items()}
    strict, normalised = (None, None) if second is None else (second.strict, second.normalised)
    return Comparison(len(reference.rows), figures, strict, normalised, against)


def _same_rows(first: str, before: Sequence[RowScore], name: str, after: Sequence[RowScore]) -> None:
    if [row.id for row in before] != [row.id for row in after]:
        only = [row.id for row in after if row.id not in {row.id for row in before}][:3]
        said = f"; {', '.join(only)} of {name} are not among the rows of {first}" if only else ""
        raise InputError(
            f"{name} was scored on other rows than {first} ({len(after)} and {len(before)} rows{said}); "
            "score both on the same file"
        )
    for a, b in zip(before, after, strict=True):
        if (a.query, a.gold, a.gold_text) != (b.query, b.gold, b.gold_text):
            raise InputError(f"row {a.id} asks for something else in {name} than in {first}; score the same file twice")
        if a.tools and b.tools and a.tools != b.tools:
            raise InputError(f"row {a.id} has other tools in {name} than in {first}; score both under the same tools")


def print_table(comparison: Comparison, console: Console | None = None) -> None:
    """Prints the figures with their intervals, then what changed against the first model."""
    console = console or Console()
    titles = ("", *(TITLES[column] for column in COLUMNS))
    table = Table(*titles, title=f"{comparison.n} rows", title_justify="left", box=SIMPLE_HEAD, pad_edge=False,
                  collapse_padding=True)  # fmt: skip
    table.columns[0].overflow = "fold"
    for column in table.columns[1:]:
        column.justify, column.min_width = "right", len("(88.8–88.8)")
    for name, figures in comparison.figures.items():
        table.add_row(name, *(show_figure(figures[column]) for column in COLUMNS))
    console.print(table)
    first = next(iter(comparison.figures))
    for name, found in comparison.versus.items():
        for title, paired in (("strict", found.strict), ("normalised", found.normalised)):
            console.print(f"{title}: {describe_pair(paired, first, name)}", highlight=False, markup=False)


def print_versus(comparison: Comparison, runs: Mapping[str, Scores], most: int, console: Console) -> None:
    """For each model but the first: its differences with intervals, each dialect, then rows lost and rows won (by
    strict), at most `most` of each, with what was asked for and what both answered."""
    first = next(iter(runs))
    for name, found in comparison.versus.items():
        table = Table("", "points", "95 %", title=f"{name} less {first}", title_justify="left", box=SIMPLE_HEAD,
                      pad_edge=False)  # fmt: skip
        for column in COLUMNS:
            table.add_row(TITLES[column], *show_difference(found.differences[column]))
        for each in table.columns[1:]:
            each.justify = "right"
        console.print(table)
        if found.by_dialect:
            console.print(_dialect_table(found, first, name))
        lost, won = found.strict.regressions, found.strict.wins
        for title, ids in ((f"{name} loses against {first}", lost), (f"{name} wins over {first}", won)):
            _print_rows(title, ids[:most], len(ids), {key: runs[key] for key in (first, name)}, console)


def to_json(comparison: Comparison) -> dict[str, Json]:
    """Every figure, difference and change, as plain values."""
    figures = {name: {key: asdict(each) for key, each in found.items()} for name, found in comparison.figures.items()}
    return {"n": comparison.n, "figures": figures,
            "versus": {name: asdict(found) for name, found in comparison.versus.items()}}  # fmt: skip


def show_difference(difference: Difference) -> tuple[str, str]:
    """`+3.5` and `+1.1 to +6.0`, in points of per cent; dashes for nothing."""
    if difference.value is None or difference.low is None or difference.high is None:
        return "–", "–"
    value, low, high = (100 * each for each in (difference.value, difference.low, difference.high))
    return f"{value:+.1f}", f"{low:+.1f} to {high:+.1f}"


def _dialect_table(found: Versus, first: str, second: str) -> Table:
    table = Table("dialect", "rows", first, second, "wins", "losses", "p", title="strict, by dialect",
                  title_justify="left", box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for name, change in found.by_dialect.items():
        paired = change.paired
        shares = (f"{100 * share:.1f} %" for share in (change.first, change.second))
        table.add_row(name, str(change.n), *shares, str(len(paired.wins)), str(len(paired.regressions)),
                      f"{paired.p:.3f}")  # fmt: skip
    return table


def _print_rows(title: str, ids: Sequence[str], total: int, runs: Mapping[str, Scores], console: Console) -> None:
    if not total:
        return
    shown = "" if len(ids) == total else f", {len(ids)} of them"
    console.print(f"\n{title}: {total} rows{shown}", style="bold", markup=False)
    rows = {name: {row.id: row for row in scores.rows} for name, scores in runs.items()}
    for each in ids:
        row = next(iter(rows.values()))[each]
        about = " · ".join(filter(None, (row.place or row.id, row.dialect)))
        lines = [f"{isolate(row.query)}  ({about})", f"  expected: {_answer(row.gold, row.gold_text)}"]
        lines += [f"  {name}: {_answer(found[each].calls, found[each].prediction)}" for name, found in rows.items()]
        for line in lines:
            console.print(line, markup=False, soft_wrap=True, highlight=False)


def _answer(calls: Sequence[Call], text: str) -> str:
    shown = "; ".join(f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}" for call in calls)
    return isolate(shown or text[:200] or "(nothing)")


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


def _figures(scores: Scores) -> dict[str, Figure]:
    summary = scores.summary()
    figures = {}
    for column in COLUMNS[:-1]:
        interval = summary["intervals"][column]
        figures[column] = Figure(summary[column], interval["n"], interval["low"], interval["high"])
    graded = summary["graded"]
    interval = graded["intervals"]["f1"]
    figures["graded_f1"] = Figure(graded["f1"], summary["n"], interval["low"], interval["high"])
    return figures
