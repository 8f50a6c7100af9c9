"""Speed and memory of a GGUF through llama.cpp on the CPU, in a child process whose peak memory is the model's own.

Run as `python -m dozan.ship.phone_speed FOLDER`: reads FOLDER/request.json, writes FOLDER/result.json.
"""

from __future__ import annotations

import json
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dozan.errors import InputError

GENERATED = 64
"""Tokens that are generated for the figure."""
REPEATS = 3
SECONDS = 600.0


def measure_speed(gguf: str | Path, prefix: Sequence[int], prompt: Sequence[int]) -> dict[str, Any]:
    """Seconds, tokens/s (medians of REPEATS) and bytes: a prompt decoded whole, the same behind a prefix whose keys are
    kept, then tokens one by one. `prompt` begins with `prefix`. Raises InputError when the file cannot be run."""
    assert list(prompt[: len(prefix)]) == list(prefix) and len(prompt) > len(prefix)
    from dozan.ship.llamacpp import thread_count

    request = {"gguf": str(Path(gguf).resolve()), "prefix": len(prefix), "prompt": list(prompt),
               "threads": thread_count()}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="dozan-speed-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        command = [sys.executable, "-m", "dozan.ship.phone_speed", name]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, text=True, errors="replace")
        except subprocess.TimeoutExpired:
            raise InputError(f"{gguf}: measuring took over {SECONDS:g} seconds; use a faster machine") from None
        if done.returncode != 0:
            raise InputError(f"{gguf}: llama.cpp could not run the file ({done.stderr.strip()[-200:]})")
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return found


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """The child's work."""
    from dozan.ship.llama_worker import Row, Runtime

    before = _peak_rss()
    prompt, kept = request["prompt"], request["prefix"]
    started = time.perf_counter()
    runtime = Runtime(request["gguf"], request["threads"], len(prompt) + GENERATED + 1)
    loaded = time.perf_counter() - started

    def prefill(start: int) -> int:
        runtime.keep(0, start)
        return runtime.prefill(0, prompt, start)

    def generate() -> None:
        token = int(runtime.logits(prefill(kept)).argmax())
        for i in range(GENERATED):
            runtime.decode([Row(token, len(prompt) + i, 0, True)])
            token = int(runtime.logits(0).argmax())

    whole = _seconds(lambda: prefill(0))
    behind = _seconds(lambda: prefill(kept))
    generated = max(_seconds(generate) - behind, 1e-9)
    return {
        "cpu": _cpu(), "threads": request["threads"], "load_seconds": loaded,
        "prompt_tokens": len(prompt), "prompt_seconds": whole, "prompt_tokens_per_second": len(prompt) / whole,
        "prompt_tokens_behind_prefix": len(prompt) - kept, "prompt_seconds_with_prefix": behind,
        "prompt_tokens_per_second_with_prefix": len(prompt) / behind,
        "generated_tokens": GENERATED, "generated_seconds": generated,
        "generated_tokens_per_second": GENERATED / generated,
        "rss_before_bytes": before, "peak_rss_bytes": _peak_rss(), "repeats": REPEATS,
    }  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    """The median over REPEATS, after one that warms up."""
    work()
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return median(taken)


def _peak_rss() -> int:
    """Bytes. Not what Linux's getrusage says, which begins with the parent's peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        assert found is not None, "the kernel tells every process its peak"
        return int(found.group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cpu() -> str:
    """The processor's name, without the host's."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return named or platform.machine()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    (place / "result.json").write_text(json.dumps(_measure(json.loads((place / "request.json").read_text()))))
