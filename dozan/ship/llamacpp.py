"""Runs a GGUF through llama.cpp on token ids, always in a child process with limits of time and memory.

llama.cpp aborts the whole process on a damaged file and can hang on a strange one; both become an InputError here.
Decoding is greedy (the arg-max of the raw logits: no temperature, no penalties).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dozan.errors import InputError

_ADDRESSES = 12 << 30
"""For Python, libraries, thread stacks, keys and values, and logits: reserved, hardly a tenth is ever used."""
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""


def complete(gguf: str | Path, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int],
             on_progress: Progress | None = None, seconds: float = 3600.0, grammars: GgufGrammars | None = None,
             ) -> list[list[int]]:  # fmt: skip
    """Greedy continuation of each prompt (ids, <bos> included), at most `max_new_tokens` ids, the stop id cut off.

    Prompts that share a prefix share its keys and values. With `grammars`, each token is the most likely that its
    prompt's grammar allows. Raises InputError when the file cannot be run, or a grammar not be read.
    """
    ids = [[int(i) for i in prompt] for prompt in prompts]
    _refuse_empty(ids, "prompt")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; give at least 1")
    if not ids:
        return []
    request = {"do": "complete", "prompts": ids, "max_new_tokens": max_new_tokens, "stop_ids": list(stop_ids),
               **({} if grammars is None else grammars.request())}
    return list(_run(gguf, request, seconds, on_progress)[0])


@dataclass(frozen=True)
class GgufGrammars:
    """texts: different grammars in GBNF; which: the one of each prompt; reserves: of each grammar how many tokens its
    ending may need; closers: the ids that lead to an end, the best first."""

    texts: Sequence[str]
    which: Sequence[int]
    reserves: Sequence[int]
    closers: Sequence[int]

    def request(self) -> dict[str, Any]:
        return {"grammars": list(self.texts), "which": list(self.which), "reserves": list(self.reserves),
                "closers": list(self.closers)}  # fmt: skip


def accepts(gguf: str | Path, answers: Sequence[Sequence[int]], stop_ids: Sequence[int], grammars: GgufGrammars,
            seconds: float = 600.0) -> list[bool]:  # fmt: skip
    """Whether llama.cpp, by each answer's grammar, takes its ids (no stop id) to the end. Raises InputError."""
    plain = [[int(i) for i in answer] for answer in answers]
    request = {"do": "accepts", "answers": plain, "stop_ids": list(stop_ids), **grammars.request()}
    return list(_run(gguf, request, seconds, None)[0])


@dataclass(frozen=True)
class Inspection:
    """What llama.cpp says of a file: logits [min(T, tail), V] float32 of each row's last positions, the token ids of
    each line (no <bos>, control tokens not parsed), and whether it stops by itself at each id."""

    logits: list[np.ndarray]
    tokens: list[list[int]]
    ends: list[bool]


def inspect(gguf: str | Path, rows: Sequence[Sequence[int]] = (), tail: int = 1, lines: Sequence[str] = (),
            ids: Sequence[int] = (), seconds: float = 1800.0) -> Inspection:  # fmt: skip
    """Ask everything for one load of the file; logits with fp32 keys and values and no flash attention, 4·tail·V bytes
    a row. Raises InputError when the file cannot be run."""
    plain = [[int(i) for i in row] for row in rows]
    _refuse_empty(plain, "row")
    request = {"do": "inspect", "rows": plain, "tail": tail, "lines": list(lines), "ids": list(ids)}
    result, arrays = _run(gguf, request, seconds, None)
    return Inspection(arrays, result["tokens"], result["ends"])


def logits(gguf: str | Path, ids: Sequence[int]) -> np.ndarray:
    """Logits [T, V] float32 of every position of one sequence."""
    return inspect(gguf, [ids], len(ids)).logits[0]


def tokenize(gguf: str | Path, lines: Sequence[str]) -> list[list[int]]:
    """Token ids that the GGUF's own tokenizer gives each text: no <bos> added, control tokens not parsed."""
    return inspect(gguf, lines=lines).tokens


def _refuse_empty(rows: Sequence[Sequence[int]], what: str) -> None:
    empty = [i for i, row in enumerate(rows) if not row]
    if empty:
        raise InputError(f"{what} {empty[0]} has no tokens ({len(empty)} in all); it needs at least <bos>")


def _run(gguf: str | Path, request: dict[str, Any], seconds: float, on_progress: Progress | None
         ) -> tuple[Any, list[np.ndarray]]:  # fmt: skip
    """(result, logits of each row) of one request answered by a fresh child."""
    path = Path(gguf).resolve()
    _check_magic(path)
    with tempfile.TemporaryDirectory(prefix="dozan-llamacpp-") as name:
        folder = Path(name)
        whole = {**request, "gguf": str(path), "threads": thread_count(), "memory_bytes": memory_limit(path)}
        (folder / "request.json").write_text(json.dumps(whole))
        code, late = _child(folder, seconds, on_progress)
        if code != 0 or not (folder / "result.json").is_file():
            raise InputError(f"{path}: {_reason(folder, code, late, seconds)}")
        arrays = [np.load(folder / f"row-{i}.npy") for i in range(len(request.get("rows", ())))]
        return json.loads((folder / "result.json").read_text()), arrays


def memory_limit(path: Path) -> int:
    """Addresses that the child may use: the file mapped, twice more in llama.cpp's own layouts, and what all take."""
    return _ADDRESSES + 3 * path.stat().st_size


def thread_count() -> int:
    """OMP_NUM_THREADS where it is set, else the cores this process may use: more of them spin against each other."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_magic(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a .gguf file")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(f"{path}: starts with {magic!r}, not b'GGUF': not a GGUF file; export the model again")


def _child(folder: Path, seconds: float, on_progress: Progress | None) -> tuple[int, bool]:
    """Run the worker on `folder`: (exit code, stopped by the time limit)."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    late = threading.Event()
    with (folder / "log.txt").open("wb") as log:
        command = [sys.executable, "-m", "dozan.ship.llama_worker", str(folder)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True)

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if on_progress and line.startswith("progress "):
                    done, total = line.split()[1:3]
                    on_progress(int(done), int(total))
            return child.wait(), late.is_set()
        finally:
            timer.cancel()
            child.kill()
            child.wait()
            child.stdout.close()


def _reason(folder: Path, code: int, late: bool, seconds: float) -> str:
    """One sentence on why the child failed, with llama.cpp's last words."""
    if late:
        return f"llama.cpp did not finish within {seconds:g} seconds; give fewer rows or a longer limit"
    stated = folder / "error.txt"
    reason = stated.read_text() if stated.is_file() else f"llama.cpp ended with exit code {code}: the file is damaged"
    log = (folder / "log.txt").read_text(errors="replace").splitlines()
    words = [line.strip() for line in log if "error" in line.lower() or "assert" in line.lower() or "Error" in line]
    return reason + (f" ({' | '.join(words[-3:])})" if words else "")
