"""What a run shows: a live view in a terminal, plain lines elsewhere, or calls of the user's own function."""

from __future__ import annotations

import resource
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dozan.redact import redact

Event = dict[str, Any]
OnEvent = Callable[[Event], None]

_BARS = "▁▂▃▄▅▆▇█"
_RECENT = 20


@contextmanager
def reporter(on_event: OnEvent | None) -> Iterator[OnEvent]:
    """The function that events go to: the user's own, else a live view in a terminal, else plain lines."""
    if on_event is not None:
        yield on_event
    elif sys.stdout.isatty():
        with _live_view() as view:
            yield view
    else:
        yield PlainLines(print)


class PlainLines:
    """Writes the plan, notes, evaluations, and the first, the last and about every twentieth step, a line each."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.plan: Event = {}
        self.seconds: list[float] = []

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "plan":
            self.plan = event
        if kind == "step":
            self.seconds.append(event["train/seconds"])
            if not self.is_due(event["step"]):
                return
        for line in lines(event, self.plan, self.seconds):
            self.write(redact(line))

    def is_due(self, step: int) -> bool:
        """Whether this step is among those that are printed."""
        steps, every = self.plan["steps"], max(self.plan["log_steps"], self.plan["steps"] // 20)
        return step in (self.plan["first"] + 1, steps) or step % every == 0


def lines(event: Event, plan: Event, seconds: list[float]) -> list[str]:
    """An event as text lines."""
    kind = event["event"]
    if kind == "plan":
        return plan_lines(event)
    if kind == "step":
        left = remaining(seconds, plan["steps"] - event["step"])
        return [f"step {event['step']}/{plan['steps']}  {step_text(event)}  {left} left"]
    if kind == "eval":
        return [f"step {event['step']}  held-out loss {event['eval/loss']:.4f}"]
    if kind == "score":
        return [score_text(event)]
    if kind == "done":
        return [done_text(event)]
    return [event["text"]]


def plan_lines(plan: Event) -> list[str]:
    """What is about to happen: rows, tokens, sharing, steps, parameters, and every note."""
    return [
        f"recipe {plan['recipe']}: {plan['rows']:,} rows, {plan['tokens']:,} tokens ({plan['supervised']:,} trained), "
        f"{plan['heldout']:,} rows held out",
        f"{plan['steps']:,} steps of {plan['batch_size']} rows, {plan['warmup_steps']} of them warm-up; "
        f"sharing computes one token for {plan['sharing']:.1f}; {plan['trainable']:,} parameters are trained",
        *plan["notes"],
    ]


def step_text(event: Event) -> str:
    """Loss, gradient norm, rate, speed and memory of a step."""
    return (
        f"loss {event['train/loss']:.4f}  norm {event['train/grad_norm']:.3f}  "
        f"rate {event['train/learning_rate']:.2e}  {event['train/tokens_per_second']:,.0f} tokens/s  "
        f"{event['train/memory_bytes'] / 2**20:,.0f} MiB"
    )


def score_text(event: Event) -> str:
    """Scores of answers on held-out rows."""
    shown = [f"{name.replace('_', ' ')} {event[f'score/{name}']:.1%}"
             for name in ("strict", "normalised", "tool_name", "parse_failures")
             if event[f"score/{name}"] is not None]  # fmt: skip
    return f"step {event['step']}  {event['score/rows']} answers: {', '.join(shown)}"


def done_text(event: Event) -> str:
    """The last line of a run."""
    best = event.get("best_step")
    chosen = "" if best is None else f", the adapter of step {best:,} (score {event['best_score']:.1%})"
    heldout = "" if event["eval_loss"] is None else f", held-out loss {event['eval_loss']:.4f}"
    skipped = f", {event['skipped_steps']} steps skipped" if event["skipped_steps"] else ""
    loss = "none" if event["final_loss"] is None else f"{event['final_loss']:.4f}"
    took = f"{event['steps']:,} steps in {clock(event['seconds'])}"
    return f"done: {took}, loss {loss}{heldout}{skipped}{chosen}: {event['out']}"


def remaining(seconds: list[float], steps: int) -> str:
    """Time left, from the median of the latest steps."""
    return clock(statistics.median(seconds[-_RECENT:]) * steps) if seconds else "?"


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: list[float], width: int) -> str:
    """The values as `width` bars at most, each the mean of its share of them."""
    finite = [value for value in values if value == value and abs(value) != float("inf")]
    if not finite:
        return ""
    count = min(width, len(finite))
    cuts = [len(finite) * i // count for i in range(count + 1)]
    means = [statistics.fmean(finite[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((mean - low) * scale)] for mean in means)


def memory_bytes() -> int:
    """The peak so far: allocated on the GPU when there is one, else resident memory of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _live_view() -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        losses: list[float] = []
        plain = PlainLines(lambda line: console.print(line, markup=False, highlight=False))

        def show(event: Event) -> None:
            if event["event"] != "step":
                plain(event)
                return
            plain.seconds.append(event["train/seconds"])
            losses.append(event["train/loss"])
            live.update(_panel(event, plain.plan, losses, plain.seconds, console.width))

        yield show


def _panel(event: Event, plan: Event, losses: list[float], seconds: list[float], width: int) -> Any:
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    inner = max(20, min(width, 100) - 4)
    left = remaining(seconds, plan["steps"] - event["step"])
    head = f"step {event['step']} of {plan['steps']}   epoch {event['epoch']:.2f}   {left} left"
    done = inner * event["step"] // plan["steps"]
    bar = Text.assemble(("━" * done, "green"), ("━" * (inner - done), "bright_black"))
    graph = Text(sparkline(losses, inner), style="cyan")
    return Panel(Group(Text(head), bar, Text(step_text(event)), graph), title="training", width=inner + 4)
