"""The whole verb on a GPU: rows to a run, scored while it trains, and answered from. Skipped without a GPU."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path

import pytest
import torch

import dozan
from dozan.rows.readers import read_rows
from dozan.train.prepare import training_device

ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "dev.jsonl"
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
SETTINGS = ("train.max_steps=6", "train.batch_size=8", "train.eval_steps=3", "score.rows=8")


def test_the_device_has_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.get_per_process_memory_fraction refuses a device without one, and asking it comes first in a run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert training_device() == torch.device("cuda", 1)


@needs_gpu
@pytest.mark.parametrize(
    "changes", [(), ("adapter.dora=true", "adapter.rslora=true", "train.optimizer=adamw_8bit")], ids=["lora", "dora"]
)
def test_train_then_evaluate(changes: tuple[str, ...], tmp_path: Path) -> None:
    rows = list(islice(read_rows(ROWS), 80))
    result = dozan.train(rows, out=tmp_path / "run", overrides=[*SETTINGS, *changes], on_event=lambda event: None)
    assert result.steps == 6
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert run["state"] == "done" and run["memory"]["parts"]
    scores = dozan.evaluate(tmp_path / "run", rows[:8])
    assert len(scores.rows) == 8
    again = dozan.train(rows, out=tmp_path / "run", overrides=[*SETTINGS, *changes], on_event=lambda event: None)
    assert again.steps == 6
