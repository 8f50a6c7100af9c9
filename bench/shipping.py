"""`python -m bench.shipping SHAPE DIR --out RECORD`: what merging and exporting a model of a published size takes.

DIR gets a random base in bfloat16 and an rsLoRA + DoRA run over it (bench.shipping_model), kept for the next call;
the merged folder and the GGUF files are measured and removed. Each step runs in a process of its own. `said` has its
seconds of processor time, since other work may share the machine. Peaks are those of resident memory: `own` of dozan's
process, `llama_cpp` of its child, which maps the whole file. With DOZAN_BENCH_WEIGHTS=1.2e10 a model of
a few layers is measured on as many tokens as 12B would be.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.shipping_model import SHAPES, write_base, write_run
from dozan.model.files import write_whole
from dozan.recipe import AdapterRecipe

WHOLE = "DOZAN_BENCH_WEIGHTS"
"""How many weights the whole model has of which some layers are measured."""
STEPS: dict[str, Callable[[Path, str], Any]] = {}


def step(work: Callable[[Path, str], Any]) -> Callable[[Path, str], Any]:
    STEPS[work.__name__] = work
    return work


@step
def merge(folder: Path, _: str) -> Any:
    from dozan.ship.merge import merge as merge_run

    out = merge_run(folder / "run", folder / "merged")
    found = json.loads((out / "parity.json").read_text(encoding="utf-8"))
    manifest = json.loads((out / "dozan-manifest.json").read_text(encoding="utf-8"))
    size = sum(path.stat().st_size for path in out.iterdir())
    shutil.rmtree(out)
    return {"bytes": size, "tensors": manifest["tensors"], "merged": found["merged"], "stored": found["stored"]}


@step
def write(folder: Path, kinds: str) -> Any:
    """The first file alone, without its certificate."""
    from dozan.ship.gguf import write_gguf
    from dozan.ship.source import open_source

    source, kind = open_source(folder / "run"), kinds.split(",")[0]
    opened = time.process_time()
    path = write_gguf(source.bundle, folder / f"{kind}.gguf", kind, pieces=source.pieces)
    size = path.stat().st_size
    path.unlink()
    return {"kind": kind, "bytes": size, "cpu_seconds_until_open": round(opened, 1)}


@step
def export(folder: Path, kinds: str) -> Any:
    from dozan.ship import parity, parity_export
    from dozan.ship.export import export as export_run
    from dozan.ship.gguf import weights_in
    from dozan.ship.source import open_source

    weights = weights_in(open_source(folder / "run").bundle)
    if WHOLE in os.environ:
        share = weights / float(os.environ[WHOLE])
        parity_export.PROBE_OPERATIONS *= share
        parity_export.SCORED_OPERATIONS *= share
        parity.FORWARD_OPERATIONS *= share
    said = []

    def say(text: str) -> None:
        said.append((round(time.process_time(), 1), text))
        print(*said[-1], flush=True)

    files = export_run(folder / "run", kinds, folder / "gguf", say=say)
    certificate = json.loads((folder / "gguf" / "parity.json").read_text(encoding="utf-8"))
    found = [{"file": file.path.name, "bytes": file.bytes, "bits_per_weight": file.bits_per_weight} for file in files]
    shutil.rmtree(folder / "gguf")
    return {"weights": weights, "files": found, "said": said, "parity": certificate}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shipping", description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--gguf", default="q4_k_m")
    parser.add_argument("--out", type=Path, help="the record; what it has of other steps stays")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measured(STEPS[options.step], options.folder, options.gguf)))
        return
    if not (options.folder / "run").is_dir():
        write_base(options.folder / "base", options.shape, options.layers)
        recipe = AdapterRecipe(rank=options.rank, alpha=options.rank / 2, rslora=True, dora=True)
        write_run(options.folder / "run", options.folder / "base", recipe)
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    machine = f"{len(os.sched_getaffinity(0))} cores, {cpu.partition(': ')[2]}"
    record: dict[str, Any] = {"shape": SHAPES[options.shape], "layers": options.layers, "machine": machine}
    if options.out is not None and options.out.is_file():
        record |= json.loads(options.out.read_text(encoding="utf-8"))
    for name in options.steps:
        command = [sys.executable, "-m", "bench.shipping", options.shape, str(options.folder), "--step", name]
        done = subprocess.run([*command, "--gguf", options.gguf], stdout=subprocess.PIPE, text=True, check=True)
        record[name] = json.loads(done.stdout.splitlines()[-1])
        shown = {key: record[name][key] for key in ("seconds", "cpu_seconds", "peak_bytes")}
        print(name, json.dumps(shown), flush=True)
        if options.out is not None:
            text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
            write_whole(options.out, lambda path, text=text: path.write_text(text, encoding="utf-8"))


def measured(work: Callable[[Path, str], Any], folder: Path, kinds: str) -> dict[str, Any]:
    """What the work found, its seconds and peaks in bytes."""
    began = time.monotonic()
    found = work(folder, kinds)
    own, child = (1024 * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    seconds = {"seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(time.process_time(), 1)}
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds["cpu_seconds_llama_cpp"] = round(spent.ru_utime + spent.ru_stime, 1)
    return {**seconds, "peak_bytes": {"own": own, "llama_cpp": child}, **found}


if __name__ == "__main__":
    main()
