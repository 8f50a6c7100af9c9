"""A sweep's picture: parallel coordinates of its trials, the rungs that each reached, and a table. One HTML file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from dozan.html.charts import Line, line_chart
from dozan.html.page import isolated, page
from dozan.rows.example import Json

_WIDTH, _HEIGHT, _TOP, _BOTTOM, _SIDE = 640, 300, 40, 34, 60
_BEST, _FAR, _STOPPED = 1, 2, 0
_ROOM = 0.06
"""Of an axis, for a value to be written."""
STYLE = """
.sweep .stroke0 { opacity: .55; } .sweep .stroke1 { stroke-width: 2.6; } tr.best > * { font-weight: 700; }
.sweep text.name { fill: var(--ink); font-weight: 600; }
"""


def write_page(path: Path, record: Mapping[str, Json]) -> None:
    """Write the page of a sweep.json."""
    trials = [trial for trial in record["trials"] if trial["rungs"]]
    first = f"<h1>Sweep of {isolated(record['recipe'])}</h1>{_verdict(record, trials)}"
    parts = (_coordinates, _rungs, _table) if trials else ()
    body = first + "".join(part(record, trials) for part in parts)
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(page("dozan sweep", f'<div class="sweep">{body}</div>', STYLE), encoding="utf-8")
    staging.replace(path)


def _verdict(record: Mapping[str, Json], trials: Sequence[Mapping[str, Json]]) -> str:
    said = f"{len(trials)} trials in {record['seconds'] / 60:.1f} of {record['minutes']:g} minutes."
    best = next((trial for trial in trials if trial["number"] == record["best"]), None)
    if best is None:
        return f'<p class="verdict">{said}</p>'
    last = best["rungs"][-1]
    values = ", ".join(f"{_short(key)} {_shown(value)}" for key, value in best["values"].items())
    reached = f"{_metric(record)} {_result(last)} after {last['step']} of {best['steps']} steps"
    return f'<p class="verdict"><b>{escape(values)}</b>: {reached}. {said}</p>'


def _coordinates(record: Mapping[str, Json], trials: Sequence[Mapping[str, Json]]) -> str:
    """An axis for each setting and one for the result at the last rung that a trial reached; a line a trial."""
    keys = list(trials[0]["values"])
    columns = [[trial["values"][key] for trial in trials] for key in keys]
    columns.append([_value(trial["rungs"][-1]) for trial in trials])
    names = [*map(_short, keys), _metric(record)]
    places = [_scale(column) for column in columns]
    xs = [_SIDE + i * (_WIDTH - 2 * _SIDE) / max(1, len(names) - 1) for i in range(len(names))]
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Settings and results">']
    for order in sorted(range(len(trials)), key=lambda i: (_colour(record, trials[i]) != _STOPPED, -i)):
        trial = trials[order]
        points = "L".join(f"{x:.1f} {_y(place[order]):.1f}" for x, place in zip(xs, places, strict=True))
        told = escape(f"trial {trial['number']}: {_result(trial['rungs'][-1])}")
        parts.append(f'<path class="line stroke{_colour(record, trial)}" d="M{points}"><title>{told}</title></path>')
    for x, name, column, place in zip(xs, names, columns, places, strict=True):
        parts.append(f'<path class="axis" d="M{x:.1f} {_y(0):.1f}V{_y(1):.1f}"/>')
        parts.append(f'<text class="name" x="{x:.1f}" y="{_TOP - 22}" text-anchor="middle">{escape(name)}</text>')
        for at, value in _apart(place, column):
            said = _result_value(value, record) if name == names[-1] else _shown(value)
            parts.append(f'<text x="{x + 6:.1f}" y="{_y(at) + 4:.1f}">{escape(said)}</text>')
    key = "".join(f'<span><i class="fill{colour}"></i>{name}</span>' for name, colour in
                  (("best", _BEST), ("went on", _FAR), ("stopped at the first rung", _STOPPED)))  # fmt: skip
    told = "Each line is a trial; its result is that of the last rung it reached."
    return f'<figure><div class="key">{key}</div>{"".join(parts)}</svg><figcaption>{told}</figcaption></figure>'


def _apart(place: Sequence[float], column: Sequence[Json]) -> list[tuple[float, Json]]:
    """The values of an axis that are written at it: its ends, and those between that leave room for each other."""
    ordered = sorted(zip(place, column, strict=True), key=lambda mark: mark[0])
    kept = [ordered[0]]
    for mark in ordered[1:-1]:
        if min(mark[0] - kept[-1][0], ordered[-1][0] - mark[0]) > _ROOM:
            kept.append(mark)
    return [*kept, ordered[-1]] if ordered[-1][0] > kept[0][0] else kept


def _rungs(record: Mapping[str, Json], trials: Sequence[Mapping[str, Json]]) -> str:
    ordered = sorted(trials, key=lambda trial: _colour(record, trial) != _STOPPED)
    scale = 1.0 if record["metric"] == "loss" else 100.0
    lines = [
        Line(f"trial {trial['number']}", tuple((rung["step"], scale * _value(rung)) for rung in trial["rungs"]),
             _colour(record, trial), dots=True)
        for trial in ordered
    ]  # fmt: skip
    unit = "" if record["metric"] == "loss" else ", %"
    told = (f"{_metric(record)}{unit} at each rung: a ninth, a third and all of a trial’s steps. The better third goes "
            "on from where it stopped.")  # fmt: skip
    return f"<figure>{line_chart(lines, 'Rungs')}<figcaption>{told}</figcaption></figure>"


def _table(record: Mapping[str, Json], trials: Sequence[Mapping[str, Json]]) -> str:
    keys = list(trials[0]["values"])
    names = ("trial", *map(_short, keys), "steps", _metric(record), "loss")
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    ordered = sorted(trials, key=lambda trial: (-len(trial["rungs"]), _order(trial["rungs"][-1])))
    body = "".join(_row(trial, keys, trial["number"] == record["best"]) for trial in ordered)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _row(trial: Mapping[str, Json], keys: Sequence[str], is_best: bool) -> str:
    last = trial["rungs"][-1]
    cells = [_shown(trial["values"][key]) for key in keys]
    cells += [f"{last['step']} of {trial['steps']}", _result(last), f"{last['loss']:.4f}"]
    row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr{" class=best" if is_best else ""}><th scope="row">{trial["number"]}</th>{row}</tr>'


def _order(rung: Mapping[str, Json]) -> tuple[float, float]:
    return -(rung["score"] or 0.0), rung["loss"]


def _colour(record: Mapping[str, Json], trial: Mapping[str, Json]) -> int:
    return _BEST if trial["number"] == record["best"] else _FAR if len(trial["rungs"]) > 1 else _STOPPED


def _scale(column: Sequence[Json]) -> list[float]:
    """Where each value stands on its axis, 0 to 1: by its logarithm over a wide range, by its place for words."""
    if not all(isinstance(value, float | int) and not isinstance(value, bool) for value in column):
        words = sorted({str(value) for value in column})
        return [words.index(str(value)) / max(1, len(words) - 1) for value in column]
    low, high = min(column), max(column)
    if low > 0 and high / low > 4:
        return [math.log(value / low) / math.log(high / low) for value in column]
    return [(value - low) / (high - low) if high > low else 0.5 for value in column]


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _value(rung: Mapping[str, Json]) -> float:
    return float(rung["loss"] if rung["score"] is None else rung["score"])


def _result(rung: Mapping[str, Json]) -> str:
    return f"{rung['loss']:.4f}" if rung["score"] is None else f"{100 * rung['score']:.1f} %"


def _result_value(value: float, record: Mapping[str, Json]) -> str:
    return f"{value:.3f}" if record["metric"] == "loss" else f"{100 * value:.0f} %"


def _metric(record: Mapping[str, Json]) -> str:
    return "held-out loss" if record["metric"] == "loss" else "F1 of the calls"


def _short(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _shown(value: Json) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
