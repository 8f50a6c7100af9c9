"""No rank fails alone: a thread that shows that this rank lives, and ends it when another one has failed or is gone.

A collective waits for a lost rank until its time limit, minutes later. So each rank beats in a store that the first one
holds; what a failing rank says is written there, and whoever reads it says so once and leaves with the same status.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from dozan.errors import InputError, Interrupted
from dozan.redact import redact

if TYPE_CHECKING:
    from torch.distributed import Store

SILENT_SECONDS, ALARMED_SECONDS = 7.0, 2.5
"""A rank that has not beaten for so long is gone; less where a collective has failed."""
_PAUSE, _GRACE, _ORDERLY_SECONDS = 0.4, 2.5, 60.0
_FAILED, _TOLD = "failed", "told"
_RESUMABLE = 75


@dataclass(frozen=True)
class Failure:
    """Which rank failed, what it says, and the exit status of all of them."""

    rank: int
    text: str
    status: int


class Watch:
    """The watch of `rank` among `size` over a store; `begin` starts it, and `leave` ends it."""

    def __init__(self, store: Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._over, self._failing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dozan-ranks", daemon=True)
        self._silent = SILENT_SECONDS
        self.silenced = False

    def begin(self) -> None:
        """Start to beat."""
        self._store.set(f"beat/{self._rank}", "0")
        self._thread.start()

    def leave(self) -> None:
        """This rank is done. The first waits for the others, because it holds the store."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        try:
            self._store.set(f"left/{self._rank}", "")
            if self._rank == 0:
                self._wait_for("left", 10 * _GRACE)
        except RuntimeError:  # the first rank has left before
            return

    def fail(self, error: BaseException) -> None:
        """Tell the others why all of them end; returns when they know, and whoever is not first then keeps silent. What
        every rank raises is left to the first one to tell, which may have a mirror or a tracker to wait for."""
        if self._rank and getattr(error, "is_of_all", False):
            with suppress(RuntimeError):  # the first rank is gone, and the store with it
                self._is_marked(_FAILED, _ORDERLY_SECONDS)
        self._failing.set()
        if self._over.is_set():
            return
        self._over.set()
        failure = _failure(self._rank, error)
        try:
            known = Failure(**json.loads(self._store.compare_set(_FAILED, "", json.dumps(asdict(failure)))))
            if self._rank == 0:
                if known.rank and known.text != failure.text:
                    _say(known)
                self._store.set(_TOLD, "")
                self._wait_for("seen", _GRACE)
            else:
                self.silenced = self._is_told(2 * _GRACE)
                self._store.set(f"seen/{self._rank}", "")  # from here on the store may go
        except RuntimeError:  # the first rank is gone, and the store with it
            return

    def find_out(self) -> None:
        """After a collective failed: wait until it is known which rank has, which ends this process."""
        if not self._over.is_set():
            self._silent = ALARMED_SECONDS
            self._thread.join(SILENT_SECONDS)

    def _watch(self) -> None:
        beats, since, count = dict[str, bytes](), [time.monotonic()] * self._size, 0
        watched = [rank for rank in (range(self._size) if self._rank == 0 else (0,)) if rank != self._rank]
        while not self._over.wait(_PAUSE):
            count += 1
            try:
                self._store.set(f"beat/{self._rank}", str(count))
                if self._store.check([_FAILED]):
                    return self._end(Failure(**json.loads(self._store.get(_FAILED))))
                if self._rank and self._store.check(["left/0"]):
                    return None  # the run is done, and this process goes on for itself
                for rank in watched:
                    if not self._store.check([f"beat/{rank}"]) or self._store.check([f"left/{rank}"]):
                        since[rank] = time.monotonic()
                        continue
                    found = self._store.get(f"beat/{rank}")
                    if found != beats.get(str(rank)):
                        beats[str(rank)], since[rank] = found, time.monotonic()
            except RuntimeError:  # the store's connection: the first rank has left, or is gone
                return None if self._over.is_set() else self._end(_gone(0))
            lost = [rank for rank in watched if time.monotonic() - since[rank] > self._silent]
            if lost:
                return self._end(_gone(lost[0]))

    def _end(self, failure: Failure) -> None:
        """End this process as another rank has failed, unless it is about to end by itself."""
        if self._failing.wait(_PAUSE):
            return
        try:
            self._store.compare_set(_FAILED, "", json.dumps(asdict(failure)))
            if self._rank == 0:
                _say(failure)
                self._store.set(_TOLD, "")
                self._wait_for("seen", _GRACE, but=failure.rank)
            elif self._is_told(_GRACE):
                self._store.set(f"seen/{self._rank}", "")
            else:
                _say(failure)
        except RuntimeError:  # no store any more
            _say(failure)
        from dozan.world.status import report_status

        os._exit(report_status(failure.status))

    def _is_told(self, seconds: float) -> bool:
        return self._is_marked(_TOLD, seconds)

    def _is_marked(self, mark: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._store.check([mark]):
                return True
            time.sleep(_PAUSE / 4)
        return False

    def _wait_for(self, mark: str, seconds: float, but: int = 0) -> None:
        """Until every rank `but` one has left its mark, at most so long."""
        end = time.monotonic() + seconds
        marks = [f"{mark}/{rank}" for rank in range(1, self._size) if rank != but]
        while time.monotonic() < end and not all(self._store.check([each]) for each in marks):
            time.sleep(_PAUSE / 8)


def _failure(rank: int, error: BaseException) -> Failure:
    if isinstance(error, InputError):
        return Failure(rank, redact(str(error)), error.exit_status)
    if isinstance(error, Interrupted):
        return Failure(rank, redact(str(error)), _RESUMABLE)
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return Failure(rank, f"left with {error.code}", error.code)
    return Failure(rank, redact(f"{type(error).__name__}: {error}"), 1)


def _gone(rank: int) -> Failure:
    text = "gone without a word (killed, or its machine is down); the same command goes on from the newest checkpoint"
    return Failure(rank, text, 1)


def _say(failure: Failure) -> None:
    print(f"dozan: rank {failure.rank}: {failure.text}", file=sys.stderr, flush=True)
