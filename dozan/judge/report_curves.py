"""A report's curves: loss, held-out loss and scores by generation over the steps; speed and memory of the run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import accumulate

from dozan.html.charts import Line, line_chart
from dozan.html.memory import memory_section
from dozan.judge.intervals import wilson
from dozan.judge.report_parts import key
from dozan.rows.example import Json

Metrics = Sequence[Mapping[str, Json]]

_SMOOTH = 40
"""A running mean is over this share of all steps, and shown from this many steps on."""


def points(metrics: Metrics, name: str) -> tuple[tuple[float, float], ...]:
    """(step, value) of each record that has a finite value."""
    found = ((float(record["step"]), float(record[name])) for record in metrics if record.get(name) is not None)
    return tuple(point for point in found if math.isfinite(point[1]))


def curves_section(metrics: Metrics) -> str:
    """All curves there are figures for; "" without any."""
    loss = points(metrics, "train/loss")
    smooth = running_mean(loss)
    lines = [Line("training, each step", loss, 0)] if smooth else [Line("training", loss, 1)]
    lines += [Line("running mean", smooth, 1), Line("held-out rows", points(metrics, "eval/loss"), 2, True)]
    small = (
        _figure("Learning rate", [Line("learning rate", points(metrics, "train/learning_rate"), 1)]),
        _figure("Gradient norm, before clipping", [Line("gradient norm", points(metrics, "train/grad_norm"), 1)]),
    )
    charts = (
        _figure("Loss per trained token, in nats", lines),
        _figure(f"Score by generation, % of {_scored_rows(metrics)} held-out rows", _score_lines(metrics),
                " The band is strict’s 95\u202f% interval."),
        f'<div class="pair">{"".join(small)}</div>' if any(small) else "",
    )  # fmt: skip
    drawn = "".join(charts)
    return f'<section id="training"><h2>Training</h2>{drawn}</section>' if drawn else ""


def running_mean(curve: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """The centred mean over a fortieth of all points; () for few points."""
    if len(curve) < 2 * _SMOOTH:
        return ()
    half = len(curve) // _SMOOTH // 2 or 1
    sums = [0.0, *accumulate(value for _, value in curve)]
    spans = ((max(0, i - half), min(len(curve), i + half + 1)) for i in range(len(curve)))
    return tuple((step, (sums[b] - sums[a]) / (b - a)) for (step, _), (a, b) in zip(curve, spans, strict=True))


def _scored_rows(metrics: Metrics) -> str:
    counts = [int(record["score/rows"]) for record in metrics if record.get("score/rows")]
    return f"{counts[-1]:,}" if counts else ""


def _score_lines(metrics: Metrics) -> list[Line]:
    """Strict with its interval, normalised, tool names and parse failures, in per cent."""
    shown = (("strict", "strict", 1), ("normalised", "normalised", 3), ("tool name", "tool_name", 2),
             ("parse failures", "parse_failures", 4))  # fmt: skip
    lines = []
    for title, name, colour in shown:
        curve = tuple((step, 100 * share) for step, share in points(metrics, f"score/{name}"))
        lines.append(Line(title, curve, colour, True, _band(metrics) if name == "strict" else ()))
    return lines


def _band(metrics: Metrics) -> tuple[tuple[float, float, float], ...]:
    found = []
    for record in metrics:
        share, n = record.get("score/strict"), record.get("score/rows")
        if share is not None and n:
            low, high = wilson(round(share * n), n)
            found.append((float(record["step"]), 100 * low, 100 * high))
    return tuple(found)


def _figure(title: str, lines: Sequence[Line], note: str = "") -> str:
    chart = line_chart(lines, title)
    if not chart:
        return ""
    shown = [(line.name, line.colour) for line in lines if line.points]
    marks = key(shown) if len(shown) > 1 else ""
    return f"<figure>{marks}{chart}<figcaption>{title}.{note}</figcaption></figure>"


def speed_section(metrics: Metrics, final: Mapping[str, Json], memory: Mapping[str, Json] | None) -> str:
    """Time, speed and memory of the run; its GPU's memory plan where there is one."""
    speeds = [value for _, value in points(metrics, "train/tokens_per_second")]
    rows = [
        ("Steps", _count(final.get("steps")), _skipped(final)),
        ("Time of the steps", _clock(final.get("seconds")), ""),
        ("Tokens computed", _count(final.get("tokens")), ""),
        ("Tokens a second", *_spread(speeds, ",.0f")),
        ("Seconds a step", *_spread([value for _, value in points(metrics, "train/seconds")], ".3g")),
        ("Peak memory", _peak(metrics), ""),
        ("Trained parameters", _count(final.get("trainable_parameters")), ""),
    ]
    body = "".join(
        f'<tr><th scope="row">{name}</th><td>{value}</td><td>{note}</td></tr>' for name, value, note in rows if value
    )
    table = f'<table class="speed"><tbody>{body}</tbody></table>' if body else ""
    plan = f"<h3>Memory as planned</h3>{memory_section(memory)}" if memory else ""
    return f'<section id="speed"><h2>Speed and memory</h2>{table}{plan}</section>' if table or plan else ""


def _count(value: Json) -> str:
    return "" if value is None else f"{value:,}"


def _skipped(final: Mapping[str, Json]) -> str:
    return f"{final['skipped_steps']:,} skipped" if final.get("skipped_steps") else ""


def _clock(seconds: Json) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} h" if hours else f"{minutes}:{rest:02} min"


def _spread(values: Sequence[float], form: str) -> tuple[str, str]:
    """The median, and where 9 of 10 lie."""
    if not values:
        return "", ""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    return f"{statistics.median(ordered):{form}}", f"median; nine in ten from {low:{form}} to {high:{form}}"


def _peak(metrics: Metrics) -> str:
    values = [value for _, value in points(metrics, "train/memory_bytes")]
    return f"{max(values) / 2**30:.2f} GiB" if values else ""
