"""Checkpoints behind a run's back, on demand and in a mirror; what rots; going back to the last good one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_train import BASE, Events, adapted_model, metrics, newest, recipe, run, some_rows, stop_after

from dozan.errors import InputError, Interrupted
from dozan.model.weights import load_adapter
from dozan.recipe import Recipe, ScoreRecipe
from dozan.train import checkpoint, keeper, loop, mirror, state, step
from dozan.train.checkpoint import checkpoints, newest_valid, verify
from dozan.train.disk import DiskFull
from dozan.train.keeper import Keeper
from dozan.train.plan import make_plan
from dozan.train.signals import StopRequest
from dozan.train.state import Progress, SnapshotMemory, Trainee, snapshot, write_snapshot

CHOSEN = recipe("train.save_steps=2", "train.eval_steps=3")
SAVED = {"adapter_config.json", "adapter_model.safetensors", "manifest.json", "metrics.jsonl", "optimizer.safetensors",
         "record.json", "state.json"}  # fmt: skip


def equal(a: Path, b: Path) -> bool:
    """Whether two runs left the same weights, moments and figures."""
    one, other = newest(a), newest(b)
    figures = [[{**line, "score/seconds": 0} for line in metrics(each)] for each in (a, b)]
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one) and figures[0] == figures[1]


def behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Keeper", partial(Keeper, background=True))


def at(number: int, act: Callable[[], object]) -> Callable[[dict[str, Any]], None]:
    """Act after a step."""
    return lambda event: act() if event["event"] == "step" and event["step"] == number else None  # type: ignore[return-value]


def test_written_behind_is_written_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "at once", CHOSEN)
    behind(monkeypatch)
    threads: list[str] = []
    real = state.save_checkpoint
    monkeypatch.setattr(
        state, "save_checkpoint", lambda *args: threads.append(threading.current_thread().name) or real(*args)
    )
    run(tmp_path / "behind", CHOSEN)
    assert equal(tmp_path / "at once", tmp_path / "behind") and all("dozan-writer" in name for name in threads)
    assert {path.name for path in max((tmp_path / "behind" / "checkpoints").iterdir()).iterdir()} == SAVED


def test_a_copy_does_not_follow_the_run(tmp_path: Path) -> None:
    model = adapted_model(CHOSEN, moved=True)
    trainee = Trainee.of(model, CHOSEN, BASE.name)
    plan = make_plan(CHOSEN, some_rows())
    loop.optimiser_step(trainee, plan.prepare(0), 0.01)
    taken, bare = (snapshot(trainee, tmp_path, Progress(1), memory) for memory in (SnapshotMemory(), None))
    before = {name: tensor.clone() for name, tensor in taken.trained.items()}
    moments = {name: tensor.clone() for name, tensor in taken.optimizer.items()}
    loop.optimiser_step(trainee, plan.prepare(1), 0.01, 1)
    assert all(torch.equal(before[name], taken.trained[name]) for name in before)
    assert all(torch.equal(moments[name], taken.optimizer[name]) for name in moments)
    assert not all(torch.equal(before[name], bare.trained[name]) for name in before)


def test_a_slow_disk_does_not_hold_the_steps_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch)
    told, real, gate = [], keeper.write_snapshot, threading.Event()

    def slow(*args: Any) -> Path:
        gate.wait(20)
        return real(*args)

    monkeypatch.setattr(keeper, "write_snapshot", slow)

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            told.append(event["step"])
        if told[8:] == [9]:
            gate.set()

    run(tmp_path, recipe("train.save_steps=8", "train.eval_steps=9"), tell)
    assert told == list(range(1, 10)) and [number for number, _ in checkpoints(tmp_path / "checkpoints")] == [9, 8]


def test_what_fails_behind_the_run_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="No space left.*earlier checkpoints are intact"):
        patch.setattr(state, "save_file", full)
        run(tmp_path / "run", CHOSEN)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(state, "save_file", lambda *args: 1 / 0)
        run(tmp_path / "run", CHOSEN)
    run(tmp_path / "run", CHOSEN)
    run(tmp_path / "whole", CHOSEN)
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_a_run_is_done_when_its_last_checkpoint_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    behind(monkeypatch)
    real = keeper.write_snapshot

    def full(trainee: Trainee, out: Path, taken: Any) -> Path:
        if taken.progress.step == 9:
            time.sleep(0.3)
            raise DiskFull("no room")
        return real(trainee, out, taken)

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(keeper, "write_snapshot", full)
        run(tmp_path, CHOSEN)
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "running"
    assert run(tmp_path, CHOSEN)[0].resumed_from == 8 and newest_valid(tmp_path / "checkpoints").step == 9


def test_the_mirror_waits_for_the_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = Trainee.of(adapted_model(CHOSEN), mirrored(tmp_path / "there"), BASE.name)
    out, real = tmp_path / "run", keeper.write_snapshot
    out.mkdir()
    for name in mirror.RECORDS:
        (out / name).write_text("{}")

    def slow(*args: Any) -> Path:
        time.sleep(0.3)
        return real(*args)

    monkeypatch.setattr(keeper, "write_snapshot", slow)
    with Keeper(trainee, out, Events(), StopRequest(), Progress(), background=True) as kept:
        kept.save(Progress(3))
        kept.finish()
        assert newest_valid(tmp_path / "there" / "checkpoints").step == 3


@pytest.mark.parametrize("how", ["signal", "file"])
def test_a_checkpoint_when_asked_for(how: str, tmp_path: Path) -> None:
    def ask() -> None:
        if how == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        else:
            (tmp_path / "asked" / "SAVE").touch()

    chosen = recipe("train.save_steps=100", "train.eval_steps=9")
    _, events = run(tmp_path / "asked", chosen, at(5, ask))
    assert "saved after step 6, as asked" in events.notes() or "saved after step 5, as asked" in events.notes()
    assert len(checkpoints(tmp_path / "asked" / "checkpoints")) == 2 and not (tmp_path / "asked" / "SAVE").exists()
    run(tmp_path / "whole", chosen)
    assert equal(tmp_path / "asked", tmp_path / "whole")


def test_the_best_on_held_out_rows_is_kept_besides_the_newest(tmp_path: Path) -> None:
    chosen = recipe("train.save_steps=1", "train.eval_steps=1", "train.keep_checkpoints=1", "train.learning_rate=1.0")
    run(tmp_path, chosen)
    losses = {line["step"]: line["eval/loss"] for line in metrics(tmp_path) if "eval/loss" in line}
    best = min(losses, key=losses.__getitem__)
    assert 1 <= best < 9, "choose a rate at which the loss rises again"
    assert [number for number, _ in checkpoints(tmp_path / "checkpoints")] == [9, best]


@pytest.mark.parametrize("harm", ["cut", "flip", "removed"])
@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl"])
def test_a_damaged_record_is_taken_from_the_checkpoint(name: str, harm: str, tmp_path: Path) -> None:
    run(tmp_path / "whole", CHOSEN)
    with pytest.raises(Interrupted):
        run(tmp_path / "run", CHOSEN, stop_after(5))
    path = tmp_path / "run" / name
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "removed":
        path.unlink()
    else:
        rest = b"" if harm == "cut" else bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:middle] + rest)
    _, events = run(tmp_path / "run", CHOSEN)
    assert f"{name} " in events.notes() and "taken from step-000005" in events.notes()
    assert equal(tmp_path / "run", tmp_path / "whole")
    assert "recovered" not in json.loads((tmp_path / "run" / "run.json").read_text())


def test_a_damaged_adapter_is_refused_and_written_anew(tmp_path: Path) -> None:
    run(tmp_path, CHOSEN)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:])
    with pytest.raises(InputError, match="adapter is damaged: adapter_model.safetensors has other bytes"):
        load_adapter(tmp_path / "adapter", adapted_model(CHOSEN))
    _, events = run(tmp_path, CHOSEN)
    assert "written anew from the newest checkpoint" in events.notes() and path.read_bytes() == whole
    (tmp_path / "adapter" / "notes.txt").write_text("mine")
    load_adapter(tmp_path / "adapter", adapted_model(CHOSEN))
    (tmp_path / "adapter" / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"adapter/manifest.json is missing; .*dozan resume"):
        load_adapter(tmp_path / "adapter", adapted_model(CHOSEN))
    assert "manifest.json is missing; written anew" in run(tmp_path, CHOSEN)[1].notes()
    load_adapter(tmp_path / "adapter", adapted_model(CHOSEN))
    (tmp_path / "adapter" / "manifest.json").unlink()
    shutil.copytree(tmp_path / "adapter", tmp_path / "elsewhere" / "adapter")
    load_adapter(tmp_path / "elsewhere" / "adapter", adapted_model(CHOSEN))


def test_damaged_checkpoints_are_put_aside_and_do_not_count(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, CHOSEN, stop_after(5))
    (tmp_path / "checkpoints" / "step-000005" / "state.json").write_text("{}")
    with pytest.raises(Interrupted):
        run(tmp_path, CHOSEN, stop_after(5))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["damaged-step-000005", "step-000004", "step-000005"]
    (tmp_path / "checkpoints" / "step-000005" / "state.json").write_text("{}")
    with pytest.raises(Interrupted):
        run(tmp_path, recipe("train.save_steps=100", "train.eval_steps=3", "train.keep_checkpoints=1"), stop_after(5))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names[:2] == ["damaged-step-000005", "damaged-step-000005-2"] and names[-1] == "step-000005"


def test_a_disk_that_cannot_be_read_is_a_damaged_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, CHOSEN, stop_after(5))
    from dozan.model import sealed

    real = sealed.sha256

    def failing(path: Path) -> str:
        if path.parent.name == "step-000005" and path.name == "optimizer.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(sealed, "sha256", failing)
    found = newest_valid(tmp_path / "checkpoints")
    assert found.step == 4 and "optimizer.safetensors cannot be read (Input/output error)" in found.skipped[0]


def test_killed_while_a_checkpoint_is_replaced(tmp_path: Path) -> None:
    def fill(text: str) -> Callable[[Path], None]:
        return lambda folder: (folder / "a").write_text(text) and None

    checkpoint.save_checkpoint(tmp_path, 1, fill("old"), 3)
    child = os.fork()
    if not child:
        real, calls = os.rename, []

        def rename(*args: Any) -> None:
            calls.append(args)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)

        checkpoint.os.rename = rename
        checkpoint.save_checkpoint(tmp_path, 1, fill("new"), 3)
        os._exit(0)
    os.waitpid(child, 0)
    assert not (tmp_path / "step-000001").exists()
    assert newest_valid(tmp_path).step == 1 and (tmp_path / "step-000001" / "a").read_text() == "old"


def test_room_is_looked_at_before_a_checkpoint_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_checkpoint(tmp_path, 1, lambda folder: (folder / "a").write_bytes(bytes(3 * 2**20)) and None, 3)
    usage = type("Usage", (), {"free": 3 * 2**20})
    monkeypatch.setattr("dozan.train.disk.shutil.disk_usage", lambda path: usage)
    begun: list[Path] = []
    with pytest.raises(DiskFull, match=r"3\.0 MiB are free, 4\.0 MiB are needed.*intact"):
        checkpoint.save_checkpoint(tmp_path, 2, begun.append, 3)
    assert not begun and DiskFull.exit_status == 75


def test_the_metrics_line_that_does_not_fit_stops_the_run_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", CHOSEN)
    real = Path.open

    def opened(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if path.name == "metrics.jsonl" and mode == "a" and path.is_file() and path.stat().st_size > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *args, **more)

    with monkeypatch.context() as patch, pytest.raises(DiskFull, match="metrics.jsonl: could not be written"):
        patch.setattr(Path, "open", opened)
        run(tmp_path / "run", CHOSEN)
    run(tmp_path / "run", CHOSEN)
    assert equal(tmp_path / "run", tmp_path / "whole")


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror passes over what waits, and is left behind after five seconds: here it is waited for."""
    real = mirror.Mirror.offer

    def offer(self: mirror.Mirror, folder: Path) -> None:
        real(self, folder)
        self._wait(time.monotonic() + 120)

    monkeypatch.setattr(mirror.Mirror, "offer", offer)
    monkeypatch.setattr(mirror, "_ENDING_SECONDS", 120.0)


def mirrored(there: Path, *changes: str) -> Recipe:
    return recipe("train.save_steps=2", "train.eval_steps=3", f"train.mirror={there}", *changes)


def test_a_mirror_holds_the_run_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    run(tmp_path / "whole", CHOSEN)
    there = tmp_path / "drive" / "run"
    with pytest.raises(Interrupted):
        run(tmp_path / "run", mirrored(there), stop_after(5))
    copies = sorted(path.name for path in (there / "checkpoints").iterdir())
    assert copies[-1] == "step-000005" and verify(there / "checkpoints" / "step-000005") == []
    assert not (tmp_path / "run" / ".mirror").exists()
    shutil.rmtree(tmp_path / "run")
    assert "step 5" in mirror.fetch(tmp_path / "run", there, 2)[-1]
    result, _ = run(tmp_path / "run", mirrored(there))
    assert result.resumed_from == 5 and equal(tmp_path / "run", tmp_path / "whole")
    assert verify(there / "adapter") == [] and json.loads((there / "run.json").read_text())["state"] == "done"
    assert len(checkpoints(there / "checkpoints")) == 2
    shutil.rmtree(tmp_path / "run")
    mirror.fetch(tmp_path / "run", there, 2)
    assert "nothing to do" in run(tmp_path / "run", mirrored(there))[1].notes()
    assert equal(tmp_path / "run", tmp_path / "whole")
    assert mirror.fetch(tmp_path / "run", there, 2) == [], "a folder that holds a run is left alone"


def test_a_copy_without_its_marker_counts_as_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    there = tmp_path / "drive"
    with pytest.raises(Interrupted):
        run(tmp_path / "run", mirrored(there), stop_after(5))
    (there / "checkpoints" / "step-000005" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "run")
    said = mirror.fetch(tmp_path / "run", there, 2)
    assert "step-000005 is damaged: manifest.json is missing" in said[0] and "step 4" in said[-1]


def test_a_failing_mirror_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", CHOSEN)
    patient(monkeypatch)
    (tmp_path / "file").write_text("")
    _, events = run(tmp_path / "run", mirrored(tmp_path / "file" / "run"))
    assert events.notes().count("the run goes on without it") == 1, events.notes()
    assert equal(tmp_path / "run", tmp_path / "whole")
    real = mirror.sha256
    monkeypatch.setattr(mirror, "sha256", lambda path: "0" if "lossy" in str(path) else real(path))
    _, events = run(tmp_path / "again", mirrored(tmp_path / "lossy"))
    assert "read back otherwise than written" in events.notes()
    assert newest_valid(tmp_path / "lossy" / "checkpoints").folder is None


def test_a_slow_mirror_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = threading.Event(), mirror.copy_sealed

    def slow(source: Path, place: Path, *more: Any) -> None:
        gate.wait(120)
        real(source, place, *more)

    monkeypatch.setattr(mirror, "copy_sealed", slow)
    monkeypatch.setattr(mirror, "_ENDING_SECONDS", 0.1)
    monkeypatch.setattr(keeper, "MIRROR_SECONDS", 0.2)
    began = time.monotonic()
    result, events = run(tmp_path / "run", mirrored(tmp_path / "slow"))
    assert result.steps == 9 and time.monotonic() - began < 100 and "is left behind" in events.notes()
    gate.set()


def sealed_step(out: Path, number: int, text: str) -> Path:
    return checkpoint.save_checkpoint(out / "checkpoints", number, lambda f: (f / "a").write_text(text) and None, 9)


def recorded(out: Path) -> Path:
    out.mkdir()
    for name in mirror.RECORDS:
        (out / name).write_text("{}")
    return out


@dataclass(frozen=True)
class Copying:
    """A mirror in the midst of copying step 6, which goes on when `gate` is set."""

    out: Path
    there: Path
    gate: threading.Event
    copier: mirror.Mirror
    copyfile: Callable[[Path, Path], Any]


@pytest.fixture
def copying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copying:
    begun, gate, real = threading.Event(), threading.Event(), shutil.copyfile

    def slow(source: Path, target: Path) -> None:
        begun.set()
        gate.wait(60)
        real(source, target)

    monkeypatch.setattr(mirror.shutil, "copyfile", slow)
    out, there = recorded(tmp_path / "run"), tmp_path / "there"
    copier = mirror.Mirror(out, there, 2)
    copier.offer(sealed_step(out, 6, "old"))
    assert begun.wait(60)
    return Copying(out, there, gate, copier, real)


def test_the_same_step_saved_again_while_it_is_copied(copying: Copying) -> None:
    """As when a run went back and comes to the step once more."""
    out, there, gate, copier = copying.out, copying.there, copying.gate, copying.copier
    shutil.rmtree(out / "checkpoints")
    copier.offer(sealed_step(out, 6, "again"))
    gate.set()
    copier.finish(60)
    assert copier.notes() == [] and verify(there / "checkpoints" / "step-000006") == []
    assert (there / "checkpoints" / "step-000006" / "a").read_text() == "again"


def test_a_copy_that_was_left_behind_writes_no_more(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    out, there, gate, copier = copying.out, copying.there, copying.gate, copying.copier
    copier.close(0.01)
    monkeypatch.setattr(mirror.shutil, "copyfile", copying.copyfile)
    mirror.copy_sealed(sealed_step(out, 6, "new"), there / "checkpoints" / "step-000006")
    gate.set()
    copier._thread.join(60)
    copied = there / "checkpoints" / "step-000006"
    assert not (there / "run.json").exists() and verify(copied) == [] and (copied / "a").read_text() == "new"


def test_a_mirror_says_what_it_does_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, real = threading.Event(), shutil.copyfile
    monkeypatch.setattr(mirror.shutil, "copyfile", lambda *args: gate.wait(60) and real(*args))
    copier = mirror.Mirror(recorded(tmp_path / "run"), tmp_path / "there", 2)
    copier.offer(sealed_step(tmp_path / "run", 6, "new"))
    copier.close(0.01)
    gate.set()
    (said,) = copier.notes()
    assert "is left behind and does not hold step-000006; copy" in said


@pytest.mark.parametrize(("abandoned", "to"), [((3, 4, 5), 3), ((4, 8, 9), 4)])
@pytest.mark.parametrize("waiting", [False, True])
def test_a_mirror_goes_back_with_the_run(
    abandoned: tuple[int, ...], to: int, waiting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the last of what was given up was copied, or still waits."""
    out, there = recorded(tmp_path / "run"), tmp_path / "there"
    gate, real = threading.Event(), mirror.copy_sealed
    monkeypatch.setattr(mirror, "copy_sealed", lambda *args: gate.wait(60) and real(*args))
    copier = mirror.Mirror(out, there, 2)
    if not waiting:
        gate.set()
    for number in abandoned:
        copier.offer(sealed_step(out, number, "old"))
        copier._wait(time.monotonic() + 60 * (not waiting))
    copier.back(to)
    gate.set()
    copier._wait(time.monotonic() + 60)
    assert all(number <= to for number, _ in checkpoints(there / "checkpoints"))
    copier.offer(sealed_step(out, to + 1, "new"))
    copier.finish(60)
    found = newest_valid(there / "checkpoints")
    assert copier.notes() == [] and found.folder is not None and (found.folder / "a").read_text() == "new"
    assert found.step == to + 1 and all(number <= to + 1 for number, _ in checkpoints(there / "checkpoints"))


def test_a_mirror_that_cannot_go_back_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, there = recorded(tmp_path / "run"), tmp_path / "there"
    copier = mirror.Mirror(out, there, 2)
    copier.offer(sealed_step(out, 5, "old"))
    copier._wait(time.monotonic() + 60)
    with monkeypatch.context() as patch:
        patch.setattr(mirror, "checkpoints", lambda root: os.listdir(tmp_path / "none"))
        copier.back(3)
        copier._wait(time.monotonic() + 60)
    assert "could not drop the steps that were given up" in copier.notes()[0]
    copier.offer(sealed_step(out, 4, "new"))
    copier.finish(60)
    assert copier.notes() == [] and [number for number, _ in checkpoints(there / "checkpoints")] == [4]


def test_what_is_damaged_in_a_mirror_is_said_and_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient(monkeypatch)
    out, there = tmp_path / "run", tmp_path / "there"
    run(out, mirrored(there))
    whole = newest(out)
    for folder in (there / "adapter", there / "checkpoints" / "step-000009"):
        (folder / "adapter_model.safetensors").write_bytes(b"rotten")
    shutil.rmtree(out)
    _, events = run_fetched(out, there)
    assert "adapter is damaged and was not taken: adapter_model" in events[0] and "step 8" in events[0]
    assert (there / "checkpoints" / "damaged-step-000009").is_dir(), "or it would count as the newest there"
    assert "written anew from the newest checkpoint" in events[1] and newest(out).keys() == whole.keys()
    assert verify(there / "checkpoints" / "step-000009") == []


def run_fetched(out: Path, there: Path) -> tuple[int | None, tuple[str, str]]:
    said = "\n".join(mirror.fetch(out, there, 2))
    result, events = run(out, mirrored(there))
    return result.resumed_from, (said, events.notes())


def faulty(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], bool]) -> None:
    """Losses that are not finite where `bad(step, how often it was computed)`."""
    real, calls = step.gradients, dict[int, int]()

    def gradients(trainee: Trainee, batch: Any, total: float, number: int) -> torch.Tensor:
        calls[number] = calls.get(number, 0) + 1
        loss = real(trainee, batch, total, number)
        return loss * float("nan") if bad(number, calls[number]) else loss

    monkeypatch.setattr(step, "gradients", gradients)


def test_back_to_the_last_good_checkpoint_at_half_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", CHOSEN)
    faulty(monkeypatch, lambda number, time: 5 <= number <= 7 and time == 1)
    result, events = run(tmp_path / "run", CHOSEN)
    assert "step 8: back to the checkpoint of step 4, with 0.5 x the planned rate" in events.notes()
    assert result.steps == 9 and result.skipped_steps == 3
    rates = {line["step"]: line["train/learning_rate"] for line in metrics(tmp_path / "run") if "train/loss" in line}
    whole = metrics(tmp_path / "whole")
    planned = {line["step"]: line["train/learning_rate"] for line in whole if "train/loss" in line}
    assert sorted(rates) == list(range(1, 10)), "no gap and no repeat"
    assert all(rates[n] == planned[n] * (1.0 if n <= 4 else 0.5) for n in rates)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["recoveries"]
    why = kept[0].pop("why")
    assert kept == [{"step": 8, "resumed_from": 4, "skipped": 3, "rate_factor": 0.5, "fp32_layers": []}]
    assert "not finite in 3 steps in a row, last in rows row" in why and "it began in" in why or "found nowhere" in why


class Marks:
    """A scorer that gives marks by step, each once: the next time it is the one after."""

    recipe, examples = ScoreRecipe(steps=1, by="strict"), ()

    def __init__(self, marks: dict[int, list[float]]) -> None:
        self.marks, self.step = marks, 0

    def due(self, step: int, evaluate: bool) -> bool:
        self.step = step
        return step in self.marks

    def __call__(self, model: object, alive: object, pause: object) -> tuple[Any, float]:
        left = self.marks.get(self.step, [0.0])  # after the last step nobody asks whether it is due
        figures = dict.fromkeys(("normalised", "tool_name", "parse_failures"), 0.0)
        figures["strict"] = left.pop(0) if len(left) > 1 else left[0]
        return SimpleNamespace(summary=lambda: {**figures, "graded": {"f1": 0.0}}), 0.0


def test_what_was_given_up_is_neither_the_best_nor_in_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    faulty(monkeypatch, lambda number, time: 5 <= number <= 7 and time == 1)
    out, there = tmp_path / "run", tmp_path / "there"
    chosen = mirrored(there, "train.keep_checkpoints=6")
    seen: list[tuple[list[str], list[str]]] = []

    def look(event: dict[str, Any]) -> None:
        if "back to the checkpoint" in event.get("text", ""):
            ends = time.monotonic() + 20
            while len(checkpoints(there / "best")) > 1 and time.monotonic() < ends:
                time.sleep(0.01)
            names = [sorted(path.name for path in (root / "best").iterdir()) for root in (out, there)]
            assert max(number for number, _ in checkpoints(there / "checkpoints")) == 4
            seen.append((names[0], names[1]))

    plan = make_plan(chosen, some_rows()[4:], some_rows()[:4])
    marks = Marks({2: [0.5], 5: [0.9, 0.1], 6: [0.2, 0.6]})
    result = loop.fit(adapted_model(chosen), plan, out, BASE, Events(look), scorer=marks)  # type: ignore[arg-type]
    assert seen == [(["step-000002"], ["step-000002"])]
    assert (result.best_step, result.best_score) == (6, 0.6)
    assert newest_valid(there / "checkpoints").step == 9
    for root in (out, there):
        assert [number for number, _ in checkpoints(root / "best")] == ([6] if root == out else [6, 2])
    best = (out / "best" / "step-000006" / "adapter_model.safetensors").read_bytes()
    assert (out / "adapter" / "adapter_model.safetensors").read_bytes() == best
    shutil.rmtree(out)
    mirror.fetch(out, there, 6)
    assert (out / "best" / "step-000006" / "adapter_model.safetensors").read_bytes() == best


def test_a_resumed_run_keeps_the_lower_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        faulty(patch, lambda number, time: 5 <= number <= 7 and time == 1)
        run(tmp_path / "whole", CHOSEN)
    seen: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 6:
            seen.append(6)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        faulty(patch, lambda number, time: 5 <= number <= 7 and time == 1)
        run(tmp_path / "run", CHOSEN, stop)
    result, _ = run(tmp_path / "run", CHOSEN)
    assert result.skipped_steps == 3 and equal(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(
    ("change", "bad"), [("train.recoveries=0", 5), ("train.recoveries=2", 5), ("train.recoveries=2", 0)]
)
def test_it_stops_where_going_back_helps_nothing(
    change: str, bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recoveries used up, the same step again, no good checkpoint."""
    faulty(monkeypatch, lambda number, time: number >= bad)
    with pytest.raises(InputError, match="not finite in 3 steps in a row, last in rows"):
        run(tmp_path, recipe("train.save_steps=2", "train.eval_steps=3", change))
    kept = json.loads((tmp_path / "run.json").read_text())["recoveries"]
    assert len(kept) == (1 if (change, bad) == ("train.recoveries=2", 5) else 0)


@pytest.mark.parametrize("where", ["clip", "refresh"])
@pytest.mark.parametrize("number", [1, 4, 9])
def test_out_of_memory_in_the_update(where: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dozan.train import update

    run(tmp_path / "whole", CHOSEN)
    calls, real = [0], getattr(update, where)

    def fails(*args: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(update, where, fails)
        if where == "refresh" and number == 1:
            with pytest.raises(InputError, match="amid the update.*no checkpoint to go back to"):
                run(tmp_path / "run", CHOSEN)
            return
        result, events = run(tmp_path / "run", CHOSEN)
    assert result.skipped_steps == 0 and result.steps == 9
    assert ("out of memory in a pack" if where == "clip" else "back to the checkpoint") in events.notes()
    lines = {name: metrics(tmp_path / name) for name in ("run", "whole")}
    found = {name: [line["train/loss"] for line in told if "train/loss" in line] for name, told in lines.items()}
    assert found["run"] == pytest.approx(found["whole"], rel=1e-6)


def test_keeper_is_quiet_about_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = Trainee.of(adapted_model(CHOSEN), CHOSEN, BASE.name)
    written: list[int] = []
    monkeypatch.setattr(keeper, "write_snapshot", lambda t, out, taken: written.append(taken.progress.step))
    with Keeper(trainee, tmp_path, Events(), StopRequest(), Progress(4)) as kept:
        for progress in (Progress(4), Progress(5), Progress(5), Progress(5, owed=True)):
            kept.save(progress)
    assert written == [5, 5]
    assert write_snapshot is state.write_snapshot
