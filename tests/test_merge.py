"""Merging: transformers reads the folder and computes what base and adapter compute; a wrong merge does not survive."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nf4_models import write
from safetensors.torch import load_file, save_file
from ship_models import make_folder, make_run
from torch import Tensor

from dozan.cli import main
from dozan.errors import InputError
from dozan.model.adapter import AdaptedLinear
from dozan.model.bundle import open_model
from dozan.model.stored import tensors_of
from dozan.rows.example import Example
from dozan.ship import merge as merging
from dozan.ship import source
from dozan.ship.export import export, parse_kinds
from dozan.ship.manifest import MANIFEST
from dozan.ship.merge import merge
from dozan.ship.parity import ExportFailed, reference_logits
from dozan.train.run import hash_base

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


def test_a_vision_folder_keeps_its_other_bytes(tmp_path: Path) -> None:
    """Two shards with an index: every byte of the file that no merge is due to stays where it was."""
    base = make_folder(tmp_path / "base", architectures=["Gemma3ForConditionalGeneration"])
    (base / "generation_config.json").write_text('{"temperature":  0.5}')
    tower = "vision_tower.encoder.fc1.weight"
    tensors = {**load_file(base / "model.safetensors"), tower: torch.randn(8, 3).bfloat16()}
    write(base, tensors, shards=2)
    merged = merge(make_run(tmp_path / "run", base), tmp_path / "merged")
    files = sorted(path.name for path in base.iterdir())
    assert sorted(path.name for path in merged.iterdir()) == sorted([*files, MANIFEST, "parity.json"])
    for path in base.iterdir():
        before, after = path.read_bytes(), (merged / path.name).read_bytes()
        assert len(before) == len(after)
        if path.suffix != ".safetensors":
            assert before == after, path.name
            continue
        changed = bytearray(before)
        for stored in tensors_of(merged / path.name):
            if "_proj" in stored.name:
                place = slice(stored.begin, stored.begin + stored.nbytes)
                changed[place] = after[place]
        assert bytes(changed) == after != before, "other bytes than those of the merged tensors"
    manifest = json.loads((merged / MANIFEST).read_text())
    assert manifest["tensors"] == {"merged": 49, "copied": len(tensors) - 49} and manifest["onto"] == "base"
    assert manifest["base_sha256"] == hash_base(base) and len(manifest["adapter_sha256"]) == 64
    assert manifest["files"].keys() == {*files, "parity.json"}
    for name, said in manifest["files"].items():
        data = (merged / name).read_bytes()
        assert said == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_an_untouched_tensor_that_changed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = merging.write_checkpoint

    def one_bit(folder: Path, weights: Any, out: Path) -> None:
        right(folder, weights, out)
        tower = next(t for t in tensors_of(out / "model.safetensors") if t.name.startswith("vision_tower"))
        with tower.file.open("r+b") as file:
            file.seek(tower.begin)
            file.write(b"\x01")

    monkeypatch.setattr(merging, "write_checkpoint", one_bit)
    base = make_folder(tmp_path / "base", architectures=["Gemma3ForConditionalGeneration"])
    with pytest.raises(ExportFailed, match=r"1 tensors are not the base's, e.g. vision_tower"):
        merge(make_run(tmp_path / "run", base), tmp_path / "merged")


def test_another_base_than_the_one_trained_on_is_named(tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "base_sha256": hash_base(base)}))
    merge(run, tmp_path / "right")
    make_folder(base, seed=7)
    for command in (["merge", str(run), "--out", str(tmp_path / "out")],
                    ["export", str(run), "--gguf", "f32", "--out", str(tmp_path / "out")],
                    ["export", str(run / "adapter"), "--gguf", "f32", "--out", str(tmp_path / "out")]):  # fmt: skip
        with pytest.raises(SystemExit) as done:
            main(command)
        assert done.value.code == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="base: not the base that .*run was trained on: .*run.json says"):
        merge(run, tmp_path / "out")


def test_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapter"):
        merge(make_folder(tmp_path / "base"), tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def root_rank_lost(weight: Tensor, linear: AdaptedLinear) -> Tensor:
    return _onto(weight, linear, linear.scale / linear.lora_A.shape[0] ** 0.5)


def magnitude_lost(weight: Tensor, linear: AdaptedLinear) -> Tensor:
    return weight + linear.scale * (linear.lora_B @ linear.lora_A)


def magnitude_not_divided(weight: Tensor, linear: AdaptedLinear) -> Tensor:
    merged = weight + linear.scale * (linear.lora_B @ linear.lora_A)
    return merged * linear.magnitude[:, None]


def b_transposed(weight: Tensor, linear: AdaptedLinear) -> Tensor:
    turned = linear.lora_B.t().reshape(linear.lora_B.shape)
    return _onto(weight, linear, linear.scale, turned)


def _onto(weight: Tensor, linear: AdaptedLinear, scale: float, b: Tensor | None = None) -> Tensor:
    merged = weight + scale * ((linear.lora_B if b is None else b) @ linear.lora_A)
    if linear.magnitude is None:
        return merged
    return merged * (linear.magnitude / merged.norm(dim=1))[:, None]


BUGS: dict[str, list[Callable[[Tensor, AdaptedLinear], Tensor]]] = {
    "lora": [root_rank_lost, b_transposed],
    "rslora": [root_rank_lost, b_transposed],
    "dora": [magnitude_lost, magnitude_not_divided, b_transposed],
    "rslora and dora": [root_rank_lost, magnitude_lost, magnitude_not_divided, b_transposed],
}
CASES = [(name, bug) for name, bugs in BUGS.items() for bug in bugs]


@pytest.mark.parametrize(("name", "bug"), CASES, ids=[f"{name}, {bug.__name__}" for name, bug in CASES])
def test_a_wrong_merge_is_renamed_and_raised(
    name: str, bug: Callable[[Tensor, AdaptedLinear], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One formula merges, for folders and for GGUF files; the certificate computes the adapter beside its base."""
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), **RECIPES[name])
    with torch.no_grad():
        monkeypatch.setattr(source, "merged_onto", lambda weight, linear: bug(weight, linear).detach())
        with pytest.raises(ExportFailed, match="merged in fp32: logits differ by"):
            merge(run, tmp_path / "merged")
        with pytest.raises(ExportFailed, match="merged in fp32: logits differ by"):
            export(run, "q8_0", tmp_path / "gguf")
    assert not (tmp_path / "merged").exists() and not (tmp_path / "gguf").exists()
    assert (tmp_path / "merged.FAILED").is_dir()


def test_what_lies_on_the_disk_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = merging.write_checkpoint
    monkeypatch.setattr(merging, "write_checkpoint", lambda folder, weights, out: right(
        folder, ((name, weight.flip(0)) for name, weight in weights), out))  # fmt: skip
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), rslora=True)
    with pytest.raises(ExportFailed, match="49 tensors are not the rounded merge"):
        merge(run, tmp_path / "merged")


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
