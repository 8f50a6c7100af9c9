"""Runs a program that a model wrote, with its tests, where it can do no harm: another process that gave up its rights.

What it may not do, and by which guard, stands in `judge.sandbox_child`. A program that searches its own process for
the harness could still claim to have passed; nothing outside that process is within its reach.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.errors import InputError

_CHILD = Path(__file__).with_name("sandbox_child.py")
_OUTPUT_SHOWN = 2000
_REPORT_BYTES = 2**16
KERNEL_GUARDS = ("seccomp", "landlock")


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds by the clock and of the CPU, bytes of address space, bytes of a file (and of
    what it prints)."""

    seconds: float = 10.0
    memory_bytes: int = 2**29
    file_bytes: int = 2**20


DEFAULT = Limits()


@dataclass(frozen=True)
class Ran:
    """What came of a program. `reason` is "passed" or why not: "failed test", "error", "time", "memory", "left" (it
    ended itself before its tests did) or "crashed".

    passed: the tests before the first that failed, of `tests`. error: where and what, or "". output: what it printed,
    cut. guards: what held it, by name.
    """

    reason: str
    passed: int
    tests: int
    error: str
    output: str
    seconds: float
    guards: tuple[str, ...]


def run_tests(code: str, tests: Sequence[str], limits: Limits = DEFAULT) -> Ran:
    """Run `code`, then each test (Python that raises when it fails) in its names. See `Ran`.

    Raises InputError on a system without POSIX limits, RuntimeError when the sandbox cannot be closed.
    """
    if os.name != "posix":
        raise InputError("answers in code are run on Linux and macOS alone; score them there")
    with tempfile.TemporaryDirectory(prefix="dozan-sandbox-") as folder, tempfile.TemporaryFile() as output:
        task = {
            "code": code, "tests": list(tests), "token": secrets.token_hex(16), "folder": folder,
            "seconds": max(1, int(limits.seconds) + 1), "memory_bytes": limits.memory_bytes,
            "file_bytes": limits.file_bytes,
        }  # fmt: skip
        started = time.monotonic()
        reads, writes = os.pipe()
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(_CHILD), str(writes)], stdin=subprocess.PIPE, stdout=output,
            stderr=output, cwd=folder, env={"LANG": "C.UTF-8"}, start_new_session=True, pass_fds=(writes,),
        )  # fmt: skip
        os.close(writes)
        try:
            _hand_over(child, json.dumps(task).encode())
            report, in_time = _read_report(reads, started + limits.seconds)
        finally:
            os.close(reads)
            _end(child)
        seconds = time.monotonic() - started
        output.seek(0)
        printed = output.read(_OUTPUT_SHOWN).decode(errors="replace")
    return _judged(task, report, in_time, child.returncode, printed, seconds)


def run_all(
    programs: Sequence[tuple[str, Sequence[str]]], limits: Limits = DEFAULT, workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Ran]:  # fmt: skip
    """`run_tests` for each (code, tests), in order, `workers` at a time (the machine's processors by default)."""
    ran: list[Ran] = []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for found in pool.map(lambda program: run_tests(program[0], program[1], limits), programs):
            ran.append(found)
            if on_progress:
                on_progress(len(ran), len(programs))
    return ran


def _hand_over(child: subprocess.Popen[bytes], task: bytes) -> None:
    assert child.stdin is not None
    try:
        child.stdin.write(task)
        child.stdin.close()
    except BrokenPipeError:
        pass  # it died at once; its report, or that there is none, says so


def _read_report(reads: int, until: float) -> tuple[str, bool]:
    """What the child told, and whether its end came before the time was up."""
    found = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reads, selectors.EVENT_READ)
        while len(found) < _REPORT_BYTES:
            if not selector.select(max(0.0, until - time.monotonic())):
                return found.decode(errors="replace"), False
            part = os.read(reads, 4096)
            if not part:
                break
            found += part
    return found.decode(errors="replace"), True


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child has ended, or is ended with its whole group."""
    try:
        child.wait(0.2)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _judged(task: dict[str, Any], report: str, in_time: bool, code: int, printed: str, seconds: float) -> Ran:
    tests: list[str] = task["tests"]
    lines = [line.split("\t") for line in report.splitlines() if line.startswith(task["token"] + "\t")]
    told = [(parts[1], "\t".join(parts[2:])) for parts in lines if len(parts) > 2]
    guards = [text for kind, text in told if kind == "guards"]
    if not guards:
        if in_time:
            raise RuntimeError(f"the sandbox did not start (exit status {code}): {printed.strip()[-500:]}")
        return Ran("time", 0, len(tests), "the sandbox did not start in time", printed, seconds, ())
    stages = [text for kind, text in told if kind == "stage"]
    where, _, error = next((text for kind, text in told if kind == "error"), "").partition("\t")
    passed = max(0, len(stages) - 1)
    if len(stages) == 1 + len(tests):
        reason, said = "passed", ""
    elif error:
        reason, said = _kind(where, error), f"{where}: {error}"
    elif not in_time or code in (-signal.SIGXCPU, -signal.SIGKILL):
        reason, said = "time", f"not done in {seconds:.1f} s"
    elif code < 0:
        reason, said = "crashed", signal.Signals(-code).name
    else:
        reason, said = "left", f"ended itself with status {code}"
    return Ran(reason, passed, len(tests), said, printed, seconds, tuple(guards[0].split()))


def _kind(where: str, error: str) -> str:
    if error.startswith("MemoryError"):
        return "memory"
    return "failed test" if where != "code" and error.startswith("AssertionError") else "error"
