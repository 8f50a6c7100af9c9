"""NF4 to floats in Triton: one pass that reads 0.52 bytes a weight and writes it, near the memory's speed.

A program takes some blocks of 64 weights; their scales are worked out once, and the codes are looked up in a table of
64 bytes that stays in the first cache. Equal to plain PyTorch bit for bit: no product is fused with a sum.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from dozan.kernels.nf4 import BLOCK, CODE, NESTED_BLOCK, NF4

_BLOCKS = 64
"""Blocks of 64 weights to a program."""
_ROWS, _PROGRAMS = 128, 400
"""Rows of the weight to a program that multiplies, and how many of these there should be."""


@functools.cache
def _code(device: torch.device) -> Tensor:
    return torch.tensor(CODE, dtype=torch.float32, device=device)


def dequantise(weight: NF4, out: Tensor, rows: Tensor | None) -> None:
    """Write [O, I] into `out`, contiguous; rows: fp32 [O] or None."""
    count, none = len(weight.absmax), weight.absmax
    nested, code, offset = weight.nested, weight.nested_code, weight.offset
    plain = nested is None
    _dequantise[(triton.cdiv(count, _BLOCKS),)](
        weight.codes, weight.absmax, none if plain else nested, none if plain else code, none if plain else offset,
        _code(weight.device), none if rows is None else rows, out, count, weight.shape[1] // BLOCK,
        PLAIN=plain, ROWS=rows is not None, BLOCKS=_BLOCKS, HALF=BLOCK // 2, GROUP=NESTED_BLOCK,
        num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def products(weight: NF4, right: Tensor) -> Tensor:
    """fp32 [S, O, R], whose sum over S is W rightᵀ; W is rounded to the dtype of `right`, in 16 bits and contiguous
    [R, I], and never in memory.
    """
    (outputs, inputs), rank = weight.shape, len(right)
    assert right.is_contiguous() and right.shape[1] == inputs and right.dtype.itemsize == 2, (right.shape, right.dtype)
    per_row, none, plain = inputs // BLOCK, weight.absmax, weight.nested is None
    tiles = triton.cdiv(outputs, _ROWS)
    share = triton.cdiv(per_row, max(1, min(per_row // 4, _PROGRAMS // tiles)))
    strips = triton.cdiv(per_row, share)
    out = torch.empty(strips, outputs, rank, dtype=torch.float32, device=weight.device)
    _products[(tiles, strips)](
        weight.codes, weight.absmax, none if plain else weight.nested, none if plain else weight.nested_code,
        none if plain else weight.offset, _code(weight.device), right.view(torch.int32), out, outputs, per_row,
        share, rank, PLAIN=plain, BFLOAT=right.dtype == torch.bfloat16, ROWS=_ROWS,
        WIDTH=max(16, triton.next_power_of_2(rank)), HALF=BLOCK // 2, GROUP=NESTED_BLOCK, num_warps=8,
        num_stages=1,  # with more, each look into the table becomes a copy to shared memory: ten times the time
    )  # fmt: skip
    return out


@triton.jit
def _dequantise(CODES, ABSMAX, NESTED, NESTED_CODE, OFFSET, TABLE, FACTOR, OUT, count, per_row,
                PLAIN: tl.constexpr, ROWS: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr,
                GROUP: tl.constexpr):  # fmt: skip
    """count: blocks in all; per_row: blocks to a row; HALF: bytes to a block."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    real = block < count
    scale = tl.load(ABSMAX + block, mask=real, other=0)
    if not PLAIN:
        step = tl.load(NESTED_CODE + scale.to(tl.int32), mask=real, other=0.0)
        scale = step * tl.load(NESTED + block // GROUP, mask=real, other=0.0) + tl.load(OFFSET)
    place = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    pair = tl.load(CODES + place, mask=real[:, None], other=0).to(tl.int32)
    first = tl.load(TABLE + (pair >> 4)) * scale[:, None]
    second = tl.load(TABLE + (pair & 15)) * scale[:, None]
    if ROWS:
        factor = tl.load(FACTOR + block // per_row, mask=real, other=0.0)
        first, second = first * factor[:, None], second * factor[:, None]
    values = tl.join(first, second).reshape(BLOCKS, 2 * HALF).to(OUT.dtype.element_ty)
    target = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    tl.store(OUT + target, values, mask=real[:, None])


@triton.jit
def _products(CODES, ABSMAX, NESTED, NESTED_CODE, OFFSET, TABLE, RIGHT, OUT, rows, per_row, share, rank,
              PLAIN: tl.constexpr, BFLOAT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
              GROUP: tl.constexpr):  # fmt: skip
    """per_row: blocks to a row; share: how many of them a program takes; HALF: bytes to a block. RIGHT: int32, two
    numbers in each. What the next block needs is asked for before this one is multiplied."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at, known = tl.arange(0, HALF), column[None, :] < rank
    real, first_of_row = row < rows, row.to(tl.int64) * per_row
    source = RIGHT + column[None, :] * (per_row * HALF) + at[:, None]
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    half = tl.bfloat16 if BFLOAT else tl.float16
    block = tl.program_id(1) * share
    end = tl.minimum(block + share, per_row)
    small, group, pair = _fetch(CODES, ABSMAX, NESTED, first_of_row + block, real, at, PLAIN, HALF, GROUP)
    both = tl.load(source + block * HALF, mask=known, other=0)
    for here in range(block, end):
        wanted = real & (row * 0 + here + 1 < end)
        ahead = _fetch(CODES, ABSMAX, NESTED, first_of_row + here + 1, wanted, at, PLAIN, HALF, GROUP)
        both_ahead = tl.load(source + (here + 1) * HALF, mask=known & (column[None, :] * 0 + here + 1 < end), other=0)
        scale = small
        if not PLAIN:
            scale = tl.load(NESTED_CODE + small.to(tl.int32), mask=real, other=0.0) * group + tl.load(OFFSET)
        even = (tl.load(TABLE + (pair >> 4)) * scale[:, None]).to(half)
        odd = (tl.load(TABLE + (pair & 15)) * scale[:, None]).to(half)
        total = tl.dot(even, (both & 0xFFFF).to(tl.int16).to(half, bitcast=True), total)
        total = tl.dot(odd, (both >> 16).to(tl.int16).to(half, bitcast=True), total)
        small, group, pair = ahead
        both = both_ahead
    target = (tl.program_id(1).to(tl.int64) * rows + row[:, None]) * rank + column[None, :]
    tl.store(OUT + target, total, mask=real[:, None] & known)


@triton.jit
def _fetch(CODES, ABSMAX, NESTED, place, wanted, at, PLAIN: tl.constexpr, HALF: tl.constexpr, GROUP: tl.constexpr):
    """Of a block of each row: its scale as it is held, its nested scale, its codes in pairs."""
    small = tl.load(ABSMAX + place, mask=wanted, other=0)
    group = small
    if not PLAIN:
        group = tl.load(NESTED + place // GROUP, mask=wanted, other=0.0)
    pair = tl.load(CODES + place[:, None] * HALF + at[None, :], mask=wanted[:, None], other=0).to(tl.int32)
    return small, group, pair
