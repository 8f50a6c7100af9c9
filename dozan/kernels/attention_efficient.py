"""Attention over a forest of tries by PyTorch's memory-efficient kernels, for GPUs that Triton's does not run on.

Queries go in blocks of consecutive packed tokens, the keys of a block (its ancestors and itself) are gathered, and the
query heads of a key head queue up as more queries, so that nothing is expanded. Blocks whose lists are padded to one
length run as one call, the lengths are few, and at most `ROWS` keys are gathered at once. No weights are kept: the
backward pass gathers again from q, k, v, and reads the output and one number a query and head. Memory and work are
linear in the pack. What is added to the scores, T · H / K · N numbers a kind of layer, serves all layers of the kind.
Rejected: key heads expanded to query heads (as much more to gather), and one T x T mask.
On a CPU the same code runs with PyTorch's CPU kernel, which is how it is tested without a GPU.
Shapes: T tokens, H query heads, K key heads, E head size, G blocks of a call, N keys of a block, M = H / K · BLOCK.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dozan.kernels.attention import key_lists, needed_keys, seen_keys

BLOCK = 128
ROWS = 1 << 16
"""Gathered keys of a call, times their heads: 32 MiB of keys of size 256 in half precision."""

_ALIGNED = 8
"""The kernels take head sizes that are multiples of it."""


@dataclass(frozen=True)
class _Call:
    """Blocks that run together: their places in the queue, their keys int64 [G * N], what is added to the scores
    [G, 1, M, N]."""

    places: slice
    keys: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _Calls:
    """A kind of layer. order: the block at each place of the queue, place: where each block stands, int64 [blocks]."""

    order: Tensor
    place: Tensor
    calls: list[_Call]


class EfficientTrieAttention:
    """`model.gemma3.Attend` for a pack: position and end int64 [T], window in tokens, scale on the scores."""

    def __init__(self, position: Tensor, end: Tensor, window: int, scale: float) -> None:
        self._position, self._end, self._window, self._scale = position, end, window, scale
        self._kinds: dict[tuple[bool, torch.dtype, int, int], _Calls] = {}

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        kind = (sliding, q.dtype, q.shape[1], k.shape[1])
        if kind not in self._kinds:
            window = self._window if sliding else None
            self._kinds[kind] = _calls(self._position, self._end, window, *kind[1:])
        size = q.shape[2]
        if size % _ALIGNED:
            q, k, v = (F.pad(x, (0, -size % _ALIGNED)) for x in (q, k, v))
        out: Tensor = _Attended.apply(q, k, v, self._kinds[kind], self._scale)
        return out[..., :size] if size % _ALIGNED else out


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, kind: _Calls, scale: float) -> Tensor:
        queries, outs, kept = _queued(q, k.shape[1], kind), [], []
        for call in kind.calls:
            out, *rest = _forward(_heads_first(queries[call.places]), _listed(k, call), _listed(v, call), call, scale)
            outs.append(out.transpose(1, 2))
            kept += rest
        whole = _unqueued(torch.cat(outs), kind, q)
        ctx.save_for_backward(q, k, v, whole, *kept)
        ctx.kind, ctx.scale = kind, scale
        return whole

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, whole, *kept = ctx.saved_tensors
        kind, shared, each = ctx.kind, k.shape[1], len(kept) // len(ctx.kind.calls)
        queries, outs, grads = (_queued(x, shared, kind) for x in (q, whole, outer[0]))
        # Many blocks add to a key's gradient: in fp32, rounded once.
        d_queries, d_k, d_v = [], *(torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        for i, call in enumerate(kind.calls):
            query, out, grad = (_heads_first(x[call.places]) for x in (queries, outs, grads))
            d_query, d_key, d_value = _backward(
                grad, query, _listed(k, call), _listed(v, call), out, kept[i * each : (i + 1) * each], call, ctx.scale
            )
            d_queries.append(d_query.transpose(1, 2))
            for total, part in ((d_k, d_key), (d_v, d_value)):
                total.index_add_(0, call.keys, part.transpose(1, 2).flatten(0, 1).float())
        return _unqueued(torch.cat(d_queries), kind, q), d_k.to(k.dtype), d_v.to(v.dtype), None, None


def _forward(query: Tensor, key: Tensor, value: Tensor, call: _Call, scale: float) -> tuple[Tensor, ...]:
    """The output [G, K, M, E], and what else `_backward` takes: the logarithms of the sums of exponentials, and on a
    GPU two states of a generator that nothing is drawn from."""
    bias = call.bias.expand(-1, key.shape[1], -1, -1)
    if query.is_cuda:
        return torch.ops.aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, compute_log_sumexp=True, scale=scale
        )
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, attn_mask=bias, scale=scale)


def _backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, kept: Sequence[Tensor], call: _Call,
    scale: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The gradients of query, key and value, as they are shaped."""
    bias = call.bias.expand(-1, key.shape[1], -1, -1)
    if query.is_cuda:
        return torch.ops.aten._scaled_dot_product_efficient_attention_backward(
            grad, query, key, value, bias, out, *kept, 0.0, [True, True, True, False], scale=scale
        )[:3]
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, out, *kept, 0.0, False, attn_mask=bias, scale=scale
    )


def _heads_first(queued: Tensor) -> Tensor:
    """[G, M, K, E] -> [G, K, M, E], a view."""
    return queued.transpose(1, 2)


def _listed(x: Tensor, call: _Call) -> Tensor:
    """x [T, K, E] -> a call's keys or values [G, K, N, E]."""
    return x.index_select(0, call.keys).unflatten(0, (-1, call.bias.shape[3])).transpose(1, 2)


def _queued(x: Tensor, shared: int, kind: _Calls) -> Tensor:
    """[T, H, E] -> [blocks, M, K, E] in the queue's order; what fills up the last block is zero."""
    blocks = F.pad(x, (0, 0, 0, 0, 0, -len(x) % BLOCK)).view(-1, BLOCK, shared, x.shape[1] // shared, x.shape[2])
    return blocks[kind.order].permute(0, 3, 1, 2, 4).flatten(1, 2)


def _unqueued(queued: Tensor, kind: _Calls, like: Tensor) -> Tensor:
    """The way back, [blocks, M, K, E] -> as `like` [T, H, E]."""
    blocks = queued.unflatten(1, (-1, BLOCK))[kind.place]
    return blocks.permute(0, 2, 3, 1, 4).reshape(-1, *like.shape[1:])[: len(like)]


def _calls(position: Tensor, end: Tensor, window: int | None, dtype: torch.dtype, heads: int, shared: int) -> _Calls:
    needed = needed_keys(position, end, window, BLOCK)
    lengths = [_rounded(count) for count in needed.sum(1).tolist()]
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    calls, first = [], 0
    for length, same in groupby(order, key=lengths.__getitem__):
        blocks, most = list(same), max(1, ROWS // (length * shared))
        for start in range(0, len(blocks), most):
            members = torch.tensor(blocks[start : start + most], device=end.device)
            keys, real = key_lists(needed[members], length)
            queries = members[:, None] * BLOCK + torch.arange(BLOCK, device=end.device)
            seen = seen_keys(queries.clamp(max=len(end) - 1), keys, real, position, end, window)
            bias = torch.zeros(seen.shape, dtype=dtype, device=end.device).masked_fill_(~seen, float("-inf"))
            calls.append(_Call(slice(first, first + len(members)), keys.flatten(),
                               bias.repeat(1, heads // shared, 1)[:, None]))  # fmt: skip
            first += len(members)
    places = torch.tensor(order, device=end.device)
    return _Calls(places, places.argsort(), calls)


def _rounded(count: int) -> int:
    """The next multiple of `BLOCK` and of a quarter of the power of two below."""
    step = max(BLOCK, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step
