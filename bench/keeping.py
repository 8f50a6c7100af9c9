"""`python -m bench.keeping --out FILE`: what keeping a run safe costs it: a checkpoint every 50 steps, or none.

The 270M's shape with random weights on the tool workload, through the whole loop; the checkpoint at the end of every
run is not counted. Both sides take turns, and their steps do the same work: a step counts as the median of its turns.
Those that record CUDA graphs, many times as long and as uncertain, are left out of both. The exit status is 1 when
checkpoints cost 1 % or more.
`--tiny` tries it out on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from bench.ours import PACK_TOKENS
from bench.peers import RANK
from bench.t4 import TINY, random_model
from bench.workloads import VOCABULARY, Workload, workload
from dozan.chat.encode import Tokens
from dozan.model.adapter import attach
from dozan.recipe import Recipe, override
from dozan.train.loop import fit
from dozan.train.plan import make_plan
from dozan.train.prepare import Base, training_device

HIGHEST_COST = 0.01
NEVER = 10**9


def main() -> None:
    options = _options()
    work = workload("tool-16" if options.tiny else options.work, options.steps,
                    TINY["vocab_size"] if options.tiny else VOCABULARY)  # fmt: skip
    device = training_device()
    turns: dict[str, list[list[float]]] = {"none": [], "kept": []}
    step_seconds(work, 4, NEVER, device, options.tiny)
    for _ in range(options.repeats):
        turns["none"].append(step_seconds(work, options.steps, NEVER, device, options.tiny))
        turns["kept"].append(step_seconds(work, options.steps, options.every, device, options.tiny))
    plain = plain_steps(turns["none"])
    medians = {side: [statistics.median(turn[i] for turn in found) for i in plain] for side, found in turns.items()}
    seconds = {side: sum(found) for side, found in medians.items()}
    cost = seconds["kept"] / seconds["none"] - 1
    record = {
        "what": f"{work.name}, {options.steps} steps through the loop, a checkpoint every {options.every} or none; "
        "seconds of all steps that record no graph, each the median of its turns",
        "command": f"python -m bench.keeping --work {options.work} --steps {options.steps} --every {options.every} "
        f"--repeats {options.repeats}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU", "torch": torch.__version__,
        "seconds": {side: round(found, 4) for side, found in seconds.items()}, "cost": round(cost, 5),
        "median_step_s": round(statistics.median(medians["none"]), 5), "steps": len(plain),
        "milliseconds of each step": {side: [[round(1e3 * s, 2) for s in turn] for turn in found]
                                      for side, found in turns.items()},
    }  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in record.items() if "step" not in key or key == "steps"}, indent=1))
    if cost >= HIGHEST_COST:
        sys.exit(f"checkpoints cost {cost:.2%} of the time")


def plain_steps(turns: Sequence[Sequence[float]]) -> list[int]:
    """The steps that record no graph: in no turn without checkpoints do they take three times the median."""
    limit = 3 * statistics.median(turns[0])
    return [i for i, same in enumerate(zip(*turns, strict=True)) if max(same) < limit]


def step_seconds(work: Workload, steps: int, every: int, device: torch.device, tiny: bool) -> list[float]:
    """A run of so many steps: the seconds of each but the first and the last, after which every run is saved."""
    recipe = override(Recipe(), [
        f"adapter.rank={RANK}", f"train.batch_size={work.batch}", f"train.pack_tokens={PACK_TOKENS}",
        f"train.max_steps={steps}", f"train.save_steps={every}", "model.embedding=gpu", "train.recompute=none",
    ])  # fmt: skip
    model = random_model(torch.float32 if tiny else torch.bfloat16, device, tiny)
    attach(model, recipe.adapter, 0)
    rows = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(work.rows)]
    ends: list[float] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        fit(model, make_plan(recipe, rows), Path(folder) / "run", Base("random", "0" * 64, "gemma3"), report)
    return [after - before for before, after in pairwise(ends[:-1])]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.keeping", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", default="tool-64")
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
