"""transformers' Gemma 3 at the structure of each size, scaled down, weights random, its config in either spelling."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Gemma3TextConfig

from dozan.kernels.attention import TrieAttention
from dozan.model import gemma3 as ours

WINDOW = 12
LENGTH = 64 + 3 * WINDOW + 1
LINEAR = {"rope_type": "linear", "factor": 8.0}
"""Past the window, and past a block of queries."""
COMMON: dict[str, Any] = {
    "vocab_size": 160, "num_hidden_layers": 7, "sliding_window": WINDOW, "max_position_embeddings": 512,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "270m": {"hidden_size": 40, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16,
             "intermediate_size": 128, "query_pre_attn_scalar": 16},
    "1b": {"hidden_size": 72, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16,
           "intermediate_size": 432, "query_pre_attn_scalar": 16},
    "12b": {"hidden_size": 60, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 240, "query_pre_attn_scalar": 16, "rope_scaling": LINEAR},
    "27b": {"hidden_size": 84, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "intermediate_size": 336, "query_pre_attn_scalar": 21, "rope_scaling": LINEAR},
}  # fmt: skip
"""27b: width over heads is the scalar, and more than the head size, as in the real one."""
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip


def theirs(shape: str, seed: int = 0, vision: bool = False) -> Gemma3ForCausalLM | Gemma3ForConditionalGeneration:
    """transformers' model in fp32; every weight random, the norms' too."""
    settings = {**COMMON, **SHAPES[shape]}
    scaling = settings.pop("rope_scaling", None)
    text = Gemma3TextConfig(**settings, rope_scaling=dict(scaling) if scaling else None)
    text._attn_implementation = "eager"
    if vision:
        config = Gemma3Config(text_config=text.to_dict(), vision_config=VISION, mm_tokens_per_image=4)
        model = Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager")
    else:
        model = Gemma3ForCausalLM(text)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3 if "norm" in name else parameter.shape[-1] ** -0.5)
    return model.float().eval()


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json as Gemma 3's were first published."""
    text = dict(config.get("text_config", config))
    rope = text.pop("rope_parameters")
    text.pop("layer_types")
    text.pop("_sliding_window_pattern")
    full = rope["full_attention"]
    text |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": rope["sliding_attention"]["rope_theta"],
             "sliding_window_pattern": 6, "rope_scaling": None}  # fmt: skip
    if full["rope_type"] == "linear":
        text["rope_scaling"] = {"rope_type": "linear", "factor": full["factor"]}
    return {**config, "text_config": text} if "text_config" in config else text


def write(folder: Path, model: torch.nn.Module, spelling: str = "new", **how: Any) -> Path:
    """Save transformers' model; `how` goes to save_pretrained (max_shard_size)."""
    model.save_pretrained(folder, **how)
    if spelling == "old":
        path = folder / "config.json"
        path.write_text(json.dumps(old_spelling(json.loads(path.read_text()))))
    return folder


def ids(count: int = LENGTH, seed: int = 1) -> Tensor:
    """Random token ids [count]."""
    return torch.randint(3, COMMON["vocab_size"], (count,), generator=torch.Generator().manual_seed(seed))


def path_attention(config: Any, count: int, attention: Any = TrieAttention) -> tuple[Tensor, Any]:
    """Positions [count] of one path and the attention over it."""
    position = torch.arange(count)
    return position, attention(position, torch.full((count,), count), config.sliding_window, config.scale)


def our_logits(model: Any, tokens: Tensor, attention: Any = TrieAttention) -> Tensor:
    """[T] -> [T, V] from our model."""
    position, attend = path_attention(model.config, len(tokens), attention)
    return model.logits(model(tokens, position, attend))


def their_logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """[T] -> [T, V] from transformers' model (PEFT's too)."""
    return model(input_ids=tokens[None], use_cache=False).logits[0]


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest magnitude."""
    assert found.shape == expected.shape and bool(expected.abs().max() > 0)
    return float(((found - expected).abs().max() / expected.abs().max()).detach())


def rebuilt(model: Gemma3ForCausalLM, implementation: ModuleType = ours) -> Any:
    """Our model (or a mutant's) with the weights of transformers' text model, no file between; old spelling."""
    found = implementation.Gemma3(implementation.Gemma3Config.from_json(old_spelling(model.config.to_dict())))
    found.load_state_dict({k: v for k, v in model.state_dict().items() if k != "lm_head.weight"})
    return found.to(model.dtype).eval()


def logits_error(shape: str, implementation: ModuleType = ours, attention: Any = TrieAttention) -> float:
    """Relative difference of our logits from transformers', past the window."""
    model = theirs(shape)
    tokens = ids()
    with torch.no_grad():
        return relative(our_logits(rebuilt(model, implementation), tokens, attention), their_logits(model, tokens))


def embedded_equal_in_bfloat16(shape: str, implementation: ModuleType = ours) -> bool:
    """Whether both models in bf16 give their first layer the same input, bit for bit."""
    model = theirs(shape).bfloat16()
    own = rebuilt(model, implementation)
    seen: dict[str, Tensor] = {}
    for name, layer in (("theirs", model.model.layers[0]), ("ours", own.model.layers[0])):
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].view(len(ids()), -1)}))
    with torch.no_grad():
        our_logits(own, ids())
        their_logits(model, ids())
    return torch.equal(seen["ours"], seen["theirs"])
