"""Training in float16: the residual stream beyond 65,504, small gradients kept, the loss scale, and what is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import move_adapter, tiny_model
from test_train import BASE, SMALL, Events, metrics, newest, some_rows, stop_after
from torch import Tensor

from bench import t4
from dozan.errors import InputError, Interrupted
from dozan.judge.generate import generate_ids
from dozan.kernels import TrieAttention
from dozan.model.adapter import adapter_parameters, attach
from dozan.model.gemma3 import Gemma3, rope_table
from dozan.model.half import require_float16
from dozan.pack import Batch, pack_rows
from dozan.recipe import Recipe, override
from dozan.train import loop, passes, scale
from dozan.train.loop import TrainResult, fit
from dozan.train.plan import make_plan
from dozan.train.scale import LossScale
from dozan.train.state import Trainee

CPU = torch.device("cpu")
LARGEST = 65504.0


def recipe(*changes: str) -> Recipe:
    return override(Recipe(), [*SMALL, *changes])


def model_in(dtype: torch.dtype, large: bool, *changes: str) -> Gemma3:
    """The same random model in any dtype, its adapters moved; if `large`, its residual stream passes 65,504."""
    model = tiny_model()
    if large:
        for layer in model.model.layers:
            for norm in (layer.post_attention_layernorm, layer.post_feedforward_layernorm):
                norm.weight.data.add_(1).mul_(20_000)
    model.to(torch.float16).to(dtype)
    attach(model, recipe(*changes).adapter, 0)
    return move_adapter(model)


def pack(count: int = 6) -> Batch:
    return pack_rows(some_rows(count), "tries", 10**9)[0]


def gradients(model: Gemma3, total: float, used: LossScale | None = None) -> tuple[float, Tensor]:
    model.zero_grad()
    loss = passes.EagerPasses(model, passes.NOTHING, used)(pack(), total, 0)
    one = torch.cat([p.grad.flatten() for _, p in adapter_parameters(model) if p.grad is not None])
    return float(loss), one if used is None else one / used.value


def scale_of(value: float) -> LossScale:
    made = LossScale(CPU)
    made.value.fill_(value)
    return made


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
def residuals(model: Gemma3, dtype: torch.dtype) -> list[Tensor]:
    """The stream after each layer when it is kept in `dtype`."""
    batch, config, own = pack(), model.config, model.embedding.dtype
    attend = TrieAttention(batch.position, batch.end, config.sliding_window, config.scale)
    rope = [rope_table(batch.position, theta, 1.0, config.head_dim, own) for theta in (1e6, 1e4)]
    stream = [(model.model.embed_tokens(batch.ids).float() * config.hidden_size**0.5).to(dtype)]
    for layer in model.model.layers:
        stream.append(layer(stream[-1], rope[layer.sliding], attend))
    return stream


def test_a_residual_beyond_float16_is_computed() -> None:
    half, whole = (model_in(dtype, large=True) for dtype in (torch.float16, torch.float32))
    assert not torch.isfinite(residuals(half, torch.float16)[-1]).all(), "plain float16 would do"
    stream = residuals(half, torch.float32)
    assert stream[-1].dtype == torch.float32 and float(stream[-1].abs().max()) > LARGEST
    loss, found = gradients(half, 7.0, scale_of(64.0))
    right, wanted = gradients(whole, 7.0)
    assert loss == pytest.approx(right, rel=0.01)
    assert torch.isfinite(found).all() and relative(found, wanted) < 0.01


@pytest.mark.parametrize("changes", [(), ("adapter.dora=true", "adapter.rslora=true")])
def test_gradients_are_those_of_float32(changes: tuple[str, ...]) -> None:
    half, whole = (model_in(dtype, False, *changes) for dtype in (torch.float16, torch.float32))
    loss, found = gradients(half, 7.0, scale_of(64.0))
    right, wanted = gradients(whole, 7.0)
    assert loss == pytest.approx(right, rel=2e-3) and relative(found, wanted) < 0.01


def test_what_is_in_which_dtype() -> None:
    model = model_in(torch.float16, False)
    given: dict[str, Tensor] = {}
    taken: dict[str, Tensor] = {}

    def see(name: str, args: tuple[Any, ...], out: Any) -> None:
        given.setdefault(name, out[0] if isinstance(out, tuple) else out)
        taken.setdefault(name, args[0])

    for name, module in model.named_modules():
        module.register_forward_hook(lambda module, args, out, name=name: see(name, args, out))
    passes.batch_loss(model, pack())
    first = "model.layers.0."
    narrow = [given[name] for name in ("model.norm", first + "self_attn", first + "mlp", first + "self_attn.o_proj")]
    narrow += [taken[first + name] for name in ("self_attn", "mlp", "self_attn.o_proj", "mlp.down_proj")]
    wide = [given[name] for name in ("model.layers.0", "model.layers.6", first + "post_attention_layernorm")]
    assert {x.dtype for x in narrow} == {torch.float16} and {x.dtype for x in wide} == {torch.float32}
    assert {p.dtype for _, p in adapter_parameters(model)} == {torch.float32}


def test_small_gradients_are_lost_without_a_scale() -> None:
    whole, half = model_in(torch.float32, False), model_in(torch.float16, False)
    total = 3e6
    wanted = gradients(whole, total)[1]
    assert relative(gradients(half, total)[1], wanted) > 0.05
    assert relative(gradients(half, total, LossScale(CPU))[1], wanted) < 0.01


def test_the_scale_falls_at_once_and_rises_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "PATIENCE", 3)
    used, good, bad = scale_of(2.0**16), torch.tensor(1.0), torch.tensor(float("inf"))

    def after(*steps: tuple[Tensor, Tensor]) -> float:
        for loss, norm in steps:
            used.update(loss, norm)
        return float(used.value)

    assert after((good, bad)) == 2.0**15 and after((good, torch.tensor(float("nan")))) == 2.0**14
    assert after((good, good), (good, good)) == 2.0**14 and after((good, good)) == 2.0**15
    assert after((good, good), (good, good), (good, bad), (good, good), (good, good)) == 2.0**14
    assert after((bad, bad)) == 2.0**14, "no scale mends a loss that is not finite"
    assert after(*[(good, bad)] * 30) == 1.0 and after(*[(good, good)] * 3 * 30) == scale.MOST
    state = used.state()
    other = LossScale(CPU)
    other.load(state)
    assert other.state() == state


def test_the_norm_and_the_clipping_know_no_scale() -> None:
    results = []
    for value in (2.0**4, 2.0**12):
        model = model_in(torch.float32, False)
        trainee = Trainee.of(model, recipe("train.clip_norm=0.1"), "tiny")
        for _, parameter in trainee.parameters:
            parameter.grad = torch.full_like(parameter, 0.25) * value
        update = loop.Trainee.of(model, trainee.recipe, "tiny").update
        update._scale = scale_of(value)
        norm = update(torch.tensor(1.0), 1e-2)
        results.append((float(norm), torch.cat([p.detach().flatten() for _, p in trainee.parameters])))
    (first, one), (second, two) = results
    size = sum(p.numel() for _, p in trainee.parameters)
    assert first == second == pytest.approx(0.25 * size**0.5) and torch.equal(one, two)


def run(out: Path, start: float, act: Events | None = None, *changes: str) -> tuple[TrainResult, Events]:
    events = Events() if act is None else act
    chosen, rows = recipe(*changes), some_rows()
    model = model_in(torch.float16, False)
    plan = make_plan(chosen, rows[4:], rows[:4])
    scale.START = start
    return fit(model, plan, out, BASE, events), events


@pytest.fixture(autouse=True)
def own_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "START", scale.START)


def test_a_scale_that_falls_does_not_stop_the_run(tmp_path: Path) -> None:
    """Gradients beyond float16 for more than three steps in a row, none of them the rows' fault."""
    result, events = run(tmp_path / "run", 2.0**24, None, "train.epochs=6")
    lines = [line for line in metrics(tmp_path / "run") if "train/loss" in line]
    skipped = [line for line in lines if line.get("train/skipped")]
    assert len(skipped) == result.skipped_steps > 3 and lines[: len(skipped)] == skipped
    assert [line["train/loss_scale"] for line in lines[: len(skipped) + 1]] == [
        2.0 ** (24 - i) for i in range(len(skipped) + 1)
    ]
    assert "gradients beyond float16 at loss scale 16,777,216, now halved" in events.notes()
    assert "it began in the gradient of" in events.notes() and lines[-1]["train/loss"] < lines[0]["train/loss"]


def test_at_the_smallest_scale_three_bad_steps_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = passes.EagerPasses.__call__

    def spoilt(self: passes.EagerPasses, batch: Batch, total: float, step: int) -> Tensor:
        loss = whole(self, batch, total, step)
        adapter_parameters(self._model)[3][1].grad.fill_(float("inf"))  # type: ignore[union-attr]
        return loss

    monkeypatch.setattr(passes.EagerPasses, "__call__", spoilt)
    events = Events()
    with pytest.raises(InputError, match="3 steps in a row.*it began in the gradient of model.layers.0.*lora_B"):
        run(tmp_path / "run", 8.0, events)
    assert events.notes().count("now halved") == 3 and events.notes().count("not finite, update skipped") == 3


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "PATIENCE", 2)
    run(tmp_path / "whole", 2.0**18)
    for step in (2, 5):
        with pytest.raises(Interrupted):
            run(tmp_path / "parts", 2.0**18, Events(stop_after(step)))
    run(tmp_path / "parts", 2.0**18)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    scales = {line["train/loss_scale"] for line in metrics(tmp_path / "whole") if "train/loss" in line}
    assert len(scales) > 2
    one, two = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    states = [json.loads((max((tmp_path / name / "checkpoints").iterdir()) / "state.json").read_text())["loss_scale"]
              for name in ("whole", "parts")]  # fmt: skip
    assert states[0] == states[1]


def noted(model: Gemma3, tmp_path: Path) -> str:
    events = Events()
    with pytest.raises(InputError):
        fit(model, make_plan(recipe("train.recoveries=0"), some_rows()), tmp_path / "run", BASE, events)
    return events.notes()


@pytest.mark.parametrize("changed", ["mlp.up_proj", "mlp.down_proj", "self_attn.v_proj"])
def test_a_linear_that_overflows_is_named(changed: str, tmp_path: Path) -> None:
    model = model_in(torch.float16, False)
    model.get_submodule(f"model.layers.2.{changed}").weight.data.fill_(6e4)
    assert f"it began in model.layers.2.{changed} (float16 ends at 65,504)" in noted(model, tmp_path)


def test_a_product_of_gate_and_up_that_overflows_is_named(tmp_path: Path) -> None:
    model = model_in(torch.float16, False)
    for name in ("gate_proj", "up_proj"):
        model.get_submodule(f"model.layers.2.mlp.{name}").weight.data.mul_(600)
    assert "it began in model.layers.2.mlp: gelu(gate) · up (float16" in noted(model, tmp_path)


def test_a_norm_before_a_block_that_overflows_is_named(tmp_path: Path) -> None:
    model = model_in(torch.float16, False)
    model.model.layers[2].pre_feedforward_layernorm.weight.data.fill_(6e4)
    assert "it began in what model.layers.2.mlp takes (float16" in noted(model, tmp_path)


def test_weights_beyond_float16_are_named() -> None:
    model = tiny_model()
    model.model.layers[3].mlp.up_proj.weight.data[1, 2] = 7e4
    require_float16(model, "base")
    with pytest.raises(InputError, match=r"base: 1 tensors .* 65,504.*: model.layers.3.mlp.up_proj.weight;.*float32"):
        require_float16(model.half(), "base")


def test_it_answers_as_in_float32() -> None:
    """Generation with the stream beyond float16: the same tokens, as long as no two are nearly as likely."""
    prompts = [row.ids for row in some_rows(5)]
    half, whole = (generate_ids(model_in(dtype, large=True), prompts, 7, set())
                   for dtype in (torch.float16, torch.float32))  # fmt: skip
    assert half == whole and len({tuple(answer) for answer in half}) > 1


def test_the_benchmark_of_a_t4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t4, "ROWS", (2,))
    t4.main(["--tiny", "--steps", "8", "--out", str(tmp_path / "t4.json")])
    wide, narrow = json.loads((tmp_path / "t4.json").read_text(encoding="utf-8"))["runs"]
    assert (wide["mode"], narrow["mode"]) == ("bf16", "t4") and narrow["largest_residual"] > LARGEST
    assert narrow["losses"] == pytest.approx(wide["losses"], rel=0.01) and narrow["losses"][-1] < narrow["losses"][0]
    assert wide["loss_scale"] is None and narrow["loss_scale"] >= 1 and narrow["skipped"] == 0


@pytest.mark.parametrize("changes", [("train.recompute=layers",), ("train.recompute=layers", "train.offload=true")])
def test_recomputed_layers_give_the_same_gradients(changes: tuple[str, ...]) -> None:
    """The input that is kept, or waits in host memory, is the stream in fp32."""
    model, used = model_in(torch.float16, large=True), scale_of(64.0)
    found = []
    for chosen in (recipe("train.recompute=none"), recipe(*changes)):
        model.zero_grad()
        loss = passes.make_passes(model, chosen, used)(pack(), 7.0, 0)
        found.append(torch.cat([loss[None], *(p.grad.flatten() for _, p in adapter_parameters(model))]))  # type: ignore[union-attr]
    assert torch.isfinite(found[0]).all() and torch.equal(*found)
