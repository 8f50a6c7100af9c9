"""A model of which every weight was trained, on disk: in checkpoints its fp32 weights alone, at the end a Hugging Face
folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dozan.model.adapter import shapes_of
from dozan.model.files import read_json
from dozan.model.gemma3 import Gemma3
from dozan.model.sealed import require_intact
from dozan.model.shards import opened_rows
from dozan.model.stored import INDEX, tensors_of, text_name, weight_files
from dozan.model.weights import beside_weights

KIND, MODEL = "weights", "model"
"""What a checkpoint's files are called (`model.shards`), and the folder of a finished run."""
WEIGHTS = f"{KIND}.safetensors"
_HEAD = "lm_head.weight"


def save_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights by text-only name to a checkpoint's folder, in fp32."""
    held = {name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}
    save_file(held, folder / WEIGHTS, {"format": "pt"})


@torch.no_grad()
def load_weights(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Copy what `save_weights` wrote into tensors of the same names, of any dtype.

    Whether one rank wrote them or several (`model.shards`). Raises InputError that lists every missing, unexpected and
    mis-shaped tensor, or for a damaged folder; then nothing was changed.
    """
    require_intact(folder)
    with opened_rows(folder, KIND) as rows:
        rows.require(shapes_of(weights))
        for name, tensor in weights.items():
            tensor.copy_(rows.read(name))


def save_model(folder: Path, base: Path, weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Write a Hugging Face checkpoint: `base` again, with other text weights by text-only name, all in `dtype`.

    Files are cut as the base's are. The tied head is left out, config.json names the dtype, the vision tower if any is
    copied as it is, and so is everything beside the weights.
    """
    files, index = weight_files(base)
    places: dict[str, str] = {}
    for path in files:
        tensors = {}
        for stored in tensors_of(path):
            name = text_name(stored.name)
            if name == _HEAD:
                continue
            given = weights.get(name) if name is not None else None
            tensors[stored.name] = stored.read() if given is None else given.detach().to("cpu", dtype).contiguous()
        save_file(tensors, folder / path.name, {"format": "pt"})
        places |= dict.fromkeys(tensors, path.name)
    assert set(weights) <= {text_name(name) for name in places}, "a trained weight that the base does not have"
    for path in beside_weights(base):
        if path.name not in (INDEX, "config.json"):
            shutil.copyfile(path, folder / path.name)
    if index is not None:
        size = sum((folder / path.name).stat().st_size for path in files)
        _put(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))})
    _put(folder / "config.json", _config(read_json(base / "config.json"), str(dtype).removeprefix("torch.")))


def _config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """config.json with the dtype that the text weights are in, in whichever spelling it has."""
    found = {key: value for key, value in config.items() if key != "quantization_config"}
    named = [key for key in ("dtype", "torch_dtype") if key in found] or ["dtype"]
    found |= dict.fromkeys(named, dtype)
    if isinstance(found.get("text_config"), dict):
        inner = dict(found["text_config"])
        inner |= {key: dtype for key in ("dtype", "torch_dtype") if key in inner}
        found["text_config"] = inner
    return found | {"tie_word_embeddings": True}


def _put(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_into(folder: Path, model: Gemma3) -> None:
    """Give a model the weights of a checkpoint's folder, in the model's dtype."""
    load_weights(folder, dict(model.named_parameters()))
