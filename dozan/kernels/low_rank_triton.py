"""What DoRA adds to LoRA, in Triton: sums over tokens of products by column, and the row norms of merged weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS, _ROWS, _STRIPS = 64, 32, 16


def column_dots(left: Tensor, right: Tensor) -> Tensor:
    """Σ_t left · right of [T, O] each, contiguous: fp32 [O]."""
    rows, columns = left.shape
    strips = min(_STRIPS, triton.cdiv(rows, _ROWS))
    partial = torch.empty(strips, columns, dtype=torch.float32, device=left.device)
    _partial[(triton.cdiv(columns, _COLUMNS), strips)](
        left, right, partial, rows, columns, ROWS=_ROWS, COLUMNS=_COLUMNS
    )
    return partial.sum(0)


def merged_row_norms(cross: Tensor, own: Tensor, b: Tensor, weight_norm: Tensor, scale: float) -> Tensor:
    """√(n² + 2 s Σ cross · b + s² b own bᵀ), fp32 [O], with n = weight_norm: cross = W Aᵀ and b fp32 [O, R], own = A Aᵀ
    fp32 [R, R]."""
    rows, rank = b.shape
    out = torch.empty(rows, dtype=torch.float32, device=b.device)
    width = max(16, triton.next_power_of_2(rank))
    _norms[(triton.cdiv(rows, 16),)](cross, own, b, weight_norm, out, rows, rank, scale, ROWS=16, WIDTH=width)
    return out


@triton.jit
def _norms(CROSS, OWN, B, NORM, OUT, rows, rank, scale, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside = (row[:, None] < rows) & (column[None, :] < rank)
    place = row[:, None].to(tl.int64) * rank + column[None, :]
    b = tl.load(B + place, mask=inside, other=0.0)
    square = (column[:, None] < rank) & (column[None, :] < rank)
    own = tl.load(OWN + column[:, None] * rank + column[None, :], mask=square, other=0.0)
    cross = tl.load(CROSS + place, mask=inside, other=0.0)
    norm = tl.load(NORM + row, mask=row < rows, other=0.0)
    added = 2.0 * cross + scale * tl.dot(b, own, input_precision="ieee")
    total = norm * norm + scale * tl.sum(added * b, 1)
    tl.store(OUT + row, tl.sqrt(tl.maximum(total, 0.0)), mask=row < rows)


@triton.jit
def _partial(LEFT, RIGHT, OUT, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    strip, strips = tl.program_id(1), tl.num_programs(1)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(strip * ROWS, rows, strips * ROWS):
        row = start + tl.arange(0, ROWS)
        place = row[:, None].to(tl.int64) * columns + column[None, :]
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        left = tl.load(LEFT + place, mask=inside, other=0.0).to(tl.float32)
        total += left * tl.load(RIGHT + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + strip.to(tl.int64) * columns + column, tl.sum(total, 0), mask=column < columns)
