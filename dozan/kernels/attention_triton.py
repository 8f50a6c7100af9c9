"""Attention over a forest of tries in Triton: forward, and a backward pass whose keys are spread over the GPU.

Flash attention (Dao, arXiv:2307.08691) over lists of visible blocks; blocks that are seen whole come first and need no
mask. Query heads that share a key head stand below one another in a tile. The trunk of a trie is seen by every branch:
its few key blocks gather the gradients of all queries, which would leave most of a GPU idle (61 % of a step with
flex_attention). Here the queries of a key block are dealt out to programs by how many they are, and added up
atomically in fp32 where one program does not do.
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

_DEALT, PROGRAMS = 16, 64
"""Tiles of queries that a program of the keys' backward pass takes at least, and how many programs share a block."""
_STAGES = {"forward": 2, "queries": 1, "keys": 1}
"""Loads in flight: what shared memory holds at head size 256."""
_LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Blocks:
    """Which blocks see which: for each query block its key blocks, and for each key block its query blocks.

    counts int32 [N, 2]: how many are seen whole, and how many at all; lists int32 [N, N], those seen whole first (the
    first `counts[:, 1]` of a row count). N = T / size.
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
        self.window, self.scale, self.programs = window, scale, 1 if deterministic else PROGRAMS
        # A multiple of 16 like a sliding window, or Triton compiles every kernel a second time.
        self._everything = len(end) + PADDED
        self._blocks: dict[tuple[int, int], Blocks] = {}

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]."""
        window = self.window if sliding else self._everything
        blocks = self._visible(window, block_size(q))
        out: Tensor = _Attention.apply(q, k, v, self.position, self.end, blocks, window, self.scale, self.programs)
        return out

    def _visible(self, window: int, size: int) -> Blocks:
        if (window, size) not in self._blocks:
            self._blocks[window, size] = visible_blocks(self.position, self.end, window, size)
        return self._blocks[window, size]


def block_size(q: Tensor) -> int:
    """Tokens of a block: what shared memory holds."""
    return 64 if q.element_size() == 2 else 32


def visible_blocks(position: Tensor, end: Tensor, window: int, size: int) -> Blocks:
    """The pairs of blocks of `size` tokens in which some key may be seen; errs to the safe side."""
    ends, depths = end.view(-1, size), position.view(-1, size)
    block = torch.arange(len(ends), device=end.device, dtype=torch.int32)
    first = block * size
    seen = (block[None] <= block[:, None]) & (ends.amax(1)[None] > first[:, None])
    seen &= depths.amin(1)[:, None] - depths.amax(1)[None] < window
    whole = (block[None] < block[:, None]) & (ends.amin(1)[None] >= first[:, None] + size)
    whole &= depths.amax(1)[:, None] - depths.amin(1)[None] < window
    return Blocks(size, *_listed(seen, whole), *_listed(seen.T, whole.T))


def _listed(seen: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
    # A transposed input would give transposed indices.
    order = (seen.to(torch.int8) + whole).contiguous().argsort(dim=1, descending=True, stable=True)
    counts = torch.stack((whole.sum(1, dtype=torch.int32), seen.sum(1, dtype=torch.int32)), 1)
    return counts.contiguous(), order.to(torch.int32).contiguous()


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, position: Tensor, end: Tensor, blocks: Blocks, window: int,
        scale: float, programs: int,
    ) -> Tensor:  # fmt: skip
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, lse = attend(q, k, v, position, end, blocks, window, scale)
        ctx.save_for_backward(q, k, v, out, lse, position, end)
        ctx.blocks, ctx.window, ctx.scale, ctx.programs = blocks, window, scale, programs
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse, position, end = ctx.saved_tensors
        blocks = ctx.blocks
        d_out = outer[0].contiguous()
        d_q, inner = queries_gradient(q, k, v, out, d_out, lse, position, end, blocks, ctx.window, ctx.scale)
        d_k, d_v = keys_gradients(
            q, k, v, d_out, lse, inner, position, end, blocks, ctx.window, ctx.scale, ctx.programs
        )
        return d_q, d_k, d_v, None, None, None, None, None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, position: Tensor, end: Tensor, blocks: Blocks, window: int, scale: float
) -> tuple[Tensor, Tensor]:
    """[T, H, E], and log2 Σ exp of each query's scores, fp32 [H, T]."""
    out, lse = torch.empty_like(q), torch.empty(q.shape[1], len(q), dtype=torch.float32, device=q.device)
    constants = _constants(q, k, blocks)
    _forward[(len(q) // blocks.size, q.shape[1] // constants["G"])](
        q, k, v, out, lse, position, end, blocks.key_counts, blocks.keys, len(q), window, scale * _LOG2E,
        **constants, num_stages=_STAGES["forward"],
    )  # fmt: skip
    return out, lse


def queries_gradient(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, d_out: Tensor, lse: Tensor, position: Tensor, end: Tensor,
    blocks: Blocks, window: int, scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradient of q, and each output times its gradient, fp32 [H, T]."""
    constants, (tokens, heads, _) = _constants(q, k, blocks), q.shape
    d_q, inner = torch.empty_like(q), torch.empty_like(lse)
    _backward_queries[(tokens // blocks.size, heads // constants["G"])](
        q, k, v, out, d_out, lse, inner, d_q, position, end, blocks.key_counts, blocks.keys, tokens, window, scale,
        **constants, num_stages=_STAGES["queries"],
    )  # fmt: skip
    return d_q, inner


def keys_gradients(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, lse: Tensor, inner: Tensor, position: Tensor, end: Tensor,
    blocks: Blocks, window: int, scale: float, programs: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients of k and v; `programs` share a block of keys."""
    d_k, d_v = (torch.zeros(k.shape, dtype=torch.float32, device=k.device) for _ in range(2))
    _backward_keys[(len(q) // blocks.size, k.shape[1], programs)](
        q, k, v, d_out, lse, inner, d_k, d_v, position, end, blocks.query_counts, blocks.queries, len(q), window,
        scale, DEALT=_DEALT, **_constants(q, k, blocks), num_stages=_STAGES["keys"],
    )  # fmt: skip
    return d_k.to(k.dtype), d_v.to(v.dtype)


def _constants(q: Tensor, k: Tensor, blocks: Blocks) -> dict[str, Any]:
    """What the kernels are compiled for: heads, sizes, heads in a tile, and fp32 products in fp32 rather than TF32."""
    _, heads, size = q.shape
    precision = "ieee" if q.dtype == torch.float32 else "tf32"
    together = 2 if heads // k.shape[1] % 2 == 0 else 1
    return {"H": heads, "K": k.shape[1], "E": size, "B": blocks.size, "G": together, "P": precision,
            "num_warps": 4 if size * together <= 128 else 8}  # fmt: skip


@triton.jit
def _rows(block, group, H: tl.constexpr, E: tl.constexpr, B: tl.constexpr, G: tl.constexpr):
    """A tile of G heads of a block's tokens: tokens [G * B], heads [G * B], places in [T, H, E]."""
    lane = tl.arange(0, G * B)
    token, head = block * B + lane % B, group * G + lane // B
    place = (token[:, None].to(tl.int64) * H + head[:, None]) * E + tl.arange(0, E)[None, :]
    return token, head, place


@triton.jit
def _visible(query, key, end, position_q, position_k, window):
    """Queries down, keys across."""
    before = (key[None, :] <= query[:, None]) & (query[:, None] < end[None, :])
    return before & (position_q[:, None] - position_k[None, :] < window)


@triton.jit
def _attend(
    q, query, position_q, most, total, mixed, block, KEY, V, POSITION, END, window, scale, head,
    K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, P: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """One more block of keys."""
    key = block * B + tl.arange(0, B)
    where = (key[:, None].to(tl.int64) * K + head) * E + tl.arange(0, E)[None, :]
    scores = tl.dot(q, tl.trans(tl.load(KEY + where)), input_precision=P)
    if MASKED:
        seen = _visible(query, key, tl.load(END + key), position_q, tl.load(POSITION + key), window)
        scores = tl.where(seen, scores, float("-inf"))
    # `most` is scaled, the scores are not: product and difference are then one instruction.
    higher = tl.maximum(most, tl.max(scores, 1) * scale)
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores * scale - base[:, None])
    shrink = tl.exp2(most - base)
    v = tl.load(V + where)
    mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=P)
    return higher, total * shrink + tl.sum(weights, 1), mixed


@triton.jit
def _forward(
    Q, KEY, V, OUT, LSE, POSITION, END, COUNTS, LISTS, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    block, group = tl.program_id(0), tl.program_id(1)
    query, head, place = _rows(block, group, H, E, B, G)
    q, position_q = tl.load(Q + place), tl.load(POSITION + query)
    shared = group * G // (H // K)
    most = tl.full([G * B], float("-inf"), tl.float32)
    total, mixed = tl.zeros([G * B], tl.float32), tl.zeros([G * B, E], tl.float32)
    line = LISTS + block.to(tl.int64) * (tokens // B)
    whole, count = tl.load(COUNTS + 2 * block), tl.load(COUNTS + 2 * block + 1)
    for i in range(whole):
        most, total, mixed = _attend(q, query, position_q, most, total, mixed, tl.load(line + i), KEY, V, POSITION,
                                     END, window, scale, shared, K, E, B, P, False)  # fmt: skip
    for i in range(whole, count):
        most, total, mixed = _attend(q, query, position_q, most, total, mixed, tl.load(line + i), KEY, V, POSITION,
                                     END, window, scale, shared, K, E, B, P, True)  # fmt: skip
    tl.store(OUT + place, (mixed / total[:, None]).to(OUT.dtype.element_ty))
    tl.store(LSE + head.to(tl.int64) * tokens + query, most + tl.log2(total))


@triton.jit
def _score_gradient(
    q, k, v, d_out, lse, inner, query, key, end, position_q, position_k, window, scale,
    P: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Weights, and the gradient of the scores over `scale`, both [queries, keys] in fp32."""
    scores = tl.dot(q, tl.trans(k), input_precision=P) * (scale * 1.4426950408889634)
    weights = tl.exp2(scores - lse[:, None])
    if MASKED:
        weights = tl.where(_visible(query, key, end, position_q, position_k, window), weights, 0.0)
    d_weights = tl.dot(d_out, tl.trans(v), input_precision=P)
    return weights, weights * (d_weights - inner[:, None])


@triton.jit
def _query_gradient(
    d_q, q, d_out, lse, inner, query, position_q, block, KEY, V, POSITION, END, window, scale, head,
    K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, P: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    key = block * B + tl.arange(0, B)
    where = (key[:, None].to(tl.int64) * K + head) * E + tl.arange(0, E)[None, :]
    k, v = tl.load(KEY + where), tl.load(V + where)
    _, d_scores = _score_gradient(q, k, v, d_out, lse, inner, query, key, tl.load(END + key), position_q,
                                  tl.load(POSITION + key), window, scale, P, MASKED)  # fmt: skip
    return d_q + tl.dot(d_scores.to(k.dtype), k, input_precision=P)


@triton.jit
def _backward_queries(
    Q, KEY, V, OUT, DOUT, LSE, INNER, DQ, POSITION, END, COUNTS, LISTS, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """The gradient of the queries, and INNER, each output times its gradient, which that of the keys needs too."""
    block, group = tl.program_id(0), tl.program_id(1)
    query, head, place = _rows(block, group, H, E, B, G)
    q, d_out, position_q = tl.load(Q + place), tl.load(DOUT + place), tl.load(POSITION + query)
    row = head.to(tl.int64) * tokens + query
    lse = tl.load(LSE + row)
    inner = tl.sum(d_out.to(tl.float32) * tl.load(OUT + place).to(tl.float32), 1)
    tl.store(INNER + row, inner)
    shared = group * G // (H // K)
    d_q = tl.zeros([G * B, E], tl.float32)
    line = LISTS + block.to(tl.int64) * (tokens // B)
    whole, count = tl.load(COUNTS + 2 * block), tl.load(COUNTS + 2 * block + 1)
    for i in range(whole):
        d_q = _query_gradient(d_q, q, d_out, lse, inner, query, position_q, tl.load(line + i), KEY, V, POSITION, END,
                              window, scale, shared, K, E, B, P, False)  # fmt: skip
    for i in range(whole, count):
        d_q = _query_gradient(d_q, q, d_out, lse, inner, query, position_q, tl.load(line + i), KEY, V, POSITION, END,
                              window, scale, shared, K, E, B, P, True)  # fmt: skip
    tl.store(DQ + place, (d_q * scale).to(DQ.dtype.element_ty))


@triton.jit
def _key_gradient(
    d_k, d_v, k, v, key, end, position_k, item, first, line, Q, DOUT, LSE, INNER, POSITION, tokens, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    groups: tl.constexpr = H // K // G
    query, head, place = _rows(tl.load(line + item // groups), first + item % groups, H, E, B, G)
    q, d_out = tl.load(Q + place), tl.load(DOUT + place)
    row = head.to(tl.int64) * tokens + query
    weights, d_scores = _score_gradient(q, k, v, d_out, tl.load(LSE + row), tl.load(INNER + row), query, key, end,
                                        tl.load(POSITION + query), position_k, window, scale, P, MASKED)  # fmt: skip
    d_v += tl.dot(tl.trans(weights.to(d_out.dtype)), d_out, input_precision=P)
    d_k += tl.dot(tl.trans(d_scores.to(q.dtype)), q, input_precision=P)
    return d_k, d_v


@triton.jit
def _backward_keys(
    Q, KEY, V, DOUT, LSE, INNER, DK, DV, POSITION, END, COUNTS, LISTS, tokens, window, scale, DEALT: tl.constexpr,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, B: tl.constexpr, G: tl.constexpr, P: tl.constexpr,
):  # fmt: skip
    """Keys of one block and head against the tiles of queries dealt to this program of those that share the block."""
    block, shared, program = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    groups: tl.constexpr = H // K // G
    whole = tl.load(COUNTS + 2 * block) * groups
    count = tl.load(COUNTS + 2 * block + 1) * groups
    programs = tl.minimum(tl.num_programs(2), tl.cdiv(count, DEALT))
    if program < programs:
        key = block * B + tl.arange(0, B)
        where = (key[:, None].to(tl.int64) * K + shared) * E + tl.arange(0, E)[None, :]
        k, v, end, position_k = tl.load(KEY + where), tl.load(V + where), tl.load(END + key), tl.load(POSITION + key)
        d_k, d_v = tl.zeros([B, E], tl.float32), tl.zeros([B, E], tl.float32)
        line = LISTS + block.to(tl.int64) * (tokens // B)
        first = shared * groups
        for item in range(program, whole, programs):
            d_k, d_v = _key_gradient(d_k, d_v, k, v, key, end, position_k, item, first, line, Q, DOUT, LSE, INNER,
                                     POSITION, tokens, window, scale, H, K, E, B, G, P, False)  # fmt: skip
        masked = program + tl.cdiv(tl.maximum(whole - program, 0), programs) * programs
        for item in range(masked, count, programs):
            d_k, d_v = _key_gradient(d_k, d_v, k, v, key, end, position_k, item, first, line, Q, DOUT, LSE, INNER,
                                     POSITION, tokens, window, scale, H, K, E, B, G, P, True)  # fmt: skip
        d_k *= scale
        if programs == 1:
            tl.store(DK + where, d_k)
            tl.store(DV + where, d_v)
        else:
            tl.atomic_add(DK + where, d_k, sem="relaxed")
            tl.atomic_add(DV + where, d_v, sem="relaxed")
