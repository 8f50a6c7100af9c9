"""Attention of one new token a row in Triton: two kernels a layer, one over the shared keys and one over a row's own.

The shared keys are dealt out to splits, each of which serves QUERIES queries of all rows at once and leaves a part:
its output and its logarithm of the sum of exponentials (flash decoding, Dao et al. 2023). The program of a row and a
key head writes the new key and value to the row's slot, passes over the row's older keys, and joins the parts.
Keys are read once by each program, and only as far as they are real: the buffers' padding costs nothing. Rejected:
one program for shared and own keys alike, which reads the shared keys once for each row instead of for QUERIES queries.
Shapes: B rows, H query heads, K key heads, G = H / K, E head size (a power of 2), P shared keys, M own slots, S splits.
"""


from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SPLITS, SPLIT_KEYS = 8, 128
"""At most so many splits, of at least so many keys."""

SHARED_TILES = {2: {"QUERIES": 32, "KEYS": 64, "num_warps": 4, "num_stages": 1},
                4: {"QUERIES": 32, "KEYS": 16, "num_warps": 8, "num_stages": 2}}  # fmt: skip
OWN_TILES = {2: {"KEYS": 32, "num_warps": 4, "num_stages": 2}, 4: {"KEYS": 16, "num_warps": 4, "num_stages": 2}}
"""By the bytes of a number. At E = 256 the tiles of a program fill at most 96 KiB of shared memory."""

_LOG2E = 1.4426950408889634
_EVERYTHING = 1 << 30


def decode(
    q: Tensor, k: Tensor, v: Tensor, shared: Tensor, own: Tensor, slot: Tensor, length: Tensor, window: int | None,
    scale: float,
) -> Tensor:  # fmt: skip
    """q [B, H, E], k, v [B, K, E], shared [2, K, P, E], own [2, B, K, M, E] -> [B, H, E]; writes k and v to own.

    slot int64 [B] below M; the last `length` (int64 [1]) shared keys are real. `window` None: all keys are visible.
    """
    assert shared.is_contiguous() and own.is_contiguous()
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    (rows, heads, size), key_heads, prefix = q.shape, k.shape[1], shared.shape[2]
    low = 0 if window is None else max(0, prefix - window + 1)
    splits = min(SPLITS, triton.cdiv(prefix - low, SPLIT_KEYS))
    seen = _EVERYTHING if window is None else window
    lse = torch.empty(splits, rows, heads, dtype=torch.float32, device=q.device)
    parts = torch.empty(splits, rows, heads, size, dtype=torch.float32, device=q.device)
    constants = {"H": heads, "K": key_heads, "E": size, "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32"}
    if splits:
        tiles = SHARED_TILES[q.element_size()]
        grid = (triton.cdiv(rows * heads // key_heads, tiles["QUERIES"]), key_heads, splits)
        _shared[grid](
            q, shared[0], shared[1], lse, parts, slot, length, rows, prefix, low, triton.cdiv(prefix - low, splits),
            seen, scale * _LOG2E, **constants, **tiles,
        )  # fmt: skip
    out = torch.empty_like(q)
    _own[(rows, key_heads)](
        q, k, v, own[0], own[1], lse, parts, out, slot, rows, own.shape[3], seen, scale * _LOG2E, **constants,
        LANES=max(16, triton.next_power_of_2(heads // key_heads)), S=splits, **OWN_TILES[q.element_size()],
    )  # fmt: skip
    return out


@triton.jit
def _more(q, k, v, seen, scale, most, total, mixed, PRECISION: tl.constexpr):
    """The running maximum, sum and output after some more keys; exponentials are of 2."""
    scores = tl.where(seen, tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale, float("-inf"))
    higher = tl.maximum(most, tl.max(scores, 1))
    base = tl.where(higher == float("-inf"), 0.0, higher)
    weights = tl.exp2(scores - base[:, None])
    shrink = tl.exp2(most - base)
    mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    return higher, total * shrink + tl.sum(weights, 1), mixed


@triton.jit
def _shared(
    Q, KEY, VALUE, LSE, PARTS, SLOT, LENGTH, rows, prefix, low, chunk, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    head, split = tl.program_id(1), tl.program_id(2)
    lane, column = tl.arange(0, KEYS), tl.arange(0, E)
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row = query // (H // K)
    inside = row < rows
    place = row.to(tl.int64) * H + head * (H // K) + query % (H // K)
    q = tl.load(Q + place[:, None] * E + column[None, :], mask=inside[:, None], other=0.0)
    slot = tl.load(SLOT + row, mask=inside, other=0)
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    mixed = tl.zeros([QUERIES, E], tl.float32)
    padding = prefix - tl.load(LENGTH)
    stop = tl.minimum(low + (split + 1) * chunk, prefix)
    for start in range(tl.maximum(low + split * chunk, padding), stop, KEYS):
        key = start + lane
        where = (head.to(tl.int64) * prefix + key)[:, None] * E + column[None, :]
        k = tl.load(KEY + where, mask=(key < stop)[:, None], other=0.0)
        v = tl.load(VALUE + where, mask=(key < stop)[:, None], other=0.0)
        seen = (key < stop)[None, :] & (slot[:, None] + prefix - key[None, :] < window)
        most, total, mixed = _more(q, k, v, seen, scale, most, total, mixed, PRECISION)
    some = total > 0.0
    part = split.to(tl.int64) * rows * H + place
    tl.store(LSE + part, tl.where(some, most + tl.log2(tl.where(some, total, 1.0)), float("-inf")), mask=inside)
    mixed = mixed / tl.where(some, total, 1.0)[:, None]
    tl.store(PARTS + part[:, None] * E + column[None, :], mixed, mask=inside[:, None])


@triton.jit
def _own(
    Q, NEW_KEY, NEW_VALUE, KEY, VALUE, LSE, PARTS, OUT, SLOT, rows, capacity, window, scale,
    H: tl.constexpr, K: tl.constexpr, E: tl.constexpr, PRECISION: tl.constexpr, LANES: tl.constexpr, S: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane, column, query = tl.arange(0, KEYS), tl.arange(0, E), tl.arange(0, LANES)
    inside = query < H // K
    place = row * H + head * (H // K) + query
    q = tl.load(Q + place[:, None] * E + column[None, :], mask=inside[:, None], other=0.0)
    slot = tl.load(SLOT + row)
    first = (row * K + head) * capacity
    new_key = tl.load(NEW_KEY + (row * K + head) * E + column)
    new_value = tl.load(NEW_VALUE + (row * K + head) * E + column)
    tl.store(KEY + (first + slot) * E + column, new_key)
    tl.store(VALUE + (first + slot) * E + column, new_value)
    most = tl.sum(q.to(tl.float32) * new_key.to(tl.float32)[None, :], 1) * scale
    total = tl.full([LANES], 1.0, tl.float32)
    mixed = tl.zeros([LANES, E], tl.float32) + new_value.to(tl.float32)[None, :]
    for start in range(tl.maximum(slot - window + 1, 0), slot, KEYS):
        key = start + lane
        where = (first + key)[:, None] * E + column[None, :]
        k = tl.load(KEY + where, mask=(key < slot)[:, None], other=0.0)
        v = tl.load(VALUE + where, mask=(key < slot)[:, None], other=0.0)
        most, total, mixed = _more(q, k, v, (key < slot)[None, :], scale, most, total, mixed, PRECISION)
    part = place
    for _ in tl.static_range(S):
        lse = tl.load(LSE + part, mask=inside, other=float("-inf"))
        higher = tl.maximum(most, lse)
        shrink, weight = tl.exp2(most - higher), tl.exp2(lse - higher)
        shared = tl.load(PARTS + part[:, None] * E + column[None, :], mask=inside[:, None], other=0.0)
        mixed = mixed * shrink[:, None] + shared * weight[:, None]
        total = total * shrink + weight
        most = higher
        part += rows * H
    out = mixed / total[:, None]
    tl.store(OUT + place[:, None] * E + column[None, :], out.to(OUT.dtype.element_ty), mask=inside[:, None])
