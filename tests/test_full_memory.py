"""The memory plan of a run that trains every weight: exact for what is held, close to what the passes allocate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory_trace import counted
from test_memory import setup_of, taken, tiny_setup

from dozan.errors import InputError
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe, override
from dozan.train.full import Masters
from dozan.train.memory import predict
from dozan.train.memory_fit import fit
from dozan.train.memory_passes import record
from dozan.train.memory_plan import plan
from dozan.train.memory_setup import Setup
from dozan.train.optim import AdamW


def few_words(setup: Setup) -> Setup:
    """So that the layers' part is not hidden behind the embedding's."""
    return replace(setup, config=replace(setup.config, vocab_size=1024))


SETUPS = [
    setup_of("270m", 4, 2048, 256, full=True),
    setup_of("270m", 3, 1024, 64, full=True, dtype="float32"),
    setup_of("270m", 4, 1024, 64, full=True, recompute=4),
    setup_of("1b", 3, 2048, 128, full=True, recompute=1),
    setup_of("4b", 7, 8192, 1024, full=True),
    few_words(setup_of("270m", 4, 2048, 256, full=True)),
    few_words(setup_of("1b", 3, 2048, 128, full=True, recompute=3)),
    few_words(setup_of("4b", 3, 2048, 128, full=True, dtype="float16", recompute=1)),
]


@pytest.mark.parametrize("setup", SETUPS, ids=lambda s: f"{s.config.hidden_size}-{s.tokens}-{s.dtype}-{s.recompute}")
def test_the_tape_is_near_what_the_passes_allocate(setup: Setup) -> None:
    found, expected = record(setup).peak, counted(setup)
    assert 0.99 < found / expected < 1.03
    assert abs(found - expected) < 32 * 2**20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_held_is_exact(dtype: str) -> None:
    setup = tiny_setup(dtype=dtype, full=True)
    model = Gemma3(setup.config).to(getattr(torch, dtype))
    masters = Masters(model)
    trained = [p for _, p in masters.parameters]
    held = setup.linear_bytes() + setup.norm_bytes() + setup.embedding_bytes()
    assert held == taken(list(model.parameters()))
    assert setup.adapter_bytes() == (0 if dtype == "float32" else taken(trained))
    assert setup.gradient_bytes() == taken(trained)
    assert setup.trained_numbers == sum(p.numel() for p in trained) == sum(p.numel() for p in model.parameters())
    for kind in ("adamw", "adamw_8bit"):
        optimizer = AdamW(masters.parameters, override(Recipe(), [f"train.optimizer={kind}"]).train)
        moments = [t for group in optimizer.wide for t in (*group.first, *group.second)]
        moments += [t for found in optimizer.narrow.values() for t in vars(found).values()]
        expected = taken([*moments, optimizer.rate, optimizer.updates])
        assert replace(setup, optimiser=kind).optimiser_bytes() == expected


def test_the_plan_of_a_whole_model() -> None:
    """18 bytes a weight in 16 bits with AdamW: weight, master, gradient and two moments."""
    found = plan(model="270m", overrides=["train.weights=full", "train.learning_rate=5e-5"], gpu="h100")
    weights, parts = found.fit.setup.trained_numbers, found.fit.table.parts
    held = sum(parts[name] for name in ("linears", "norms", "embedding and head", "weights in fp32", "gradients",
                                        "optimiser"))  # fmt: skip
    assert found.fit.fits and held == pytest.approx(18 * weights, rel=1e-3) and weights > 268e6
    assert found.to_dict()["weights"] == "full" and "adapters" not in parts
    adapter = plan(model="270m", gpu="h100")
    assert adapter.fit.table.total < found.fit.table.total
    assert found.tokens_per_second is not None and adapter.tokens_per_second is not None
    assert found.tokens_per_second < adapter.tokens_per_second


def test_no_measure_is_offered_that_does_nothing() -> None:
    setup = setup_of("1b", 12, 4096, 512, full=True, adapter={"dora": True})
    found = fit(setup, predict(setup).total // 3, adapt=True)
    assert [step.name for step in found.steps if step.changes_training] == ["rows and packs of 2048 tokens"]
    assert found.setup.embedding == "gpu" and not found.fits


def test_a_base_in_four_bits_is_refused() -> None:
    for quantise in ("nf4", None):
        changes = ["train.weights=full", *["model.quantise=nf4"] * (quantise is None)]
        with pytest.raises(InputError, match="4 bits"):
            plan(model="1b", overrides=changes, gpu="t4", quantise=quantise)
