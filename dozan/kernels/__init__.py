"""The ops that decide speed and memory. `reference.py` is the specification of them all."""

from dozan.kernels.attention import TrieAttention
from dozan.kernels.cross_entropy import supervised_cross_entropy

__all__ = ["TrieAttention", "supervised_cross_entropy"]
