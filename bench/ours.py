"""dozan on the benchmark's rows: one process, several workloads one after the other, its figures as JSON.

`python -m bench.ours --model DIR --rows FOLDER --works a,b --steps 24 --adapter FOLDER --out FILE` measures; with
`--init` it writes the initial adapter that everyone starts from; with `--check` it runs the ops' tests on the GPU.
The same model, rate and clipping as `bench.peers`; the step is the training loop's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.peers import ALPHA, COMPARED_STEPS, RANK, RATE, step_seconds
from bench.workloads import Workload, read

PROCESS_START = time.time()
PACK_TOKENS = 65_536


def main() -> None:
    options = _options()
    if options.check:
        sys.exit(check())
    if options.init:
        return write_adapter(options)
    compiling = _compile(options)
    record: dict[str, Any] = {"impl": "ours", "versions": _versions(), "process_to_first_step_s": None, "works": {}}
    for name in options.works.split(","):
        work = read(options.rows / f"{name}.jsonl")
        while compiling:
            compiling.pop().result()
        figures, first_step = measure(options, work)
        record["works"][name] = figures
        if record["process_to_first_step_s"] is None:
            record["process_to_first_step_s"] = round(first_step - PROCESS_START, 2)
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print("RESULT ours", name, json.dumps(figures), flush=True)


def check() -> int:
    """Run the ops' tests on the GPU, compiled; their exit status."""
    root = Path(__file__).parents[1]
    # Most of it is compiling.
    workers = ["-n", "8"] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers, "tests/test_gpu.py"]
    return subprocess.run(command, cwd=root, env={**os.environ, "TRITON_INTERPRET": "0"}).returncode


def write_adapter(options: argparse.Namespace) -> None:
    """The adapter as every run begins: A random, B zero, with DoRA the rows' norms as magnitudes."""
    from dozan.model.adapter import attach
    from dozan.model.weights import load_model, save_adapter

    model, recipe = load_model(options.model), _recipe(1, options.dora)
    attach(model, recipe.adapter, options.seed)
    save_adapter(options.adapter, model, recipe.adapter, "random")


def measure(options: argparse.Namespace, work: Workload) -> tuple[dict[str, Any], float]:
    """Train on the rows in order, and measure.

    The first step's seconds run from the building of the trainer, as for the peers.
    """
    import torch

    from dozan.chat.encode import Tokens
    from dozan.train.plan import make_plan
    from dozan.train.state import Trainee

    recipe = _recipe(work.batch, options.dora)
    model = _model(options, recipe)
    rows = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(work.rows)]
    cuda = torch.cuda.is_available()
    _free(cuda)
    begin = time.time()
    trainee, plan = Trainee.of(model, recipe, "random"), make_plan(recipe, rows)

    ends, results, following = trained(trainee, plan, rows, work.batch, options.steps)
    step_s = step_seconds(ends)
    figures = {
        "step_s": step_s, "examples_s": work.batch / step_s,
        "tokens_s": work.tokens(options.steps) / options.steps / step_s,
        "allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
        "first_step_s": ends[0] - begin, "losses": [loss for loss, _, _ in results[:COMPARED_STEPS]],
        "grad_norms": [norm for _, norm, _ in results[:COMPARED_STEPS]], "steps": options.steps,
        **({"curve": [loss for loss, _, _ in results]} if options.curve else {}),
        "packed_tokens": sum(map(len, following.batches)), "packs": len(following.batches),
    }  # fmt: skip
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()}
    return rounded, ends[0]


def trained(
    trainee: Any, plan: Any, rows: Sequence[Any], batch: int, steps: int
) -> tuple[list[float], list[tuple[float, float, bool]], Any]:
    """Train on the rows in order; the clock at the end of each step, what each came to, and what was prepared last.

    As the loop does it: the next step's packs are made while the GPU computes this one, and a step's result is read
    when the next one is launched, but for the first.
    """
    from dozan.train.loop import StepResult, optimiser_step
    from dozan.train.plan import Prepared, total_weight

    def prepared(step: int) -> Prepared:
        taken = list(rows[step * batch : (step + 1) * batch])
        return Prepared(taken, plan.pack(taken), total_weight(taken))

    ends, results, launched, following = [], [], deque[StepResult](), prepared(0)
    for step in range(steps):
        launched.append(optimiser_step(trainee, following, RATE, step))
        following = prepared(step + 1)
        while len(launched) > (trainee.ahead if 0 < step < steps - 1 else 0):
            results.append(launched.popleft().read())
            ends.append(time.time())
    return ends, results, following


def _model(options: argparse.Namespace, recipe: Any) -> Any:
    """The base with the initial adapter. Raises ValueError when that is none of this recipe."""
    import torch

    from dozan.model.weights import load_adapter, load_model

    cuda = torch.cuda.is_available()
    dtype = options.dtype or ("bfloat16" if cuda else "float32")
    model = load_model(options.model, dtype).to("cuda" if cuda else "cpu")
    held = load_adapter(options.adapter, model)
    if held != recipe.adapter:
        raise ValueError(f"{options.adapter}: holds {held}, the run is for {recipe.adapter}; write it with --init, "
                         "and give --dora to both or to none")  # fmt: skip
    return model


def _compile(options: argparse.Namespace) -> list[Any]:
    """Begin to compile the kernels, as `dozan train` does while it reads rows."""
    from dozan.model.weights import read_config
    from dozan.recipe import override
    from dozan.train.prepare import compile_kernels

    settings = [] if options.dtype is None else [f"train.dtype={options.dtype}"]
    recipe = override(_recipe(1, options.dora), settings)
    return compile_kernels(recipe, read_config(options.model))


def _recipe(batch: int, dora: bool) -> Any:
    from dozan.recipe import Recipe, override

    values = {"adapter.rank": RANK, "adapter.alpha": ALPHA, "adapter.dora": str(dora).lower(),
              "train.batch_size": batch, "train.pack_tokens": PACK_TOKENS}  # fmt: skip
    return override(Recipe(), [f"{key}={value}" for key, value in values.items()])


def _free(cuda: bool) -> None:
    import gc

    import torch

    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("dozan", "torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "source"
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ours", description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rows", type=Path)
    parser.add_argument("--works", default="")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dtype", help="of the base; bfloat16 on a GPU, float32 on a CPU if left out")
    parser.add_argument("--seed", type=int, default=0, help="of the initial adapter")
    parser.add_argument("--dora", action="store_true", help="the adapter is DoRA's, with magnitudes")
    parser.add_argument("--curve", action="store_true", help="record every step's loss")
    parser.add_argument("--init", action="store_true", help="write the initial adapter instead")
    parser.add_argument("--check", action="store_true", help="run the ops' tests instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
