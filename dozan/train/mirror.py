"""A copy of a run in another folder, such as a mounted drive: made by a thread of its own, which never stops the run.

A checkpoint is copied file by file, each read back and hashed; its manifest comes last, so that without it the copy is
known to be cut short. What waits to be copied is held by hard links, each time in a folder of its own: the run may
remove its own meanwhile, or save the same step again. A thread that is left behind shows no further file.
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
from dozan.train.run import FINAL

CHECKPOINTS, HELD = "checkpoints", ".mirror"
RECORDS, FIGURES = ("run.json", "recipe.yaml"), "metrics.jsonl"
_ENDING_SECONDS = 5.0


class Mirror:
    """Copies what it is offered from the run folder `out` to the folder `there`, the newest first, and keeps `keep`.

    What goes wrong is told by `notes`, once for each kind of fault; the next checkpoint is tried again.
    """

    def __init__(self, out: Path, there: Path, keep: int) -> None:
        self.out, self.there, self._keep = out, there, keep
        self._waiting: Path | None = None
        self._busy, self._closing, self._left = False, False, False
        self._offered = 0
        self._changed = threading.Condition()
        self._notes: deque[str] = deque()
        self._told: set[str] = set()
        shutil.rmtree(out / HELD, ignore_errors=True)
        self._thread = threading.Thread(target=self._work, name="dozan-mirror", daemon=True)
        self._thread.start()

    def offer(self, folder: Path) -> None:
        """Have a finished checkpoint copied; one that still waits is passed over for it."""
        self._offered += 1
        held = self.out / HELD / str(self._offered) / folder.name
        try:
            _link(folder, held)
        except OSError as error:
            self._note("held", f"{folder.name} could not be held for it ({error})")
            return
        with self._changed:
            passed, self._waiting = self._waiting, held
            self._changed.notify_all()
        if passed is not None:
            shutil.rmtree(passed.parent, ignore_errors=True)

    def notes(self) -> list[str]:
        """What there is to say since the last call."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def finish(self, seconds: float) -> None:
        """Wait so long for what is being copied, then copy the records and the final adapter or model within the same
        time."""
        deadline = time.monotonic() + seconds
        self._wait(deadline)
        for name in FINAL.values():
            if (self.out / name / MANIFEST).is_file() and not self._busy:
                self.offer(self.out / name)
                self._wait(deadline)
        with self._changed:
            late = self._busy or self._waiting is not None
        if late:
            self._note("late", f"is not done after {seconds:.0f} s and is left behind; copy {self.out} there yourself")
        self.close()

    def close(self, seconds: float = _ENDING_SECONDS) -> None:
        """Give what is being copied so long, then leave it: without its manifest it counts as absent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)
        self._left = True
        if not self._thread.is_alive():
            shutil.rmtree(self.out / HELD, ignore_errors=True)

    def _wait(self, deadline: float) -> None:
        with self._changed:
            while (self._busy or self._waiting is not None) and time.monotonic() < deadline:
                self._changed.wait(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        while True:
            with self._changed:
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                if self._waiting is None:
                    return
                held, self._waiting, self._busy = self._waiting, None, True
            try:
                self._copy(held)
            except (OSError, InputError) as error:
                self._note("copied", f"could not take {held.name} ({error})")
            finally:
                shutil.rmtree(held.parent, ignore_errors=True)
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _copy(self, held: Path) -> None:
        final = held.name in FINAL.values()
        place = self.there / (held.name if final else f"{CHECKPOINTS}/{held.name}")
        copy_sealed(held, place, self._go_on)
        for name in RECORDS:
            self._go_on()
            write_bytes(self.there / name, (self.out / name).read_bytes())
        for _, old in [] if final else checkpoints(self.there / CHECKPOINTS)[self._keep :]:
            (old / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(old)

    def _go_on(self) -> None:
        """Raises OSError when the run has gone on without this copy: another one may be made there by now."""
        if self._left:
            raise OSError("left behind")

    def _note(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._notes.append(f"mirror {self.there} {text}; the run goes on without it")


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
    if found.folder is not None:
        folder = found.folder
        save_checkpoint(out / CHECKPOINTS, found.step, lambda staging: _take(folder, staging), keep)
        if (folder / FIGURES).is_file():
            write_bytes(out / FIGURES, (folder / FIGURES).read_bytes())
    for name in FINAL.values():
        if (there / name / MANIFEST).is_file():
            copy_sealed(there / name, out / name)
    for name in reversed(RECORDS):
        if (there / name).is_file():
            write_bytes(out / name, (there / name).read_bytes())
    step = f"step {found.step}" if found.folder is not None else "its record alone"
    return [*said, f"{out} was brought back from the mirror {there}: {step}"]


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
