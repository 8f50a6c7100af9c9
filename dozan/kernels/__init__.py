"""The ops that decide speed and memory. `reference.py` is the specification of them all."""

from __future__ import annotations

from torch import Tensor

from dozan.kernels.attention import TrieAttention
from dozan.kernels.cross_entropy import supervised_cross_entropy
from dozan.kernels.flex import FlexTrieAttention

__all__ = ["FlexTrieAttention", "TrieAttention", "supervised_cross_entropy", "trie_attention"]


def trie_attention(position: Tensor, end: Tensor, window: int, scale: float) -> TrieAttention | FlexTrieAttention:
    """The fast attention for the device on which the pack lies: position and end int64 [T]."""
    kind = FlexTrieAttention if end.is_cuda else TrieAttention
    return kind(position, end, window, scale)
