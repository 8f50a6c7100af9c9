"""The figures of a set of rows in a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dozan.check.stats import Stats, size_verdict
from dozan.check.visible import isolate_arabic, visible

_BLOCKS = " ▁▂▃▄▅▆▇█"
_MOST_NAMES = 30


def print_stats(stats: Stats, console: Console) -> None:
    """Sizes, verdict, tokens with their histogram, calls, tools, dialects, sharing."""
    refused = f"; {stats.refused:,} cannot be rendered (see dozan data check)" if stats.refused else ""
    console.print(Text(f"{size_verdict(stats.rows)}{refused}", "bold"), soft_wrap=True)
    if stats.tokens.rows:
        console.print(_tokens(stats))
        _print_histogram(stats, console)
    calls = ", ".join(f"{rows:,} with {calls or 'no'}" for calls, rows in sorted(stats.calls.items()))
    console.print(f"calls a row: {calls}", soft_wrap=True)
    if stats.called or stats.declared:
        console.print(_names("tool", {"called": stats.called, "declared": stats.declared}))
    if stats.dialects:
        console.print(_names("dialect", {"rows": stats.dialects}))
    if stats.tokens.rows:
        console.print(_sharing(stats))


def _tokens(stats: Stats) -> Table:
    table = _table("tokens a row", "mean", "least", "half", "90 %", "99 %", "most", "in all")
    for name, spread in (("tokens", stats.tokens), ("trained", stats.trained)):
        found = spread.summary()
        figures = (f"{found[key]:,}" for key in ("mean", "min", "p50", "p90", "p99", "max", "total"))
        table.add_row(name, *figures)
    table.caption = f"{100 * stats.share_trained:.1f} % of the tokens are trained"
    table.caption_justify = "left"
    return table


def _print_histogram(stats: Stats, console: Console) -> None:
    classes = stats.tokens.histogram(48)
    most = max(rows for _, _, rows in classes)
    bars = "".join(_BLOCKS[-(-8 * rows // most)] for _, _, rows in classes)
    console.print(f"rows by tokens: {classes[0][0]:,} {bars} {classes[-1][1]:,}", soft_wrap=True)


def _names(title: str, columns: Mapping[str, Mapping[str, int]]) -> Table:
    names = list(dict.fromkeys(name for counts in columns.values() for name in counts))
    table = _table(title, *columns)
    for name in names[:_MOST_NAMES]:
        table.add_row(isolate_arabic(visible(name)), *(f"{counts.get(name, 0):,}" for counts in columns.values()))
    if len(names) > _MOST_NAMES:
        table.caption = f"and {len(names) - _MOST_NAMES:,} more"
    return table


def _sharing(stats: Stats) -> Table:
    table = _table("tokens computed", f"{stats.batch_rows} at random", "all sorted", "saved")
    base = next(iter(stats.sharing.values()))
    for name, found in stats.sharing.items():
        figures = (found.computed_shuffled, found.computed_sorted)
        cells = (f"{count:,} ({base.tokens / max(1, count):.2f}x)" for count in figures)
        saved = 1 - found.computed_shuffled / max(1, base.computed_shuffled)
        table.add_row(name, *cells, "" if found is base else f"{100 * saved:.1f} %")
    table.caption = (
        f"Of {base.tokens:,} tokens in {stats.sampled:,} rows ({stats.patterns:,} sentence patterns), what packs of "
        f"{stats.pack_tokens:,} tokens compute when rows share their beginnings; saved: rows taken at random, as "
        "training takes them. Rearranged rows want prompts arranged alike."
    )
    table.caption_justify = "left"
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(first, *others, box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table
