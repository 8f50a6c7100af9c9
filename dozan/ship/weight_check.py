"""A GGUF's tensors against the weights that they were made of, one by one, and its keys against the model's shape.

Quantised files differ from the model so much that a wrong norm or rope can hide in the logits; it cannot hide here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isclose

from gguf import GGMLQuantizationType as Type
from torch import Tensor

from dozan.model.gemma3 import Gemma3Config
from dozan.rows.example import Json
from dozan.ship.gguf_read import GgufFile, GgufTensor

LARGEST = {
    Type.F32: 1e-6, Type.F16: 1e-3, Type.BF16: 4e-3, Type.Q8_0: 0.02, Type.Q6_K: 0.06, Type.Q5_K: 0.1, Type.Q5_0: 0.12,
    Type.Q5_1: 0.12, Type.Q4_K: 0.2, Type.Q4_1: 0.25, Type.Q4_0: 0.25, Type.IQ4_NL: 0.22, Type.IQ4_XS: 0.22,
}  # fmt: skip
"""Largest ‖file - weight‖ / ‖weight‖ of a tensor: three times what normally distributed weights show."""
WEIGHTED = 2.0
"""An importance matrix gives up what does not matter: the bounds of quantised types times this."""
CHUNK = 1 << 22
"""Numbers compared at a time."""


@dataclass(frozen=True)
class WeightErrors:
    """‖file - weight‖ / ‖weight‖ over the tensors; `worst` is the one nearest to or furthest beyond its bound."""

    tensors: int
    worst: str
    error: float
    bound: float


def check_weights(
    file: GgufFile, names: Iterable[tuple[str, str]], pieces: Callable[[str], Iterator[Tensor]]
) -> tuple[WeightErrors, list[str]]:
    """Compare every tensor of a file; names: (in the file, module), pieces: rows of a module's weight in order.

    Also what is wrong, in words: tensors that are missing, unknown, of another shape or type, or beyond their bound.
    """
    tensors = dict(file.tensors)
    factor = WEIGHTED if "quantize.imatrix.entries_count" in file.keys else 1.0
    found: list[tuple[float, str, float, float]] = []
    wrong = []
    for name, module in names:
        tensor = tensors.pop(name, None)
        if tensor is None:
            wrong.append(f"{name} is missing")
            continue
        kind = tensor.kind
        if kind not in LARGEST:
            wrong.append(f"{name} is in {kind.name.lower()}, which no file of ours has")
            continue
        bound = LARGEST[kind] * (factor if kind not in (Type.F32, Type.F16, Type.BF16) else 1.0)
        error = _error(tensor, pieces(module))
        found.append((error / bound, name, error, bound))
    wrong += [f"{name} is not the model's" for name in tensors]
    wrong += [f"{name} differs by {error:.2g} of its size (bound {bound:g})"
              for ratio, name, error, bound in found if not ratio <= 1.0]  # fmt: skip
    _, name, error, bound = max(found, default=(0.0, "", 0.0, 0.0))
    return WeightErrors(len(found), name, error, bound), wrong


def check_keys(file: GgufFile, config: Gemma3Config) -> list[str]:
    """What the file says of the computation and the model's configuration does not, in words."""
    linear = config.rope_factor != 1.0
    factor = config.rope_factor if linear else None
    expected = {
        "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size, "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window, "rope.freq_base": config.rope_theta,
        "rope.scaling.type": "linear" if linear else None, "rope.scaling.factor": factor,
        "context_length": config.max_position_embeddings,
    }  # fmt: skip
    found = {key: file.keys.get(f"gemma3.{key}") for key in expected}
    return [f"gemma3.{key} is {found[key]}, must be {value}" for key, value in expected.items()
            if not _same(found[key], value)]  # fmt: skip


def _same(found: Json, expected: Json) -> bool:
    """Numbers as far as fp32 holds them."""
    number = isinstance(expected, int | float) and isinstance(found, int | float)
    return isclose(found, expected, rel_tol=1e-6) if number else bool(found == expected)


def _error(tensor: GgufTensor, pieces: Iterable[Tensor]) -> float:
    """Infinite for another shape."""
    columns, count = tensor.columns, tensor.count
    apart = size = 0.0
    at = 0
    for piece in pieces:
        if piece.shape[-1] != columns or at + piece.numel() // columns > count:
            return float("inf")
        for rows in piece.detach().reshape(-1, columns).split(max(1, CHUNK // columns)):
            expected = rows.float().cpu()
            held = tensor.values(at, at + len(expected))
            apart += float((held - expected).norm()) ** 2
            size += float(expected.norm()) ** 2
            at += len(expected)
    return (apart / max(size, 1e-60)) ** 0.5 if at == count else float("inf")
