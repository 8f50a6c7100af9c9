"""A run in which nothing happens any more: its stacks are written down, it is asked to save, and ended if it cannot."""

from __future__ import annotations

import faulthandler
import os
import statistics
import sys
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType

from dozan.train.signals import StopRequest
from dozan.world import current
from dozan.world.status import report_status

STACKS = "stacks.txt"
RESUMABLE = 75
_TIMES, _RECENT, _FIRST = 10, 50, 3
"""A step may take so many times the median of so many; the first one compiles, and has so many limits."""
_SHORTEST_GAP = 0.001
_SUSPENDED = 5


class Watchdog:
    """A context in which `beat` must be called again and again.

    limit_seconds: how long none may come, or ten times the median gap if that is more; 0: for ever. Then every thread's
    stack goes to `stacks.txt` in the run folder, and a stop is asked for, upon which a loop that still runs saves and
    leaves. grace_seconds later the process is ended with 75: the newest checkpoint stands.
    """

    def __init__(self, out: Path, stop: StopRequest, limit_seconds: float, grace_seconds: float = 20.0) -> None:
        self._out, self._stop, self._limit, self._grace = out, stop, limit_seconds, grace_seconds
        self._gaps: deque[float] = deque(maxlen=_RECENT)
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="dozan-watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._last = time.monotonic()
        self._stop.beat = self.beat
        if self._limit:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.beat = lambda: None
        self._over.set()
        if self._limit:
            self._thread.join()

    def beat(self) -> None:
        """A sign of life."""
        now = time.monotonic()
        if now - self._last > _SHORTEST_GAP:
            self._gaps.append(now - self._last)
        self._last = now

    def allowed(self) -> float:
        """Seconds without a beat that are borne at present."""
        gaps = list(self._gaps)
        return self._limit * _FIRST if len(gaps) < 2 else max(self._limit, _TIMES * statistics.median(gaps))

    def _watch(self) -> None:
        pause, before = min(1.0, self._limit / 5), time.monotonic()
        while not self._over.wait(pause):
            slept, before = time.monotonic() - before, time.monotonic()
            if slept > _SUSPENDED * pause + 1:  # the whole process was stopped, this thread too
                self._last = before
            silent = time.monotonic() - self._last
            if silent > self.allowed():
                self._tell(silent)
                self._stop.requested = self._stop.requested or f"nothing ended for {silent:.0f} s"
                if not self._over.wait(self._grace):
                    print(f"dozan: the run did not answer in {self._grace:.0f} s more and is ended; the same command "
                          "goes on from its newest checkpoint", file=sys.stderr, flush=True)  # fmt: skip
                    os._exit(report_status(RESUMABLE))
                return

    def _tell(self, silent: float) -> None:
        world = current()
        where = self._out / (STACKS if world.first else f"stacks-{world.rank}.txt")
        where.parent.mkdir(parents=True, exist_ok=True)
        with where.open("a", encoding="utf-8") as file:
            file.write(f"nothing ended for {silent:.0f} s\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        print(f"dozan: nothing ended for {silent:.0f} s; what each thread does stands in {where}; stopping",
              file=sys.stderr, flush=True)  # fmt: skip
