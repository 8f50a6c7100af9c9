"""Attention over a forest of tries on a CUDA device: flex_attention with a block mask made from `position` and `end`.

The mask is never materialised: `create_block_mask` looks at tiles, and the score function compares three integers. Compiled
once for each packed length, so batches for the GPU have a fixed length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def mask_function(position: Tensor, end: Tensor, window: int | None) -> Mask:
    """flex_attention's mask for `kernels.reference.visible`."""

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end[key])

    if window is None:
        return seen

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen(batch, head, query, key) & (position[query] - position[key] < window)

    return near


class FlexTrieAttention:
    """`model.gemma3.Attend` for a pack on a CUDA device: position and end int64 [T]."""

    def __init__(self, position: Tensor, end: Tensor, window: int, scale: float) -> None:
        self.scale = scale
        self._full = _block_mask(position, end, None)
        self._sliding = _block_mask(position, end, window)

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        mask = self._sliding if sliding else self._full
        out = _flex(q, k, v, block_mask=mask, scale=self.scale, enable_gqa=True)
        return out[0].transpose(0, 1)


_flex = torch.compile(flex_attention, dynamic=False)
_create = torch.compile(create_block_mask, dynamic=False)


def _block_mask(position: Tensor, end: Tensor, window: int | None) -> BlockMask:
    length = len(end)
    return _create(mask_function(position, end, window), None, None, length, length, device=str(end.device))
