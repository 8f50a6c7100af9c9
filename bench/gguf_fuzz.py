"""`python -m bench.gguf_fuzz --count 10000 --out RECORD`: damaged GGUF files, none of which may take dozan down.

Each file goes to llama.cpp in a child with limits, as dozan's own (forked from one that has the library loaded), and
through everything that reads a GGUF in dozan's process. A child may die; dozan must say so or read the file, in time.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 20
"""A file that takes longer hangs."""
ROW = [2, 300, 301, 302, 303]
Names = Sequence[tuple[str, str]]


def mutate(data: bytes, seed: int, header: int) -> tuple[str, bytes]:
    """(what was done, the file) by a seed; `header` is where the tensors' data begins, about."""
    draw = random.Random(seed)
    out = bytearray(data)
    how = draw.choice(("bits", "bytes", "cut", "zeros", "splice", "count", "swap", "data"))
    where = header if how != "data" else len(data)
    at = draw.randrange(4, where) if draw.random() < 0.7 else draw.randrange(4, min(where, 4096))
    match how:
        case "bits" | "data":
            for _ in range(draw.choice((1, 1, 2, 8, 64))):
                out[min(len(out) - 1, at + draw.randrange(64))] ^= 1 << draw.randrange(8)
        case "bytes":
            for i in range(draw.choice((1, 4, 16))):
                out[at + i] = draw.randrange(256)
        case "cut":
            del out[draw.randrange(len(out)) :]
        case "zeros":
            size = draw.choice((4, 8, 64, 4096))
            out[at : at + size] = bytes(min(size, len(out) - at))
        case "splice":
            size = draw.randrange(1, 4096)
            out[at : at + size] = b"" if draw.random() < 0.5 else out[at : at + size] * 2
        case "count":
            place = draw.choice((8, 16, 4 * (at // 4)))
            value = draw.choice((0, 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1))
            out[place : place + 8] = value.to_bytes(8, "little")
        case "swap":
            other, size = draw.randrange(24, header), draw.choice((4, 8, 32))
            out[at : at + size], out[other : other + size] = out[other : other + size], out[at : at + size]
    return how, bytes(out)


@dataclass
class Warm:
    """A process that has llama.cpp loaded and forks for each file."""

    process: subprocess.Popen[str]

    def run(self, folder: Path) -> str:
        """How the child ended: "read", "refused", "signal N", "exit N" or "hangs"."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{folder}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def warm() -> Iterator[Warm]:
    command = [sys.executable, "-m", "bench.gguf_fuzz", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          cwd=Path(__file__).parents[1]) as process:  # fmt: skip
        yield Warm(process)
        assert process.stdin is not None
        process.stdin.close()


def serve() -> None:
    """Answers a folder a line with how the worker ended on it."""
    from dozan.ship import llama_worker

    llama_worker.load_library()
    for line in sys.stdin:
        folder = Path(line.strip())
        child = os.fork()
        if child == 0:
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os._exit(llama_worker.main(folder))
        print(_ended(child, folder), flush=True)


def _ended(child: int, folder: Path) -> str:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return f"signal {os.WTERMSIG(status)}"
            code = os.WEXITSTATUS(status)
            return "read" if code == 0 and (folder / "result.json").is_file() else f"exit {code}"
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def in_this_process(path: Path, names: Names, pieces: Callable[[str], Any]) -> str:
    """What reading the file here comes to: "read", "refused", or the name of an exception that is no InputError."""
    from dozan.errors import InputError
    from dozan.ship.gguf_read import open_gguf
    from dozan.ship.served import read_gguf
    from dozan.ship.weight_check import check_weights

    ends = []
    for read in (lambda: check_weights(open_gguf(path), names, pieces), lambda: read_gguf(path)):
        try:
            read()
            ends.append("read")
        except InputError:
            ends.append("refused")
        except Exception as error:  # noqa: BLE001 - what must not happen is what is counted
            ends.append(f"{type(error).__name__}: {error}"[:120])
    odd = [end for end in ends if end not in ("read", "refused")]
    return odd[0] if odd else "read" if set(ends) == {"read"} else "refused"


def fuzz(gguf: Path, names: Names, pieces: Callable[[str], Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Counts of how files ended, and each one that broke dozan or hung."""
    from gguf import GGUFReader

    from dozan.ship.llamacpp import memory_limit

    data, header = gguf.read_bytes(), min(tensor.data_offset for tensor in GGUFReader(gguf).tensors)
    child, here, how = (collections.Counter[str]() for _ in range(3))
    broken, slowest = [], 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name, warm() as process:
        folder = Path(name)
        for seed in seeds:
            done, damaged = mutate(data, seed, header)
            path = folder / "damaged.gguf"
            path.write_bytes(damaged)
            (folder / "result.json").unlink(missing_ok=True)
            request = {"do": "inspect", "rows": [ROW], "tail": 1, "lines": ["قل"], "ids": [1, 106], "gguf": str(path),
                       "threads": 1, "memory_bytes": memory_limit(path)}  # fmt: skip
            (folder / "request.json").write_text(json.dumps(request))
            ended = process.run(folder)
            began = time.monotonic()
            found = in_this_process(path, names, pieces)
            seconds = time.monotonic() - began
            slowest = max(slowest, seconds)
            child[ended] += 1
            here[found] += 1
            how[done] += 1
            if ended in ("hangs", "") or found not in ("read", "refused") or seconds > SECONDS:
                broken.append({"seed": seed, "how": done, "child": ended, "here": found, "seconds": round(seconds, 1)})
    return {"files": len(seeds), "how": dict(how), "child": dict(child), "here": dict(here),
            "slowest_seconds_here": round(slowest, 2), "broken": broken}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gguf_fuzz", description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--kind", default="q8_0")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.serve:
        return serve()
    from bench.shipping_model import write_base
    from dozan.ship.gguf import tensor_names, write_gguf
    from dozan.ship.source import open_source

    with tempfile.TemporaryDirectory() as name:
        write_base(Path(name) / "base", "tiny")
        source = open_source(Path(name) / "base")
        path = write_gguf(source.bundle, Path(name) / "whole.gguf", options.kind, pieces=source.pieces)
        began = time.monotonic()
        seeds = range(options.first, options.first + options.count)
        found = fuzz(path, tensor_names(source.bundle.config), source.pieces, seeds)
        seconds = round(time.monotonic() - began)
        found = {"kind": options.kind, "bytes": path.stat().st_size, "seconds": seconds, **found}
    print(json.dumps(found, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
