"""Merging a 4-bit run, tensor by tensor: either base, measured; what is wrong with it does not survive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("bitsandbytes")

from nf4_models import ONE, change, dequantised_copy, quantised_copy, sixteen_bits
from ship_models import make_run
from test_merge import ROW, of_transformers
from test_quantised import PEAK, zeros

from dozan.errors import InputError
from dozan.model.adapter import adapted, merged_weight
from dozan.model.bundle import open_model
from dozan.model.peft_format import load_adapter
from dozan.model.weights import checked_inventory, load_model, read_config
from dozan.ship import merge as merging
from dozan.ship import source
from dozan.ship.merge import merge
from dozan.ship.parity import ExportFailed, reference_logits
from dozan.ship.streamed import streamed_logits

RECIPES: dict[str, dict[str, Any]] = {"lora": {}, "both": {"rslora": True, "dora": True}}
FEW: dict[str, Any] = {"targets": ("q_proj", "down_proj")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sixteen_bits(tmp_path_factory.mktemp("base") / "base")


def make_nf4_run(out: Path, base: Path, on: Path | None = None, **recipe: Any) -> Path:
    """A run over `base`, quantised as it was read; with `on`, over that stored checkpoint instead."""
    run = make_run(out, base, **recipe)
    record = {"base": str(on or base), "recipe": {} if on else {"model": {"quantise": "nf4"}}}
    (run / "run.json").write_text(json.dumps(record))
    return run


def logits(model: Any) -> np.ndarray:
    return next(reference_logits(model, [ROW], len(ROW)))


def trained(run: Path, base: Path, scratch: Path) -> Any:
    """Dequantised base and adapter side by side, in fp32, without any of our NF4."""
    model = load_model(dequantised_copy(base, scratch))
    load_adapter(run / "adapter", model)
    return model


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_onto_the_dequantised_base_it_computes_what_was_trained(
    name: str, stored: bool, base: Path, tmp_path: Path
) -> None:
    on = quantised_copy(base, tmp_path / "stored", shards=2) if stored else None
    run = make_nf4_run(tmp_path / "run", base, on, **RECIPES[name])
    said: list[str] = []
    merged = merge(run, tmp_path / "merged", say=said.append)
    model = trained(run, base, tmp_path / "wide")
    weights = {name: tensor for path in merged.glob("*.safetensors") for name, tensor in load_file(path).items()}
    assert weights.keys() == load_file(base / "model.safetensors").keys()
    for linear, module in adapted(model):
        assert torch.equal(weights[f"{linear}.weight"], merged_weight(module).bfloat16()), linear
    assert np.abs(logits(open_model(run).model) - logits(model)).max() < 1e-3, "the run itself, opened"
    ours, theirs, plain = logits(model), of_transformers(merged), logits(open_model(run, with_adapter=False).model)
    certificate = json.loads((merged / "parity.json").read_text())
    assert np.abs(theirs - ours).max() < 0.3 < 1 < np.abs(plain - ours).max()
    assert certificate["onto"] == "dequantised" and certificate["failures"] == []
    assert certificate["merged"]["max_abs"] < 1e-4 * max(1.0, certificate["merged"]["spread"])
    assert 5e-4 < certificate["weights"]["mean"] <= certificate["weights"]["worst"] < 4e-3, "the rounding to bfloat16"
    assert certificate["stored"]["positions"] > 50 and certificate["stored"]["mean_kl"] < 2e-3
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    assert "onto the dequantised base" in said[0] and ("not written" in said[0]) == (not stored)


def test_both_ways_are_measured_and_either_can_be_written(base: Path, tmp_path: Path) -> None:
    run = make_nf4_run(tmp_path / "run", base, dora=True)
    ways = ("dequantised", "base")
    found = {way: json.loads((merge(run, tmp_path / way, way) / "parity.json").read_text()) for way in ways}
    for way, other in zip(ways, reversed(ways), strict=True):
        assert found[way]["other"] == other
        assert found[way]["weights"] == found[other]["other_weights"]
        assert found[way]["stored"] == pytest.approx(found[other]["other_logits"], rel=1e-3, abs=1e-5)
    assert found["base"]["weights"]["mean"] > 20 * found["dequantised"]["weights"]["mean"]
    assert found["base"]["stored"]["mean_kl"] > 20 * found["dequantised"]["stored"]["mean_kl"]
    model = load_model(base)
    load_adapter(run / "adapter", model)
    weights = load_file(tmp_path / "base" / "model.safetensors")
    for linear, module in adapted(model):
        assert torch.equal(weights[f"{linear}.weight"], merged_weight(module).bfloat16()), linear


def test_the_errors_are_what_they_are_called(base: Path, tmp_path: Path) -> None:
    run = make_nf4_run(tmp_path / "run", base)
    merged = merge(run, tmp_path / "merged", "base")
    certificate = json.loads((merged / "parity.json").read_text())
    model, weights = trained(run, base, tmp_path / "wide"), load_file(merged / "model.safetensors")
    exact = {name: merged_weight(module).double() for name, module in adapted(model)}
    errors = {n: float((weights[f"{n}.weight"].double() - w).norm() / w.norm()) for n, w in exact.items()}
    assert certificate["weights"]["mean"] == pytest.approx(np.mean(list(errors.values())), rel=1e-4)
    assert certificate["weights"]["worst"] == pytest.approx(max(errors.values()), rel=1e-4)
    assert errors[certificate["weights"]["name"]] == max(errors.values())


def test_a_linear_without_adapter_is_the_one_that_was_trained_with(base: Path, tmp_path: Path) -> None:
    run = make_nf4_run(tmp_path / "run", base, **FEW)
    deep = load_file(merge(run, tmp_path / "d") / "model.safetensors")
    high = load_file(merge(run, tmp_path / "h", "base") / "model.safetensors")
    before = load_file(base / "model.safetensors")
    wide = load_file(dequantised_copy(base, tmp_path / "w") / "model.safetensors")
    for name in before:
        if not any(target in name for target in FEW["targets"]):
            assert torch.equal(high[name], before[name]) and torch.equal(deep[name], wide[name].bfloat16()), name
        else:
            assert not torch.equal(high[name], before[name])


def test_a_stored_base_is_merged_onto_the_checkpoint_it_was_made_from(base: Path, tmp_path: Path) -> None:
    stored = quantised_copy(base, tmp_path / "stored")
    run = make_nf4_run(tmp_path / "run", base, stored)
    with pytest.raises(InputError, match="stored in 4 bits; name the 16-bit checkpoint"):
        merge(run, tmp_path / "merged", "base")
    foreign = sixteen_bits(tmp_path / "foreign", seed=5)
    with pytest.raises(InputError, match="not what the run's base was made from: .*% of the codes"):
        merge(run, tmp_path / "merged", foreign)
    wider = sixteen_bits(tmp_path / "wider", intermediate_size=192)
    with pytest.raises(InputError, match="another model's shape"):
        merge(run, tmp_path / "merged", str(wider))
    again = quantised_copy(base, tmp_path / "again")
    with pytest.raises(InputError, match="stored in 4 bits itself"):
        merge(run, tmp_path / "merged", again)
    with pytest.raises(InputError, match="no such folder"):
        merge(run, tmp_path / "merged", "nowhere")
    assert not (tmp_path / "merged").exists()
    merge(run, tmp_path / "merged", base)
    merge(make_nf4_run(tmp_path / "other", base), tmp_path / "fly", "base")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "fly"))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_16_bit_run_has_one_base(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base)
    with pytest.raises(InputError, match="trained on its base as it is"):
        merge(run, tmp_path / "merged", "dequantised")
    merge(run, tmp_path / "merged", "base")
    assert json.loads((tmp_path / "merged" / "parity.json").read_text())["onto"] == "base"


def test_every_other_byte_stays(tmp_path: Path) -> None:
    base = sixteen_bits(tmp_path / "base", architectures=["Gemma3ForConditionalGeneration"])
    stored = quantised_copy(base, tmp_path / "stored")
    change(stored, lambda tensors: tensors.update({"vision_tower.count": torch.tensor([3, 4])}))
    merged = merge(make_nf4_run(tmp_path / "run", base, stored, **FEW), tmp_path / "merged")
    before, after = load_file(stored / "model.safetensors"), load_file(merged / "model.safetensors")
    plain = [name for name in before if "_proj.weight" not in name]
    assert "vision_tower.count" in plain and all(torch.equal(before[name], after[name]) for name in plain)
    assert {name for name in after if name not in plain} == {n for n in before if n.endswith("_proj.weight")}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "tokenizer.model"):
        assert (merged / name).read_bytes() == (stored / name).read_bytes()
    tower = "vision_tower.encoder.fc1.weight"
    change(stored, lambda tensors: tensors.update({tower: torch.zeros(8, 1, dtype=torch.uint8)}))
    with pytest.raises(InputError, match="the vision tower is quantised too.*--onto PATH"):
        merge(tmp_path / "run", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_lies_on_the_disk_is_read_back(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = merging.write_checkpoint

    def one_bit(folder: Path, weights: Any, out: Path) -> None:
        right(folder, weights, out)
        change(out, lambda tensors: tensors[ONE].view(torch.uint8)[5, 9:10].bitwise_xor_(1))

    monkeypatch.setattr(merging, "write_checkpoint", one_bit)
    with pytest.raises(ExportFailed, match="1 tensors are not the rounded merge"):
        merge(make_nf4_run(tmp_path / "run", base), tmp_path / "merged")
    assert not (tmp_path / "merged").exists() and (tmp_path / "merged.FAILED" / "parity.json").is_file()


def test_a_merge_that_computes_otherwise_is_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = source.Source.weight

    def other(self: Any, name: str) -> torch.Tensor:
        weight = right(self, name)
        writing = not (tmp_path / "merged").exists()
        return weight * 1.5 if writing and "gate_proj" in name else weight

    monkeypatch.setattr(source.Source, "weight", other)
    with pytest.raises(ExportFailed, match="as stored: logits differ by"):
        merge(make_nf4_run(tmp_path / "run", base), tmp_path / "merged")


def test_the_adapter_must_fit(base: Path, tmp_path: Path) -> None:
    run = make_nf4_run(tmp_path / "run", sixteen_bits(tmp_path / "wide", intermediate_size=192), base)
    (run / "run.json").write_text(json.dumps({"base": str(base), "recipe": {"model": {"quantise": "nf4"}}}))
    with pytest.raises(InputError, match="the adapter does not fit this model"):
        merge(run, tmp_path / "merged")
    shutil.rmtree(run / "adapter")
    with pytest.raises(InputError, match="adapter"):
        merge(run, tmp_path / "merged")


@pytest.mark.parametrize("tail", [3, 99])
def test_a_forward_pass_by_layers_is_that_of_the_model(base: Path, tail: int) -> None:
    rows, config = [ROW, [2], [2, 700, 5, 2047], list(reversed(ROW))], read_config(base)
    found, asked = checked_inventory(base, config), list[str]()

    def weight(name: str) -> torch.Tensor:
        asked.append(name)
        return found[name].read(torch.float32)  # type: ignore[union-attr]

    ours = streamed_logits(config, weight, found["model.embed_tokens.weight"], rows, tail)  # type: ignore[arg-type]
    wanted = list(reference_logits(load_model(base), rows, tail))
    assert [part.shape for part in ours] == [part.shape for part in wanted]
    assert max(float(np.abs(a - b).max()) for a, b in zip(ours, wanted, strict=True)) < 1e-4
    assert sorted(asked) == sorted(set(found) - {"model.embed_tokens.weight"}), "each is made once"


MEASURE = PEAK + """
from dozan.ship.merge import merge
merge(sys.argv[1], sys.argv[2] + "-small")
before = peak()
merge(sys.argv[3], sys.argv[2])
print(peak() - before)
"""


def test_merging_needs_the_memory_of_a_layer(base: Path, tmp_path: Path) -> None:
    """Four layers of 53 MB each in fp32: the whole model would take more than what is allowed, let alone two."""
    shape = {"hidden_size": 512, "intermediate_size": 8192, "num_hidden_layers": 4}
    big = zeros(tmp_path / "big", vocab_size=2048, **shape)
    for path in base.iterdir():
        if path.name.startswith(("tokenizer", "chat_template")):
            shutil.copy(path, big)
    runs = [make_nf4_run(tmp_path / "a", base), make_nf4_run(tmp_path / "b", big, targets=("q_proj",))]
    command = [sys.executable, "-c", MEASURE, str(runs[0]), str(tmp_path / "merged"), str(runs[1])]
    # Blocks this small would stay with the allocator, those of a large model go back at once.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    beyond = int(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)
    assert beyond < 130e6, f"{beyond:,} bytes"
