"""Merging: transformers reads the folder and computes what base and adapter compute; a wrong merge does not survive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from ship_models import make_folder, make_run

from dozan.errors import InputError
from dozan.model.adapter import adapted
from dozan.model.bundle import open_model
from dozan.rows.example import Example
from dozan.ship import merge as merging
from dozan.ship.export import export, parse_kinds
from dozan.ship.merge import merge
from dozan.ship.parity import ExportFailed, reference_logits

ROW = [2, *range(300, 360)]
RECIPES: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "rslora and dora": {"rslora": True, "dora": True},
}


def of_transformers(folder: Path) -> np.ndarray:
    """Logits [T, V] of ROW by transformers in fp32."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(torch.tensor([ROW])).logits[0].numpy()


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_reads_the_merged_folder_as_the_run(name: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), **RECIPES[name])
    merged = merge(run, tmp_path / "merged")
    ours = next(reference_logits(open_model(run).model, [ROW], len(ROW)))
    plain = next(reference_logits(open_model(run, with_adapter=False).model, [ROW], len(ROW)))
    assert np.abs(of_transformers(merged) - ours).max() < 1e-4
    assert np.abs(plain - ours).max() > 0.1, "the adapter must matter for the comparison to mean anything"
    certificate = json.loads((merged / "parity.json").read_text())
    assert certificate["failures"] == [] and certificate["merged"]["max_abs"] < 1e-4


def test_a_bf16_base_is_merged_in_fp32_and_rounded_once(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base")
    weights = {name: weight.bfloat16() for name, weight in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    merged = merge(make_run(tmp_path / "run", base), tmp_path / "merged")
    assert {weight.dtype for weight in load_file(merged / "model.safetensors").values()} == {torch.bfloat16}
    certificate = json.loads((merged / "parity.json").read_text())
    assert certificate["merged"]["max_abs"] < 1e-4 < certificate["stored"]["max_abs"]
    assert certificate["unequal"] == []


def test_a_vision_folder_keeps_its_other_parts(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base", architectures=["Gemma3ForConditionalGeneration"])
    merged = merge(make_run(tmp_path / "run", base), tmp_path / "merged")
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    assert before.keys() == after.keys()
    vision = "vision_tower.vision_model.post_layernorm.weight"
    assert torch.equal(before[vision], after[vision])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 7 * 7


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapter"):
        merge(make_folder(tmp_path / "base"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_wrong_merge_is_renamed_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = merging.save_merged

    def root_rank_lost(base: Path, model: Any, out: Path) -> None:
        scales = {module: module.scale for _, module in adapted(model)}
        for module, scale in scales.items():
            module.scale = scale / 2.0
        right(base, model, out)
        for module, scale in scales.items():
            module.scale = scale

    monkeypatch.setattr(merging, "save_merged", root_rank_lost)
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), rslora=True)
    with pytest.raises(ExportFailed, match="49 tensors are not the rounded merge"):
        merge(run, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert (tmp_path / "merged.FAILED").is_dir()


def test_export_writes_every_type_with_its_certificate(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), dora=True)
    turns = ({"role": "user", "content": "كم الساعة الآن؟"}, {"role": "assistant", "content": "الثالثة"})
    rows = [Example(id=str(i), tools=(), messages=turns) for i in range(3)]
    files = export(run, "q8_0, f32", tmp_path / "out", examples=rows)
    assert [file.kind for file in files] == ["q8_0", "f32"]
    assert [file.path.name for file in files] == ["run-q8_0.gguf", "run-f32.gguf"]
    assert files[0].bits_per_weight < 10 < 32 < files[1].bits_per_weight < 34
    for file in files:
        assert file.bytes == file.path.stat().st_size
        assert file.certificate.rows == 3 + 7 and file.certificate.lines == 6 + 6
        assert file.path.with_suffix(".parity.json").is_file()


def test_types_may_be_a_list() -> None:
    assert parse_kinds(["Q8_0", "f32"]) == parse_kinds("q8_0, f32,q8_0") == ["q8_0", "f32"]


@pytest.mark.parametrize("text", ["", "q3_k_m", "f16,nf4", ","])
def test_unknown_types_are_refused_before_anything_is_loaded(text: str) -> None:
    with pytest.raises(InputError, match="f32, f16, bf16, q8_0"):
        parse_kinds(text)
