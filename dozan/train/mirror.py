"""A copy of a run in another folder, such as a mounted drive: made by a thread of its own, which never stops the run.

A checkpoint is copied file by file, each read back and hashed; its manifest comes last, so that without it the copy is
known to be cut short. Before it comes the best adapter of which it says that it is the best. What waits to be copied is
held by hard links, each time in a folder of its own: the run may remove its own meanwhile, or save the same step again.
A run that goes back has the copies of the steps beyond dropped before the next copy is made. A thread that is left
behind shows no further file.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from dozan.errors import InputError
from dozan.model.sealed import MANIFEST, sha256, sync, verify
from dozan.train.checkpoint import checkpoints, newest_valid, save_checkpoint, sync_folder, write_bytes
from dozan.train.disk import stops_well
from dozan.train.run import FINAL
from dozan.train.scoring import BEST, best_step
from dozan.train.state import put_aside

CHECKPOINTS, HELD = "checkpoints", ".mirror"
RECORDS, FIGURES = ("run.json", "recipe.yaml"), "metrics.jsonl"
_ENDING_SECONDS = 5.0
_NO_STOP = "; the run goes on without it"


class Mirror:
    """Copies what it is offered from the run folder `out` to the folder `there`, the newest first, and keeps `keep`.

    What goes wrong is told by `notes`, once for each kind of fault; the next checkpoint is tried again.
    """

    def __init__(self, out: Path, there: Path, keep: int) -> None:
        self.out, self.there, self._keep = out, there, keep
        self._waiting: list[Path] = []
        self._missing: dict[str, Path] = {}
        self._beyond: int | None = None
        self._busy, self._went_back, self._closing, self._left = False, False, False, False
        self._offered = 0
        self._changed = threading.Condition()
        self._notes: deque[str] = deque()
        self._told: set[str] = set()
        shutil.rmtree(out / HELD, ignore_errors=True)
        self._thread = threading.Thread(target=self._work, name="dozan-mirror", daemon=True)
        self._thread.start()

    def offer(self, folder: Path) -> None:
        """Have a finished checkpoint copied, or the final adapter or model; a checkpoint that still waits is passed
        over for a newer one."""
        self._offered += 1
        held = self.out / HELD / str(self._offered) / folder.name
        with self._changed:
            self._missing[_kind(held)] = held
        try:
            best = None if folder.name in FINAL.values() else _best(self.out, folder)
            if best is not None:
                _link(best, held.parent / BEST / best.name)
            _link(folder, held)
        except OSError as error:
            self._note("held", f"{folder.name} could not be held for it ({error}){_NO_STOP}")
            return
        with self._changed:
            passed = [each for each in self._waiting if _kind(each) == _kind(held)]
            self._waiting = [*(each for each in self._waiting if each not in passed), held]
            self._changed.notify_all()
        for each in passed:
            shutil.rmtree(each.parent, ignore_errors=True)

    def back(self, step: int) -> None:
        """The run goes on from an earlier step: have what is beyond it dropped, before anything else is copied."""
        with self._changed:
            beyond = {each for each in self._waiting if _step(each) > step}
            self._waiting = [each for each in self._waiting if each not in beyond]
            self._missing = {kind: held for kind, held in self._missing.items() if _step(held) <= step}
            self._beyond = step if self._beyond is None else min(step, self._beyond)
            self._went_back = True
            self._changed.notify_all()
        for each in beyond:
            shutil.rmtree(each.parent, ignore_errors=True)

    def notes(self) -> list[str]:
        """What there is to say since the last call."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def finish(self, seconds: float) -> None:
        """Wait so long for what is being copied, then copy the records and the final adapter or model within the same
        time."""
        deadline = time.monotonic() + seconds
        self._wait(deadline)
        for name in FINAL.values():
            if (self.out / name / MANIFEST).is_file():
                if self._is_at_work():
                    self._missing[name] = self.out / name
                else:
                    self.offer(self.out / name)
                    self._wait(deadline)
        self.close()

    def close(self, seconds: float = _ENDING_SECONDS) -> None:
        """Give what is being copied so long, then leave it: without its manifest it counts as absent. What the mirror
        does not hold is told."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        self._left = True
        late = "is left behind and " * self._thread.is_alive()
        with self._changed:
            missing, beyond = [held.name for held in self._missing.values()], self._beyond
        if missing:
            self._note("missing", f"{late}does not hold {', '.join(missing)}; copy {self.out} there yourself")
        if beyond is not None:
            self._note("beyond", f"{late}may still hold steps after {beyond}, which were given up; remove them there")
        if not self._thread.is_alive():
            shutil.rmtree(self.out / HELD, ignore_errors=True)

    def _is_at_work(self) -> bool:
        return self._busy or self._went_back or bool(self._waiting)

    def _wait(self, deadline: float) -> None:
        with self._changed:
            while self._is_at_work() and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._went_back or self._closing):
                    self._changed.wait()
                if not (self._waiting or self._went_back):
                    return
                held = None if self._went_back else self._waiting.pop(0)
                self._went_back, self._busy = False, True
            try:
                self._drop_beyond()
                if held is not None:
                    self._copy(held)
            except (OSError, InputError) as error:
                what = "drop the steps that were given up" if held is None else f"take {held.name}"
                self._note("copied", f"could not {what} ({error}){_NO_STOP}")
            finally:
                if held is not None:
                    shutil.rmtree(held.parent, ignore_errors=True)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _drop_beyond(self) -> None:
        """What fails here is tried again before the next copy."""
        step = self._beyond
        if step is None:
            return
        for root in (self.there / CHECKPOINTS, self.there / BEST):
            for number, old in checkpoints(root):
                if number > step:
                    self._drop(old)
        with self._changed:
            if self._beyond == step:
                self._beyond = None

    def _copy(self, held: Path) -> None:
        final, root = held.name in FINAL.values(), self.there / CHECKPOINTS
        for best in [] if final else sorted((held.parent / BEST).glob("*")):
            place = self.there / BEST / best.name
            if not _same_manifest(best, place):
                copy_sealed(best, place, self._go_on)
        copy_sealed(held, self.there / held.name if final else root / held.name, self._go_on)
        for name in RECORDS:
            self._go_on()
            write_bytes(self.there / name, (self.out / name).read_bytes())
        with self._changed:
            if self._missing.get(_kind(held)) == held:
                del self._missing[_kind(held)]
        if final:
            return
        kept = [folder for _, folder in checkpoints(root) if (folder / MANIFEST).is_file()][: self._keep]
        named = {best_step(folder) for folder in kept}
        for _, old in checkpoints(root):
            if old not in kept:
                self._drop(old)
        for number, old in checkpoints(self.there / BEST):
            if number not in named:
                self._drop(old)

    def _drop(self, folder: Path) -> None:
        self._go_on()
        (folder / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder)

    def _go_on(self) -> None:
        """Raises OSError when the run has gone on without this copy: another one may be made there by now."""
        if self._left:
            raise OSError("left behind")

    def _note(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._notes.append(f"mirror {self.there} {text}")


def _kind(held: Path) -> str:
    """What waits is passed over for another of its kind: a checkpoint for a newer one."""
    return held.name if held.name in FINAL.values() else CHECKPOINTS


def _step(held: Path) -> int:
    return 0 if held.name in FINAL.values() else int(held.name.removeprefix("step-"))


def _best(root: Path, checkpoint: Path) -> Path | None:
    """The folder of the best of which a checkpoint says that it is, where there is one."""
    folder = root / BEST / f"step-{best_step(checkpoint) or 0:06d}"
    return folder if (folder / MANIFEST).is_file() else None


def _same_manifest(one: Path, other: Path) -> bool:
    path = other / MANIFEST
    return path.is_file() and path.read_bytes() == (one / MANIFEST).read_bytes()


def copy_sealed(source: Path, place: Path, go_on: Callable[[], None] = lambda: None) -> None:
    """Copy a sealed folder: every file read back and compared, the manifest last. Raises OSError when it differs, or
    what `go_on` raises, which is asked before each file appears."""
    problems = verify(source)
    if problems:
        raise OSError(f"{source} is damaged: {'; '.join(problems)}")
    place.mkdir(parents=True, exist_ok=True)
    (place / MANIFEST).unlink(missing_ok=True)
    for file in sorted(source.iterdir()):
        if file.name != MANIFEST:
            _copy_file(file, place / file.name, go_on)
    go_on()
    for extra in {path.name for path in place.iterdir()} - {path.name for path in source.iterdir()}:
        (place / extra).unlink()
    _copy_file(source / MANIFEST, place / MANIFEST, go_on)
    sync_folder(place)


def fetch(out: Path, there: Path, keep: int) -> list[str]:
    """Bring a run back from its mirror to a run folder that holds none; what was done, in words.

    Raises InputError when what the mirror holds cannot be used.
    """
    if (out / RECORDS[0]).exists() or not (there / RECORDS[0]).is_file():
        return []
    found = newest_valid(there / CHECKPOINTS)
    said = [f"mirror {there}: {line}" for line in found.skipped]
    out.mkdir(parents=True, exist_ok=True)
    if any(not entry.name.startswith(".") for entry in out.iterdir()):
        return []
    try:
        put_aside(there / CHECKPOINTS, found)
    except OSError as error:
        said.append(f"mirror {there}: what is damaged there could not be put aside ({error})")
    with stops_well(out, "free some space, then run the same command again"):
        if found.folder is not None:
            folder = found.folder
            save_checkpoint(out / CHECKPOINTS, found.step, lambda staging: _take(folder, staging), keep)
            best = _best(there, folder)
            said += [] if best is None else _take_whole(best, out / BEST / best.name, there)
            if (folder / FIGURES).is_file():
                write_bytes(out / FIGURES, (folder / FIGURES).read_bytes())
        for name in FINAL.values():
            if (there / name / MANIFEST).is_file():
                said += _take_whole(there / name, out / name, there)
        for name in reversed(RECORDS):
            if (there / name).is_file():
                write_bytes(out / name, (there / name).read_bytes())
    step = f"step {found.step}" if found.folder is not None else "its record alone"
    return [*said, f"{out} was brought back from the mirror {there}: {step}"]


def _take_whole(source: Path, place: Path, there: Path) -> list[str]:
    """Copy a sealed folder from the mirror `there`, unless it is damaged, which is said."""
    wrong = verify(source)
    if wrong:
        return [f"mirror {there}: {source.relative_to(there)} is damaged and was not taken: {'; '.join(wrong)}"]
    copy_sealed(source, place)
    return []


def _take(source: Path, staging: Path) -> None:
    for file in source.iterdir():
        if file.name != MANIFEST:
            _copy_file(file, staging / file.name)


def _link(folder: Path, held: Path) -> None:
    held.mkdir(parents=True)
    for file in folder.iterdir():
        try:
            os.link(file, held / file.name)
        except OSError:  # a disk without hard links
            shutil.copyfile(file, held / file.name)


def _copy_file(source: Path, target: Path, go_on: Callable[[], None] = lambda: None) -> None:
    """Copy a file under another name, read it back, and give it its own."""
    staging = target.with_name(f".{target.name}.{threading.get_ident()}")
    try:
        shutil.copyfile(source, staging)
        sync(staging)
        with staging.open("rb") as file:  # what is read back must come from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if sha256(staging) != sha256(source):
            raise OSError(f"{target.name} was read back otherwise than written")
        go_on()
        os.replace(staging, target)
    finally:
        staging.unlink(missing_ok=True)
