"""The ops that decide speed and memory. `reference.py` is the specification of them all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dozan.kernels.attention import TrieAttention
from dozan.kernels.attention_efficient import EfficientTrieAttention
from dozan.kernels.cross_entropy import supervised_cross_entropy
from dozan.kernels.precision import has_triton_attention, training_dtype

Attend = Callable[[int, bool, Tensor, Tensor, Tensor], Tensor]

__all__ = [
    "TrieAttention", "attends_in_triton", "pack_attention", "pack_multiple", "supervised_cross_entropy",
    "training_dtype",
]  # fmt: skip


def attends_in_triton(device: torch.device, head_dim: int) -> bool:
    """Whether packs are attended to by Triton's kernel, whose tiles are powers of two of at least 16."""
    return has_triton_attention(device) and head_dim >= 16 and not head_dim & (head_dim - 1)


def pack_multiple(device: torch.device) -> int:
    """Packs on this device are padded to a multiple of so many tokens.

    Triton's blocks need it; on a CPU few lengths let oneDNN use its prepared products again.
    """
    if not has_triton_attention(device):
        return 128
    from dozan.kernels.attention_triton import PADDED

    return PADDED


def pack_attention(position: Tensor, end: Tensor, window: int, scale: float, head_dim: int) -> Attend:
    """The fastest `model.gemma3.Attend` for a pack on its device: position and end int64 [T], window in tokens.

    On a CPU batched products; on a GPU Triton's kernel, or else PyTorch's memory-efficient one by blocks.
    """
    if end.device.type != "cuda":
        return TrieAttention(position, end, window, scale)
    if not attends_in_triton(end.device, head_dim):
        return EfficientTrieAttention(position, end, window, scale)
    from dozan.kernels.attention_triton import TritonTrieAttention

    return TritonTrieAttention(position, end, window, scale, torch.are_deterministic_algorithms_enabled())
