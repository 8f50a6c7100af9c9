"""Every trial, or a share of them: a table of what was lost and found, and a record. `make torture` runs it.

    python -m torture [--share 1.0] [--jobs 2] [--record FILE] [--no-trainer] [--only WORD]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from torture import finals, subject, trials
from torture.trials import Bench, Result, Tally, Trial

Families = dict[str, Callable[[], Iterator[Trial]]]


def ours(bench: Bench, share: float) -> Families:
    """The families of trials, by what they do to a run."""
    def count(whole: int) -> int:
        return max(2, round(whole * share))

    every = max(1, round(1 / share))
    return {
        "kill -9 at a random moment": lambda: trials.killed_at_random(bench, count(1000)),
        "kill -9 in each write": lambda: trials.killed_at_each_write(bench, every),
        "kill -9, checkpoints written behind": lambda: trials.killed_writing_behind(bench, count(100)),
        "kill -9, only the mirror left": lambda: trials.only_the_mirror_is_left(bench, count(60)),
        "SIGTERM at a random moment": lambda: trials.signalled_at_random(bench, count(100)),
        "SIGTERM, SIGINT in each phase": lambda: some(trials.signalled(bench), every),
        "damaged checkpoint or record": lambda: some(trials.damaged(bench), every),
        "damaged adapter of a finished run": lambda: some(trials.damaged_result(bench), every),
        "damaged rows of a run": lambda: some(trials.damaged_rows(bench), every),
        "damaged model of a full run": lambda: some(finals.damaged_model(bench), every),
        "damaged best of a run": lambda: some(finals.damaged_best(bench), every),
        "disk full in each write": lambda: trials.full_at_each_write(bench, every),
        "NaN, inf in loss, gradient, activation": lambda: some(trials.poisoned(bench), every),
        "three such steps in a row": lambda: trials.gone_astray(bench),
        "out of memory": lambda: some(trials.starved(bench), every),
        "another setting on resume": lambda: trials.changed(bench),
    }


def theirs(root: Path, share: float) -> Families:
    """The same of transformers' Trainer; a trial takes several times as long, so there are fewer."""
    from torture import trainer

    trainer.train(root / "warm", False)
    bench = trainer.Bench(root)
    print(f"Trainer: undisturbed {bench.seconds:.1f} s, repeats itself: {bench.repeats}", flush=True)

    def count(whole: int) -> int:
        return max(2, round(whole * share))

    every = max(1, round(1 / share))
    return {
        "kill -9 at a random moment": lambda: trainer.killed_at_random(bench, count(100)),
        "SIGTERM at a random moment": lambda: trainer.signalled_at_random(bench, count(24)),
        "damaged checkpoint or record": lambda: some(trainer.damaged(bench, 10), every),
        "disk full in each write": lambda: trainer.full_at_each_write(bench, every),
        "NaN, inf in loss, gradient, activation": lambda: trainer.poisoned(bench),
        "out of memory": lambda: trainer.starved(bench),
        "another setting on resume": lambda: trainer.changed(bench),
    }


def some(found: Iterator[Trial], every: int) -> Iterator[Trial]:
    """Each `every`-th."""
    return (trial for i, trial in enumerate(found) if i % every == 0)


def tally(fault: str, found: Iterator[Trial], jobs: int, folder: Path) -> Tally:
    """Run trials in so many processes."""
    waiting = list(found)
    children = []
    for job in range(jobs):
        child = os.fork()
        if not child:
            try:
                results = [trial() for trial in waiting[job::jobs]]
                (folder / f"results-{job}").write_text(json.dumps([asdict(result) for result in results]))
                os._exit(0)
            except BaseException as error:
                print(f"{fault}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    assert not any(statuses), f"{fault}: the trials themselves failed"
    results: list[Result] = []
    for job in range(jobs):
        results += [Result(**kept) for kept in json.loads((folder / f"results-{job}").read_text())]
    return Tally(fault, results)


def run_families(families: Families, jobs: int, folder: Path, only: str) -> list[dict[str, object]]:
    """All of them, a line each as it ends."""
    rows = []
    for fault, found in families.items():
        if only not in fault:
            continue
        began = time.monotonic()
        row = {**tally(fault, found(), jobs, folder).to_dict(), "seconds": 0.0}
        row["seconds"] = round(time.monotonic() - began, 1)
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def table(ours: list[dict[str, object]], theirs: list[dict[str, object]]) -> str:
    """Fault, trials, lost and found; beside it the Trainer's."""
    other = {row["fault"]: row for row in theirs}
    columns = (("dozan: trials", 14), ("Trainer: trials", 16))
    heads = [f"{name:>{width}} {'lost':>5} {'found':>9}" for name, width in columns]
    lines = ["   ".join([f"{'fault':<40} {heads[0]}", heads[1]])]
    for row in ours:
        cells = [f"{row['fault']:<40} {row['trials']:>14} {row['lost']:>5} {_found(row):>9}"]
        beside = other.get(row["fault"])
        cells += [f"{beside['trials']:>16} {beside['lost']:>5} {_found(beside):>9}"] if beside else []
        lines.append("   ".join(cells))
    return "\n".join(lines)


def _found(row: dict[str, object]) -> str:
    return "" if row["to_find"] is None else f"{row['found']}/{row['to_find']}"


def main() -> int:
    """0 when nothing was lost and all was found."""
    reader = argparse.ArgumentParser(prog="torture")
    reader.add_argument("--share", type=float, default=1.0)
    reader.add_argument("--jobs", type=int, default=2)
    reader.add_argument("--record", type=Path)
    reader.add_argument("--no-trainer", action="store_true")
    reader.add_argument("--only", default="")
    given = reader.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    root = Path(tempfile.mkdtemp(prefix="dozan-torture-", dir=place))
    try:
        for name in ("warm", "warm-again"):
            subject.train(root / name, subject.recipe())
        bench = Bench(root, subject.reference(root))
        print(f"dozan: undisturbed {bench.expected.seconds:.2f} s", flush=True)
        mine = run_families(ours(bench, given.share), given.jobs, root, given.only)
        others = []
        if not given.no_trainer:
            (root / "trainer").mkdir()
            others = run_families(theirs(root / "trainer", given.share), given.jobs, root, given.only)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    minutes = round((time.monotonic() - began) / 60, 1)
    print(table(mine, others))
    print(f"{minutes} minutes")
    if given.record is not None:
        from importlib import metadata

        versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
        what = {"share": given.share, "jobs": given.jobs, "minutes": minutes, "python": platform.python_version(),
                "versions": versions, "steps": subject.STEPS, "interval": subject.INTERVAL}  # fmt: skip
        text = json.dumps({"what": what, "dozan": mine, "trainer": others}, indent=1)
        given.record.write_text(text + "\n", encoding="utf-8")
    return int(any(row["lost"] or row["found"] != row["to_find"] for row in mine))


if __name__ == "__main__":
    sys.exit(main())
