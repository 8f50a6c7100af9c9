"""Adapters against PEFT's: logits, gradients, files in both directions; then seeds, dropout and merging."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import gemma3, peft_adapters
from peft import PeftModel
from torch import Tensor

from dozan.errors import InputError
from dozan.model import adapter
from dozan.model.recompute import Recompute
from dozan.model.weights import load_adapter, save_adapter

kinds = pytest.mark.parametrize("kind", peft_adapters.KINDS)


def trained(kind: str, shape: str = "270m", seed: int = 7, **changes: Any) -> Any:
    """Our model with adapters whose every parameter is random."""
    model = gemma3.rebuilt(gemma3.theirs(shape))
    adapter.attach(model, peft_adapters.recipe(kind, **changes), seed=0)
    return shaken(model, seed)


def shaken(model: Any, seed: int = 7) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapter.adapter_parameters(model):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(1 + 0.2 * noise) if name.endswith("magnitude") else parameter.copy_(0.1 * noise)
    adapter.refresh(model)
    return model


@kinds
@pytest.mark.parametrize("shape", gemma3.SHAPES)
def test_logits_and_gradients_are_those_of_peft(kind: str, shape: str) -> None:
    logits_error, gradient_error = peft_adapters.errors(kind, shape=shape)
    assert logits_error <= 1e-5
    assert gradient_error <= 1e-5


@kinds
def test_our_file_loads_in_peft(kind: str, tmp_path: Path) -> None:
    model = trained(kind)
    save_adapter(tmp_path, model, peft_adapters.recipe(kind), "some/base")
    theirs = PeftModel.from_pretrained(gemma3.theirs("270m"), tmp_path).eval()
    assert peft_adapters.state(theirs).keys() == adapter.adapter_state(model).keys()
    with torch.no_grad():
        found, expected = gemma3.our_logits(model, gemma3.ids()), gemma3.their_logits(theirs, gemma3.ids())
    assert gemma3.relative(found, expected) <= 1e-5


@kinds
def test_a_file_of_peft_loads_in_ours(kind: str, tmp_path: Path) -> None:
    base = gemma3.theirs("270m")
    own = gemma3.rebuilt(base)
    theirs = peft_adapters.theirs(base, kind)
    theirs.save_pretrained(tmp_path)
    assert load_adapter(tmp_path, own) == peft_adapters.recipe(kind)
    with torch.no_grad():
        found, expected = gemma3.our_logits(own, gemma3.ids()), gemma3.their_logits(theirs, gemma3.ids())
    assert gemma3.relative(found, expected) <= 1e-5


@kinds
def test_a_new_adapter_changes_nothing_and_only_it_is_trained(kind: str) -> None:
    model = gemma3.rebuilt(gemma3.theirs("270m"))
    names = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        before = gemma3.our_logits(model, gemma3.ids())
        adapter.attach(model, peft_adapters.recipe(kind), seed=0)
        adapter.refresh(model)
        assert gemma3.relative(gemma3.our_logits(model, gemma3.ids()), before) <= 1e-6
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable == [name for name, _ in adapter.adapter_parameters(model)]
    assert [name for name, _ in model.named_parameters() if name not in trainable] == names
    assert [name for name, _ in adapter.merged_tensors(model)] == names


def test_the_start_is_gaussian_of_one_over_rank_and_depends_on_the_seed_alone() -> None:
    def starts(seed: int, dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Tensor]:
        model = gemma3.rebuilt(gemma3.theirs("1b")).to(dtype)
        adapter.attach(model, peft_adapters.recipe("lora", **changes), seed)
        return dict(adapter.adapter_parameters(model))

    first, again = starts(3), starts(3, torch.bfloat16, targets=("q_proj",), dora=True)
    name = "model.layers.4.self_attn.q_proj.lora_A"
    assert torch.equal(first[name], again[name]) and again[name].dtype == torch.float32
    assert not torch.equal(first[name], starts(4)[name])
    assert not torch.equal(first[name], first["model.layers.3.self_attn.q_proj.lora_A"])
    drawn = torch.cat([tensor.flatten() for key, tensor in first.items() if key.endswith("lora_A")])
    assert abs(float(drawn.std()) - 1 / 4) < 0.005
    assert all(not tensor.any() for key, tensor in first.items() if key.endswith("lora_B"))


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adapters_stay_in_float32_and_the_output_in_the_inputs_dtype(kind: str, dtype: torch.dtype) -> None:
    linear = torch.nn.Linear(24, 36, bias=False).to(dtype)
    module = adapter.AdaptedLinear(linear, peft_adapters.recipe(kind), "a", seed=0)
    x = torch.randn(2, 5, 24).to(dtype)
    y = module(x)
    assert y.shape == (2, 5, 36) and y.dtype == dtype
    y.float().square().sum().backward()
    for parameter in (module.lora_A, module.lora_B, module.magnitude):
        if parameter is not None:
            assert parameter.dtype == torch.float32 and bool(parameter.grad.isfinite().all())


def test_the_norm_by_the_low_rank_identity_is_that_of_the_dense_sum() -> None:
    for _, module in adapter.adapted(trained("both")):
        dense = module.weight.double() + module.scale * module.lora_B.double() @ module.lora_A.double()
        assert gemma3.relative(module.norm.double(), dense.norm(dim=1)) <= 1e-6


def test_a_row_of_zeros_stays_finite() -> None:
    linear = torch.nn.Linear(8, 4, bias=False)
    linear.weight.data[1] = 0
    module = adapter.AdaptedLinear(linear, peft_adapters.recipe("dora"), "a", seed=0)
    for _ in range(2):
        y = module(torch.randn(3, 8))
        y.sum().backward()
        assert y.isfinite().all() and all(p.grad.isfinite().all() for p in (module.lora_B, module.magnitude))
        module.refresh_norm()
    assert adapter.merged_weight(module).isfinite().all()


@kinds
def test_the_merged_weight_does_what_linear_and_adapter_do(kind: str) -> None:
    for _, module in adapter.adapted(trained(kind)):
        x = torch.randn(9, module.weight.shape[1])
        with torch.no_grad():
            assert gemma3.relative(x @ adapter.merged_weight(module).T, module(x)) <= 1e-5


@pytest.mark.parametrize("training", [True, False])
def test_attaching_keeps_the_models_mode(training: bool) -> None:
    model = gemma3.rebuilt(gemma3.theirs("270m")).train(training)
    adapter.attach(model, peft_adapters.recipe("lora"), seed=0)
    assert {module.training for module in model.modules()} == {training}


def test_targets_choose_the_linears() -> None:
    model = trained("lora", targets=("v_proj", "down_proj"))
    assert len(adapter.adapted(model)) == 14
    assert {name.rsplit(".", 1)[1] for name, _ in adapter.adapted(model)} == {"v_proj", "down_proj"}
    with pytest.raises(InputError, match="names no linear"):
        adapter.attach(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft_adapters.recipe("lora"), 0)


def test_setting_a_state_lists_everything_that_does_not_fit_and_changes_nothing() -> None:
    model = trained("dora")
    before = {name: tensor.clone() for name, tensor in adapter.adapter_state(model).items()}
    state = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    first, second = list(state)[:2]
    del state[first]
    state["base_model.model.model.layers.99.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 40)
    state[second] = torch.zeros(3, 3)
    with pytest.raises(InputError) as error:
        adapter.set_adapter_state(model, state)
    message = str(error.value)
    assert f"missing: {first}" in message and f"shape: {second} is [3, 3], must" in message
    assert "unexpected: base_model.model.model.layers.99" in message
    assert all(torch.equal(before[name], tensor) for name, tensor in adapter.adapter_state(model).items())


Gradients = dict[str, Tensor]
ROWS = {"a": 9, "b": 17, "c": 5}


def dropout_gradients(packs: list[list[str]], step: int = 3, recompute: bool = False, seed: int = 0) -> Gradients:
    """Gradients of a sum over rows, packed as paths in the given packs, with adapter dropout of 0.4."""
    model = gemma3.rebuilt(gemma3.theirs("270m"))
    adapter.attach(model, peft_adapters.recipe("both", dropout=0.4), seed)
    shaken(model).train()
    losses = []
    for pack in packs:
        starts = [sum(ROWS[row] for row in pack[:i]) for i in range(len(pack) + 1)]
        spans = list(pairwise(starts))
        position = torch.cat([torch.arange(b - a) for a, b in spans])
        end = torch.cat([torch.full((b - a,), b) for a, b in spans])
        attend = gemma3.TrieAttention(position, end, model.config.sliding_window, model.config.scale)
        tokens = torch.cat([gemma3.ids(ROWS[row], seed=ord(row)) for row in pack])
        adapter.set_dropout(model, pack, starts[:-1], step)
        hidden = model(tokens, position, attend, Recompute(len(model.model.layers) if recompute else 0))
        losses.append(model.logits(hidden).square().sum())
        if recompute:
            losses.pop().backward()
    if losses:
        torch.stack(losses).sum().backward()
    return {name: parameter.grad for name, parameter in adapter.adapter_parameters(model)}


def same(a: Gradients, b: Gradients) -> bool:
    return all(gemma3.relative(a[name], b[name]) <= 1e-5 for name in a)


def test_dropout_is_drawn_for_each_row_whatever_the_packing() -> None:
    alone = dropout_gradients([["a"], ["b"], ["c"]])
    assert same(dropout_gradients([["a", "b", "c"]]), alone)
    assert same(dropout_gradients([["c", "a"], ["b"]]), alone)
    assert same(dropout_gradients([["c", "a"], ["b"]], recompute=True), alone)


def test_dropout_changes_with_step_and_seed() -> None:
    first = dropout_gradients([["a", "b"]])
    assert not same(dropout_gradients([["a", "b"]], step=4), first)
    assert not same(dropout_gradients([["a", "b"]], seed=1), first)


def test_dropout_drops_its_share_on_the_adapters_input_alone() -> None:
    linear = torch.nn.Linear(64, 16, bias=False)
    module = adapter.AdaptedLinear(linear, peft_adapters.recipe("lora", dropout=0.25), "a", seed=0)
    module.lora_B.data.normal_()
    adapter.set_dropout(module, ["r", "s"], [0, 300], step=0)
    x = torch.ones(500, 64)
    mask = module._mask(x)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert abs(float((mask == 0).float().mean()) - 0.25) < 0.01
    expected = linear(x) + module.scale * (x * mask) @ module.lora_A.T @ module.lora_B.T
    assert gemma3.relative(module(x), expected) <= 1e-5
    assert gemma3.relative(module.eval()(x), linear(x) + module.scale * x @ module.lora_A.T @ module.lora_B.T) <= 1e-5


def test_training_with_dropout_but_without_rows_is_our_error() -> None:
    linear = torch.nn.Linear(8, 8, bias=False)
    module = adapter.AdaptedLinear(linear, peft_adapters.recipe("lora", dropout=0.1), "here", seed=0)
    with pytest.raises(AssertionError, match=re.escape("here: set_dropout")):
        module(torch.ones(3, 8))
