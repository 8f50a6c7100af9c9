"""Charts as inline SVG: lines over steps, columns, bars with 95 % whiskers. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 10, 30
_MOST_POINTS = 800
_RADAR, _RADAR_MOST, _COLOURS = 320, 1.5, 5


@dataclass(frozen=True)
class Line:
    """A series; `dots` marks each point, for few and far between ones; `band` holds (x, low, high) of an interval."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    dots: bool = False
    band: tuple[tuple[float, float, float], ...] = ()


def line_chart(
    lines: Sequence[Line], title: str, axis: str = "step", name: Callable[[float], str] = "{:,.0f}".format
) -> str:
    """An SVG of lines over a common x, its y from 0 (or below) up; "" when no series has a point. name: of an x."""
    finite = [replace(line, points=_finite(line.points)) for line in lines]
    drawn = [line for line in finite if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points] + [high for line in drawn for _, _, high in line.band]
    x_ticks, y_ticks = ticks(min(xs), max(xs), 7, whole=True), ticks(min(0.0, *ys), max(ys), 4)
    frame = _Frame(min(xs), max(xs), y_ticks[0], max(y_ticks[-1], max(ys)))
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [_grid(frame, y) for y in y_ticks] + [_tick(frame, x, name(x)) for x in x_ticks]
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{escape(axis)}</text>')
    parts += [_draw(frame, line) for line in drawn]
    return "".join(parts) + "</svg>"


def bar(share: float, low: float | None, high: float | None, colour: int) -> str:
    """A share as a bar of 0 to 100 %, with its interval as a whisker."""
    parts = [f'<rect class="fill{colour}" width="{100 * share:.2f}" height="8" y="2"/>']
    if low is not None and high is not None:
        parts.append(f'<path class="whisker" d="M{100 * low:.2f} 6H{100 * high:.2f}"/>')
    drawn = "".join(parts)
    return (
        '<svg class="bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" width="100" height="8" y="2"/>{drawn}</svg>'
    )


def column_chart(labels: Sequence[str], series: Sequence[Sequence[int]], title: str, colours: Sequence[int]) -> str:
    """An SVG of columns, one a label, the series stacked from below; each tells its label and counts when pointed at.

    The first and the last label stand beneath; "" when all counts are 0.
    """
    highest = max((sum(column) for column in zip(*series, strict=True)), default=0)
    if not highest:
        return ""
    y_ticks = ticks(0, highest, 3, whole=True)
    frame = _Frame(0, len(labels), 0, max(y_ticks[-1], highest))
    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += [_grid(frame, y) for y in y_ticks]
    for i, label in enumerate(labels):
        counts = [column[i] for column in series]
        below = 0
        left, width = frame.x(i + 0.08), (frame.x(1) - frame.x(0)) * 0.84
        for count, colour in zip(counts, colours, strict=True):
            top, bottom = frame.y(below + count), frame.y(below)
            below += count
            box = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{bottom - top:.1f}"'
            words = escape(f"{label}: {', '.join(f'{each:,}' for each in counts)}")
            parts.append(f'<rect class="fill{colour}" {box}><title>{words}</title></rect>' if count else "")
    base = _HEIGHT - _BOTTOM + 16
    parts.append(f'<text x="{_LEFT}" y="{base}">{escape(labels[0])}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{base}" text-anchor="end">{escape(labels[-1])}</text>')
    return "".join(parts) + "</svg>"


def radar(labels: Sequence[str], values: Sequence[Sequence[float]], title: str, names: Sequence[str]) -> str:
    """An SVG of polygons over three or more axes from 0 up, one a series, in the order of the colours; "" for fewer
    axes. The ring of 1 is drawn stronger; a value over 1.5 stands at the rim, and its title tells it."""
    if len(labels) < 3:
        return ""
    most = min(_RADAR_MOST, max(1.0, *(value for series in values for value in series)))
    middle_x, middle_y, radius = _WIDTH / 2, _RADAR / 2, _RADAR / 2 - 34

    def at(axis: int, value: float) -> tuple[float, float]:
        angle, length = 2 * math.pi * axis / len(labels), radius * min(value, most) / most
        return middle_x + length * math.sin(angle), middle_y - length * math.cos(angle)

    def polygon(series: Sequence[float]) -> str:
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (at(i, value) for i, value in enumerate(series))) + "Z"

    parts = [f'<svg class="chart" viewBox="0 0 {_WIDTH} {_RADAR}" role="img" aria-label="{escape(title)}">']
    for ring in (tick for tick in ticks(0.0, most, 4) if 0 < tick <= most):
        look = "axis" if ring == 1 else "grid"
        parts.append(f'<path class="{look}" fill="none" d="{polygon([ring] * len(labels))}"/>')
        parts.append(f'<text x="{middle_x + 4:.1f}" y="{at(0, ring)[1] + 12:.1f}">{ring:.4g}</text>')
    for i, label in enumerate(labels):
        (x, y), (end_x, end_y) = at(i, most), (middle_x, middle_y)
        parts.append(f'<path class="grid" d="M{end_x:.1f} {end_y:.1f}L{x:.1f} {y:.1f}"/>')
        side = (x - middle_x) / radius
        anchor = "middle" if abs(side) < 0.2 else "start" if side > 0 else "end"
        drop = -8 if y < middle_y - radius / 2 else 16 if y > middle_y + radius / 2 else 4
        parts.append(f'<text x="{x + 8 * side:.1f}" y="{y + drop:.1f}" text-anchor="{anchor}">{escape(label)}</text>')
    for i, (name, series) in enumerate(zip(names, values, strict=True)):
        told = ", ".join(f"{label} {value:.2f}" for label, value in zip(labels, series, strict=True))
        words = escape(f"{name}: {told}")
        parts.append(f'<path class="line stroke{i % _COLOURS}" d="{polygon(series)}"><title>{words}</title></path>')
    return "".join(parts) + "</svg>"


def ticks(low: float, high: float, most: int, whole: bool = False) -> list[float]:
    """At most about `most` round numbers that cover low to high: steps of 1, 2 or 5 times a power of ten."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * m for m in (1, 2, 5, 10) if power * m * most >= span * (1 - 1e-9))
    step = max(1.0, step) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    found = [i * step for i in range(first, max(last, first + 1) + 1)]
    return [tick for tick in found if low <= tick <= high] if whole else found


@dataclass(frozen=True)
class _Frame:
    """Maps data to the plot's rectangle."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        share = (value - self.x_low) / ((self.x_high - self.x_low) or 1)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / ((self.y_high - self.y_low) or 1)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame, value: float) -> str:
    y = frame.y(value)
    line = f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
    return f'{line}<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>'


def _tick(frame: _Frame, value: float, name: str) -> str:
    x, base = frame.x(value), _HEIGHT - _BOTTOM
    mark = f'<path class="axis" d="M{x:.1f} {base}v4"/>'
    return f'{mark}<text x="{x:.1f}" y="{base + 16}" text-anchor="middle">{name}</text>'


def _draw(frame: _Frame, line: Line) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in thin(line.points)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    drawn = _band(frame, line) if line.band else ""
    drawn += f'<path class="line stroke{line.colour}" d="{path}"><title>{escape(line.name)}</title></path>'
    if line.dots or len(points) == 1:
        drawn += "".join(f'<circle class="fill{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    return drawn


def _band(frame: _Frame, line: Line) -> str:
    """The interval as a surface; as a whisker where it is of one point alone."""
    if len(line.band) == 1:
        ((x, low, high),) = line.band
        return f'<path class="line stroke{line.colour}" d="M{frame.x(x):.1f} {frame.y(low):.1f}V{frame.y(high):.1f}"/>'
    there = [(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)]
    path = "L".join(f"{frame.x(x):.1f} {frame.y(y):.1f}" for x, y in there)
    return f'<path class="band fill{line.colour}" d="M{path}Z"/>'


def thin(points: Sequence[Point]) -> list[Point]:
    """At most 800 points: the lowest and the highest of each stretch, so that no spike is hidden."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(2 * len(points) / _MOST_POINTS)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        kept += sorted({min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])})
    return kept


def _finite(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple((x, y) for x, y in points if math.isfinite(x) and math.isfinite(y))
