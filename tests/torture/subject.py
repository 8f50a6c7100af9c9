"""The run that is tortured: eight steps of a small model, a checkpoint every second step, the loss measured twice.

Each trial is a process forked from one in which everything is loaded, so that a thousand of them take minutes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import row, tiny_model

from dozan.chat.encode import Tokens
from dozan.errors import InputError, Interrupted
from dozan.model.adapter import attach
from dozan.recipe import Recipe, override
from dozan.train.loop import fit
from dozan.train.mirror import fetch
from dozan.train.plan import Plan, make_plan
from dozan.train.prepare import Base
from dozan.train.signals import leaving_at_once

STEPS, INTERVAL = 8, 2
BASE = Base("dozan:embedded", "0" * 64, "functiongemma")
SETTINGS = (
    "adapter.rank=4", "adapter.alpha=8", "adapter.dropout=0.1", "train.batch_size=4", "train.learning_rate=0.01",
    f"train.max_steps={STEPS}", f"train.save_steps={INTERVAL}", "train.eval_steps=4", "train.stall_minutes=0",
)  # fmt: skip
TIMED = ("train/seconds", "train/tokens_per_second", "train/memory_bytes", "eval/seconds", "score/seconds")
LIMIT_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit status, or minus the signal that killed it; what it told; how long it took."""

    status: int
    notes: str
    seconds: float


@dataclass(frozen=True)
class Whole:
    """What an undisturbed run leaves."""

    files: dict[str, str]
    metrics: list[dict[str, Any]]
    seconds: float


def recipe(*changes: str) -> Recipe:
    """The recipe of the tortured run, with changes."""
    return override(Recipe(), [*SETTINGS, *changes])


def some_rows(count: int = 14, seed: int = 0) -> list[Tokens]:
    """Ragged rows, three of four with a shared beginning."""
    draw = random.Random(seed)
    trunk = [2, *(draw.randrange(10, 320) for _ in range(9))]
    tails = [[draw.randrange(10, 320) for _ in range(draw.randrange(3, 12))] for _ in range(count)]
    return [row(f"row{i}", (trunk if i % 4 else [2]) + tail, draw) for i, tail in enumerate(tails)]


def plan(chosen: Recipe) -> Plan:
    """Ten rows to train on, four held out."""
    rows = some_rows()
    return make_plan(chosen, rows[4:], rows[:4])


def train(out: Path, chosen: Recipe, tell: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
    """The run in `out`, begun or gone on with."""
    model = tiny_model(num_hidden_layers=2)
    attach(model, chosen.adapter, chosen.train.seed)
    mirror = chosen.train.mirror
    with leaving_at_once():
        for text in fetch(out, Path(mirror), chosen.train.keep_checkpoints) if mirror else ():
            tell({"event": "note", "text": text})
        fit(model, plan(chosen), out, BASE, tell)


def forked(work: Callable[[Callable[[str], None]], None]) -> tuple[int, Path]:
    """Start `work` in a process of its own, as the command line would end it; its id, and the file of what it says."""
    notes = Path(f"/dev/shm/dozan-torture-{os.getpid()}-{time.monotonic_ns()}")
    child = os.fork()
    if child:
        return child, notes
    status = 1
    try:
        with notes.open("w", encoding="utf-8") as file:

            def say(text: str) -> None:
                file.write(text + "\n")
                file.flush()

            try:
                work(say)
                status = 0
            except Interrupted as error:
                say(str(error))
                status = 75
            except InputError as error:
                say(str(error))
                status = error.exit_status
            except SystemExit as error:
                status = int(error.code or 0)
            except BaseException as error:
                say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(status)


def ended(child: int, notes: Path, began: float) -> Outcome:
    """Wait for a process; one that hangs is killed and counts as hung (-99)."""
    while True:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() - began > LIMIT_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            code = 99
            break
        time.sleep(0.002)
    text = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    notes.unlink(missing_ok=True)
    return Outcome(-os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code), text, time.monotonic() - began)


def run(
    out: Path, chosen: Recipe | None = None, disturb: Callable[[], object] = lambda: None,
    kill_after: float | None = None, number: int = signal.SIGKILL,
) -> Outcome:  # fmt: skip
    """The run in a process of its own. disturb: called in it first; kill_after: seconds until it gets a signal."""

    def work(say: Callable[[str], None]) -> None:
        disturb()
        train(out, chosen or recipe(), lambda event: say(event["text"]) if event["event"] == "note" else None)

    began = time.monotonic()
    child, notes = forked(work)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
    return ended(child, notes, began)


class Pace:
    """How long an undisturbed run takes at present: measured again every so many trials, for other work comes and goes,
    and a fault that is to come at a random moment must find the run under way."""

    def __init__(self, measure: Callable[[], Outcome], every: int = 12) -> None:
        self._measure, self._every, self._asked, self._seconds = measure, every, 0, 0.0

    def moment(self, share: float) -> float:
        """Seconds until a share of a run has passed."""
        if self._asked % self._every == 0:
            self._seconds = self._measure().seconds
        self._asked += 1
        return share * self._seconds


def whole(out: Path) -> Whole:
    """What a finished run left: hashes of its weights and moments, and its figures without times."""
    files = {"adapter": out / "adapter" / "adapter_model.safetensors"}
    newest = max((out / "checkpoints").glob("step-*"))
    files |= {name: newest / f"{name}.safetensors" for name in ("adapter_model", "optimizer")}
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return Whole(hashes, metrics(out), 0.0)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that can be read, without what the clock decides."""
    path, found = out / "metrics.jsonl", []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            found.append({k: v for k, v in json.loads(line).items() if k not in TIMED})
    return found


def same(out: Path, expected: Whole) -> str:
    """How a finished run differs from the undisturbed one; empty when in nothing."""
    if not (out / "adapter").is_dir():
        return "no adapter"
    found = whole(out)
    wrong = [name for name in expected.files if found.files.get(name) != expected.files[name]]
    wrong += ["metrics"] if found.metrics != expected.metrics else []
    wrong += ["left over"] if debris(out) else []
    return ", ".join(wrong)


def debris(out: Path) -> list[str]:
    """What should not be left in a run folder."""
    return [str(path.relative_to(out)) for path in out.rglob(".*") if path.name != ".lock"]


def reference(folder: Path, chosen: Recipe | None = None) -> Whole:
    """An undisturbed run; its seconds are those of a process of its own, once warm."""
    outcome = run(folder / "whole", chosen)
    assert outcome.status == 0, outcome
    found = whole(folder / "whole")
    again = run(folder / "again", chosen)
    assert not same(folder / "again", found), "two undisturbed runs differ"
    return Whole(found.files, found.metrics, again.seconds)


@contextlib.contextmanager
def folder(root: Path, name: str) -> Iterator[Path]:
    """A folder for a trial, gone afterwards."""
    path = root / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
