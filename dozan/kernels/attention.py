"""Attention over a forest of tries without a T x T mask, for any device.

Queries go in blocks of consecutive packed tokens. The keys that some query of a block may see are its ancestors and
the block itself; they are gathered, and one masked product serves the block. A trunk of P tokens with N branches of L
tokens costs O(N · L · (P + block)), linear in the pack, where a dense mask costs O((P + N · L)²). Blocks of similar
key counts run together. Gathering goes through `F.embedding`, whose
backward on the CPU sums in parallel and in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64
PADDING = 1.3
"""Blocks run together while the longest key list is at most this many times the shortest."""


@dataclass(frozen=True)
class _Group:
    """B blocks with equally long key lists: queries [B, BLOCK], keys [B, N], mask bool [B, 1, BLOCK, N]."""

    queries: Tensor
    keys: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Plan:
    """The groups of one kind of layer, and where each token's output stands in their concatenation: int64 [T]."""

    groups: list[_Group]
    place: Tensor


class TrieAttention:
    """`model.gemma3.Attend` for a pack: position and end int64 [T], window in tokens, scale on the scores."""

    def __init__(self, position: Tensor, end: Tensor, window: int, scale: float) -> None:
        self.scale = scale
        self._full = _plan(position, end, None)
        self._sliding = _plan(position, end, window)
        self._biases: dict[tuple[bool, torch.dtype, int], list[Tensor]] = {}

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        plan = self._sliding if sliding else self._full
        biases = self._bias(sliding, q.dtype, q.shape[1] // k.shape[1])
        parts = [self._attend(group, bias, q, k, v) for group, bias in zip(plan.groups, biases, strict=True)]
        return F.embedding(plan.place, torch.cat(parts).flatten(1)).view_as(q)

    def _bias(self, sliding: bool, dtype: torch.dtype, queue: int) -> list[Tensor]:
        """What is added to the scores of each group, [B, 1, queue * BLOCK, N]: made once, for all layers of a kind."""
        key = (sliding, dtype, queue)
        if key not in self._biases:
            plan = self._sliding if sliding else self._full
            unseen = [~group.mask.repeat(1, 1, queue, 1) for group in plan.groups]
            self._biases[key] = [torch.zeros(m.shape, dtype=dtype, device=m.device).masked_fill_(m, float("-inf"))
                                 for m in unseen]  # fmt: skip
        return self._biases[key]

    def _attend(self, group: _Group, bias: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        shared = k.shape[1]
        queries, keys, values = _gather(q, group.queries), _gather(k, group.keys), _gather(v, group.keys)
        # The query heads of a key head queue up as more queries, so that keys are neither copied nor expanded.
        queries = queries.unflatten(1, (shared, -1)).flatten(2, 3)  # [B, K, H / K * BLOCK, E]
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=self.scale)
        out = out.unflatten(2, (-1, BLOCK)).flatten(1, 2)  # [B, H, BLOCK, E]
        return out.transpose(1, 2).flatten(0, 1)  # [B * BLOCK, H, E]


def _gather(x: Tensor, index: Tensor) -> Tensor:
    """x [T, h, E] at index [B, N] -> [B, h, N, E]."""
    return F.embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:]).transpose(1, 2)


def _plan(position: Tensor, end: Tensor, window: int | None) -> _Plan:
    length = len(end)
    token = torch.arange(length, device=end.device)
    blocks = -(-length // BLOCK)
    first = torch.arange(blocks, device=end.device) * BLOCK
    queries = first[:, None] + torch.arange(BLOCK, device=end.device)
    needed = (token[None] < first[:, None] + BLOCK) & (end[None] > first[:, None])  # [blocks, T]
    if window is not None:
        lowest = torch.stack([position[start : start + BLOCK].min() for start in first.tolist()])
        needed &= lowest[:, None] - position[None] < window
    counts = needed.sum(1)
    groups = []
    for members in _similar(counts):
        keys, real = _lists(needed[members], counts[members])
        groups.append(_group(queries[members], keys, real, position, end, window))
    order = torch.cat([group.queries.flatten() for group in groups])
    place = torch.empty(length, dtype=torch.int64, device=end.device)
    place[order] = torch.arange(len(order), device=end.device)
    return _Plan(groups, place)


def _similar(counts: Tensor) -> list[Tensor]:
    """Indices of blocks, sorted by key count and cut where the padding would grow beyond `PADDING`."""
    order = counts.argsort(stable=True)
    cuts, smallest = [], int(counts[order[0]])
    for i, count in enumerate(counts[order].tolist()):
        if count > smallest * PADDING:
            cuts.append(i)
            smallest = count
    return list(order.tensor_split(cuts))


def _lists(needed: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Key indices [B, N] of each block, padded with 0, and which are real."""
    real = torch.arange(int(counts.max()), device=counts.device)[None] < counts[:, None]
    keys = torch.zeros(real.shape, dtype=torch.int64, device=counts.device)
    keys[real] = needed.nonzero()[:, 1]
    return keys, real


def _group(queries: Tensor, keys: Tensor, real: Tensor, position: Tensor, end: Tensor, window: int | None) -> _Group:
    inside = queries.clamp(max=len(end) - 1)
    mask = (keys[:, None] <= queries[:, :, None]) & (inside[:, :, None] < end[keys][:, None]) & real[:, None]
    if window is not None:
        mask &= position[inside][:, :, None] - position[keys][:, None] < window
    return _Group(inside, keys, mask[:, None])
