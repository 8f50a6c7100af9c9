"""A sweep's trials as a table for the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table

from dozan.sweep.space import shown
from dozan.terminal import console


def print_sweep(out: Path) -> None:
    """Print the trials of a sweep.json, those that came furthest first."""
    record = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    trials = [trial for trial in record["trials"] if trial["rungs"]]
    keys = list(trials[0]["values"])
    table = Table("trial", *(key.rpartition(".")[2] for key in keys), "steps", str(record["metric"]), "loss",
                  box=SIMPLE_HEAD, pad_edge=False)  # fmt: skip
    for column in table.columns:
        column.justify = "right"
    last_of = {trial["number"]: trial["rungs"][-1] for trial in trials}
    trials.sort(key=lambda t: (-len(t["rungs"]), -(last_of[t["number"]]["score"] or 0), last_of[t["number"]]["loss"]))
    for trial in trials:
        last = trial["rungs"][-1]
        score = "" if last["score"] is None else f"{last['score']:.1%}"
        table.add_row(str(trial["number"]), *(shown(trial["values"][key]) for key in keys),
                      f"{last['step']} of {trial['steps']}", score, f"{last['loss']:.4f}",
                      style="bold" if trial["number"] == record["best"] else None)  # fmt: skip
    console.print(table)
