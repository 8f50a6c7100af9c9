"""A model's scores in the terminal, part by part: call and no-call rows, dialects, lengths, classes of error."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dozan.check.visible import isolate
from dozan.judge.compare import Figure, show_figure
from dozan.judge.summary import FAULTS, Scores
from dozan.rows.example import Json


def print_parts(scores: Scores, console: Console | None = None) -> None:
    """Prints the scores of each part of the rows, then the rows that have each class of error, with intervals."""
    console = console or Console()
    summary = scores.summary()
    parts = {"all rows": summary, "rows with a call": summary["calls"], "rows without": summary["no_calls"]}
    dialects = {f"dialect {name}": part for name, part in summary["by_dialect"].items()}
    lengths = {f"{name} words": part for name, part in summary["by_length"].items()}
    console.print(_parts({**parts, **dialects, **lengths}))
    ordered = (f"{name} {show_figure(_figure(summary, f'{name}_ordered'))}" for name in ("strict", "normalised"))
    console.print(f"calls in the order of the data: {', '.join(ordered)}", highlight=False)
    faults = _faults(summary)
    if faults.row_count:
        console.print(faults)


def _parts(parts: Mapping[str, Json]) -> Table:
    table = Table("", "n", "strict", "normalised", "graded F1", box=SIMPLE_HEAD, pad_edge=False)
    for name, part in parts.items():
        if part["n"]:
            f1 = part["graded"]["intervals"]["f1"]
            graded = Figure(part["graded"]["f1"], f1["n"], f1["low"], f1["high"])
            figures = (_figure(part, "strict"), _figure(part, "normalised"), graded)
            table.add_row(_plain(name), f"{part['n']:,}", *map(show_figure, figures))
    return table


def _plain(text: str) -> Text:
    """Text without markup; in isolation where it may run from right to left."""
    return Text(text if text.isascii() else isolate(text))


def _figure(part: Mapping[str, Json], key: str) -> Figure:
    interval = part["intervals"][key]
    return Figure(part[key], interval["n"], interval["low"], interval["high"])


def _faults(summary: Mapping[str, Json]) -> Table:
    table = Table("error", "rows", "share", "in all", "commonest", box=SIMPLE_HEAD, pad_edge=False)
    for kind in FAULTS:
        part, counted = summary["faults"][kind], summary["errors"][kind]
        if part["rows"]:
            share = show_figure(Figure(part["share"], part["n"], part["low"], part["high"]))
            detail, times = next(iter(counted["by"].items()))
            commonest = _plain(f"{detail:.40}") + Text(f" x{times}")
            table.add_row(kind.replace("_", " "), f"{part['rows']:,}", share, f"{counted['count']:,}", commonest)
    return table
