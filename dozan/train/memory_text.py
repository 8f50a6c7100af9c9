"""The memory plan in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dozan.html.memory import memory_section
from dozan.html.page import page
from dozan.train.cards import GIB
from dozan.train.memory_fit import Given
from dozan.train.memory_plan import MemoryPlan
from dozan.train.memory_record import heading, parts, record, standing

_BAR = 72
_MARKS = "█▓▒░"
_COLOURS = ("cyan", "yellow", "magenta", "red", "blue", "green")


def print_plan(plan: MemoryPlan, console: Console) -> None:
    """Table, picture, protocol, figures, and the verdict."""
    console.print(Text(heading(plan.model, plan.fit.setup, plan.card.name, plan.card.bytes), "bold"), soft_wrap=True)
    console.print(_table(plan))
    for line in _picture(plan):
        console.print(line)
    if plan.fit.steps:
        console.print(_protocol(plan.fit.steps))
    for text in figures(plan):
        console.print(text, soft_wrap=True, markup=False)
    console.print(Text(plan.verdict, "green" if plan.fit.fits else "red"), soft_wrap=True)
    for note in plan.notes:
        console.print(Text(note, "dim"), soft_wrap=True)


def _table(plan: MemoryPlan) -> RichTable:
    total = plan.fit.table.total
    table = RichTable("memory", "bytes", "GiB", "share", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, size in parts(plan.fit.table):
        table.add_row(name, f"{size:,}", f"{size / GIB:.2f}", f"{size / total:.0%}")
    table.add_row(Text("peak", "bold"), f"{total:,}", f"{total / GIB:.2f}", f"at: {plan.fit.table.moment}")
    table.columns[3].overflow = "fold"
    return table


def _picture(plan: MemoryPlan) -> list[Text]:
    """A bar of the card: its parts from the left, what is free, and what a plan does not use."""
    whole = max(plan.card.bytes, plan.fit.table.total)
    bar, key, used, drawn = Text(), Text(), 0, 0
    for i, (name, size) in enumerate(sorted(parts(plan.fit.table), key=lambda part: -part[1])):
        used += size
        width = round(_BAR * used / whole) - drawn
        drawn += width
        mark, colour = _MARKS[i % len(_MARKS)], _COLOURS[i % len(_COLOURS)]
        bar.append(mark * width, colour)
        if width:
            key.append(mark, colour)
            key.append(f" {name}  ")
    room = round(_BAR * min(plan.card.bytes, whole) / whole)
    bar.append("·" * max(0, room - drawn), "dim")
    over = "" if plan.fit.table.total <= plan.card.bytes else f" beyond the card: {_over(plan)}"
    bar.append("|" if not over else "", "bold")
    return [bar, Text(over.strip(), "red"), key] if over else [bar, key]


def _over(plan: MemoryPlan) -> str:
    return f"{(plan.fit.table.total - plan.card.bytes) / GIB:.1f} GiB"


def _protocol(steps: Sequence[Given]) -> RichTable:
    table = RichTable("step", "gives back", "", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[1].justify = "right"
    for step in steps:
        table.add_row(step.name, f"{step.bytes / GIB:.2f} GiB", standing(step))
    return table


def figures(plan: MemoryPlan) -> list[str]:
    """Longest pack, rate, steps and hours, a line each."""
    found = ["no pack fits, however short, with nothing changed in the training"]
    if plan.longest:
        whole = plan.longest >= plan.fit.setup.config.max_position_embeddings
        found = [f"longest row that fits, with nothing changed in the training: {plan.longest:,} tokens"
                 + (", all that the model takes" if whole else "")]  # fmt: skip
    if plan.rows is not None:
        rows = plan.rows
        found.append(f"{rows.rows:,} rows, {rows.tokens:,} tokens, {rows.steps:,} steps; sharing computes one token "
                     f"for {rows.sharing:.1f}")  # fmt: skip
    if plan.tokens_per_second is not None:
        hours = "" if plan.hours is None else f", {_hours(plan.hours)} for the run"
        found.append(f"about {_rounded(plan.tokens_per_second):,} tokens/s{hours}")
    return found


def _rounded(value: float) -> int:
    """To two figures: it is an estimate."""
    digits = max(0, len(str(int(value))) - 2)
    return int(round(value, -digits))


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{max(1.0, 60 * hours):.0f} min"


def html(plan: MemoryPlan) -> str:
    """The same as a page of its own."""
    return page(f"Memory plan: {plan.model}", f"<h1>Memory plan</h1>\n{section(plan)}")


def section(plan: MemoryPlan) -> str:
    """Verdict, bar, table, protocol and figures, for a page of its own or a part of another."""
    card = plan.card
    return memory_section(record(plan.model, card.name, card.bytes, plan.fit, figures(plan), plan.notes))
