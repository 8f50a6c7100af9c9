"""What a T4's policy costs and whether it trains: `python -m bench.t4 --out FILE`, on any NVIDIA GPU.

A random Gemma 3 270M whose norms are scaled until the residual stream passes 65,504, as the real one's does, is trained
on long rows: in bfloat16 as this card does it, and in float16 as if it were of capability 7.5 (float32 residual stream,
loss scale, memory-efficient attention by blocks, op by op) with its memory capped at a T4's 14.7 GiB. Speeds are this
card's, not a T4's; memory, losses and skipped steps are what they would be there. `--tiny` runs the same on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.peers import ALPHA, RANK, RATE
from bench.workloads import SHAPE_270M
from dozan.chat.encode import Tokens
from dozan.kernels.precision import T4, emulated
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.recipe import Recipe, override
from dozan.train.loop import optimiser_step
from dozan.train.passes import engine
from dozan.train.plan import Prepared, make_plan, total_weight
from dozan.train.state import Trainee

T4_GIB = 14.7
TOKENS, SUPERVISED, ROWS = 4096, 512, (1, 2, 4)
STEPS, WARM_UP = 50, 5
NORM = 6000.0
"""Factor of the norms before the residual sums."""
TINY = {**SHAPE_270M, "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 7, "head_dim": 16,
        "intermediate_size": 48, "sliding_window": 32}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "t4": torch.float16}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure every mode at every number of rows, and write the record."""
    parser = argparse.ArgumentParser(prog="python -m bench.t4", description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"tokens": 200 if options.tiny else TOKENS, "steps": options.steps, "runs": []}
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
    for count in ROWS:
        for mode in DTYPES:
            record["runs"].append(measure(mode, count, options.steps, options.tiny))
            print("RESULT", json.dumps({k: v for k, v in record["runs"][-1].items() if k != "losses"}), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def measure(mode: str, count: int, steps: int, tiny: bool = False) -> dict[str, Any]:
    """Train `steps` steps of `count` rows in a mode, bf16 or t4; the figures."""
    tokens, supervised = (200, 32) if tiny else (TOKENS, SUPERVISED)
    device = torch.device("cuda" if torch.cuda.is_available() and not tiny else "cpu")
    rows = random_rows(count, tokens, supervised, TINY["vocab_size"] if tiny else 200_000)
    recipe = override(Recipe(), [f"adapter.rank={RANK}", f"adapter.alpha={ALPHA}", f"train.batch_size={count}",
                                 f"train.pack_tokens={count * tokens}"])  # fmt: skip
    with emulated(T4 if mode == "t4" else None), capped(device, T4_GIB if mode == "t4" else math.inf):
        model = random_model(DTYPES[mode], device, tiny)
        largest = largest_residual(model, rows[0])
        attach(model, recipe.adapter, 0)
        trainee, plan = Trainee.of(model, recipe, "random"), make_plan(recipe, rows)
        prepared = Prepared(rows, plan.pack(rows), total_weight(rows))
        ends, results = [time.perf_counter()], []
        for step in range(steps):
            results.append(optimiser_step(trainee, prepared, RATE, step).read())
            ends.append(time.perf_counter())
        words = engine(model, trainee.passes)
        peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        reserved = torch.cuda.max_memory_reserved() / 2**30 if device.type == "cuda" else None
    seconds = statistics.median(b - a for a, b in zip(ends[WARM_UP:], ends[WARM_UP + 1 :], strict=False))
    return {
        "mode": mode, "rows": count, "engine": words, "largest_residual": largest, "step_seconds": round(seconds, 5),
        "examples_per_second": round(count / seconds, 3), "tokens_per_second": round(count * tokens / seconds),
        "peak_gib": peak, "reserved_gib": reserved, "first_step_seconds": round(ends[1] - ends[0], 3),
        "skipped": sum(not finite for _, _, finite in results),
        "loss_scale": None if trainee.scale is None else float(trainee.scale.value),
        "losses": [loss for loss, _, _ in results],
    }  # fmt: skip


def random_rows(count: int, tokens: int, supervised: int, words: int) -> list[Tokens]:
    """Rows of random ids that share nothing, the last `supervised` of each trained on; the same ones every time."""
    draw = random.Random(0)
    weights = (0.0,) * (tokens - supervised) + (1.0,) * supervised
    return [Tokens(f"row{i}", (2, *(draw.randrange(10, words) for _ in range(tokens - 1))), weights)
            for i in range(count)]  # fmt: skip


def random_model(dtype: torch.dtype, device: torch.device, tiny: bool) -> Gemma3:
    """The same random weights in any dtype, exact in float16 and bfloat16 alike."""
    with torch.device("meta"):
        model = Gemma3(Gemma3Config.from_json(TINY if tiny else SHAPE_270M))
    model = model.to(dtype).to_empty(device=device)
    draw = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        values = torch.randn(parameter.shape, generator=draw) * (0.2 if "norm" in name else 0.03)
        if "post_" in name:
            values = NORM * (1 + values)
        # Eight bits of mantissa and no number below float16's smallest normal one.
        values = values.bfloat16().float()
        parameter.data.copy_(values.masked_fill(values.abs() < 2.0**-14, 0.0))
    return model.requires_grad_(False)


@torch.no_grad()
def largest_residual(model: Gemma3, row: Tokens) -> float:
    """The largest number of the residual stream behind the last layer, on a row's first tokens."""
    from dozan.kernels import TrieAttention

    ids = torch.tensor(row.ids[:128], device=model.device)
    position, end = torch.arange(len(ids), device=ids.device), torch.full_like(ids, len(ids))
    seen: list[float] = []
    handle = model.model.layers[-1].register_forward_hook(
        lambda module, args, out: seen.append(float(out.float().abs().max()))
    )
    model(ids, position, TrieAttention(position, end, model.config.sliding_window, model.config.scale))
    handle.remove()
    return seen[0]


@contextmanager
def capped(device: torch.device, gib: float) -> Iterator[None]:
    """Within it, PyTorch takes at most so much of a GPU's memory; the peak is counted anew."""
    gc.collect()
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


if __name__ == "__main__":
    main()
