"""Checkpoints of a run on a GPU: written behind it, the same as if it had waited, and gone on with."""

from __future__ import annotations

import os
import statistics
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from models import tiny_model
from test_keeper import equal
from test_train import BASE, Events, recipe, some_rows, stop_after

from dozan.errors import Interrupted
from dozan.model.adapter import attach
from dozan.recipe import Recipe
from dozan.train import loop
from dozan.train.keeper import Keeper
from dozan.train.plan import make_plan
from dozan.train.state import Progress, SnapshotMemory, Trainee, snapshot

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
CHOSEN = recipe("train.save_steps=2", "train.eval_steps=3", "train.deterministic=true")


def fit(out: Path, chosen: Recipe, events: Events) -> None:
    model = tiny_model(head_dim=16).to("cuda")
    attach(model, chosen.adapter, chosen.train.seed)
    rows = some_rows()
    loop.fit(model, make_plan(chosen, rows[4:], rows[:4]), out, BASE, events)


def test_written_behind_is_written_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path / "behind", CHOSEN, Events())
    monkeypatch.setattr(loop, "Keeper", partial(Keeper, background=False))
    fit(tmp_path / "at once", CHOSEN, Events())
    assert equal(tmp_path / "behind", tmp_path / "at once")


def test_resumed_on_a_gpu_equals_uninterrupted(tmp_path: Path) -> None:
    fit(tmp_path / "whole", CHOSEN, Events())
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", CHOSEN, Events(stop_after(5)))
    fit(tmp_path / "run", CHOSEN, Events())
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_a_copy_is_of_its_moment_and_costs_the_host_little(tmp_path: Path) -> None:
    chosen = recipe("adapter.rank=64")
    model = tiny_model(hidden_size=1024, intermediate_size=2048, head_dim=64).to("cuda")
    attach(model, chosen.adapter, 0)
    trainee, plan = Trainee.of(model, chosen, BASE.name), make_plan(chosen, some_rows())
    for step in range(4):
        loop.optimiser_step(trainee, plan.prepare(step), 0.01, step).read()
    expected = {name: tensor.cpu().clone() for name, tensor in snapshot(trainee, tmp_path, Progress(4)).trained.items()}
    seconds, memory = [], SnapshotMemory()
    for _ in range(5):
        torch.cuda.synchronize()
        began = time.perf_counter()
        taken = snapshot(trainee, tmp_path, Progress(4), memory)
        seconds.append(time.perf_counter() - began)
    loop.optimiser_step(trainee, plan.prepare(5), 0.01, 5).read()
    assert taken.ready is not None
    taken.ready.synchronize()
    assert all(torch.equal(expected[name], taken.trained[name]) for name in expected)
    later = snapshot(trainee, tmp_path, Progress(5)).trained
    assert not all(torch.equal(expected[name], later[name].cpu()) for name in expected)
    print(f"snapshot {statistics.median(seconds) * 1e3:.1f} ms on the host, {trainee.size:,} parameters")
