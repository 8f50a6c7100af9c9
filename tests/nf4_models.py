"""Small checkpoints in NF4, written with bitsandbytes as transformers writes them, and runs over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from ship_models import make_folder
from torch import Tensor

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 32}
QUANTISED = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "_load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_storage": "uint8", "llm_int8_skip_modules": ["lm_head", "vision_tower", "multi_modal_projector"],
}  # fmt: skip
ONE = "model.layers.2.mlp.down_proj.weight"


def sixteen_bits(out: Path, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A random checkpoint whose linears can be quantised."""
    folder = make_folder(out, **{**SIZES, **changes})
    weights = {name: weight.to(dtype) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def quantised_copy(base: Path, out: Path, nested: bool = True, shards: int = 1,
                   skip: Callable[[str], bool] = lambda name: False) -> Path:  # fmt: skip
    """`base` with its linears in NF4, but for those that `skip` names, in one file or several with an index."""
    from bitsandbytes import functional

    shutil.copytree(base, out)
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(base / "model.safetensors").items():
        tensors[name] = weight
        if name.endswith("_proj.weight") and not skip(name):
            codes, state = functional.quantize_4bit(weight, compress_statistics=nested, quant_type="nf4", blocksize=64)
            tensors[name] = codes
            tensors |= {f"{name}.{part}": value.clone() for part, value in state.as_dict(packed=True).items()}
    write(out, tensors, shards)
    config = json.loads((out / "config.json").read_text())
    settings = {**QUANTISED, "bnb_4bit_use_double_quant": nested}
    (out / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return out


def write(folder: Path, tensors: Mapping[str, Tensor], shards: int = 1) -> None:
    (folder / "model.safetensors").unlink(missing_ok=True)
    if shards == 1:
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        return
    places = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite model.safetensors after `edit` changed its tensors."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def dequantised_copy(base: Path, out: Path) -> Path:
    """`base` with its linears as NF4 gives them back, in fp32, through bitsandbytes alone."""
    from bitsandbytes import functional

    shutil.copytree(base, out)

    def edit(tensors: dict[str, Tensor]) -> None:
        for name, weight in tensors.items():
            tensors[name] = weight.float()
            if name.endswith("_proj.weight"):
                codes, state = functional.quantize_4bit(weight, compress_statistics=True, quant_type="nf4")
                state.dtype = torch.float32
                tensors[name] = functional.dequantize_4bit(codes, state)

    change(out, edit)
    return out
