"""Attention over a forest of tries without a T x T mask, for any device.

Queries go in blocks of consecutive packed tokens. The keys that some query of a block may see are its ancestors and
the block itself; they are gathered, and one masked product serves the block. A trunk of P tokens with N branches of L
tokens costs O(N · L · (P + block)), linear in the pack, where a dense mask costs O((P + N · L)²). Blocks of similar
key counts run together, `GROUP` at a time, their lists padded to one of few lengths, since oneDNN prepares each shape
of a product anew. The products are plain batched ones: on a CPU that multiplies in bfloat16 they run at eight times the
rate of PyTorch's own attention. The weights, T · H · N numbers, are kept for the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 64
GROUP = 8


@dataclass(frozen=True)
class _Plan:
    """The blocks of one kind of layer, in groups of `GROUP`.

    order: the block at each place, int64 [places]: all blocks once, then the last one again to fill up its group.
    place: where each block stands, int64 [blocks]. keys: of each group int64 [GROUP, N]. mask: of each group, bool
    [GROUP, BLOCK, N].
    """

    order: Tensor
    place: Tensor
    keys: list[Tensor]
    mask: list[Tensor]


@dataclass(frozen=True)
class _Heads:
    """A plan for K key heads: each group's batch holds its blocks' heads, GROUP * K in all.

    index: the rows of k [T * K, E] that all groups need, int64, end to end. groups: for each, its rows of `index` and
    what is added to its scores, [GROUP * K, H / K * BLOCK, N].
    """

    plan: _Plan
    index: Tensor
    groups: list[tuple[slice, Tensor]]


class TrieAttention:
    """`model.gemma3.Attend` for a pack: position and end int64 [T], window in tokens, scale on the scores."""

    def __init__(self, position: Tensor, end: Tensor, window: int, scale: float) -> None:
        self.scale = scale
        self._plans = {sliding: _plan(position, end, window if sliding else None) for sliding in (False, True)}
        self._heads: dict[tuple[bool, torch.dtype, int, int], _Heads] = {}

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        key = (sliding, q.dtype, q.shape[1], k.shape[1])
        if key not in self._heads:
            self._heads[key] = _heads(self._plans[sliding], *key[1:])
        out: Tensor = _Attended.apply(q, k, v, self._heads[key], self.scale)
        return out


class _Attended(torch.autograd.Function):
    """q [T, H, E], k, v [T, K, E] -> [T, H, E]; the query heads of a key head queue up as more queries."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, heads: _Heads, scale: float) -> Tensor:
        queries, keys, values = _queued(q, k.shape[1], heads.plan) * scale, _listed(k, heads), _listed(v, heads)
        out, kept = torch.empty_like(queries), []
        for batch, rows, bias in _batches(heads):
            scores = torch.baddbmm(bias, queries[batch], _lists(keys, rows, bias).transpose(1, 2))
            kept.append(torch.softmax(scores, -1))
            torch.bmm(kept[-1], _lists(values, rows, bias), out=out[batch])
        ctx.save_for_backward(q, k, v, *kept)
        ctx.heads, ctx.scale = heads, scale
        return _unqueued(out, heads.plan, q)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        heads, scale, shared = ctx.heads, ctx.scale, k.shape[1]
        queries, keys, values = _queued(q, shared, heads.plan) * scale, _listed(k, heads), _listed(v, heads)
        grad = _queued(outer[0], shared, heads.plan)
        grad[len(heads.plan.place) * shared :] = 0  # the blocks that only fill up
        d_queries, d_keys, d_values = torch.empty_like(queries), torch.empty_like(keys), torch.empty_like(values)
        for weights, (batch, rows, bias) in zip(kept, _batches(heads), strict=True):
            d_weights = torch.bmm(grad[batch], _lists(values, rows, bias).transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, q.dtype)
            torch.bmm(d_scores, _lists(keys, rows, bias), out=d_queries[batch])
            torch.bmm(d_scores.transpose(1, 2), queries[batch], out=_lists(d_keys, rows, bias))
            torch.bmm(weights.transpose(1, 2), grad[batch], out=_lists(d_values, rows, bias))
        d_q = _unqueued(d_queries.mul_(scale), heads.plan, q)
        return d_q, _summed(d_keys, heads, k), _summed(d_values, heads, v), None, None


def _batches(heads: _Heads) -> Iterator[tuple[slice, slice, Tensor]]:
    """For each group: its slice of the queued queries, its rows of `index`, and its bias."""
    first = 0
    for rows, bias in heads.groups:
        yield slice(first, first + len(bias)), rows, bias
        first += len(bias)


def _lists(x: Tensor, rows: slice, bias: Tensor) -> Tensor:
    """A group's rows of x [len(index), E] -> [GROUP * K, N, E], a view."""
    return x[rows].view(len(bias), bias.shape[2], x.shape[1])


def _queued(x: Tensor, shared: int, plan: _Plan) -> Tensor:
    """[T, H, E] -> [places * K, H / K * BLOCK, E]."""
    blocks = F.pad(x, (0, 0, 0, 0, 0, -len(x) % BLOCK)).view(-1, BLOCK, shared, x.shape[1] // shared, x.shape[2])
    return blocks[plan.order].permute(0, 2, 3, 1, 4).reshape(len(plan.order) * shared, -1, x.shape[2])


def _unqueued(x: Tensor, plan: _Plan, like: Tensor) -> Tensor:
    """The way back, [places * K, H / K * BLOCK, E] -> as `like` [T, H, E]."""
    places = x.view(len(plan.order), like.shape[1], BLOCK, -1)[plan.place]
    return places.transpose(1, 2).reshape(-1, *like.shape[1:])[: len(like)]


def _listed(x: Tensor, heads: _Heads) -> Tensor:
    """[T, K, E] -> the rows [len(index), E]."""
    return x.reshape(-1, x.shape[2]).index_select(0, heads.index)


def _summed(grad: Tensor, heads: _Heads, like: Tensor) -> Tensor:
    """The gradient of `_listed`: as `like` [T, K, E]."""
    rows = grad.new_zeros(like.shape[0] * like.shape[1], like.shape[2])
    return rows.index_add_(0, heads.index, grad).view(like.shape)


def _heads(plan: _Plan, dtype: torch.dtype, heads: int, shared: int) -> _Heads:
    groups, indices, first = [], [], 0
    head = torch.arange(shared, device=plan.order.device)[:, None]
    for keys, mask in zip(plan.keys, plan.mask, strict=True):
        index = (keys[:, None] * shared + head).flatten()
        bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
        bias = bias.repeat(1, heads // shared, 1).repeat_interleave(shared, 0)
        groups.append((slice(first, first + len(index)), bias))
        indices.append(index)
        first += len(index)
    return _Heads(plan, torch.cat(indices), groups)


def _plan(position: Tensor, end: Tensor, window: int | None) -> _Plan:
    device, blocks = end.device, -(-len(end) // BLOCK)
    first = torch.arange(blocks, device=device) * BLOCK
    needed = needed_keys(position, end, window, BLOCK)
    counts = needed.sum(1)
    order = counts.argsort(stable=True)
    place = torch.empty_like(order).index_copy_(0, order, torch.arange(blocks, device=device))
    order = torch.cat((order, order[-1:].expand(-blocks % GROUP)))
    keys, mask = [], []
    for members in order.split(GROUP):
        listed, real = key_lists(needed[members], _rounded(int(counts[members].max())))
        queries = (first[members, None] + torch.arange(BLOCK, device=device)).clamp(max=len(end) - 1)
        keys.append(listed)
        mask.append(seen_keys(queries, listed, real, position, end, window))
    return _Plan(order, place, keys, mask)


def needed_keys(position: Tensor, end: Tensor, window: int | None, block: int) -> Tensor:
    """Which keys some query of each block of `block` tokens may see, and perhaps others: bool [blocks, T]."""
    first = torch.arange(0, len(end), block, device=end.device)
    token = torch.arange(len(end), device=end.device)
    needed = (token[None] < first[:, None] + block) & (end[None] > first[:, None])
    if window is not None:
        lowest = torch.stack([part.min() for part in position.split(block)])
        needed &= lowest[:, None] - position[None] < window
    return needed


def key_lists(needed: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The key indices of each block [B, length], padded with 0, and which are real; needed bool [B, T]."""
    real = torch.arange(length, device=needed.device)[None] < needed.sum(1, keepdim=True)
    keys = torch.zeros(real.shape, dtype=torch.int64, device=needed.device)
    keys[real] = needed.nonzero()[:, 1]
    return keys, real


def _rounded(count: int) -> int:
    """The next multiple of `BLOCK` and of an eighth of the power of two below."""
    step = max(BLOCK, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def seen_keys(
    queries: Tensor, keys: Tensor, real: Tensor, position: Tensor, end: Tensor, window: int | None
) -> Tensor:
    """Whether each query [B, BLOCK] sees each key [B, N] of its block: bool [B, BLOCK, N]."""
    mask = (keys[:, None] <= queries[:, :, None]) & (queries[:, :, None] < end[keys][:, None]) & real[:, None]
    if window is not None:
        mask &= position[queries][:, :, None] - position[keys][:, None] < window
    return mask
