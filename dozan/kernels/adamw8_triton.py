"""AdamW with moments of 8 bits in Triton: one pass over a parameter, its gradient and its moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from dozan.kernels.adamw8 import Moments, Scalars

_BLOCKS = 8
"""Blocks of 256 numbers in a program."""


def update(
    parameter: Tensor, gradient: Tensor, moments: Moments, scalars: Scalars, decay: float,
    tables: tuple[Tensor, Tensor],
) -> None:  # fmt: skip
    """As `adamw8.update`; tables fp32 [2, 256]: values and borders of the codes."""
    blocks = len(moments.first_scale)
    _update[(triton.cdiv(blocks, _BLOCKS),)](
        parameter, gradient, moments.first, moments.first_scale, moments.second, moments.second_scale, *tables,
        scalars.rate, scalars.step, scalars.skip, *scalars.betas, scalars.epsilon, decay, parameter.numel(), blocks,
        BLOCKS=_BLOCKS,
    )  # fmt: skip


@triton.jit
def _code(x, BORDERS):
    """How many borders are below x [BLOCKS, 256]: the place of the nearest value."""
    place = tl.zeros(x.shape, tl.int32)
    for step in tl.static_range(8):
        place += tl.where(tl.load(BORDERS + place + ((128 >> step) - 1)) < x, 128 >> step, 0)
    return place


@triton.jit
def _quantise(x, CODES, SCALES, TABLE, place, inside, block, blocks):
    scale = tl.max(tl.abs(x), 1)
    tl.store(SCALES + block, scale, mask=block < blocks)
    normal = x / tl.maximum(scale, 1e-38)[:, None]
    tl.store(CODES + place, _code(normal, TABLE + 256).to(tl.uint8), mask=inside)


@triton.jit
def _update(
    P, G, FIRST, FIRST_SCALE, SECOND, SECOND_SCALE, FIRST_TABLE, SECOND_TABLE, RATE, STEP, SKIP, b1, b2, epsilon, decay,
    numbers, blocks, BLOCKS: tl.constexpr,
):  # fmt: skip
    if tl.load(SKIP) == 0.0:
        block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
        place = block[:, None] * 256 + tl.arange(0, 256)[None, :]
        inside = place < numbers
        rate, step = tl.load(RATE), tl.load(STEP)
        gradient = tl.load(G + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(FIRST_SCALE + block, mask=block < blocks, other=0.0)[:, None]
        first = tl.load(FIRST_TABLE + tl.load(FIRST + place, mask=inside, other=0).to(tl.int32)) * scale
        scale = tl.load(SECOND_SCALE + block, mask=block < blocks, other=0.0)[:, None]
        second = tl.load(SECOND_TABLE + tl.load(SECOND + place, mask=inside, other=0).to(tl.int32)) * scale
        first = tl.where(inside, first * b1 + (1.0 - b1) * gradient, 0.0)
        second = tl.where(inside, second * b2 + (1.0 - b2) * gradient * gradient, 0.0)
        root = tl.sqrt(1.0 - tl.exp2(step * tl.log2(b2)))
        rate_of_first = rate / (1.0 - tl.exp2(step * tl.log2(b1)))
        p = tl.load(P + place, mask=inside, other=0.0)
        p = p * (1.0 - rate * decay) - rate_of_first * first / (tl.sqrt(second) / root + epsilon)
        tl.store(P + place, p, mask=inside)
        _quantise(first, FIRST, FIRST_SCALE, FIRST_TABLE, place, inside, block, blocks)
        _quantise(second, SECOND, SECOND_SCALE, SECOND_TABLE, place, inside, block, blocks)
