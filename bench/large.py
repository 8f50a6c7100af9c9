"""A large Gemma 3 in 4 bits with the trinity recipe, for some steps: `python -m bench.large --out FILE`, on one GPU.

Random weights of the shape, norms scaled until the residual stream passes 65,504 as the real ones' does. What lets it
fit is chosen by the memory plan alone: for `t4` (capability 7.5 emulated, float16, memory capped at 14.7 GiB) and for
`bf16`, with as much memory as `--gib` says. Speeds are this card's; memory, losses and skipped steps are what they
would be there. Every step trains on the same row of 4,096 tokens, half of them, so that the loss falls.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from bench.peers import RATE
from bench.t4 import DTYPES, NORM, T4_GIB, capped, largest_residual, random_rows
from dozan.kernels import nf4
from dozan.kernels.precision import T4, emulated
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.held import hold_embedding
from dozan.model.quantised import QuantisedLinear
from dozan.model.weights import empty_model
from dozan.recipe import Recipe, load_recipe, override
from dozan.train.loop import optimiser_step
from dozan.train.memory_fit import Fit, budget_of, fit
from dozan.train.memory_run import setup_on
from dozan.train.passes import engine
from dozan.train.plan import Plan, Prepared, make_plan, total_weight
from dozan.train.shapes import shape_of
from dozan.train.state import Trainee

TOKENS, SUPERVISED, DRAWN, STD = 4096, 2048, 6, 0.02
_ROWS = 16_384
"""Rows of the embedding that are drawn at a time."""
TINY: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 64, "intermediate_size": 128, "sliding_window": 32, "query_pre_attn_scalar": 64,
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure each mode, and write the record after each."""
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("--size", default="12b", help="12b, 27b, or tiny on a CPU")
    parser.add_argument("--modes", default="bf16,t4")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--gib", type=float, default=math.inf, help="the memory that bf16 may take")
    parser.add_argument("--commit", default="unknown", help="for the record")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    record: dict[str, Any] = {"size": options.size, "steps": options.steps, "commit": options.commit, "runs": []}
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
    for mode in options.modes.split(","):
        record["runs"].append(measure(options.size, mode, options.steps, T4_GIB if mode == "t4" else options.gib))
        print("RESULT", json.dumps({k: v for k, v in record["runs"][-1].items() if k != "losses"}), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def measure(size: str, mode: str, steps: int, gib: float) -> dict[str, Any]:
    """Train so many steps in a mode, bf16 or t4, with at most so much memory; figures, and what was planned."""
    device, tiny = torch.device("cuda" if torch.cuda.is_available() and size != "tiny" else "cpu"), size == "tiny"
    config = Gemma3Config.from_json(TINY) if tiny else shape_of(size)
    assert config is not None, size
    tokens, supervised = (200, 100) if tiny else (TOKENS, SUPERVISED)
    rows = random_rows(1, tokens, supervised, config.vocab_size - 100)
    fixed = ["train.batch_size=1", f"train.pack_tokens={tokens}", f"data.max_tokens={tokens}"]
    recipe = override(load_recipe("gemma3-12b-trinity"), fixed)
    with emulated(T4 if mode == "t4" else None), capped(device, gib):
        plan = make_plan(recipe, rows)
        chosen = planned(plan, config, device, mode, gib)
        recipe = override(recipe, chosen.settings)
        model = random_model(config, recipe, DTYPES[mode], device)
        largest = largest_residual(model, rows[0])
        built = torch.cuda.memory_allocated() / 2**30 if device.type == "cuda" else None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainee, prepared = Trainee.of(model, recipe, "random"), Prepared(rows, plan.pack(rows), total_weight(rows))
        ends, results = [time.perf_counter()], []
        for step in range(steps):
            results.append(optimiser_step(trainee, prepared, RATE, step).read())
            ends.append(time.perf_counter())
        words = engine(model, trainee.passes)
        peak, reserved = (
            (torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30)
            if device.type == "cuda" else (None, None)
        )  # fmt: skip
        scale = None if trainee.scale is None else float(trainee.scale.value)
    seconds = statistics.median(b - a for a, b in zip(ends[2:], ends[3:], strict=False)) if steps > 3 else None
    return {
        "mode": mode, "gib": None if math.isinf(gib) else gib, "engine": words, "largest_residual": largest,
        "settings": list(chosen.settings), "fits": chosen.fits, "planned_allocated_gib": chosen.table.allocated / 2**30,
        "planned_gib": chosen.table.total / 2**30, "built_gib": built, "peak_gib": peak, "reserved_gib": reserved,
        "step_seconds": seconds, "tokens_per_second": None if seconds is None else round(tokens / seconds),
        "skipped": sum(not finite for _, _, finite in results), "loss_scale": scale,
        "losses": [loss for loss, _, _ in results],
    }  # fmt: skip


def planned(plan: Plan, config: Gemma3Config, device: torch.device, mode: str, gib: float) -> Fit:
    """What the memory plan chooses for a card of that memory."""
    setup = setup_on(plan, config, device, DTYPES[mode], "nf4", "gpu")
    free = torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else 8 << 30
    return fit(setup, budget_of(int(min(gib * 2**30, free))))


@torch.no_grad()
def random_model(config: Gemma3Config, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> Gemma3:
    """The same random weights in any dtype, the linears in NF4, with adapters; layers repeat every `DRAWN`."""
    model = empty_model(config).to(dtype)
    draw, drawn = torch.Generator(device).manual_seed(0), dict[str, nf4.NF4]()
    for name, module in list(model.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(module, torch.nn.Linear):
            parts = name.split(".")
            source = ".".join([*parts[:2], str(int(parts[2]) % DRAWN), *parts[3:]])
            if source not in drawn:
                drawn[source] = nf4.quantise(_drawn(tuple(module.weight.shape), STD, draw).bfloat16())
            setattr(model.get_submodule(parent), child, QuantisedLinear(_copied(drawn[source])))
    drawn.clear()
    for name, parameter in list(model.named_parameters()):
        values = torch.empty(parameter.shape, dtype=dtype, device=device)
        for rows in values.split(_ROWS):
            rows.copy_(_plain(tuple(rows.shape), name, draw))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, torch.nn.Parameter(values, requires_grad=False))
    hold_embedding(model, recipe.model, device)
    attach(model, recipe.adapter, 0)
    return model


def _plain(shape: tuple[int, ...], name: str, draw: torch.Generator) -> torch.Tensor:
    """Eight bits of mantissa and no number below float16's smallest normal one: the same in both dtypes."""
    values = _drawn(shape, 0.2 if "norm" in name else 0.03, draw)
    values = (NORM * (1 + values) if "post_" in name else values).bfloat16().float()
    return values.masked_fill_(values.abs() < 2.0**-14, 0.0)


def _drawn(shape: tuple[int, ...], std: float, draw: torch.Generator) -> torch.Tensor:
    return torch.empty(shape, device=draw.device).normal_(std=std, generator=draw)


def _copied(weight: nf4.NF4) -> nf4.NF4:
    """The same in memory of its own."""
    held = {field.name: getattr(weight, field.name) for field in fields(weight)}
    return nf4.NF4(**{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in held.items()})


if __name__ == "__main__":
    main()
