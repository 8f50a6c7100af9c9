"""Layers in float32 amid float16 on a GPU, as a T4 and with Triton's attention: found, tried, captured anew.

Skipped without a GPU, or with Triton interpreted.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from models import move_adapter, tiny_model
from test_train import BASE, Events, metrics, some_rows

from dozan.kernels.precision import T4, emulated
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe, override
from dozan.train.loop import fit
from dozan.train.plan import make_plan

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
SETTINGS = ["adapter.rank=4", "adapter.alpha=8", "train.batch_size=2", "train.learning_rate=0.01", "train.max_steps=9",
            "train.save_steps=2", "train.eval_steps=9", "train.dtype=float16"]  # fmt: skip
WIDE = 1


def overflowing(*changes: str) -> Gemma3:
    model = tiny_model(num_hidden_layers=3, head_dim=64, hidden_size=128).to(torch.float16).to("cuda")
    with torch.no_grad():
        for name in ("gate_proj", "up_proj"):
            model.get_submodule(f"model.layers.{WIDE}.mlp.{name}").weight.mul_(900)
    attach(model, override(Recipe(), [*SETTINGS, *changes]).adapter, 0)
    return move_adapter(model)


@pytest.mark.parametrize("as_t4", [False, True])
@pytest.mark.parametrize("changes", [(), ("adapter.dora=true", "adapter.rslora=true")])
def test_a_run_goes_on_with_an_island(as_t4: bool, changes: tuple[str, ...], tmp_path: Path) -> None:
    chosen, rows, events = override(Recipe(), [*SETTINGS, *changes]), some_rows(7), Events()
    with emulated(T4 if as_t4 else None):
        result = fit(overflowing(*changes), make_plan(chosen, rows[1:], rows[:1]), tmp_path, BASE, events)
    (kept,) = json.loads((tmp_path / "run.json").read_text())["recoveries"]
    assert kept["fp32_layers"] == [WIDE] and kept["rate_factor"] == 1.0, events.notes()
    lines = [line for line in metrics(tmp_path) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 10)) and result.skipped_steps >= 3
    assert lines[-1]["train/loss"] < lines[0]["train/loss"]
