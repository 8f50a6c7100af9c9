"""Jobs in processes side by side, which may share a GPU; each process serves one job after another.

A job and its answer are a line of JSON each, on the process's stdin and stdout; what else it prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
Json = dict[str, Any]


def serve(answer: Callable[[Json], Json]) -> None:
    """Answer the jobs that `Processes` sends to this process, until it sends no more."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=out, flush=True)


class Processes:
    """`count` processes of `python -m module arguments`, which call `serve`. Jobs are begun in the order given.

    The processes share the machine's cores. When the block ends with an error they are killed, and jobs that were not
    begun are dropped.
    """

    def __init__(self, module: str, arguments: Sequence[str], count: int) -> None:
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self._all = [
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": threads},
            )
            for _ in range(count)
        ]  # fmt: skip
        for process in self._all:
            self._idle.put(process)
        self._pool = ThreadPoolExecutor(count)

    def submit(self, job: Json) -> Future[Json]:
        """The answer to come; RuntimeError when the process ends without one."""
        return self._pool.submit(self._ask, job)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        if kind is not None:
            for process in self._all:
                process.kill()
        self._pool.shutdown(cancel_futures=kind is not None)
        for process in self._all:
            # Their stdin ends, and so do they.
            process.communicate()

    def _ask(self, job: Json) -> Json:
        process = self._idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            # One that has ended, too: who gets it next must not wait for ever.
            self._idle.put(process)
        if not line:
            raise RuntimeError(f"{job}: the process ended with status {process.wait()}; stderr says why")
        found: Json = json.loads(line)
        print(job, found, file=sys.stderr, flush=True)
        return found


def over_seeds(values: Sequence[float]) -> Json:
    """The mean of what the seeds gave, each, and their standard deviation (None for one)."""
    return {"mean": round(statistics.mean(values), 4), "seeds": [round(value, 4) for value in values],
            "spread": round(statistics.stdev(values), 4) if len(values) > 1 else None}  # fmt: skip
