"""dozan on the rows of `bench.qlora`: one configuration, one process, its figures as JSON.

`python -m bench.qlora_ours --model DIR --rows FOLDER --work NAME --steps 12 --out FILE [--set a.b=c ...]`; the model is
opened as a run opens it, so that every option of a recipe means here what it means there. With `--init FOLDER` it
writes the adapter that everyone starts from, with DoRA's magnitudes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bench.ours import trained
from bench.peers import COMPARED_STEPS, step_seconds
from bench.workloads import Workload, read

PROCESS_START = time.time()
SEED = 0


def main() -> None:
    options = _options()
    work = read(options.rows / f"{options.work}.jsonl")
    if options.init:
        return _write_adapter(options, work)
    figures = measure(options, work)
    options.out.write_text(json.dumps({"impl": "ours", "versions": _versions(), **figures}, indent=1) + "\n",
                           encoding="utf-8")  # fmt: skip
    print("RESULT ours", json.dumps(figures), flush=True)


def open_job(options: argparse.Namespace, work: Workload) -> Any:
    """The run that `dozan train` would make of the rows, but for their checks; its kernels begin to compile."""
    from dozan.chat.encode import Tokens
    from dozan.model.weights import read_config
    from dozan.recipe import Recipe, override
    from dozan.train.plan import make_plan
    from dozan.train.prepare import Base, Job, compile_kernels

    longest = max(len(row.ids) for row in work.rows)
    fixed = [f"data.max_tokens={longest}", f"train.pack_tokens={longest}", f"train.batch_size={work.batch}",
             f"train.seed={SEED}"]  # fmt: skip
    recipe = override(Recipe(), [*fixed, *options.set])
    rows = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(work.rows)]
    return Job(
        plan=make_plan(recipe, rows), base=Base("random", "", "gemma3"), folder=options.model, split=None, notes=(),
        overridden={}, compiling=compile_kernels(recipe, read_config(options.model)),
    )  # fmt: skip


def measure(options: argparse.Namespace, work: Workload) -> dict[str, Any]:
    """Train on the rows in order, as the loop does: the next step's packs are made while the GPU computes this one, and
    a step's result is read when the next one is launched.

    The first step's seconds run from the building of the trainer, as for the peers; those of a step are the median
    after the warm-up.
    """
    import torch

    from dozan.train.state import Trainee

    cuda = torch.cuda.is_available()
    begin = time.time()
    job = open_job(options, work)
    model = job.open_model()
    loaded = time.time()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    trainee, plan = Trainee.of(model, job.plan.recipe, "random"), job.plan

    ends, results, _ = trained(trainee, plan, plan.rows, work.batch, options.steps)
    step_s = step_seconds(ends)
    figures = {
        "step_s": step_s, "tokens_s": work.tokens(options.steps) / options.steps / step_s,
        "allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30 if cuda else None,
        "load_s": loaded - begin, "first_step_s": ends[0] - loaded,
        "process_to_first_step_s": ends[0] - PROCESS_START, "losses": [loss for loss, _, _ in results[:COMPARED_STEPS]],
        "grad_norms": [norm for _, norm, _ in results[:COMPARED_STEPS]], "steps": options.steps,
        "trainable": trainee.size, "set": options.set,
    }  # fmt: skip
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()}


def _write_adapter(options: argparse.Namespace, work: Workload) -> None:
    from dozan.model.weights import save_adapter

    job = open_job(options, work)
    save_adapter(options.init, job.open_model(), job.plan.recipe.adapter, "random")


def _versions() -> dict[str, str]:
    import torch

    versions = {"torch": str(torch.__version__)}
    try:
        import triton
    except ImportError:
        return versions
    return {**versions, "triton": triton.__version__}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.qlora_ours", description=__doc__)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--rows", required=True, type=Path, help="folder of NAME.jsonl")
    parser.add_argument("--work", required=True)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--init", type=Path, help="write the initial adapter to this folder instead")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    return parser.parse_args()


if __name__ == "__main__":
    main()
