"""A memory plan as a part of a page: verdict, the card as a bar, table, steps, and what else is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from dozan.rows.example import Json

_GIB = 2**30
_COLOURS = 5


def memory_section(plan: Mapping[str, Json]) -> str:
    """HTML of what `train.memory_record.record` makes, and run.json keeps as `memory`; sizes are bytes."""
    parts, card = [(str(name), int(size)) for name, size in plan["parts"].items()], int(plan["card_bytes"])
    total = sum(size for _, size in parts)
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{size:,}</td><td>{size / _GIB:.2f}</td><td>{size / total:.0%}</td></tr>"
        for name, size in parts
    )
    left, bars = 0.0, ""
    for i, (name, size) in enumerate(sorted(parts, key=lambda part: -part[1])):
        width = 100 * size / max(card, total)
        bars += (f'<rect class="fill{i % _COLOURS}" x="{left:.2f}" y="0" width="{width:.2f}" height="10">'
                 f"<title>{escape(name)}: {size / _GIB:.2f} GiB</title></rect>")  # fmt: skip
        left += width
    lines = "".join(f"<p>{escape(text)}</p>" for text in plan["lines"])
    notes = "".join(f'<p class="soft">{escape(note)}</p>' for note in plan["notes"])
    return (
        f'<p class="verdict">{escape(plan["verdict"])}</p>\n<p>{escape(plan["heading"])}</p>\n<figure><svg class="bar" '
        f'viewBox="0 0 100 10" preserveAspectRatio="none" role="img"><rect class="track" width="100" height="10"/>'
        f"{bars}</svg><figcaption>the card, {card / _GIB:.1f} GiB</figcaption></figure>\n"
        "<table><thead><tr><th>memory</th><th>bytes</th><th>GiB</th><th>share</th></tr></thead>"
        f"<tbody>{rows}<tr><th>peak: {escape(plan['moment'])}</th><td>{total:,}</td><td>{total / _GIB:.2f}</td>"
        f"<td>100%</td></tr></tbody></table>\n{_steps(plan)}\n{lines}\n{notes}"
    )


def _steps(plan: Mapping[str, Json]) -> str:
    given = "".join(
        f"<tr><th>{escape(step['name'])}</th><td>{step['bytes'] / _GIB:.2f} GiB</td><td>{escape(step['standing'])}</td>"
        "</tr>" for step in plan["steps"]
    )  # fmt: skip
    head = "<thead><tr><th>step</th><th>gives back</th><th></th></tr></thead>"
    return f"<table>{head}<tbody>{given}</tbody></table>" if given else ""
