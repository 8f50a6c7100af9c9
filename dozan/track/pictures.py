"""A run's training page: its curves, speed and memory as one HTML file, and each curve as a picture."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dozan.html.page import isolated, page
from dozan.judge.report_curves import curves_section, speed_section
from dozan.judge.report_style import STYLE
from dozan.track.facts import Picture, RunFacts, read_metrics

PAGE = "training.html"
_FIGURE = re.compile(r'<svg class="chart"[^>]*aria-label="([^"]*)">.*?</svg>', re.DOTALL)
_NAMES = {"Loss": "loss", "Score": "score", "Learning": "learning_rate", "Gradient": "grad_norm"}


def write_page(facts: RunFacts) -> Path:
    """Write `training.html` into the run folder from its metrics.jsonl and run.json; whole or not at all."""
    metrics = read_metrics(facts.out / "metrics.jsonl")
    run = json.loads((facts.out / "run.json").read_text(encoding="utf-8"))
    speed = speed_section(metrics, run.get("final") or {}, run.get("memory"))
    body = f"<h1>{isolated(facts.name)}</h1>{curves_section(metrics)}{speed}"
    path = facts.out / PAGE
    staging = path.with_name(f".{PAGE}.staging")
    try:
        staging.write_text(page(facts.name, body, STYLE), encoding="utf-8")
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)
    return path


def pictures(written: Path) -> list[Picture]:
    """The curves of a training page, in its order."""
    from dozan.track.raster import png  # the drawing library is not there with every tracker

    found: list[Picture] = []
    for match in _FIGURE.finditer(written.read_text(encoding="utf-8")):
        caption = match[1]
        name = next((short for word, short in _NAMES.items() if caption.startswith(word)), f"figure_{len(found) + 1}")
        found.append(Picture(name, caption, png(match[0])))
    return found
