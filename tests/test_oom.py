"""Out of memory in mid-run: the step is computed again in smaller packs, and nothing that is trained differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import BASE, Events, adapted_model, assert_close, metrics, recipe, run, some_rows, stop_after

from dozan.errors import InputError, Interrupted
from dozan.pack import Batch
from dozan.train import loop, passes, retry
from dozan.train.plan import make_plan
from dozan.train.state import Trainee, _host_memory

Fails = Callable[[int, Batch], bool]
CHOSEN = recipe("train.max_steps=9", "train.save_steps=4")


class Memory:
    """EagerPasses that run out of memory where `fails(call, batch)` says so, before there are gradients or after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: Fails, late: bool = True) -> None:
        self.calls = self.failed = 0
        self.batches: list[Batch] = []
        real = passes.EagerPasses.__call__

        def call(itself: passes.EagerPasses, batch: Batch, total: float, step: int) -> torch.Tensor:
            self.calls += 1
            fail = fails(self.calls, batch)
            loss = real(itself, batch, total, step) if late or not fail else None
            if fail:
                self.failed += 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            self.batches.append(batch)
            assert loss is not None
            return loss

        monkeypatch.setattr(passes.EagerPasses, "__call__", call)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "adapter" / "adapter_model.safetensors")


def losses(out: Path) -> list[float]:
    return [line["train/loss"] for line in metrics(out) if "train/loss" in line]


def record(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text(encoding="utf-8"))
    return found


def above(tokens: int) -> Fails:
    return lambda call, batch: len(batch) > tokens and len(batch.rows) > 1


def once(at: int) -> Fails:
    return lambda call, batch: call == at


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[str, ...]], Path]:
    """A run with enough memory, made once for all that are compared with it."""

    @lru_cache
    def made(changes: tuple[str, ...]) -> Path:
        out = tmp_path_factory.mktemp("whole") / "run"
        run(out, recipe("train.max_steps=9", "train.save_steps=4", *changes))
        return out

    return made


@pytest.mark.parametrize(
    "changes", [(), ("train.micro_batch_size=2",), ("pack=none",), ("pack=paths", "train.pack_tokens=90"),
                ("adapter.dropout=0.2",)]
)  # fmt: skip
@pytest.mark.parametrize(
    ("fails", "late"), [(once(6), True), (once(6), False), (above(40), True)], ids=["once late", "once early", "above"]
)
def test_the_run_is_the_one_without_it(
    changes: tuple[str, ...], fails: Fails, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    whole: Callable[[tuple[str, ...]], Path],
) -> None:  # fmt: skip
    chosen, without = recipe("train.max_steps=9", "train.save_steps=4", *changes), whole(changes)
    memory = Memory(monkeypatch, fails, late)
    result, events = run(tmp_path / "cut", chosen)
    if memory.failed == 0:
        assert chosen.pack == "none" and result.oom_retries == 0
        return
    assert result.oom_retries == memory.failed and result.steps == 9 and result.skipped_steps == 0
    assert losses(tmp_path / "cut") == pytest.approx(losses(without), rel=1e-6)
    assert_close(weights(tmp_path / "cut"), weights(without), 1e-5)
    assert events.notes().count("out of memory in a pack of") == memory.failed
    assert len(record(tmp_path / "cut")["oom_retries"]) == memory.failed


def test_what_was_half_done_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With two packs a step and the second failing, the first one's gradients must not be counted twice."""
    plan = make_plan(recipe("train.micro_batch_size=2"), some_rows())
    trainee = Trainee.of(adapted_model(plan.recipe, moved=True), plan.recipe, BASE.name)
    prepared = plan.prepare(0)
    assert len(prepared.batches) > 1
    loop.accumulate(trainee, prepared, 0)
    expected = {name: p.grad.clone() for name, p in trainee.parameters if p.grad is not None}
    trainee.optimizer.zero_grad()
    Memory(monkeypatch, once(2))
    old = trainee.passes
    with pytest.raises(retry.PackTooLarge, match="out of memory") as caught:
        loop.accumulate(trainee, prepared, 0)
    assert caught.value.__context__ is None, "the frames of the error hold what was computed"
    room = retry.smaller(plan, trainee, caught.value.size)
    assert room is not None
    retry.make_room(trainee, room)
    assert trainee.passes is not old
    assert not any(p.grad is not None and p.grad.any() for _, p in trainee.parameters)
    again = replace(prepared, batches=room.pack(prepared.rows))
    assert len(again.batches) > len(prepared.batches)
    loop.accumulate(trainee, again, 0)
    assert_close({name: p.grad for name, p in trainee.parameters if p.grad is not None}, expected, 1e-5)


def test_the_smaller_pack_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(monkeypatch, above(40))
    run(tmp_path, CHOSEN)
    assert all(len(batch) <= 40 or len(batch.rows) == 1 for batch in memory.batches)
    found = record(tmp_path)["oom_retries"]
    assert [each["pack_tokens"] for each in found] == sorted({each["pack_tokens"] for each in found}, reverse=True)
    assert all(each["pack_tokens"] == each["tokens"] // 2 for each in found)
    assert len(found) < 9, "not once a step"
    assert record(tmp_path)["recipe"]["train"]["pack_tokens"] == CHOSEN.train.pack_tokens


def test_a_row_alone_has_its_layers_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole", CHOSEN)
    real, seen = passes.EagerPasses.__call__, []

    def call(itself: passes.EagerPasses, batch: Batch, total: float, step: int) -> torch.Tensor:
        seen.append((len(batch.rows), itself._recompute.layers))
        if step >= 2 and (len(batch.rows) > 1 or not itself._recompute.layers):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(itself, batch, total, step)

    monkeypatch.setattr(passes.EagerPasses, "__call__", call)
    result, events = run(tmp_path / "cut", CHOSEN)
    layers = adapted_model(CHOSEN).config.num_hidden_layers
    assert seen[-1] == (1, layers) and result.oom_retries > 1
    assert f"{layers} layers computed again" in events.notes()
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-5)


def test_when_nothing_is_left_the_state_is_saved_and_the_row_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", CHOSEN)
    with monkeypatch.context() as patch:
        Memory(patch, lambda call, batch: call > 5, late=False)
        with pytest.raises(InputError, match=r"row row\d+ \([\d,]+ tokens, [\d,]+ supervised\) does not fit") as caught:
            run(tmp_path / "cut", CHOSEN)
    assert "Stopped after step 5" in str(caught.value) and "dozan plan" in str(caught.value)
    assert (tmp_path / "cut" / "checkpoints" / "step-5").is_dir() or list((tmp_path / "cut" / "checkpoints").glob("*5"))
    seen = Memory(monkeypatch, lambda call, batch: False)
    result, _ = run(tmp_path / "cut", CHOSEN)
    assert result.resumed_from == 5 and result.oom_retries == len(record(tmp_path / "cut")["oom_retries"]) > 1
    limit = record(tmp_path / "cut")["oom_retries"][-1]["pack_tokens"]
    assert all(len(batch) <= limit or len(batch.rows) == 1 for batch in seen.batches)
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-5)


def test_a_resumed_run_goes_on_in_the_smaller_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit as the run that was not stopped, though memory fails no more."""
    with monkeypatch.context() as patch:
        Memory(patch, once(2))
        run(tmp_path / "whole", CHOSEN)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        Memory(patch, once(2))
        run(tmp_path / "cut", CHOSEN, stop_after(5))
    run(tmp_path / "cut", CHOSEN)
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    one, other = weights(tmp_path / "cut"), weights(tmp_path / "whole")
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert record(tmp_path / "cut")["oom_retries"] == record(tmp_path / "whole")["oom_retries"]


def test_a_checkpoint_from_before_is_taken_up_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the retry of step 6, it goes on from step 4; what is computed twice is equal but for rounding."""
    run(tmp_path / "whole", CHOSEN)

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 6:
            raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        Memory(patch, once(6))
        run(tmp_path / "cut", CHOSEN, kill)
    result, _ = run(tmp_path / "cut", CHOSEN)
    assert result.resumed_from == 4 and result.oom_retries == 1
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-6)
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 1e-5)


def test_another_error_is_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(itself: passes.EagerPasses, batch: Batch, total: float, step: int) -> torch.Tensor:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(passes.EagerPasses, "__call__", call)
    with pytest.raises(RuntimeError, match="shapes differ"):
        loop.fit(adapted_model(CHOSEN), make_plan(CHOSEN, some_rows()), tmp_path / "out", BASE, Events())


@pytest.mark.parametrize(
    ("error", "expected"),
    [(torch.OutOfMemoryError("no"), True), (RuntimeError("CUDA error: out of memory"), True),
     (RuntimeError("Triton Error [CUDA]: out of memory"), True),
     (RuntimeError("out of resource: shared memory"), False)],
)  # fmt: skip
def test_what_counts_as_a_lack_of_memory(error: RuntimeError, expected: bool) -> None:
    assert retry.is_out_of_memory(error) is expected
    try:
        try:
            raise error
        finally:
            raise RuntimeError("the capture failed")
    except RuntimeError as later:
        assert retry.is_out_of_memory(later) is expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory can be pinned here")
def test_memory_that_cannot_be_pinned_is_pageable_and_told() -> None:
    block, refused = _host_memory(8, True)
    assert block.numel() == 8 and "pin" in refused
    assert _host_memory(8, False)[1] == ""
