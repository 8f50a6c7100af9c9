"""Every weight trained, and transformers' model with our ops, on a GPU; skipped without one."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ship_models import make_folder
from test_full import recipe, rows, run
from torch import Tensor

from dozan.kernels import reference, supervised_cross_entropy
from dozan.model.bundle import open_model
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe
from dozan.train.memory import predict
from dozan.train.memory_run import run_setup
from dozan.train.passes import EagerPasses, GraphedPasses, op_by_op
from dozan.train.plan import make_plan
from dozan.train.state import Trainee
from dozan.train.step import accumulate, optimiser_step

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
VOCAB = 2048


def opened(base: Path, dtype: str = "bfloat16") -> Gemma3:
    return open_model(base, dtype, device="cuda:0").model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


def trainee_of(base: Path, chosen: Recipe, dtype: str = "bfloat16") -> Trainee:
    return Trainee.of(opened(base, dtype), chosen, str(base))


def gradients(trainee: Trainee) -> dict[str, Tensor]:
    return {name: p.grad.float().cpu().clone() for name, p in trainee.parameters if p.grad is not None}


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("words", [2048, 20_001])
def test_the_heads_gradients(dtype: torch.dtype, words: int) -> None:
    torch.manual_seed(0)
    hidden, embedding = torch.randn(77, 96, device="cuda") / 4, torch.randn(words, 96, device="cuda") / 4
    target, weight = torch.randint(0, words, (77,), device="cuda"), torch.rand(77, device="cuda")

    def found(op: Any, wide: bool) -> tuple[Tensor, Tensor]:
        kept = [x.to(dtype).float() if wide else x.to(dtype) for x in (hidden, embedding)]
        first, second = (x.requires_grad_(True) for x in kept)
        op(first, second, target, weight).backward()
        assert first.grad is not None and second.grad is not None
        return first.grad.float(), second.grad.float()

    exact, plain = found(reference.cross_entropy, True), found(reference.cross_entropy, False)
    for ours, wanted, theirs in zip(found(supervised_cross_entropy, False), exact, plain, strict=True):
        allowed = 1.5 * (theirs - wanted).norm() if dtype != torch.float32 else 1e-5 * wanted.norm()
        assert (ours - wanted).norm() <= allowed


@needs_gpu
def test_captured_passes_give_the_gradients_of_eager_ones(base: Path) -> None:
    chosen = recipe("train.pack_tokens=128")
    plan = make_plan(chosen, rows(words=VOCAB))
    found = []
    for eager in (False, True):
        trainee = trainee_of(base, chosen)
        assert isinstance(trainee.passes, GraphedPasses)
        if eager:
            trainee.passes = op_by_op(trainee.passes)
        assert isinstance(trainee.passes, EagerPasses) == eager
        losses = [float(accumulate(trainee, plan.prepare(step), step)) for step in range(2)]
        found.append((losses, gradients(trainee)))
    (losses, ours), (expected, wanted) = found
    assert losses == pytest.approx(expected, rel=1e-3) and ours.keys() == wanted.keys()
    assert all((ours[name] - wanted[name]).norm() <= 2e-2 * wanted[name].norm() for name in wanted)
    assert all(bool(gradient.any()) for gradient in ours.values())


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_steps_follow_fp32_on_a_cpu(dtype: str, base: Path) -> None:
    chosen = recipe("train.max_steps=8", "train.learning_rate=1e-3", "train.warmup_steps=0")
    plan = make_plan(chosen, rows(words=VOCAB))
    plain, fast = Trainee.of(open_model(base).model, chosen, "base"), trainee_of(base, chosen, dtype)
    for step in range(plan.steps):
        rate = plan.learning_rate(step)
        expected = optimiser_step(plain, plan.prepare(step), rate, step).read()[0]
        found, _, finite = optimiser_step(fast, plan.prepare(step), rate, step).read()
        assert finite and found == pytest.approx(expected, rel=1e-4 if dtype == "float32" else 3e-2), step
    for (name, master), weight in zip(fast.parameters, fast.model.parameters(), strict=True):
        assert torch.equal(master.detach().to(weight.dtype), weight.detach()), name
        assert dtype == "float32" or weight.grad is None


@needs_gpu
def test_in_float16_the_scale_settles(base: Path) -> None:
    """Gradients beyond float16 skip a step and halve the scale; none of it reaches a master."""
    chosen = recipe("train.max_steps=16", "train.learning_rate=1e-4", "train.warmup_steps=0")
    plan, trainee = make_plan(chosen, rows(words=VOCAB)), trainee_of(base, chosen, "float16")
    done = [optimiser_step(trainee, plan.prepare(step), 1e-4, step).read()[2] for step in range(plan.steps)]
    assert all(done[-4:]) and float(trainee.optimizer.updates) == sum(done)
    assert all(bool(master.isfinite().all()) for _, master in trainee.parameters)


@needs_gpu
def test_a_run_resumes_and_opens(base: Path, tmp_path: Path) -> None:
    result, _ = run(tmp_path / "run", base, lambda event: None, "train.dtype=bfloat16", model=opened(base))
    assert result.steps == 6 and result.trainable_parameters > 0
    assert open_model(tmp_path / "run", "bfloat16", device="cuda:0").model.dtype == torch.bfloat16
    _, events = run(tmp_path / "run", base, lambda event: None, "train.dtype=bfloat16", model=opened(base))
    assert "nothing to do" in events.notes()


@needs_gpu
def test_the_plan_counts_what_is_held(base: Path) -> None:
    """Weights, masters, gradients and moments to the byte; the peak of a step within a tenth and 64 MiB."""
    chosen = recipe("train.max_steps=3")
    plan = make_plan(chosen, rows(words=VOCAB))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    trainee = trainee_of(base, chosen)
    setup = run_setup(plan, trainee.model)
    assert setup.full and setup.graphs
    held = setup.linear_bytes() + setup.embedding_bytes() + setup.norm_bytes() + setup.adapter_bytes()
    held += setup.gradient_bytes() + setup.optimiser_bytes()
    assert abs(torch.cuda.memory_allocated() - before - held) <= 2**20
    torch.cuda.reset_peak_memory_stats()
    for step in range(3):
        optimiser_step(trainee, plan.prepare(step), 1e-4, step).read()
    peak = torch.cuda.max_memory_allocated() - before
    assert peak <= 1.1 * predict(replace(setup)).total + 64 * 2**20


@needs_gpu
@pytest.mark.parametrize("kind", ["lora", "both"])
def test_transformers_model_with_our_ops(kind: str) -> None:
    pytest.importorskip("peft")
    from oracles import peft_adapters
    from test_hf import model_of, same

    from dozan import hf

    assert kind in peft_adapters.KINDS

    def found(dtype: torch.dtype, attach: bool) -> tuple[float, dict[str, Tensor]]:
        model = model_of(kind).train().to("cuda", dtype)
        if attach:
            assert hf.attach(model, say=None).left == {}
        from test_hf import batch

        loss = model(**{name: tensor.cuda() for name, tensor in batch().items()}).loss
        loss.backward()
        return float(loss), {n: p.grad.float() for n, p in model.named_parameters() if p.grad is not None}

    exact, wide = found(torch.float32, False), found(torch.float32, True)
    assert wide[0] == pytest.approx(exact[0], rel=1e-5)
    same(wide[1], exact[1], 1e-4)
    plain, ours = found(torch.bfloat16, False), found(torch.bfloat16, True)
    for name, wanted in exact[1].items():
        allowed = 1.5 * (plain[1][name] - wanted).norm() + 1e-2 * wanted.norm()
        assert (ours[1][name] - wanted).norm() <= allowed, name
