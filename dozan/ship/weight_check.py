"""A GGUF's tensors against the weights that they were made of, one by one.

Quantised files differ from the model so much that a wrong norm can hide in the logits; it cannot hide here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from dozan.errors import InputError

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
    path: Path, names: Iterable[tuple[str, str]], pieces: Callable[[str], Iterator[Tensor]]
) -> tuple[WeightErrors, list[str]]:
    """Compare every tensor of a file; names: (in the file, module), pieces: rows of a module's weight in order.

    Also what is wrong, in words: tensors that are missing, unknown, of another shape, or beyond their bound. Raises
    InputError for a file that cannot be read.
    """
    try:
        reader = gguf.GGUFReader(path)
    except (OSError, ValueError, IndexError) as reason:
        raise InputError(f"not a readable GGUF file ({reason})") from None
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    factor = WEIGHTED if "quantize.imatrix.entries_count" in reader.fields else 1.0
    found: list[tuple[float, str, float, float]] = []
    wrong = []
    for name, module in names:
        tensor = tensors.pop(name, None)
        if tensor is None:
            wrong.append(f"{name} is missing")
            continue
        kind = Type(tensor.tensor_type)
        bound = LARGEST[kind] * (factor if kind not in (Type.F32, Type.F16, Type.BF16) else 1.0)
        error = _error(tensor, kind, pieces(module))
        found.append((error / bound, name, error, bound))
    wrong += [f"{name} is not the model's" for name in tensors]
    wrong += [f"{name} differs by {error:.2g} of its size (bound {bound:g})"
              for ratio, name, error, bound in found if not ratio <= 1.0]  # fmt: skip
    _, name, error, bound = max(found, default=(0.0, "", 0.0, 0.0))
    return WeightErrors(len(found), name, error, bound), wrong


def _error(tensor: gguf.ReaderTensor, kind: Type, pieces: Iterable[Tensor]) -> float:
    """Infinite for another shape."""
    columns = int(tensor.shape[0])
    stored = tensor.data.reshape(-1, tensor.data.shape[-1])
    apart = size = 0.0
    at = 0
    for piece in pieces:
        if piece.shape[-1] != columns or at + piece.numel() // columns > len(stored):
            return float("inf")
        rows = piece.detach().reshape(-1, columns)
        step = max(1, CHUNK // columns)
        for first in range(0, len(rows), step):
            expected = rows[first : first + step].float().cpu().numpy()
            held = gguf.quants.dequantize(stored[at : at + len(expected)], kind)
            apart += float(np.linalg.norm(held - expected)) ** 2
            size += float(np.linalg.norm(expected)) ** 2
            at += len(expected)
    return (apart / max(size, 1e-60)) ** 0.5 if at == len(stored) else float("inf")
