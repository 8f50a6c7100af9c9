"""The memory plan in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dozan.html.page import page
from dozan.train.cards import GIB
from dozan.train.memory_fit import Given
from dozan.train.memory_plan import MemoryPlan

_BAR = 72
_MARKS = "█▓▒░"
_COLOURS = ("cyan", "yellow", "magenta", "red", "blue", "green")


def print_plan(plan: MemoryPlan, console: Console) -> None:
    """Table, picture, protocol, figures, and the verdict."""
    console.print(Text(_heading(plan), "bold"), soft_wrap=True)
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


def _heading(plan: MemoryPlan) -> str:
    setup, card = plan.fit.setup, plan.card
    adapter = setup.adapter
    kind = ("rsLoRA" if adapter.rslora else "LoRA") + (" + DoRA" if adapter.dora else "")
    base = "NF4" if setup.quantise == "nf4" else setup.dtype
    return (f"{plan.model} ({base}), {kind} of rank {adapter.rank}, packs of {setup.tokens:,} tokens, on {card.name}: "
            f"{card.bytes / GIB:.1f} GiB")  # fmt: skip


def parts(plan: MemoryPlan) -> list[tuple[str, int]]:
    """The rows of the table: the parts of the peak, and what lies outside it."""
    table = plan.fit.table
    found = [(name, size) for name, size in table.parts.items() if size]
    found += [("the allocator's pools", table.apart)] if table.apart else []
    return found + ([("CUDA's context, kernels", table.context)] if table.context else [])


def _table(plan: MemoryPlan) -> RichTable:
    total = plan.fit.table.total
    table = RichTable("memory", "bytes", "GiB", "share", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, size in parts(plan):
        table.add_row(name, f"{size:,}", f"{size / GIB:.2f}", f"{size / total:.0%}")
    table.add_row(Text("peak", "bold"), f"{total:,}", f"{total / GIB:.2f}", f"at: {plan.fit.table.moment}")
    table.columns[3].overflow = "fold"
    return table


def _picture(plan: MemoryPlan) -> list[Text]:
    """A bar of the card: its parts from the left, what is free, and what a plan does not use."""
    whole = max(plan.card.bytes, plan.fit.table.total)
    bar, key, used, drawn = Text(), Text(), 0, 0
    for i, (name, size) in enumerate(sorted(parts(plan), key=lambda part: -part[1])):
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
        table.add_row(step.name, f"{step.bytes / GIB:.2f} GiB", _standing(step))
    return table


def _standing(step: Given) -> str:
    if step.changes_training:
        return "taken; changes the training" if step.taken else "changes the training: --adapt"
    return "taken; changes no result"


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
    total, whole = plan.fit.table.total, max(plan.card.bytes, plan.fit.table.total)
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{size:,}</td><td>{size / GIB:.2f}</td><td>{size / total:.0%}</td></tr>"
        for name, size in parts(plan)
    )
    left, bars = 0.0, ""
    for i, (name, size) in enumerate(sorted(parts(plan), key=lambda part: -part[1])):
        width = 100 * size / whole
        bars += (f'<rect class="fill{i % 5}" x="{left:.2f}" y="0" width="{width:.2f}" height="10">'
                 f"<title>{escape(name)}: {size / GIB:.2f} GiB</title></rect>")  # fmt: skip
        left += width
    given = "".join(
        f"<tr><th>{escape(s.name)}</th><td>{s.bytes / GIB:.2f} GiB</td><td>{_standing(s)}</td></tr>"
        for s in plan.fit.steps
    )
    protocol = f"<table><thead><tr><th>step</th><th>gives back</th><th></th></tr></thead><tbody>{given}</tbody></table>"
    lines = "".join(f"<p>{escape(text)}</p>" for text in figures(plan))
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in plan.notes)
    return (
        f'<p class="verdict">{escape(plan.verdict)}</p>\n<p>{escape(_heading(plan))}</p>\n<figure><svg class="bar" '
        f'viewBox="0 0 100 10" preserveAspectRatio="none" role="img"><rect class="track" width="100" height="10"/>'
        f"{bars}</svg><figcaption>the card, {plan.card.bytes / GIB:.1f} GiB</figcaption></figure>\n"
        "<table><thead><tr><th>memory</th><th>bytes</th><th>GiB</th><th>share</th></tr></thead>"
        f"<tbody>{rows}<tr><th>peak: {escape(plan.fit.table.moment)}</th><td>{total:,}</td><td>{total / GIB:.2f}</td>"
        f"<td>100%</td></tr></tbody></table>\n{protocol if given else ''}\n{lines}\n{notes}"
    )
