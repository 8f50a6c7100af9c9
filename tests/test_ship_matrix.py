"""Every kind of adapter over every kind of base in three shapes: merged and in a GGUF it computes what was trained.

The suite runs a sample, a case of each adapter, base and shape; `DOZAN_MATRIX=full` runs all 24.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from nf4_models import change
from ship_models import VOCAB, make_folder, make_run
from torch import Tensor

from dozan.model import adapter as adapting
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.parity import compare
from dozan.ship.source import open_source

ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA": {}, "rsLoRA": {"rslora": True}, "DoRA": {"dora": True}, "rsLoRA + DoRA": {"rslora": True, "dora": True},
}  # fmt: skip
BASES = ("16-bit", "NF4")
ROPE = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
VISION = {"architectures": ["Gemma3ForConditionalGeneration"], "vocab_size": VOCAB + 64}
SHAPES: dict[str, dict[str, Any]] = {
    "270M": {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4, "num_key_value_heads": 1,
             "head_dim": 64, "query_pre_attn_scalar": 64, "num_hidden_layers": 8, "sliding_window": 24},
    "4B": {**ROPE, **VISION, "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 8,
           "num_key_value_heads": 4, "head_dim": 32, "num_hidden_layers": 13, "sliding_window": 40},
    "12B": {**ROPE, **VISION, "hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 16, "query_pre_attn_scalar": 16, "num_hidden_layers": 14,
            "sliding_window": 40},
}  # fmt: skip
ALL = [(adapter, base, shape) for adapter in ADAPTERS for base in BASES for shape in SHAPES]
SAMPLE = [ALL[i] for i in (0, 4, 8, 9, 13, 17, 18, 22)]
CASES = ALL if os.environ.get("DOZAN_MATRIX") == "full" else SAMPLE
ROWS = [[2, *range(300, 345)], [2, 700, 5, 2047, 1, 900], [2, *range(1200, 1290)]]


def by_table(gate: Tensor, up: Tensor, _: object = None) -> Tensor:
    """llama.cpp's product: the GELU goes through a table of float16."""
    rounded = gate.half().float()
    between = torch.nn.functional.gelu(rounded, approximate="tanh").half().float()
    return torch.where(gate <= -10, 0.0, torch.where(gate >= 10, gate, between)) * up


def make_base(out: Path, dtype: torch.dtype, **shape: Any) -> Path:
    """Each layer adds a little to the residual, as in a trained model: rounding grows less with depth."""

    def calm(tensors: dict[str, Tensor]) -> None:
        for name, weight in tensors.items():
            tensors[name] = (weight * 0.25 - 0.7 if ".post_" in name and "layers" in name else weight).to(dtype)

    change(make_folder(out, **shape), calm)
    return out


def test_the_sample_has_every_part() -> None:
    assert all({case[i] for case in SAMPLE} == {case[i] for case in ALL} for i in range(3))


@pytest.mark.parametrize(("adapter", "base", "shape"), CASES, ids=[", ".join(case) for case in CASES])
def test_what_is_shipped_computes_what_was_trained(
    adapter: str, base: str, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.bfloat16 if base == "NF4" else torch.float32
    run = make_run(tmp_path / "run", make_base(tmp_path / "base", dtype, **SHAPES[shape]), **ADAPTERS[adapter])
    if base == "NF4":
        record = json.loads((run / "run.json").read_text())
        (run / "run.json").write_text(json.dumps({**record, "recipe": {"model": {"quantise": "nf4"}}}))
    source = open_source(run)
    tail = max(map(len, ROWS))
    trained = list(source.trained_logits(ROWS, tail))
    plain = open_source(run)
    plain.adapters.clear()  # type: ignore[attr-defined]
    apart = compare(trained, plain.logits(ROWS, tail))
    assert apart.max_abs > apart.spread, "the adapter must matter for the comparison to mean anything"
    merged = compare(trained, source.logits(ROWS, tail))
    assert merged.max_abs < 1e-4 * max(1.0, merged.spread) and merged.top1 == 1.0
    path = write_gguf(source.bundle, tmp_path / "m.gguf", "f32", pieces=source.pieces)
    found = llamacpp.inspect(path, ROWS, tail).logits
    through = compare(trained, found)
    assert through.max_abs < 5e-3 * max(1.0, through.spread)
    monkeypatch.setattr(adapting, "geglu", by_table)
    through = compare(source.trained_logits(ROWS, tail), found)
    assert through.max_abs < 1.5e-3 * max(1.0, through.spread), "beyond the table's rounding"
