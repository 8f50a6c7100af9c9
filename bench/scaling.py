"""The same steps on 1, 2, 4 and more GPUs: `python -m bench.scaling --gpus 1,2,4 --works tool-64,tool-2048 --out FILE`.

Each number of GPUs is a launch of torchrun on this machine; every rank has the same rows, and a step the same ones
whatever the number. The model has random weights of its size's shape. `reduce_seconds` is the sum of all gradients with
nothing beside it, measured apart; in a step it runs beside the end of the backward pass. The losses of the first steps
show that the same was trained.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.workloads import tool
from dozan.chat.encode import Tokens
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.recipe import Recipe, load_recipe, override
from dozan.train.plan import Plan, make_plan
from dozan.train.ranks import Ranks, dealt_plan
from dozan.train.signals import StopRequest
from dozan.train.state import Trainee
from dozan.train.step import StepResult, optimiser_step
from dozan.world import World, joined

RATE, PACK_TOKENS, POOL = 2e-4, 65_536, 6
"""POOL: steps' rows that there are; later steps take them in another order."""
LARGE = {"12b-trinity": ("12b", 32, 2048), "27b-trinity": ("27b", 8, 2048), "tiny-trinity": ("tiny", 6, 200)}
"""Size, rows a step, tokens a row; half of them are trained on."""
STEPS = {"tiny-trinity": 4, "tool-64": 60, "tool-2048": 24, "12b-trinity": 7, "27b-trinity": 7}


def main() -> None:
    """Launch every number of GPUs, or be one of the ranks."""
    options = _options()
    if options.worker is not None:
        return _rank(options)
    points: list[dict[str, Any]] = []
    for gpus in (int(number) for number in options.gpus.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "points.json"
            begun = time.time()
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}", "-m",
                       "bench.scaling", "--worker", str(out), "--works", options.works, *["--fsdp"] * options.fsdp,
                       *([] if options.steps is None else ["--steps", str(options.steps)])]  # fmt: skip
            ended = subprocess.run(command, timeout=options.limit, check=False)
            found = json.loads(out.read_text()) if out.is_file() else []
            print(f"{gpus} ranks: status {ended.returncode}, {time.time() - begun:.0f} s", flush=True)
        for point in found:
            same = (p for p in points if p["workload"] == point["workload"] and p["gpus"] == 1)
            point["speedup"] = round(next(same)["step_seconds"] / point["step_seconds"], 3) if gpus > 1 else 1.0
            points.append(point)
            print("RESULT", json.dumps({k: v for k, v in point.items() if k != "losses"}), flush=True)
        command = f"--gpus {options.gpus} --works {options.works}" + " --fsdp" * options.fsdp
        what = {"command": command, "commit": options.commit, "torch": torch.__version__}
        options.out.write_text(json.dumps({"what": what, "points": points}, indent=1) + "\n", encoding="utf-8")


def _rank(options: argparse.Namespace) -> None:
    with joined() as world:
        points = []
        for name in options.works.split(","):
            points.append(measure(name, world, options.fsdp, options.steps))
            if world.first:
                options.worker.write_text(json.dumps(points))


def measure(name: str, world: World, fsdp: bool, steps: int | None) -> dict[str, Any]:
    """A workload's figures on these ranks."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    plan, model = _built(name, device, fsdp)
    plan = replace(dealt_plan(plan, world, model.config), steps=steps or plan.steps)
    trainee = Trainee.of(model, plan.recipe, "random")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    ends, results = [time.perf_counter()], []
    with StopRequest() as stop:
        ranks, launched, prepared = Ranks(world, trainee, stop, lambda: False), deque[StepResult](), plan.prepare(0)
        for step in range(plan.steps):
            launched.append(optimiser_step(trainee, prepared, RATE, step, ranks))
            prepared = plan.prepare(step + 1)
            while len(launched) > (trainee.ahead if 0 < step < plan.steps - 1 else 0):
                results.append(launched.popleft().read())
                ends.append(time.perf_counter())
    gaps = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    step_seconds = statistics.median(gaps[len(gaps) // 3 : -1])
    held = world.gathered(_hash(trainee))
    assert len(set(held)) == 1, "the ranks hold different adapters"
    own = plan.prepare(0).batches
    computed = world.gathered(sum(len(batch) for batch in own))
    return {
        "workload": name, "gpus": world.size, "fsdp": fsdp, "step_seconds": _short(step_seconds),
        "rows_per_second": _short(plan.recipe.train.batch_size / step_seconds),
        "tokens_per_second": _short(plan.tokens / len(plan.rows) * plan.recipe.train.batch_size / step_seconds),
        "rows": plan.recipe.train.batch_size, "computed_tokens": computed, "packs": len(own),
        "reduced_bytes": trainee.reducer.bytes if trainee.reducer is not None else 4 * trainee.size,
        "reduce_seconds": _reduce_seconds(trainee, world), "steps": plan.steps, "all_steps": [_short(g) for g in gaps],
        "peak_gib": _short(torch.cuda.max_memory_allocated() / 2**30) if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else "cpu", "losses": [loss for loss, _, _ in results],
    }  # fmt: skip


def _built(name: str, device: torch.device, fsdp: bool) -> tuple[Plan, Gemma3]:
    """The plan of a workload, and its model with adapters."""
    if name in LARGE:
        return _large(name, device, fsdp)
    from bench.t4 import random_model

    batch = int(name.partition("-")[2])
    rows = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(tool(batch, POOL).rows)]
    settings = {"adapter.rank": 32, "adapter.alpha": 64, "train.batch_size": batch, "train.pack_tokens": PACK_TOKENS,
                "train.max_steps": STEPS[name]}  # fmt: skip
    recipe = override(Recipe(), [f"{key}={value}" for key, value in settings.items()])
    model = random_model(torch.bfloat16 if device.type == "cuda" else torch.float32, device, False)
    attach(model, recipe.adapter, 0)
    return make_plan(recipe, rows), model


def _large(name: str, device: torch.device, fsdp: bool) -> tuple[Plan, Gemma3]:
    from bench.large import TINY, random_model
    from bench.t4 import random_rows
    from dozan.train.shapes import shape_of

    size, batch, tokens = LARGE[name]
    config = Gemma3Config.from_json(TINY) if size == "tiny" else shape_of(size)
    assert config is not None
    rows = random_rows(2 * batch, tokens, tokens // 2, config.vocab_size - 100)
    settings = [f"train.batch_size={batch}", f"train.pack_tokens={2 * tokens}", "train.recompute=none",
                f"train.max_steps={STEPS.get(name, 6)}"]  # fmt: skip
    recipe = override(load_recipe("gemma3-12b-trinity"), settings)
    model = random_model(config, recipe, torch.bfloat16 if device.type == "cuda" else torch.float32, device)
    if fsdp:
        from dozan.model.shard import shard_base
        from dozan.world import current

        shard_base(model, current())
    return make_plan(recipe, rows), model


def _reduce_seconds(trainee: Trainee, world: World, times: int = 10) -> float | None:
    """The sum of the gradients alone."""
    if trainee.reducer is None:
        return None
    loss, seconds = torch.zeros((), device=trainee.model.device), []
    for _ in range(times + 2):
        world.agree([])
        if loss.is_cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        trainee.reducer.reduce(loss, 0)
        if loss.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return _short(statistics.median(seconds[2:]))


def _hash(trainee: Trainee) -> str:
    """Of what is trained, to the bit."""
    import hashlib

    digest = hashlib.sha256()
    for _, parameter in trainee.parameters:
        digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _short(value: float) -> float:
    return value if math.isnan(value) else float(f"{value:.6g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("--gpus", default="1,2,4", help="numbers of GPUs, one launch each")
    parser.add_argument("--works", default="tool-64,tool-2048")
    parser.add_argument("--fsdp", action="store_true", help="the frozen base is sharded")
    parser.add_argument("--steps", type=int, help="instead of a workload's own number")
    parser.add_argument("--limit", type=float, default=400, help="seconds that a launch may take")
    parser.add_argument("--commit", default="unknown", help="for the record")
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
