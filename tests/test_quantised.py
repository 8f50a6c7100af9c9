"""Models in NF4: read as bitsandbytes wrote them, quantised as they are read, damaged ones refused by name."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("bitsandbytes")

from nf4_models import ONE, change, dequantised_copy, quantised_copy, sixteen_bits
from ship_models import make_folder, make_run

from dozan.errors import InputError
from dozan.kernels.nf4 import dequantise, quantise
from dozan.model.bundle import open_model
from dozan.model.gemma3 import Gemma3
from dozan.model.quantised import QuantisedLinear
from dozan.model.stored import tensors_of
from dozan.model.weights import load_model
from dozan.ship.parity import reference_logits

ROW = [2, *range(300, 340)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sixteen_bits(tmp_path_factory.mktemp("base") / "base")


def linears(model: Gemma3) -> dict[str, QuantisedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLinear)}


def logits(model: Gemma3) -> Tensor:
    return torch.from_numpy(next(reference_logits(model, [ROW], len(ROW))))


def same(ours: QuantisedLinear, theirs: QuantisedLinear) -> bool:
    return all(torch.equal(value, theirs.nf4.tensors()[name]) for name, value in ours.nf4.tensors().items())


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("nested", [True, False])
def test_a_stored_checkpoint_opens_by_itself(base: Path, tmp_path: Path, nested: bool, shards: int) -> None:
    stored = quantised_copy(base, tmp_path / "stored", nested, shards)
    model = load_model(stored)
    assert len(linears(model)) == 49 and not list(model.model.layers[0].mlp.parameters())
    tensors = load_file(base / "model.safetensors")
    for name, module in linears(model).items():
        wanted = quantise(tensors[f"{name}.weight"])
        assert torch.equal(module.nf4.codes, wanted.codes)
        if nested:
            assert all(torch.equal(value, module.nf4.tensors()[key]) for key, value in wanted.tensors().items())
        else:
            assert module.nf4.nested is None and module.nf4.absmax.dtype == torch.float32


def test_quantising_while_reading_gives_what_bitsandbytes_stores(base: Path, tmp_path: Path) -> None:
    ours = linears(load_model(base, quantise="nf4"))
    theirs = linears(load_model(quantised_copy(base, tmp_path / "stored")))
    assert ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)


def test_the_logits_are_those_of_the_dequantised_weights(base: Path, tmp_path: Path) -> None:
    model = load_model(base, quantise="nf4")
    wide = load_model(dequantised_copy(base, tmp_path / "wide"))
    assert torch.equal(logits(model), logits(wide))
    assert (logits(model) - logits(load_model(base))).abs().max() > 0.1


def test_what_its_maker_left_in_16_bits_stays_so(base: Path, tmp_path: Path) -> None:
    stored = quantised_copy(base, tmp_path / "stored", skip=lambda name: "layers.3" in name)
    for how in ("none", "nf4"):
        found = linears(load_model(stored, quantise=how))
        assert len(found) == 42 and not any("layers.3" in name for name in found)


def test_a_vision_checkpoint_opens_without_its_tower(tmp_path: Path) -> None:
    vision = {"architectures": ["Gemma3ForConditionalGeneration"]}
    base = sixteen_bits(tmp_path / "base", **vision)
    stored = quantised_copy(base, tmp_path / "stored")
    text = load_model(stored)
    assert torch.equal(logits(text), logits(load_model(base, quantise="nf4")))
    assert not any("vision" in name for name, _ in text.named_modules())


def test_the_dtype_is_that_of_what_stays_in_it(base: Path) -> None:
    model = load_model(base, torch.float16, quantise="nf4")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
    x = torch.randn(3, 64, dtype=torch.float16)
    assert model.model.layers[0].mlp.up_proj(x).dtype == torch.float16


def test_casting_and_copying_keep_the_scales(base: Path) -> None:
    model = load_model(base, quantise="nf4")
    cast = copy.deepcopy(model).to(torch.bfloat16).half()
    before, after = linears(model), linears(cast)
    assert all(same(before[name], after[name]) for name in before)
    assert linears(model.to("meta"))[ONE.removesuffix(".weight")].nf4.device.type == "meta"


def test_the_gradient_of_the_input() -> None:
    module = QuantisedLinear(quantise(torch.randn(48, 128)))
    weight = dequantise(module.nf4, torch.float32)
    x = torch.randn(2, 5, 128, requires_grad=True)
    outer = torch.randn(2, 5, 48)
    (found,) = torch.autograd.grad(module(x), x, outer)
    assert torch.allclose(found, outer @ weight, atol=1e-5)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        module(x)
    assert kept == [], "a dequantised weight must not be kept for the backward pass"


def test_a_run_opens_as_it_was_trained(base: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", base)
    assert not linears(open_model(run, with_adapter=False).model)
    record = {**json.loads((run / "run.json").read_text()), "recipe": {"model": {"quantise": "nf4"}}}
    (run / "run.json").write_text(json.dumps(record))
    assert len(linears(open_model(run, with_adapter=False).model)) == 49
    assert not linears(open_model(run, with_adapter=False, quantise="none").model)
    record["recipe"]["model"]["quantise"] = "int3"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="recipe.model.quantise is 'int3'; give none or nf4"):
        open_model(run)


# What is refused


def state(tensors: dict[str, Tensor], **values: Any) -> None:
    """Change some values of one weight's quant_state."""
    key = f"{ONE}.quant_state.bitsandbytes__nf4"
    held = {**json.loads(bytes(tensors[key].tolist())), **values}
    tensors[key] = torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8)


def flip(tensors: dict[str, Tensor]) -> None:
    tensors[f"{ONE}.quant_state.bitsandbytes__nf4"][0] ^= 0xFF


def fp4(tensors: dict[str, Tensor]) -> None:
    old = f"{ONE}.quant_state.bitsandbytes__nf4"
    tensors[old.replace("nf4", "fp4")] = tensors.pop(old)


def drop(tensors: dict[str, Tensor], *parts: str) -> None:
    for part in parts:
        del tensors[f"{ONE}{part}"]


DAMAGE: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "a flipped byte": (flip, "holds no JSON object"),
    "a list": (lambda t: t.update({f"{ONE}.quant_state.bitsandbytes__nf4": torch.tensor([91, 93], dtype=torch.uint8)}),
               "holds no JSON object"),
    "fp4": (fp4, "only NF4 is read"),
    "no state": (lambda t: drop(t, ".quant_state.bitsandbytes__nf4"), "missing: .*quant_state.bitsandbytes__nf4"),
    "no absmax": (lambda t: drop(t, ".absmax"), r"missing: .*absmax U8 \[128\]"),
    "no nested absmax": (lambda t: drop(t, ".nested_absmax"), r"missing: .*nested_absmax F32 \[1\]"),
    "no nested map": (lambda t: drop(t, ".nested_quant_map"), r"missing: .*nested_quant_map F32 \[256\]"),
    "neither": (lambda t: drop(t, ".nested_absmax", ".nested_quant_map"), r"missing: .*nested_absmax F32 \[1\]"),
    "no map": (lambda t: drop(t, ".quant_map"), r"missing: .*quant_map F32 \[16\]"),
    "no codes": (lambda t: drop(t, ""), "missing: .*whose scales are there"),
    "codes alone": (lambda t: [t.pop(name) for name in list(t) if name.startswith(f"{ONE}.")], "missing: .*absmax"),
    "short codes": (lambda t: t.update({ONE: t[ONE][:-1].clone()}), r"is U8 \[4095, 1\], must be U8 \[4096, 1\]"),
    "short scales": (lambda t: t.update({f"{ONE}.absmax": t[f"{ONE}.absmax"][1:].clone()}), r"absmax is U8 \[127\]"),
    "another map": (lambda t: t[f"{ONE}.quant_map"].mul_(2), "quant_map is not NF4's 16 values"),
    "another shape": (lambda t: state(t, shape=[128, 64]), r"shape is \[128, 64\], must be \[64, 128\]"),
    "blocks of 128": (lambda t: state(t, blocksize=128), "blocksize is 128, must be 64"),
    "nested blocks of 64": (lambda t: state(t, nested_blocksize=64), "nested_blocksize is 64, must be 256"),
    "no offset": (lambda t: state(t, nested_offset=None), "nested_offset is None"),
    "an infinite offset": (lambda t: state(t, nested_offset=float("inf")), "nested_offset is inf"),
    "another dtype": (lambda t: state(t, dtype="int8"), "dtype is 'int8'"),
    "not a number": (lambda t: t[f"{ONE}.nested_absmax"].fill_(torch.nan), "values that are not finite"),
    "a stranger": (lambda t: t.update({f"{ONE}.SCB": torch.zeros(3)}), "unexpected: .*SCB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_weight_is_named(kind: str, base: Path, tmp_path: Path) -> None:
    edit, said = DAMAGE[kind]
    stored = quantised_copy(base, tmp_path / "stored")
    change(stored, edit)
    with pytest.raises(InputError, match=said) as error:
        load_model(stored)
    assert ONE in str(error.value) and str(stored) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type is 'fp4', must be 'nf4'"),
        ({"bnb_4bit_quant_storage": "bfloat16"}, "bnb_4bit_quant_storage is 'bfloat16'"),
        ({"load_in_4bit": False, "_load_in_4bit": False, "load_in_8bit": True}, "int8"),
        ({"quant_method": "gptq", "load_in_4bit": False, "_load_in_4bit": False}, "gptq"),
    ],
)
def test_another_quantisation_is_refused_with_the_way_out(
    settings: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    path = quantised_copy(base, tmp_path / "stored") / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"].update(settings)
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=said) as error:
        load_model(path.parent)
    assert "give the 16-bit checkpoint" in str(error.value)


def test_scales_without_a_word_in_the_config_are_strangers(base: Path, tmp_path: Path) -> None:
    path = quantised_copy(base, tmp_path / "stored") / "config.json"
    path.write_text((base / "config.json").read_text())
    with pytest.raises(InputError, match=f"unexpected: {ONE}.absmax"):
        load_model(path.parent)


def test_what_cannot_be_quantised_is_said(base: Path, tmp_path: Path) -> None:
    odd = make_folder(tmp_path / "odd", intermediate_size=96)
    with pytest.raises(InputError, match="down_proj has 96 inputs.*model.quantise=none"):
        load_model(odd, quantise="nf4")
    with pytest.raises(InputError, match="quantise 'int8' is not one of none, nf4"):
        load_model(base, quantise="int8")  # type: ignore[arg-type]
    broken = sixteen_bits(tmp_path / "broken")
    change(broken, lambda tensors: tensors[ONE].view(-1)[7:8].fill_(torch.inf))
    with pytest.raises(InputError, match=f"{ONE} holds values that are not finite"):
        load_model(broken, quantise="nf4")


def test_a_file_that_shrinks_while_it_is_read_is_named(base: Path, tmp_path: Path) -> None:
    path = shutil.copy(base / "model.safetensors", tmp_path)
    last = tensors_of(Path(path))[-1]
    os.truncate(path, last.begin + 3)
    with pytest.raises(InputError, match=f"ends within {last.name}; download"):
        last.read()


# Memory

PEAK = """
import sys
def peak():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return 1024 * int(line.split()[1])
"""
MEASURE = PEAK + """
from dozan.model.weights import load_model
load_model(sys.argv[1], "bfloat16", quantise="nf4")  # what the first call loads and caches is not the checkpoint's
before = peak()
model = load_model(sys.argv[2], "bfloat16", quantise="nf4")
held = sum(t.nbytes for m in (model.parameters(), model.buffers()) for t in m)
print(peak() - before - held)
"""


def test_reading_needs_little_beyond_the_result(tmp_path: Path, base: Path) -> None:
    """A checkpoint of 0.6 GB with the 12B's widest weight: 118 MB in 16 bits, and 512 MB with the embeddings."""
    shape = {"hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 1, "head_dim": 256}
    big = zeros(tmp_path / "big", vocab_size=16384, **shape)
    size = (big / "model.safetensors").stat().st_size
    command = [sys.executable, "-c", MEASURE, str(base), str(big)]
    beyond = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert size > 450e6 and beyond < 400e6, f"{beyond:,} bytes beyond the model for a file of {size:,}"


def zeros(folder: Path, **shape: Any) -> Path:
    """A sparse checkpoint of zeros in bfloat16: only its header is written."""
    from ship_models import SHAPE

    from dozan.model.gemma3 import Gemma3Config
    from dozan.model.weights import empty_model

    folder.mkdir()
    config = {**SHAPE, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, parameter in empty_model(Gemma3Config.from_json(config)).named_parameters():
        begin, end = end, end + 2 * parameter.numel()
        header[name] = {"dtype": "BF16", "shape": list(parameter.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder
