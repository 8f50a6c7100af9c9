"""The shapes of the Gemma 3 text models, for plans without a checkpoint; as their config.json files have them."""

from __future__ import annotations

from typing import Any

from dozan.model.gemma3 import Gemma3Config

_COMMON: dict[str, Any] = {"head_dim": 256, "query_pre_attn_scalar": 256, "rope_theta": 1e6}
_LARGE: dict[str, Any] = {
    **_COMMON, "vocab_size": 262208, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    "max_position_embeddings": 131072,
}  # fmt: skip
_SMALL: dict[str, Any] = {**_COMMON, "vocab_size": 262144, "sliding_window": 512}
_SIZES: dict[str, dict[str, Any]] = {
    "270m": {**_SMALL, "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4,
             "num_key_value_heads": 1, "intermediate_size": 2048},
    "1b": {**_SMALL, "hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4,
           "num_key_value_heads": 1, "intermediate_size": 6912},
    "4b": {**_LARGE, "hidden_size": 2560, "num_hidden_layers": 34, "num_attention_heads": 8,
           "num_key_value_heads": 4, "intermediate_size": 10240},
    "12b": {**_LARGE, "hidden_size": 3840, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 8, "intermediate_size": 15360},
    "27b": {**_LARGE, "hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32,
            "num_key_value_heads": 16, "intermediate_size": 21504, "head_dim": 128, "query_pre_attn_scalar": 168},
}  # fmt: skip
SIZES = tuple(_SIZES)


def shape_of(name: str) -> Gemma3Config | None:
    """The shape called so (`270m`, `1b`, …), None for any other name."""
    values = _SIZES.get(name.lower())
    return None if values is None else Gemma3Config.from_json(values)
