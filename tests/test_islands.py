"""Layers in float32 amid a run in float16: where activations pass 65,504, found, tried, kept, and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import move_adapter, tiny_model
from test_half import gradients, pack, recipe, relative, scale_of
from test_train import BASE, Events, metrics, newest, some_rows, stop_after
from torch import Tensor

from dozan.errors import InputError, Interrupted
from dozan.judge.generate import generate_ids
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3
from dozan.train import health, islands, loop, passes, recover, step
from dozan.train.islands import widen
from dozan.train.loop import TrainResult, fit
from dozan.train.plan import Plan, make_plan
from dozan.train.state import Trainee

WIDE = 1


def small(*changes: str) -> Gemma3:
    """In float16, its adapters moved."""
    model = tiny_model(num_hidden_layers=3).to(torch.float16)
    attach(model, recipe(*changes).adapter, 0)
    return move_adapter(model)


def narrow_model(*changes: str) -> Gemma3:
    """In float16 the product of gate and up in one layer overflows; in float32 it does not."""
    return too_large(small(*changes))


def too_large(model: Gemma3) -> Gemma3:
    for name in ("gate_proj", "up_proj"):
        model.get_submodule(f"model.layers.{WIDE}.mlp.{name}").weight.data.mul_(600)
    return model


@pytest.mark.parametrize("changes", [(), ("adapter.dora=true", "adapter.targets=[q_proj, down_proj]")])
def test_an_island_computes_what_float32_does(changes: tuple[str, ...]) -> None:
    half = narrow_model(*changes)
    assert not torch.isfinite(passes.batch_loss(half, pack())).all()
    widen(half, [WIDE])
    loss, found = gradients(half, 7.0, scale_of(64.0))
    right, wanted = gradients(too_large(small(*changes)).float(), 7.0)
    assert loss == pytest.approx(right, rel=2e-3) and relative(found, wanted) < 0.01
    dtypes = {name.split(".")[2]: p.dtype for name, p in half.named_parameters()
              if "layers." in name and not p.requires_grad}  # fmt: skip
    assert [dtypes[str(i)] for i in range(3)] == [torch.float32 if i == WIDE else torch.float16 for i in range(3)]


def test_a_model_with_an_island_generates() -> None:
    half, whole = narrow_model(), narrow_model().float()
    widen(half, [WIDE])
    prompts = [row.ids[:9] for row in some_rows(3)]
    found, wanted = (generate_ids(model.eval(), prompts, 6, {1}) for model in (half, whole))
    assert found == wanted


def run(
    out: Path, events: Events | None = None, model: Gemma3 | None = None, *changes: str
) -> tuple[TrainResult, Events]:
    events, rows = Events() if events is None else events, some_rows(7)
    chosen = recipe("train.save_steps=2", "train.max_steps=9", "train.batch_size=2", "train.eval_steps=9", *changes)
    plan = make_plan(chosen, rows[1:], rows[:1])
    return fit(narrow_model() if model is None else model, plan, out, BASE, events), events


def test_a_run_that_overflows_from_the_start_goes_on_with_an_island(tmp_path: Path) -> None:
    result, events = run(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    (kept,) = record["recoveries"]
    assert kept["fp32_layers"] == [WIDE] and kept["rate_factor"] == 1.0 and kept["resumed_from"] == 0
    assert "it began in model.layers.1.mlp: gelu(gate) · up" in kept["why"] and "rows row" in kept["why"]
    assert "back to step 0, with 1 x the planned rate and model.layers.1 in float32" in events.notes()
    lines = [line for line in metrics(tmp_path) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 10)) and not any("train/skipped" in line for line in lines)
    assert result.skipped_steps == 3 and lines[-1]["train/loss"] < lines[0]["train/loss"]


def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Gemma3]:
    """A model of which a layer's product overflows from the sixth step on."""
    now, real = [False], step.gradients

    def computed(trainee: Any, batch: Any, total: float, number: int) -> Tensor:
        now[0] = number >= 5
        return real(trainee, batch, total, number)

    monkeypatch.setattr(step, "gradients", computed)

    def made() -> Gemma3:
        model = small()

        def enlarge(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            return (args[0] * 600,) if now[0] else None

        model.model.layers[WIDE].mlp.register_forward_pre_hook(enlarge)
        return model

    return made


def test_a_resumed_run_keeps_its_islands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = later(monkeypatch)
    result, events = run(tmp_path / "whole", None, made())
    assert "step 8: back to the checkpoint of step 4, with 1 x the planned rate and model.layers.1" in events.notes()
    seen: list[int] = []

    def stop(event: dict[str, Any]) -> None:
        seen.extend([7] if event["event"] == "step" and event["step"] == 7 else [])
        if len(seen) == 2:
            seen.append(0)
            stop_after(7)(event)

    with pytest.raises(Interrupted):
        run(tmp_path / "parts", Events(stop), made())
    run(tmp_path / "parts", None, made())
    one, two = newest(tmp_path / "whole"), newest(tmp_path / "parts")
    assert all(torch.equal(one[name], two[name]) for name in one) and result.skipped_steps == 3
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_what_no_island_mends_is_left_to_a_lower_rate(tmp_path: Path) -> None:
    model = small()
    model.get_submodule(f"model.layers.{WIDE}.self_attn.v_proj").weight.data.fill_(6e4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(InputError, match="3 steps in a row.*v_proj"):
        run(tmp_path, None, model)
    assert json.loads((tmp_path / "run.json").read_text())["recoveries"] == []
    after = dict(model.named_parameters())
    assert all(after[name].dtype == before[name].dtype and torch.equal(after[name], before[name]) for name in before)


def nothing(*args: Any) -> tuple[()]:
    return ()


@pytest.mark.parametrize(("module", "guard"), [(step, "layers_that_mend"), (recover, "widened")])
def test_without_islands_the_run_stops(
    module: Any, guard: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, guard, nothing)
    with pytest.raises(InputError, match="3 steps in a row"):
        run(tmp_path)


def test_a_resume_without_them_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = later(monkeypatch)
    with pytest.raises(Interrupted):
        run(tmp_path, Events(lambda event: stop_after(7)(event) if recovered(tmp_path) else None), made())
    monkeypatch.setattr(loop, "widen", nothing)
    try:
        result, _ = run(tmp_path, None, made())
    except InputError:
        return
    assert result.skipped_steps > 3, "it overflows again"


def recovered(out: Path) -> bool:
    return bool(json.loads((out / "run.json").read_text())["recoveries"])


def test_a_trial_that_is_not_undone_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(islands, "_tried", lambda model: nullcontext())
    with pytest.raises(AssertionError):
        test_what_no_island_mends_is_left_to_a_lower_rate(tmp_path)


def prepared_trainee() -> tuple[Trainee, Plan]:
    chosen, rows = recipe("train.batch_size=2", "train.max_steps=2"), some_rows(4)
    return Trainee.of(narrow_model(), chosen, "base"), make_plan(chosen, rows)


def no_memory(*args: Any) -> Tensor:
    raise torch.OutOfMemoryError("out of memory")


def test_a_search_that_memory_does_not_do_for_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    trainee, plan = prepared_trainee()
    skipped = health.explain(trainee, plan, plan.prepare(0), 0, float("nan"), None)
    assert islands.layers_that_mend(trainee, plan.prepare(0), 0, skipped) == (WIDE,)
    monkeypatch.setattr(islands, "begins_in", no_memory)
    assert islands.layers_that_mend(trainee, plan.prepare(0), 0, skipped) == ()
    monkeypatch.setattr(health, "begins_in", no_memory)
    said = health.explain(trainee, plan, plan.prepare(0), 0, float("nan"), None)
    assert len(said.rows) == 2 and "memory does not do for the search" in said.place and said.began == ""
    assert all(p.dtype == torch.float16 for p in trainee.model.parameters() if not p.requires_grad)


def test_layers_that_do_not_fit_in_float32_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls, real = small(), [0], torch.Tensor.float
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def third_fails(tensor: Tensor) -> Tensor:
        calls[0] += 1
        return no_memory() if calls[0] == 3 else real(tensor)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "float", third_fails)
        assert not islands.widened(model, [WIDE])
    assert calls[0] == 3
    after = dict(model.named_parameters())
    assert all(after[n].dtype == before[n].dtype and torch.equal(after[n], before[n]) for n in before)


def test_each_pass_of_a_search_is_a_sign_of_life() -> None:
    trainee, plan = prepared_trainee()
    beats: list[int] = []
    skipped = health.explain(trainee, plan, plan.prepare(0), 0, float("nan"), None, lambda: beats.append(0))
    assert len(beats) >= 3, "two rows, then where it began"
    beats.clear()
    islands.layers_that_mend(trainee, plan.prepare(0), 0, skipped, lambda: beats.append(0))
    assert beats


def test_nothing_is_searched_where_the_run_may_not_go_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[Any] = []
    monkeypatch.setattr(step, "layers_that_mend", lambda *args: searched.append(args) or ())
    with pytest.raises(InputError, match="3 steps in a row"):
        run(tmp_path, None, None, "train.recoveries=0")
    assert not searched
