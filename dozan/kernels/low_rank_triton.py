"""What DoRA adds to LoRA, in Triton: sums over tokens of products by column, and the row norms of merged weights."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_COLUMNS, _ROWS, _STRIPS = 64, 32, 16


def column_dots(left: Tensor, right: Tensor) -> Tensor:
    """Left times right of [T, O] each, contiguous, added up over S strips of rows: fp32 [S, O]."""
    rows, columns = left.shape
    strips = min(_STRIPS, triton.cdiv(rows, _ROWS))
    partial = torch.empty(strips, columns, dtype=torch.float32, device=left.device)
    _partial[(triton.cdiv(columns, _COLUMNS), strips)](
        left, right, partial, rows, columns, ROWS=_ROWS, COLUMNS=_COLUMNS
    )
    return partial


def folded(b: Tensor, magnitude: Tensor, norm: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The rows of b, fp32 [O, R], times c = magnitude / norm in `dtype`; c, fp32 [O]."""
    rows, rank = b.shape
    out, factor = torch.empty(rows, rank, dtype=dtype, device=b.device), torch.empty_like(norm)
    width = max(16, triton.next_power_of_2(rank))
    _fold[(triton.cdiv(rows, 16),)](b, magnitude, norm, out, factor, rows, rank, ROWS=16, WIDTH=width)
    return out, factor


def factor_gradients(d_b: Tensor, dots: Tensor, factor: Tensor, magnitude: Tensor) -> Tensor:
    """Multiply the rows of d_b, fp32 [O, R], by the factors in place; the gradient of the magnitudes, Σ_s dots / m.

    dots: fp32 [S, O], as of `column_dots`; factor, magnitude and the result: fp32 [O].
    """
    rows, rank = d_b.shape
    out = torch.empty_like(magnitude)
    width = max(16, triton.next_power_of_2(rank))
    _factors[(triton.cdiv(rows, 16),)](d_b, dots, factor, magnitude, out, len(dots), rows, rank, ROWS=16, WIDTH=width)
    return out


def merged_row_norms(
    cross: Tensor, own: Tensor, b: Tensor, weight_norm: Tensor, scale: float, least: float, out: Tensor
) -> None:
    """Write √(n² + 2 s Σ cross · b + s² b own bᵀ), at least `least`, into out, fp32 [O], with n = weight_norm.

    cross: fp32 [S, O, R], whose sum over S is W Aᵀ; b: fp32 [O, R]; own = A Aᵀ: fp32 [R, R].
    """
    rows, rank = b.shape
    width = max(16, triton.next_power_of_2(rank))
    _norms[(triton.cdiv(rows, 16),)](
        cross, own, b, weight_norm, out, len(cross), rows, rank, scale, least, ROWS=16, WIDTH=width
    )


@triton.jit
def _fold(B, MAGNITUDE, NORM, OUT, FACTOR, rows, rank, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    real = row < rows
    inside = real[:, None] & (column[None, :] < rank)
    place = row[:, None].to(tl.int64) * rank + column[None, :]
    factor = tl.load(MAGNITUDE + row, mask=real, other=0.0) / tl.load(NORM + row, mask=real, other=1.0)
    tl.store(FACTOR + row, factor, mask=real)
    b = tl.load(B + place, mask=inside, other=0.0) * factor[:, None]
    tl.store(OUT + place, b.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def _factors(DB, DOTS, FACTOR, MAGNITUDE, OUT, strips, rows, rank, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    real = row < rows
    inside = real[:, None] & (column[None, :] < rank)
    place = row[:, None].to(tl.int64) * rank + column[None, :]
    factor = tl.load(FACTOR + row, mask=real, other=0.0)
    tl.store(DB + place, tl.load(DB + place, mask=inside, other=0.0) * factor[:, None], mask=inside)
    total = tl.zeros([ROWS], tl.float32)
    for _ in range(strips):
        total += tl.load(DOTS + row, mask=real, other=0.0)
        DOTS += rows
    tl.store(OUT + row, total / tl.load(MAGNITUDE + row, mask=real, other=1.0), mask=real)


@triton.jit
def _norms(CROSS, OWN, B, NORM, OUT, strips, rows, rank, scale, least, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, WIDTH)
    inside = (row[:, None] < rows) & (column[None, :] < rank)
    place = row[:, None].to(tl.int64) * rank + column[None, :]
    b = tl.load(B + place, mask=inside, other=0.0)
    square = (column[:, None] < rank) & (column[None, :] < rank)
    own = tl.load(OWN + column[:, None] * rank + column[None, :], mask=square, other=0.0)
    cross = tl.zeros([ROWS, WIDTH], tl.float32)
    for _ in range(strips):
        cross += tl.load(CROSS + place, mask=inside, other=0.0)
        CROSS += rows * rank
    norm = tl.load(NORM + row, mask=row < rows, other=0.0)
    added = 2.0 * cross + scale * tl.dot(b, own, input_precision="ieee")
    total = norm * norm + scale * tl.sum(added * b, 1)
    tl.store(OUT + row, tl.maximum(tl.sqrt(tl.maximum(total, 0.0)), least), mask=row < rows)


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
