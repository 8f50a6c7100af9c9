"""Attention over a forest of tries in Triton: forward, and a backward pass whose keys are spread over the GPU.

Flash attention (Dao, arXiv:2307.08691) over lists of visible blocks. The trunk of a trie is seen by every branch: its
few key blocks gather the gradients of all queries, which would leave most of a GPU idle (61 % of a step with
flex_attention). Here the queries of a key block are dealt out to SPLITS programs that add up atomically in fp32.
Shapes: T tokens (a multiple of PADDED), H query heads, K key heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PADDED = 64
"""Packs are padded to a multiple of this."""

SPLITS = 8
_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Blocks:
    """Which blocks see which: for each query block its key blocks, and for each key block its query blocks.

    counts int32 [N], lists int32 [N, N] (the first `counts` of a row count), N = T / size.
    """

    size: int
    key_counts: Tensor
    keys: Tensor
    query_counts: Tensor
    queries: Tensor


class TritonTrieAttention:
    """`model.gemma3.Attend` for a pack: position and end int [T], T a multiple of PADDED, window in tokens.

    `deterministic` adds up gradients in one fixed order, more slowly. Nothing is asked of the host.
    """

    def __init__(self, position: Tensor, end: Tensor, window: int, scale: float, deterministic: bool = False) -> None:
        if len(end) % PADDED:
            raise ValueError(f"{len(end)} tokens are no multiple of {PADDED}; pad the pack")
        self.position, self.end = position.to(torch.int32), end.to(torch.int32)
        self.window, self.scale, self.splits = window, scale, 1 if deterministic else SPLITS
        self._everything = len(end) + 1
        self._blocks: dict[tuple[int, int], Blocks] = {}

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        window = self.window if sliding else self._everything
        blocks = self._visible(window, 64 if q.element_size() == 2 else 32)
        out: Tensor = _Attention.apply(q, k, v, self.position, self.end, blocks, window, self.scale, self.splits)
        return out

    def _visible(self, window: int, size: int) -> Blocks:
        if (window, size) not in self._blocks:
            self._blocks[window, size] = visible_blocks(self.position, self.end, window, size)
        return self._blocks[window, size]


def visible_blocks(position: Tensor, end: Tensor, window: int, size: int) -> Blocks:
    """The pairs of blocks of `size` tokens in which some key may be seen; errs to the safe side."""
    ends, depths = end.view(-1, size), position.view(-1, size)
    block = torch.arange(len(ends), device=end.device, dtype=torch.int32)
    seen = (block[None] <= block[:, None]) & (ends.amax(1)[None] > (block * size)[:, None])
    seen &= depths.amin(1)[:, None] - depths.amax(1)[None] < window
    return Blocks(size, *_listed(seen), *_listed(seen.T))


def _listed(seen: Tensor) -> tuple[Tensor, Tensor]:
    # A transposed input would give transposed indices.
    order = seen.to(torch.int8).contiguous().argsort(dim=1, descending=True, stable=True)
    return seen.sum(1, dtype=torch.int32), order.to(torch.int32).contiguous()


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, position: Tensor, end: Tensor, blocks: Blocks, window: int,
        scale: float, splits: int,
    ) -> Tensor:  # fmt: skip
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q), dtype=torch.float32, device=q.device)
        _forward[(len(q) // blocks.size, q.shape[1])](
            q, k, v, out, lse, position, end, blocks.key_counts, blocks.keys, len(q), window, scale * _LOG2E,
            **_constants(q, k, blocks), num_stages=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse, position, end)
        ctx.blocks, ctx.window, ctx.scale, ctx.splits = blocks, window, scale, splits
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, position, end = ctx.saved_tensors
        blocks, constants = ctx.blocks, _constants(q, k, ctx.blocks)
        (tokens, heads, _), shared = q.shape, k.shape[1]
        d_out = outer[0].contiguous()
        inner = (d_out.float() * out.float()).sum(-1).T.contiguous()  # [H, T]
        d_q = torch.empty_like(q)
        _backward_queries[(tokens // blocks.size, heads)](
            q, k, v, d_out, lse, inner, d_q, position, end, blocks.key_counts, blocks.keys, tokens, ctx.window,
            ctx.scale, **constants, num_stages=1,
        )  # fmt: skip
        alone = ctx.splits == 1
        make = torch.empty if alone else torch.zeros
        d_k, d_v = (make(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
        _backward_keys[(tokens // blocks.size, shared if alone else heads, ctx.splits)](
            q, k, v, d_out, lse, inner, d_k, d_v, position, end, blocks.query_counts, blocks.queries, tokens,
            ctx.window, ctx.scale, ALONE=alone, **constants, num_stages=1,
        )  # fmt: skip
        return d_q, d_k.to(k.dtype), d_v.to(v.dtype), None, None, None, None, None, None


def _constants(q: Tensor, k: Tensor, blocks: Blocks) -> dict[str, Any]:
    """What the kernels are compiled for: heads, sizes, and products of fp32 in fp32 rather than TF32."""
    _, heads, size = q.shape
    precision = "ieee" if q.dtype == torch.float32 else "tf32"
    return {"H": heads, "K": k.shape[1], "E": size, "B": blocks.size, "P": precision,
            "num_warps": 4 if size <= 128 else 8}  # fmt: skip


@triton.jit
def _visible(query, key, end, position_q, position_k, window):
    """[B, B] with queries down and keys across."""
    before = (key[None, :] <= query[:, None]) & (query[:, None] < end[None, :])
    return before & (position_q[:, None] - position_k[None, :] < window)


@triton.jit
def _forward(
    Q, KEY, V, OUT, LSE, POSITION, END, COUNTS, LISTS, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1)
    lane, column = tl.arange(0, B), tl.arange(0, E)
    query = block * B + lane
    place = (query[:, None].to(tl.int64) * H + head) * E + column[None, :]
    q = tl.load(Q + place)
    position_q = tl.load(POSITION + query)
    most = tl.full([B], float("-inf"), tl.float32)
    total = tl.zeros([B], tl.float32)
    mixed = tl.zeros([B, E], tl.float32)
    blocks = tokens // B
    for i in range(tl.load(COUNTS + block)):
        key = tl.load(LISTS + block.to(tl.int64) * blocks + i) * B + lane
        where = (key[:, None].to(tl.int64) * K + head // (H // K)) * E + column[None, :]
        k = tl.load(KEY + where)
        scores = tl.dot(q, tl.trans(k), input_precision=P) * scale
        seen = _visible(query, key, tl.load(END + key), position_q, tl.load(POSITION + key), window)
        scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(most, tl.max(scores, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - base[:, None])
        shrink = tl.exp2(most - base)
        total = total * shrink + tl.sum(weights, 1)
        v = tl.load(V + where)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=P)
        most = higher
    tl.store(OUT + place, (mixed / total[:, None]).to(OUT.dtype.element_ty))
    tl.store(LSE + head.to(tl.int64) * tokens + query, most + tl.log2(total))


@triton.jit
def _backward_queries(
    Q, KEY, V, DOUT, LSE, INNER, DQ, POSITION, END, COUNTS, LISTS, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    block, head = tl.program_id(0), tl.program_id(1)
    lane, column = tl.arange(0, B), tl.arange(0, E)
    query = block * B + lane
    place = (query[:, None].to(tl.int64) * H + head) * E + column[None, :]
    q, d_out = tl.load(Q + place), tl.load(DOUT + place)
    row = head.to(tl.int64) * tokens + query
    lse, inner, position_q = tl.load(LSE + row), tl.load(INNER + row), tl.load(POSITION + query)
    d_q = tl.zeros([B, E], tl.float32)
    blocks = tokens // B
    for i in range(tl.load(COUNTS + block)):
        key = tl.load(LISTS + block.to(tl.int64) * blocks + i) * B + lane
        where = (key[:, None].to(tl.int64) * K + head // (H // K)) * E + column[None, :]
        k = tl.load(KEY + where)
        scores = tl.dot(q, tl.trans(k), input_precision=P) * (scale * 1.4426950408889634)
        seen = _visible(query, key, tl.load(END + key), position_q, tl.load(POSITION + key), window)
        weights = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
        d_weights = tl.dot(d_out, tl.trans(tl.load(V + where)), input_precision=P)
        d_scores = weights * (d_weights - inner[:, None]) * scale
        d_q += tl.dot(d_scores.to(k.dtype), k, input_precision=P)
    tl.store(DQ + place, d_q.to(DQ.dtype.element_ty))


@triton.jit
def _backward_keys(
    Q, KEY, V, DOUT, LSE, INNER, DK, DV, POSITION, END, COUNTS, LISTS, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, P: tl.constexpr,
    ALONE: tl.constexpr,
):  # fmt: skip
    """Keys of one block against every SPLITS-th of its query blocks, for one query head (ALONE: all of a key head)."""
    block, split = tl.program_id(0), tl.program_id(2)
    count = tl.load(COUNTS + block)
    if split < count:
        lane, column = tl.arange(0, B), tl.arange(0, E)
        key = block * B + lane
        shared = tl.program_id(1) if ALONE else tl.program_id(1) // (H // K)
        where = (key[:, None].to(tl.int64) * K + shared) * E + column[None, :]
        k, v = tl.load(KEY + where), tl.load(V + where)
        end, position_k = tl.load(END + key), tl.load(POSITION + key)
        d_k, d_v = tl.zeros([B, E], tl.float32), tl.zeros([B, E], tl.float32)
        blocks = tokens // B
        first = shared * (H // K) if ALONE else tl.program_id(1)
        for head in range(first, first + (H // K if ALONE else 1)):
            for i in range(split, count, tl.num_programs(2)):
                query = tl.load(LISTS + block.to(tl.int64) * blocks + i) * B + lane
                place = (query[:, None].to(tl.int64) * H + head) * E + column[None, :]
                q, d_out = tl.load(Q + place), tl.load(DOUT + place)
                row = head * tokens.to(tl.int64) + query
                lse, inner = tl.load(LSE + row), tl.load(INNER + row)
                scores = tl.dot(q, tl.trans(k), input_precision=P) * (scale * 1.4426950408889634)
                seen = _visible(query, key, end, tl.load(POSITION + query), position_k, window)
                weights = tl.where(seen, tl.exp2(scores - lse[:, None]), 0.0)
                d_v += tl.dot(tl.trans(weights.to(d_out.dtype)), d_out, input_precision=P)
                d_weights = tl.dot(d_out, tl.trans(v), input_precision=P)
                d_scores = weights * (d_weights - inner[:, None]) * scale
                d_k += tl.dot(tl.trans(d_scores.to(q.dtype)), q, input_precision=P)
        if ALONE:
            tl.store(DK + where, d_k)
            tl.store(DV + where, d_v)
        else:
            tl.atomic_add(DK + where, d_k, sem="relaxed")
            tl.atomic_add(DV + where, d_v, sem="relaxed")
