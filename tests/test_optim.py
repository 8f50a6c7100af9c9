"""The optimiser: schedules, warm-up, decay that spares vectors, and state that survives the disk."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any, Literal

import pytest
import torch
from models import TINY
from torch import nn

from dozan.errors import InputError
from dozan.recipe import TrainRecipe
from dozan.train.optim import AdamW, clip, learning_rate, warmup_of


def rates(steps: int, warmup: int, **settings: Any) -> list[float]:
    recipe = TrainRecipe(learning_rate=2.0, **settings)
    return [learning_rate(step, steps, warmup, recipe) for step in range(steps)]


@pytest.mark.parametrize(("configured", "steps", "warmup"), [(200, 3000, 200), (200, 99, 9), (200, 9, 0), (3, 99, 3)])
def test_warm_up_is_at_most_a_tenth(configured: int, steps: int, warmup: int) -> None:
    assert warmup_of(configured, steps) == warmup


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (2, 0), (30, 3), (100, 10)])
def test_peak_is_reached_once_warm_and_never_passed(schedule: Any, steps: int, warmup: int) -> None:
    values = rates(steps, warmup, schedule=schedule)
    assert values[warmup] == 2.0 == max(values)
    assert all(a < b for a, b in zip(values[:warmup], values[1 : warmup + 1], strict=True))
    assert all(a >= b for a, b in zip(values[warmup:], values[warmup + 1 :], strict=False))
    assert min(values) > 0


def test_schedules_have_their_textbook_values() -> None:
    cosine = rates(110, 10, schedule="cosine", min_learning_rate=0.5)
    linear = rates(110, 10, schedule="linear", min_learning_rate=0.5)
    assert cosine[60] == pytest.approx(1.25) and cosine[35] == pytest.approx(1.25 + 0.75 * math.cos(math.pi / 4))
    assert linear[60] == pytest.approx(1.25) and linear[85] == pytest.approx(0.875)
    assert rates(110, 10, schedule="constant")[10:] == [2.0] * 100
    assert [round(value, 6) for value in cosine[:3]] == [round(2 * k / 11, 6) for k in (1, 2, 3)]
    assert cosine[-1] > 0.5 and linear[-1] == pytest.approx(0.515)


def parameters() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    return [("a.lora_A", nn.Parameter(torch.randn(3, 4))), ("a.magnitude", nn.Parameter(torch.ones(3)))]


def test_decay_spares_vectors() -> None:
    named = parameters()
    before = named[0][1].detach().clone()
    optimizer = AdamW(named, TrainRecipe(weight_decay=0.5, learning_rate=0.1))
    for _, parameter in named:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(named[0][1], before * 0.95) and torch.equal(named[1][1], torch.ones(3))


def test_update_is_adam_s() -> None:
    named = parameters()
    before = named[0][1].detach().clone()
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer = AdamW(named, TrainRecipe(learning_rate=0.1))
    optimizer.step()
    moved = before - 0.1 * named[0][1].grad / (named[0][1].grad.abs() + 1e-8)
    assert torch.allclose(named[0][1], moved, atol=1e-6)


def test_clip_gives_the_norm_before_and_bounds_it_after() -> None:
    named = parameters()
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 2.0)
    assert float(clip(named, 1.0)) == pytest.approx(2 * math.sqrt(15))
    assert float(clip(named, 10.0)) == pytest.approx(1.0, abs=1e-5)


def step(named: list[tuple[str, nn.Parameter]], optimizer: AdamW, seed: int) -> None:
    torch.manual_seed(seed)
    for _, parameter in named:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_a_skipped_update_changes_nothing(kind: Literal["adamw", "adamw_8bit"]) -> None:
    named = parameters()
    optimizer = AdamW(named, TrainRecipe(optimizer=kind, weight_decay=0.1))
    step(named, optimizer, 1)
    before = [p.detach().clone() for _, p in named] + list(optimizer.tensors().values())
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.step(skip=torch.ones(()))
    after = [p.detach() for _, p in named] + list(optimizer.tensors().values())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_many_updates_are_torch_s(decay: float) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = AdamW(ours, TrainRecipe(weight_decay=decay))
    groups = [{"params": [theirs[0][1]], "weight_decay": decay}, {"params": [theirs[1][1]], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, lr=1e-3)
    for seed in range(5):
        step(ours, optimizer, seed)
        for (_, a), (_, b) in zip(ours, theirs, strict=True):
            b.grad = None if a.grad is None else a.grad.clone()
        plain.step()
    assert all(torch.allclose(a, b, atol=1e-7) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_the_compiler_is_not_imported() -> None:
    code = "import torch, sys; from dozan.train.optim import AdamW; from dozan.recipe import TrainRecipe\n" \
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3); AdamW([('a', p)], TrainRecipe()).step()\n" \
        "from dozan.model.gemma3 import Gemma3Config; from dozan.model.weights import empty_model\n" \
        f"empty_model(Gemma3Config.from_json({TINY}))\n" \
        "from dozan.kernels.precision import determinism\n" \
        "with determinism(False): assert 'torch._dynamo' not in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_state_continues_bit_for_bit(kind: Literal["adamw", "adamw_8bit"]) -> None:
    named, again = parameters(), parameters()
    optimizer = AdamW(named, TrainRecipe(optimizer=kind))
    step(named, optimizer, 1)
    for (_, new), (_, old) in zip(again, named, strict=True):
        new.data.copy_(old.data)
    restored = AdamW(again, TrainRecipe(optimizer=kind))
    restored.load(optimizer.tensors())
    step(named, optimizer, 2)
    step(again, restored, 2)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named, again, strict=True))


def test_state_that_does_not_fit_is_refused_by_name() -> None:
    named = parameters()
    optimizer = AdamW(named, TrainRecipe())
    step(named, optimizer, 1)
    tensors = optimizer.tensors()
    tensors["b.lora_A.step"] = tensors.pop("a.lora_A.exp_avg")
    with pytest.raises(InputError, match="missing: a.lora_A.exp_avg\n.*unexpected: b.lora_A.step"):
        optimizer.load(tensors)


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_state_of_no_update_begins_anew_in_place(kind: Literal["adamw", "adamw_8bit"]) -> None:
    named, again = parameters(), parameters()
    optimizer, fresh = AdamW(named, TrainRecipe(optimizer=kind)), AdamW(again, TrainRecipe(optimizer=kind))
    places = [tensor.data_ptr() for tensor in optimizer.moments().values()]
    before = [p.detach().clone() for _, p in named]
    step(named, optimizer, 1)
    optimizer.load(fresh.tensors())
    assert places == [tensor.data_ptr() for tensor in optimizer.moments().values()]
    with torch.no_grad():
        for (_, parameter), value in zip(named, before, strict=True):
            parameter.copy_(value)
    step(named, optimizer, 2)
    step(again, fresh, 2)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(named, again, strict=True)) and float(optimizer.updates) == 1
