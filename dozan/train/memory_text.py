"""The memory plan in a terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

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
from dozan.train.scaling import MOST_GPUS, WORTH
from dozan.train.spread import Spread

_BAR = 72
_MARKS = "█▓▒░"
_COLOURS = ("cyan", "yellow", "magenta", "red", "blue", "green")


def print_plan(plan: MemoryPlan, console: Console) -> None:
    """Table, picture, protocol, figures, and the verdict."""
    console.print(Text(heading(plan.model, plan.fit.setup, plan.card.name, plan.card.bytes), "bold"), soft_wrap=True)
    for text in standing_of_ranks(plan):
        console.print(text, soft_wrap=True, markup=False)
    console.print(_table(plan))
    for line in _picture(plan):
        console.print(line)
    if plan.fit.steps:
        console.print(_protocol(plan.fit.steps))
    if plan.spread is not None and plan.spread.points:
        console.print(_steps(plan.spread))
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
    return found + over_ranks(plan)


def standing_of_ranks(plan: MemoryPlan) -> list[str]:
    """What each of several GPUs holds, a line; none for one."""
    if plan.spread is None:
        return []
    if not plan.spread.sharded:
        return [f"each of {plan.gpus} GPUs holds all of this"]
    what = "weights, gradients and moments" if plan.fit.setup.full else "the base (adapters are whole on each)"
    return [f"each of {plan.gpus} GPUs holds 1/{plan.gpus} of {what}, and gathers the rest layer by layer "
            "(train.fsdp)"]  # fmt: skip


def _steps(spread: Spread) -> RichTable:
    table = RichTable(*_STEP_COLUMNS, box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for cells in _step_cells(spread):
        table.add_row(*cells)
    return table


_STEP_COLUMNS = ("GPUs", "s a step", "of which waits", "times one", "efficiency", "tokens computed")


def _step_cells(spread: Spread) -> list[tuple[str, ...]]:
    return [(f"{p.gpus:,}", f"{p.seconds:.3g}", f"{p.waiting:.2g}", f"{p.speedup:.2f}", f"{p.efficiency:.0%}",
             f"{tokens:,}") for p, tokens in zip(spread.points, spread.computed, strict=True)]  # fmt: skip


def over_ranks(plan: MemoryPlan) -> list[str]:
    """What several GPUs move, how far they pay, and what would do better; where the run does not fit, how many GPUs
    would hold it."""
    found = [] if plan.spread is None else _exchanged(plan.spread) + _paying(plan.spread)
    if plan.fits_from is not None:
        found.append(f"in shares (train.fsdp=true) it fits from {plan.fits_from} of these GPUs on: --gpus "
                     f"{plan.fits_from}")  # fmt: skip
    elif not plan.fit.fits and plan.spread is not None and plan.spread.sharded:
        found.append("in shares of more GPUs it does not fit either: what each holds whole is too much")
    return found


def _exchanged(spread: Spread) -> list[str]:
    moved, parts = spread.exchange, []
    if moved.summed:
        parts.append(f"gradients of {_size(moved.summed)} (fp32) are summed once")
    if moved.gathered:
        parts.append(f"weights of {_size(moved.gathered)} are gathered for each of {spread.packs:,} packs")
    if moved.scattered:
        parts.append(f"gradients of {_size(moved.scattered)} (fp32) are summed in shares for each pack")
    if moved.once:
        parts.append(f"weights of {_size(moved.once)} once more for DoRA's norms")
    cluster, link = spread.cluster, spread.link
    machines = cluster.machines(spread.gpus)
    where = "in one machine" if machines == 1 else f"on {machines:,} machines"
    joined = f"over {link.name} ({link.bandwidth / 1e9:g} GB/s{' a machine' if link.shared else ''}, {where})"
    return [f"a step's exchange: {'; '.join(parts)}. A GPU sends {_size(spread.sent)}, {joined}"]


def _paying(spread: Spread) -> list[str]:
    """Where one more GPU stops paying, in one line; and a larger step, which is only said."""
    if spread.pays is None:
        return ["how far more GPUs pay is not known: this device's rate is not"]
    bound = min(MOST_GPUS, spread.rows)
    beyond = f"beyond, each gives less than {WORTH:.0%} of what one gives alone"
    if spread.pays >= bound:
        beyond = f"a step has {spread.rows:,} rows to divide" if bound == spread.rows else "more were not looked at"
    found = [f"pays up to {spread.pays:,} GPUs: {beyond}"]
    if spread.larger is not None:
        rows, efficiency = spread.larger
        found.append(f"a larger step would pay: train.batch_size={rows} reaches {efficiency:.0%} on {spread.gpus} "
                     "GPUs; it changes the training, so it is only said")  # fmt: skip
    return found


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


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
    lines = [*standing_of_ranks(plan), *figures(plan)]
    shown = memory_section(record(plan.model, card.name, card.bytes, plan.fit, lines, plan.notes))
    if plan.spread is None or not plan.spread.points:
        return shown
    head = "".join(f"<th>{escape(name)}</th>" for name in _STEP_COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in _step_cells(plan.spread))
    return f"{shown}\n<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
