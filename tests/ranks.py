"""Runs a function on several ranks: processes forked from this one, which meet over gloo."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.errors import InputError, Interrupted
from dozan.world import World, joined, leave

LIMIT_SECONDS = 60.0
Work = Callable[[World], Any]


@dataclass(frozen=True)
class Ended:
    """How a rank ended: exit status (minus a signal), what it gave, what it said on stderr, after how many seconds."""

    status: int
    result: Any
    said: str
    seconds: float


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def on_ranks(
    count: int, work: Work, port: int | None = None, start: tuple[int, ...] | None = None,
    during: Callable[[list[int]], None] = lambda children: None, **environment: str,
) -> list[Ended]:  # fmt: skip
    """What `work` gives on each of `count` ranks, of which only those in `start` are started. during: called with the
    process ids while they run."""
    port = free_port() if port is None else port
    with tempfile.TemporaryDirectory() as folder:
        began, children = time.monotonic(), list[int]()
        for rank in start or range(count):
            child = os.fork()
            if not child:
                _work(Path(folder), rank, count, port, work, environment)
            children.append(child)
        during(children)
        return [_ended(Path(folder), rank, child, began)
                for rank, child in zip(start or range(count), children, strict=True)]  # fmt: skip


def _work(folder: Path, rank: int, count: int, port: int, work: Work, environment: dict[str, str]) -> None:
    os.environ.update({
        "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **environment,
    })  # fmt: skip
    status = 1
    with (folder / f"said-{rank}").open("w", buffering=1) as said, redirect_stderr(said):
        try:
            with joined() as world:
                found = work(world)
            (folder / f"result-{rank}").write_text(json.dumps(found))
            leave()
            status = 0
        except (InputError, Interrupted) as error:
            status = error.exit_status if isinstance(error, InputError) else 75
            (folder / f"result-{rank}").write_text(json.dumps(str(error)))
        except BaseException:
            said.write(traceback.format_exc())
    os._exit(status)


def _ended(folder: Path, rank: int, child: int, began: float) -> Ended:
    code = 99
    while time.monotonic() - began < LIMIT_SECONDS:
        found, code = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    status = -os.WTERMSIG(code) if os.WIFSIGNALED(code) else os.WEXITSTATUS(code)
    kept, said = folder / f"result-{rank}", folder / f"said-{rank}"
    result = json.loads(kept.read_text()) if kept.is_file() and kept.stat().st_size else None
    return Ended(status, result, said.read_text() if said.is_file() else "", time.monotonic() - began)


def results(count: int, work: Work, **more: Any) -> list[Any]:
    """What each rank gave; an error that shows what was said when one did not end well."""
    ended = on_ranks(count, work, **more)
    assert not any(each.status for each in ended), "\n".join(f"{e.status} {e.result} {e.said}" for e in ended)
    return [each.result for each in ended]
