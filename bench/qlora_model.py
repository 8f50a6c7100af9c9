"""A random Gemma 3 as a 4-bit checkpoint: bitsandbytes' serialised NF4, doubly quantised, in shards, with a stand-in
tokenizer. `write` makes one of 12 B parameters, about 8 GB, on a GPU; the linears are quantised there.

The layers repeat every `DRAWN`: no speed or memory depends on their values. The embedding and the norms are bf16.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dozan.kernels import nf4
from dozan.model.gemma3 import Gemma3Config
from dozan.model.weights import empty_model, linear_shapes

SHAPE_12B: dict[str, Any] = {
    "vocab_size": 262_144, "hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 256, "intermediate_size": 15360, "sliding_window": 1024,
    "query_pre_attn_scalar": 256,
}  # fmt: skip
"""Gemma 3 12B as text only, with the tokenizer's number of words."""
SHAPE_TINY: dict[str, Any] = {
    "vocab_size": 1024, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 64, "intermediate_size": 128, "sliding_window": 32, "query_pre_attn_scalar": 64,
}  # fmt: skip
QUANTISATION = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "_load_in_4bit": True,
    "_load_in_8bit": False, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "llm_int8_threshold": 6.0,
    "llm_int8_has_fp16_weight": False, "llm_int8_enable_fp32_cpu_offload": False, "llm_int8_skip_modules": None,
}  # fmt: skip
DRAWN = 6
"""Layers that are drawn; also the layers of a shard."""
STD = 0.02

_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
_SPECIAL = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "<start_of_turn>": 105, "<end_of_turn>": 106}
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


@dataclass
class _Shards:
    """A checkpoint's files as they are written; `index` says which holds what."""

    folder: Path
    index: dict[str, str]
    bytes: int = 0

    def write(self, tensors: dict[str, Tensor]) -> None:
        name = f"model-{len(set(self.index.values())) + 1:05d}.safetensors"
        save_file({key: tensor.cpu().contiguous() for key, tensor in tensors.items()}, self.folder / name,
                  metadata={"format": "pt"})  # fmt: skip
        self.index |= dict.fromkeys(tensors, name)
        self.bytes += sum(tensor.nbytes for tensor in tensors.values())

    def finish(self) -> None:
        held = {"metadata": {"total_size": self.bytes}, "weight_map": self.index}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(held, indent=1), encoding="utf-8")


def write(folder: Path, sizes: dict[str, Any], device: torch.device) -> None:
    """Write the checkpoint in `folder`, which is made; the same sizes give the same weights on one kind of device."""
    folder.mkdir(parents=True)
    config = _write_config(folder, sizes)
    write_tokenizer(folder, sizes["vocab_size"])
    model = empty_model(Gemma3Config.from_json(config))
    linears = linear_shapes(model)
    names: dict[str, list[str]] = {}
    for name in (f"{key.removesuffix('.weight')}" for key in model.state_dict()):
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        names.setdefault(layer, []).append(name)
    shapes = {key.removesuffix(".weight"): tuple(value.shape) for key, value in model.state_dict().items()}
    random = torch.Generator(device).manual_seed(0)
    shards = _Shards(folder, {})
    shards.write({f"{name}.weight": _plain(shapes[name], random) for name in names.pop("")})
    drawn: dict[str, dict[str, Tensor]] = {}
    for layer in list(names)[:DRAWN]:
        for name in names[layer]:
            made = _quantised(linears[name], random) if name in linears else {"": _plain(shapes[name], random)}
            drawn[name] = {part: tensor.cpu() for part, tensor in made.items()}
    layers = list(names)
    for begin in range(0, len(layers), DRAWN):
        shards.write({
            f"{name}.weight{part}": tensor
            for layer in layers[begin : begin + DRAWN]
            for name in names[layer]
            for part, tensor in drawn[_drawn_name(name, int(layer) % DRAWN)].items()
        })  # fmt: skip
    shards.finish()


def _drawn_name(name: str, layer: int) -> str:
    parts = name.split(".")
    return ".".join([*parts[:2], str(layer), *parts[3:]])


def _plain(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """bf16: a matrix of random numbers, or a norm's zeros."""
    weight = torch.zeros(shape, dtype=torch.bfloat16, device=random.device)
    return weight.normal_(std=STD, generator=random) if len(shape) > 1 else weight


def _quantised(shape: tuple[int, int], random: torch.Generator) -> dict[str, Tensor]:
    """A random linear in bitsandbytes' form, by what stands after `.weight`."""
    held = nf4.quantise(_plain(shape, random))
    assert held.nested is not None and held.nested_code is not None and held.offset is not None
    state = {
        "quant_type": "nf4", "blocksize": nf4.BLOCK, "dtype": "bfloat16", "shape": list(shape),
        "nested_blocksize": nf4.NESTED_BLOCK, "nested_dtype": "float32", "nested_offset": float(held.offset),
    }  # fmt: skip
    text = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    return {
        "": held.codes[:, None], ".absmax": held.absmax, ".nested_absmax": held.nested,
        ".nested_quant_map": held.nested_code.clone(), ".quant_map": torch.tensor(nf4.CODE),
        ".quant_state.bitsandbytes__nf4": text,
    }  # fmt: skip


def _write_config(folder: Path, sizes: dict[str, Any]) -> dict[str, Any]:
    """config.json as transformers writes it, which all read; returns what it holds."""
    from transformers import Gemma3TextConfig

    made = Gemma3TextConfig(
        **sizes, rope_parameters=_ROPE, max_position_embeddings=32768, pad_token_id=0, bos_token_id=2, eos_token_id=1
    )
    held: dict[str, Any] = {
        **made.to_dict(), "architectures": ["Gemma3ForCausalLM"], "dtype": "bfloat16",
        "quantization_config": QUANTISATION,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(held, indent=1), encoding="utf-8")
    return held


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """One word an id and no merges; what rows need of a tokenizer is its special tokens."""
    from tokenizers import AddedToken, Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(vocabulary) if i not in _SPECIAL.values()}
    tokenizer = Tokenizer(models.BPE(vocab={**_SPECIAL, **words}, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in _SPECIAL])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
        padding_side="right",
    )  # fmt: skip
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
