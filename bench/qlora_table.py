"""A record of `bench.qlora` as text: everyone at its fastest, everyone lean, and who did other work than we.

`python -m bench.qlora_table RECORD.json ...` joins runs of one device and model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.table import TOLERANCE

OURS = "ours"
SAME = ("commit", "device", "model", "layers", "tokens", "steps", "rank", "alpha")
TITLES = {"best": "fastest of each", "lean": "lean: all layers recomputed"}
Record = dict[str, Any]


def joined(records: list[Record]) -> Record:
    """One record of several. Raises ValueError when they are of different programs, devices or models."""
    first = records[0]
    for record in records:
        unequal = [key for key in SAME if record[key] != first[key]]
        if unequal:
            raise ValueError(f"records differ in {', '.join(unequal)}: {[record[key] for key in unequal]}")
    return {**first, "command": [record["command"] for record in records],
            "runs": [run for record in records for run in record["runs"]]}  # fmt: skip


def differences(record: Record) -> list[tuple[Record, str]]:
    """Runs whose first loss or gradient norm is over `TOLERANCE` from ours with the same adapter, and how; a NaN
    differs from everything."""
    ours = {run["adapter"]: run for run in reversed(record["runs"]) if run["program"] == OURS and "error" not in run}
    found = []
    for run in record["runs"]:
        if run["program"] == OURS or "error" in run or run["adapter"] not in ours:
            continue
        for what, key in (("loss", "losses"), ("gradient norm", "grad_norms")):
            mine, theirs = ours[run["adapter"]][key][0], run[key][0]
            share = abs(theirs - mine) / max(abs(mine), 1e-12)
            if not share <= TOLERANCE:
                found.append((run, f"{what} {theirs:.6g} against our {mine:.6g} ({share:.2%})"))
    return found


def render(record: Record) -> str:
    """Two tables: each program's fastest runs, and its lean ones. "!" marks other work than ours.

    "start, s" runs from the process's start to the end of its first step; only a program's first process starts with
    empty caches.
    """
    wrong = differences(record)
    lines = [
        f"{record['device']}, {record['model']}, {record['layers']} layers, NF4, rank {record['rank']} rsLoRA, "
        f"{record['tokens']} tokens", f"{record['steps']} steps, commit {record['commit']}",
    ]  # fmt: skip
    for mode, title in TITLES.items():
        chosen = _fastest(record) if mode == "best" else [run for run in record["runs"] if run["mode"] == mode]
        if chosen:
            lines += ["", *_table(title, chosen, [run for run, _ in wrong])]
    if wrong:
        lines += ["", f"! not the same work: the first step differs from ours by over {TOLERANCE:.0%}"]
        lines += [f"  {_name(run)}: {what}" for run, what in wrong]
    failed = [run for run in record["runs"] if "error" in run]
    lines += [""] * bool(failed) + [f"{_name(run)}: {run['error'].splitlines()[-1][:160]}" for run in failed]
    return "\n".join(lines) + "\n"


def _fastest(record: Record) -> list[Record]:
    """Each program's fastest run for each adapter, whatever its mode; a failed one where none worked."""
    found: dict[tuple[str, str], Record] = {}
    for run in record["runs"]:
        place = run["program"], run["adapter"]
        if place not in found or run.get("tokens_s", 0) > found[place].get("tokens_s", 0):
            found[place] = run
    return list(found.values())


def _table(title: str, runs: list[Record], marked: list[Record]) -> list[str]:
    lines = [f"{title:<28}{'tok/s':>9}{'GiB':>8}{'reserved':>9}{'start, s':>9}{'of ours':>9}{'DoRA/LoRA':>10}".rstrip()]
    ours = {run["adapter"]: run for run in runs if run["program"] == OURS}
    lora = {run["program"]: run for run in runs if run["adapter"] == "lora"}
    for run in sorted(runs, key=lambda run: run["adapter"] == "dora"):
        head = f"{run['adapter']:<6}{run['program']:<9}{run['mode']:<6}" + "!" * (run in marked)
        if "error" in run:
            lines.append(f"{head:<28}{'failed':>9}")
            continue
        ratio = _ratio(run, ours.get(run["adapter"])), _slower(run, lora.get(run["program"]))
        lines.append(
            f"{head:<28}{run['tokens_s']:>9,.0f}{_gib(run['allocated_gib']):>8}{_gib(run['reserved_gib']):>9}"
            f"{run['process_to_first_step_s']:>9.1f}{ratio[0]:>9}{ratio[1]:>10}".rstrip()
        )
    return lines


def _gib(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ratio(run: Record, ours: Record | None) -> str:
    """How many times as fast as it we are."""
    return "" if ours is None or ours is run or "error" in ours else f"{ours['tokens_s'] / run['tokens_s']:.2f}x"


def _slower(run: Record, lora: Record | None) -> str:
    """The time of a step over that of the same program's without DoRA."""
    return "" if lora is None or lora is run or "error" in lora else f"{run['step_s'] / lora['step_s']:.2f}"


def _name(run: Record) -> str:
    return f"{run['program']}, {run['mode']}, {run['adapter']}"


if __name__ == "__main__":
    print(render(joined([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]])), end="")
