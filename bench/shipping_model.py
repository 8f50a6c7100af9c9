"""Random Gemma 3 folders of the published sizes, in bfloat16, in shards, with a vision tower, and runs over them.

A trained model adds a little to its residual in each layer; so do these: the norms behind attention and MLP are near
0.3, not 1. The embedded base's tokenizer stands in: rows of the embedding without a token become unused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import dozan
from dozan.model.adapter import adapted, attach
from dozan.model.gemma3 import Gemma3Config
from dozan.model.peft_format import save_adapter
from dozan.model.weights import empty_model
from dozan.recipe import AdapterRecipe
from dozan.train.run import hash_base

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "sliding_window": 32, "vocab_size": 8256, "head_dim": 32,
             "query_pre_attn_scalar": 32},
    "4b": {"hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8, "num_key_value_heads": 4,
           "intermediate_size": 10240, "sliding_window": 1024, "vocab_size": 262208},
    "12b": {"hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 8,
            "intermediate_size": 15360, "sliding_window": 1024, "vocab_size": 262208},
}  # fmt: skip
COMMON = {"head_dim": 256, "query_pre_attn_scalar": 256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6,
          "rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
          "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma3_text"}  # fmt: skip
LAYERS_A_SHARD = 12
VISION_BYTES = 8 << 20
ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar"


def write_base(out: Path, name: str, layers: int | None = None) -> None:
    """A checkpoint of the shape `name`, with fewer layers where that is said; the same call writes the same bytes."""
    out.mkdir(parents=True)
    text = {**COMMON, **SHAPES[name]}
    text["num_hidden_layers"] = layers or text["num_hidden_layers"]
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for path in Path(dozan.EMBEDDED_BASE).iterdir():
        if path.name.startswith(("tokenizer", "chat_template", "generation_config")):
            shutil.copy(path, out)
    random = torch.Generator().manual_seed(0)
    index: dict[str, str] = {}
    for number, shapes in enumerate(_shards(Gemma3Config.from_json(config))):
        tensors = {f"language_model.{key}": _drawn(key, shape, random) for key, shape in shapes.items()}
        if number == 0:
            tensors["vision_tower.vision_model.head.weight"] = torch.randn(
                VISION_BYTES // 2 // 64, 64, generator=random).bfloat16()  # fmt: skip
        file = f"model-{number + 1:05d}.safetensors"
        save_file(tensors, out / file, {"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    (out / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def _shards(config: Gemma3Config) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and shapes of the tensors of each file."""
    shapes = {key: tuple(value.shape) for key, value in empty_model(config).state_dict().items()}
    layer = {key: int(key.split(".")[2]) if ".layers." in key else -1 for key in shapes}
    yield {key: shape for key, shape in shapes.items() if layer[key] < 0}
    for first in range(0, config.num_hidden_layers, LAYERS_A_SHARD):
        wanted = range(first, first + LAYERS_A_SHARD)
        yield {key: shape for key, shape in shapes.items() if layer[key] in wanted}


def _drawn(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    if len(shape) == 1:
        weight = torch.randn(shape, generator=random).mul_(0.05)
        return weight.sub_(0.7 if "post_" in name else 0.0).bfloat16()
    deviation = 2.0 / shape[1] ** 0.5 if "embed_tokens" in name else 1.0 / shape[1] ** 0.5
    weight = torch.empty(shape, dtype=torch.bfloat16)
    for rows in weight.split(max(1, (1 << 24) // shape[1])):
        rows.copy_(torch.randn(rows.shape, generator=random).mul_(deviation))
    return weight


def write_run(out: Path, base: Path, recipe: AdapterRecipe, rows: int = 50) -> None:
    """A finished run's folder over `base`: an adapter that changes each weight by some per cent, and held-out rows."""
    config = Gemma3Config.from_json(json.loads((base / "config.json").read_text()))
    model = empty_model(config)
    attach(model, recipe, 0)
    random = torch.Generator().manual_seed(1)
    for _, linear in adapted(model):
        (outputs, inputs), rank = linear.frozen.shape, recipe.rank
        linear.lora_A = _parameter(torch.randn(rank, inputs, generator=random) / rank)
        linear.lora_B = _parameter(torch.randn(outputs, rank, generator=random) * 0.1 / linear.scale / inputs**0.5 * 8)
        if linear.magnitude is not None:
            linear.magnitude = _parameter(1 + 0.05 * torch.randn(outputs, generator=random))
    (out / "data").mkdir(parents=True)
    save_adapter(out / "adapter", model, recipe, str(base))
    record = {"base": str(base), "base_sha256": hash_base(base), "chat": "functiongemma"}
    (out / "run.json").write_text(json.dumps(record))
    shutil.copy(ROWS / "tools.json", out / "data")
    lines = (ROWS / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:rows]
    (out / "data" / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
