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
_ROWS, _PROGRAMS = 64, 1024
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
    """fp32 [S, O, R], whose sum over S is W rightᵀ with W rounded to the dtype of `right`, in 16 bits: [R, I],
    contiguous, its even columns before its odd ones. W is never in memory.
    """
    (outputs, inputs), rank = weight.shape, len(right)
    assert right.is_contiguous() and right.shape[1] == inputs and right.dtype.itemsize == 2, (right.shape, right.dtype)
    per_row, none, plain = inputs // BLOCK, weight.absmax, weight.nested is None
    tiles = triton.cdiv(outputs, _ROWS)
    strips = max(1, min(per_row // 4, _PROGRAMS // tiles))
    out = torch.empty(strips, outputs, rank, dtype=torch.float32, device=weight.device)
    _products[(tiles, strips)](
        weight.codes, weight.absmax, none if plain else weight.nested, none if plain else weight.nested_code,
        none if plain else weight.offset, _code(weight.device), right, out, outputs, per_row,
        triton.cdiv(per_row, strips), rank, PLAIN=plain, ROWS=_ROWS, WIDTH=max(16, triton.next_power_of_2(rank)),
        HALF=BLOCK // 2, GROUP=NESTED_BLOCK, num_warps=4,
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
              PLAIN: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, HALF: tl.constexpr,
              GROUP: tl.constexpr):  # fmt: skip
    """per_row: blocks to a row; share: how many of them a program takes; HALF: bytes to a block."""
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    at, known = tl.arange(0, HALF), column < rank
    real, width = row < rows, per_row * HALF
    first_of_row = row.to(tl.int64) * per_row
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    strip = tl.program_id(1)
    for block in range(strip * share, tl.minimum((strip + 1) * share, per_row)):
        place = first_of_row + block
        scale = tl.load(ABSMAX + place, mask=real, other=0)
        if not PLAIN:
            step = tl.load(NESTED_CODE + scale.to(tl.int32), mask=real, other=0.0)
            scale = step * tl.load(NESTED + place // GROUP, mask=real, other=0.0) + tl.load(OFFSET)
        pair = tl.load(CODES + place[:, None] * HALF + at[None, :], mask=real[:, None], other=0).to(tl.int32)
        even = (tl.load(TABLE + (pair >> 4)) * scale[:, None]).to(RIGHT.dtype.element_ty)
        odd = (tl.load(TABLE + (pair & 15)) * scale[:, None]).to(RIGHT.dtype.element_ty)
        source = column[None, :] * (2 * width) + block * HALF + at[:, None]
        total = tl.dot(even, tl.load(RIGHT + source, mask=known[None, :], other=0.0), total)
        total = tl.dot(odd, tl.load(RIGHT + source + width, mask=known[None, :], other=0.0), total)
    target = (strip.to(tl.int64) * rows + row[:, None]) * rank + column[None, :]
    tl.store(OUT + target, total, mask=real[:, None] & known[None, :])
