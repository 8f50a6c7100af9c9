"""The ops that decide speed and memory. `reference.py` is the specification of them all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dozan.kernels.attention import TrieAttention
from dozan.kernels.cross_entropy import supervised_cross_entropy
from dozan.kernels.precision import has_triton, training_dtype

Attend = Callable[[int, bool, Tensor, Tensor, Tensor], Tensor]

__all__ = ["TrieAttention", "pack_attention", "pack_multiple", "supervised_cross_entropy", "training_dtype"]


def pack_multiple(device: torch.device) -> int:
    """Packs on this device are padded to a multiple of so many tokens.

    Triton's blocks need it; on a CPU few lengths let oneDNN use its prepared products again.
    """
    if not has_triton(device):
        return 128
    from dozan.kernels.attention_triton import PADDED

    return PADDED


def pack_attention(position: Tensor, end: Tensor, window: int, scale: float) -> Attend:
    """The fastest `model.gemma3.Attend` for a pack on its device: position and end int64 [T], window in tokens."""
    if not has_triton(end.device):
        return TrieAttention(position, end, window, scale)
    from dozan.kernels.attention_triton import TritonTrieAttention

    return TritonTrieAttention(position, end, window, scale, torch.are_deterministic_algorithms_enabled())
