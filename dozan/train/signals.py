"""Stopping and saving when asked: the first SIGINT or SIGTERM has the loop save and stop, the second ends the process
at once; SIGUSR1 has it save and go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, TypeVar

from dozan.errors import Interrupted
from dozan.world import current

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ECHO_SECONDS = 2.0
"""A rank may hear of one stop twice: from the terminal or the scheduler, and from the launcher that passes it on."""
_Item = TypeVar("_Item")


class Stopped(Exception):
    """A stop was asked for in the midst of a step, an evaluation or a scoring; what it has computed is dropped."""


class StopRequest:
    """A context in which `requested` names what asked for a stop, else None, and `save` says whether a checkpoint was
    asked for; only the main thread hears signals. `beat` is called at each sign of life."""

    def __init__(self) -> None:
        self.requested: str | None = None
        self.save = False
        self.beat: Callable[[], None] = lambda: None
        self._before: dict[int, Any] = {}
        self._since = 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
            self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """A sign of life. Raises Stopped when a stop was asked for."""
        self.beat()
        if self.requested is not None:
            raise Stopped

    def through(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, with a `check` before each."""
        for item in items:
            self.check()
            yield item

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            _leave_at_once(number, self._since)
            return
        self._since = time.monotonic()
        self.requested = signal.Signals(number).name

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.save = True


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Within it SIGINT and SIGTERM raise Interrupted: for what comes before the first step and after the last, when
    every file is written whole or not at all and the same command does again what is missing. SIGUSR1, which a run
    saves at, is nothing then."""

    def leave(number: int, frame: FrameType | None) -> None:
        since = time.monotonic()
        for each in _SIGNALS:
            signal.signal(each, lambda number, frame: _leave_at_once(number, since))
        raise Interrupted(f"{signal.Signals(number).name}: stopped between steps; the same command goes on from there")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in _SIGNALS}
    before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_at_once(number: int, since: float) -> None:
    """End the process, unless a rank hears again of the stop that was asked for at `since`."""
    if current().size == 1 or time.monotonic() - since > _ECHO_SECONDS:
        os._exit(128 + number)
