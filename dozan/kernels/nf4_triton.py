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
