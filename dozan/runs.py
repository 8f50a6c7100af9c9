"""The runs under a folder: how each stands, and what of them could go without a loss."""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.run_folders import run_folders
from dozan.train.checkpoint import checkpoints, folder_bytes, verify
from dozan.train.run import RUN, read_run

_LEFT_OVER, _REPLACED = (".staging-*", "damaged-step-*"), ".replaced-"


@dataclass(frozen=True)
class RunInfo:
    """A run. state: running (a process holds it), done, stopped (it can be resumed) or damaged (why is in `problem`);
    score: by generation, loss: on held-out rows where there is one, else on the last step's."""

    folder: Path
    state: str
    step: int
    steps: int
    score: float | None
    loss: float | None
    bytes: int
    changed: float
    base: str
    recipe: str
    problem: str = ""


@dataclass(frozen=True)
class Waste:
    """What could go: a file or folder, why it is not needed, and its bytes."""

    path: Path
    why: str
    bytes: int


def list_runs(root: str | Path = "output") -> list[RunInfo]:
    """The runs at or under a folder, the latest first. Raises InputError when there is no such folder."""
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder; name the one that runs were written to")
    return sorted(map(describe_run, run_folders(Path(root))), key=lambda info: -info.changed)


def describe_run(folder: Path) -> RunInfo:
    """How a run stands."""
    size, changed = folder_bytes(folder), (folder / RUN).stat().st_mtime
    try:
        run = read_run(folder)
    except InputError as error:
        return RunInfo(folder, "damaged", 0, 0, None, None, size, changed, "", "", str(error))
    assert run is not None
    final, last = run.get("final") or {}, last_figures(folder)
    saved = max((step for step, _ in checkpoints(folder / "checkpoints")), default=0)
    state = "running" if is_held(folder) else "done" if run.get("state") == "done" else "stopped"
    losses = (final.get("eval_loss"), last.get("eval/loss"), final.get("final_loss"), last.get("loss"))
    return RunInfo(
        folder, state, int(final.get("steps") or max(saved, last.get("step", 0))), int(run.get("steps") or 0),
        final.get("best_score", last.get("score")), next((loss for loss in losses if loss is not None), None),
        size, changed, str(run.get("base", "")), str((run.get("recipe") or {}).get("name", "")),
    )  # fmt: skip


def last_figures(folder: Path) -> dict[str, Any]:
    """The last step, training loss, held-out loss and score in metrics.jsonl."""
    found: dict[str, Any] = {}
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            event = json.loads(line)
        except ValueError:  # a line that a killed process left
            continue
        named = {"step": "step", "train/loss": "loss", "eval/loss": "eval/loss", "score/normalised": "score"}
        found |= {to: event[key] for key, to in named.items() if event.get(key) is not None}
    return found


def is_held(folder: Path) -> bool:
    """Whether a process trains in a run folder now."""
    lock = folder / ".lock"
    if not lock.is_file():
        return False
    with lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def waste(root: str | Path = "output") -> list[Waste]:
    """What could go of the runs under a folder: leftovers of killed saves, damaged checkpoints, and of finished runs
    every checkpoint but the newest valid one. Of a run that a process holds, nothing, and no only valid copy."""
    found = []
    for info in list_runs(root):
        if info.state in ("running", "damaged"):
            continue
        for folder in (info.folder / "checkpoints", info.folder / "best"):
            paths = [path for form in _LEFT_OVER for path in folder.glob(form)] + _replaced(folder)
            found += [Waste(path, _why(path), folder_bytes(path)) for path in paths]
        held = info.folder / ".mirror"
        found += [Waste(held, "waited for a mirror", folder_bytes(held))] if held.is_dir() else []
        if info.state == "done":
            found += _older(info.folder / "checkpoints")
    return found


def _replaced(folder: Path) -> list[Path]:
    """What was replaced by a folder that is valid; until then it is what a resume takes."""
    asides = folder.glob(f"{_REPLACED}*")
    return [aside for aside in asides if not verify(folder / aside.name.removeprefix(_REPLACED))]


def _older(root: Path) -> list[Waste]:
    """The checkpoints of a finished run but the newest valid one; none where none is valid."""
    found = checkpoints(root)
    valid = next((at for at, (_, path) in enumerate(found) if not verify(path)), len(found))
    damaged = [(path, "a damaged checkpoint") for _, path in found[:valid] if valid < len(found)]
    older = [(path, "a finished run's older checkpoint") for _, path in found[valid + 1 :]]
    return [Waste(path, why, folder_bytes(path)) for path, why in damaged + older]


def remove(found: list[Waste]) -> int:
    """Remove it; the bytes that were freed."""
    for each in found:
        shutil.rmtree(each.path)
    return sum(each.bytes for each in found)


def _why(path: Path) -> str:
    return "a damaged checkpoint" if path.name.startswith("damaged-") else "left by a save that was killed"


def age(seconds: float) -> str:
    """How long ago, in one unit."""
    passed = max(0.0, time.time() - seconds)
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {name}"
    return f"{passed:.0f} s"
