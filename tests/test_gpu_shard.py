"""A base shared out over two GPUs: the gradients of a whole one, in half of its memory and a few layers.

Skipped with fewer than two GPUs, or with Triton interpreted.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import free_port
from shard_models import BOTH, LORA, base, checkpoint, furthest, moved, packs, recipe, step

from dozan.judge.generate import generate_ids
from dozan.model.adapter import attach, refresh
from dozan.model.gemma3 import Gemma3
from dozan.model.shard import is_sharded, load_sharded, shard_base, take_part
from dozan.recipe import Recipe
from dozan.train.passes import EagerPasses, make_passes
from dozan.train.state import Trainee
from dozan.train.update import GraphedUpdate
from dozan.world import World, joined

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or os.environ.get("TRITON_INTERPRET") == "1", reason="needs two GPUs"
)
SHAPE = {"hidden_size": 640, "intermediate_size": 2048, "head_dim": 256, "num_attention_heads": 4,
         "num_key_value_heads": 1, "num_hidden_layers": 5, "vocab_size": 4099}  # fmt: skip
DEEP = {"hidden_size": 1024, "intermediate_size": 4096, "head_dim": 256, "num_attention_heads": 8,
        "num_key_value_heads": 4, "num_hidden_layers": 24, "vocab_size": 8192}  # fmt: skip
LINEAR_SHAPES = [(2048, 1024), (1024, 1024), (1024, 1024), (1024, 2048), (4096, 1024), (4096, 1024), (1024, 4096)]
MIB = 2**20


def _rank(rank: int, port: int, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update({
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    })  # fmt: skip
    with joined() as world:
        work(world, torch.device("cuda", rank), *given)


def on_two(work: Callable[..., None], *given: Any) -> None:
    """`work` on two ranks, each with a GPU; raises what one of them raises."""
    torch.multiprocessing.spawn(_rank, (free_port(), work, given), nprocs=2)


def made(chosen: Recipe, kind: str, device: torch.device, **shape: Any) -> Gemma3:
    model = base(kind, **{**SHAPE, **shape}).to(device, torch.bfloat16)
    attach(model, chosen.adapter, 0)
    moved(model)
    return model.train()


def _equal(world: World, device: torch.device, kind: str, changes: tuple[str, ...]) -> None:
    chosen = recipe(*changes)
    model = made(chosen, kind, device)
    right = [step(model, chosen, own) for own in (packs(), packs()[1:])]
    again = furthest(step(model, chosen, packs()), right[0])  # what atomic sums differ by
    shard_base(model, world)
    assert is_sharded(model)
    for _ in range(2):
        far = furthest(step(model, chosen, packs()), right[0])
        assert far <= max(1e-3, 2 * again), (kind, changes, far, again)
    if world.first:  # the other rank has a pack less
        far = furthest(step(model, chosen, packs()), right[0])
    else:
        far = furthest(step(model, chosen, packs()[1:]), right[1])
        take_part(model)
    assert far <= max(1e-3, 2 * again), (kind, changes, far, again)
    print(f"[shard] {kind} {' '.join(changes[2:])}: {far:.1e} from the whole base's, which repeats to {again:.1e}")


@pytest.mark.parametrize("changes", [
    BOTH, (*BOTH, "train.recompute=layers"), (*LORA, "train.recompute=2", "train.offload=true"),
], ids=["dora", "recomputed", "offloaded"])  # fmt: skip
@pytest.mark.parametrize("kind", ["bfloat16", "nf4"])
def test_gradients_are_those_of_a_whole_base(kind: str, changes: tuple[str, ...]) -> None:
    on_two(_equal, kind, changes)


def _held(world: World, device: torch.device, folder: Path, quantise: str) -> None:
    chosen = recipe(*BOTH, f"model.quantise={quantise}", "train.recompute=layers")
    whole = 2 * sum(shape[0] * shape[1] for shape in LINEAR_SHAPES) * DEEP["num_hidden_layers"]
    layers = whole * (1 if quantise == "none" else 4.127 / 16)
    layer, head = layers / DEEP["num_hidden_layers"], 2 * DEEP["vocab_size"] * DEEP["hidden_size"]
    row = 4 * max(a * b for a, b in LINEAR_SHAPES)  # a weight in float32, whose norms are computed

    def used(peak: bool = False) -> float:
        gc.collect()
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)

    before = used()
    model = load_sharded(folder, "bfloat16", chosen, world, device)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    buffers = sum(b.nbytes for b in model.buffers())
    held, most = used() - before, used(peak=True) - before
    parts = (layers + head) / 2
    assert held <= 1.02 * parts + trained + buffers + 2 * MIB, (held, parts, trained, buffers)
    assert most <= 1.02 * parts + trained + buffers + max(3 * layer + 4 * row, 2.5 * head) + 64 * MIB, (most, parts)
    model.train()
    torch.cuda.reset_peak_memory_stats(device)
    step(model, chosen, packs()[:1])
    passed = used(peak=True) - before
    model.zero_grad()
    refresh(model)
    later = used() - before
    assert later <= held + 8 * MIB, (later, held)
    extra = 3 * trained + 3 * layer + 2.5 * head + 2 * whole / DEEP["num_hidden_layers"] + 48 * MIB
    assert passed <= parts + buffers + extra, (passed, parts, extra)
    figures = " ".join(f"{name} {size / MIB:.0f}" for name, size in
                       (("base", layers + head), ("layer", layer), ("trained", trained), ("held", held),
                        ("loading", most), ("step", passed), ("between", later)))  # fmt: skip
    print(f"[shard] {quantise}, MiB a rank: {figures}")


def test_memory_of_a_rank(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, torch.bfloat16, **DEEP)
    for quantise in ("none", "nf4"):
        on_two(_held, folder, quantise)


def _uncaptured(world: World, device: torch.device) -> None:
    chosen = recipe(*BOTH)
    model = made(chosen, "nf4", device)
    refresh(model)
    prompts = [batch.ids[:9].tolist() for batch in packs()]
    right = generate_ids(model, prompts, 8, {1})
    shard_base(model, world)
    refresh(model)
    assert isinstance(make_passes(model, chosen), EagerPasses)
    assert not isinstance(Trainee.of(model, chosen, "").update, GraphedUpdate)
    answers = generate_ids(model, prompts, 8, {1})
    assert sum(a == b for a, b in zip(answers, right, strict=True)) >= len(right) - 1, (answers, right)
    step(model, chosen, packs()[:1])  # after inference mode


def test_nothing_is_captured() -> None:
    """Answers before the first pass, on both ranks the same rows."""
    on_two(_uncaptured)
