"""RMSNorm, alone, before a residual or before rotary positions, in Triton: one pass over memory each way.

Rows are the last dimension; a program takes a tile of them. N rows, D their size.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
"""Numbers in a program's tile, more where one row is longer."""


def _grid(rows: int, size: int) -> tuple[tuple[int], dict[str, int]]:
    width = triton.next_power_of_2(size)
    height = max(1, _TILE // width)
    return (triton.cdiv(rows, height),), {"ROWS": height, "WIDTH": width, "num_warps": 4 if width <= 2048 else 8}


def forward(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """(residual + x / rms(x) · (1 + weight), 1 / rms(x) fp32 [N]); x [..., D] contiguous, residual of its shape.

    The sum is of the residual's dtype; without one the norm is of the weight's.
    """
    size = x.shape[-1]
    rows = x.numel() // size
    other = x if residual is None else residual
    out = torch.empty_like(x, dtype=weight.dtype if residual is None else residual.dtype)
    inverse = torch.empty(rows, dtype=torch.float32, device=x.device)
    grid, tile = _grid(rows, size)
    _forward[grid](x, weight, other, out, inverse, rows, size, eps, ADD=residual is not None, **tile)
    return out, inverse


def backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, through: Tensor | None = None) -> Tensor:
    """The gradient of x in x's dtype, on top of `through` if given: all [..., D] and contiguous."""
    size = x.shape[-1]
    rows = x.numel() // size
    out = torch.empty_like(x)
    grid, tile = _grid(rows, size)
    other = x if through is None else through
    _backward[grid](grad, x, weight, inverse, other, out, rows, size, ADD=through is not None, **tile)
    return out


def rotated_forward(x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """The norm and then the rotation of x [T, heads, D], and 1 / rms fp32 [T * heads]; cos and sin [T, 1, D]."""
    tokens, heads, size = x.shape
    out, inverse = torch.empty_like(x), torch.empty(tokens * heads, dtype=torch.float32, device=x.device)
    grid, tile = _grid(tokens * heads, size // 2)
    _rotated_forward[grid](x, weight, cos, sin, out, inverse, tokens * heads, heads, size // 2, eps, **tile)
    return out, inverse


def rotated_backward(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The gradient of x [T, heads, D]."""
    tokens, heads, size = x.shape
    out = torch.empty_like(x)
    grid, tile = _grid(tokens * heads, size // 2)
    _rotated_backward[grid](grad, x, weight, cos, sin, inverse, out, tokens * heads, heads, size // 2, **tile)
    return out


@triton.jit
def _tile(rows, size, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """(row [ROWS, 1], column [1, WIDTH], which are inside)."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    return row.to(tl.int64), column, (row < rows) & (column < size)


@triton.jit
def _forward(X, W, RESIDUAL, OUT, INVERSE, rows, size, eps,
             ADD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, column, inside = _tile(rows, size, ROWS, WIDTH)
    place = row * size + column
    x = tl.load(X + place, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / size + eps)
    out = x * inverse * (1.0 + tl.load(W + column, mask=column < size, other=0.0).to(tl.float32))
    if ADD:
        # The norm has its own rounding in the model, before the sum.
        out = out.to(OUT.dtype.element_ty).to(tl.float32)
        out += tl.load(RESIDUAL + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + place, out.to(OUT.dtype.element_ty), mask=inside)
    tl.store(INVERSE + row, inverse, mask=row < rows)


@triton.jit
def _backward(GRAD, X, W, INVERSE, THROUGH, OUT, rows, size,
              ADD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, column, inside = _tile(rows, size, ROWS, WIDTH)
    place = row * size + column
    inverse = tl.load(INVERSE + row, mask=row < rows, other=0.0)
    normed = tl.load(X + place, mask=inside, other=0.0).to(tl.float32) * inverse
    grad = tl.load(GRAD + place, mask=inside, other=0.0).to(tl.float32)
    grad *= 1.0 + tl.load(W + column, mask=column < size, other=0.0).to(tl.float32)
    mean = tl.sum(grad * normed, 1, keep_dims=True) / size
    out = (grad - normed * mean) * inverse
    if ADD:
        out += tl.load(THROUGH + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + place, out.to(OUT.dtype.element_ty), mask=inside)


# A single head is no kernel of its own.
@triton.jit(do_not_specialize=["heads"])
def _rotated_forward(X, W, COS, SIN, OUT, INVERSE, rows, heads, half, eps,
                     ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, column, inside = _tile(rows, half, ROWS, WIDTH)
    left = row * 2 * half + column
    angle = row // heads * 2 * half + column
    x1 = tl.load(X + left, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(X + left + half, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt((tl.sum(x1 * x1, 1, keep_dims=True) + tl.sum(x2 * x2, 1, keep_dims=True)) / (2 * half) + eps)
    x1 *= inverse * (1.0 + tl.load(W + column, mask=column < half, other=0.0).to(tl.float32))
    x2 *= inverse * (1.0 + tl.load(W + half + column, mask=column < half, other=0.0).to(tl.float32))
    cos = tl.load(COS + angle, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(SIN + angle, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + left, (x1 * cos - x2 * sin).to(OUT.dtype.element_ty), mask=inside)
    tl.store(OUT + left + half, (x2 * cos + x1 * sin).to(OUT.dtype.element_ty), mask=inside)
    tl.store(INVERSE + row, inverse, mask=row < rows)


@triton.jit(do_not_specialize=["heads"])
def _rotated_backward(GRAD, X, W, COS, SIN, INVERSE, OUT, rows, heads, half,
                      ROWS: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
    row, column, inside = _tile(rows, half, ROWS, WIDTH)
    left = row * 2 * half + column
    angle = row // heads * 2 * half + column
    inverse = tl.load(INVERSE + row, mask=row < rows, other=0.0)
    n1 = tl.load(X + left, mask=inside, other=0.0).to(tl.float32) * inverse
    n2 = tl.load(X + left + half, mask=inside, other=0.0).to(tl.float32) * inverse
    cos = tl.load(COS + angle, mask=inside, other=0.0).to(tl.float32)
    sin = tl.load(SIN + angle, mask=inside, other=0.0).to(tl.float32)
    g1 = tl.load(GRAD + left, mask=inside, other=0.0).to(tl.float32)
    g2 = tl.load(GRAD + left + half, mask=inside, other=0.0).to(tl.float32)
    d1 = (g1 * cos + g2 * sin) * (1.0 + tl.load(W + column, mask=column < half, other=0.0).to(tl.float32))
    d2 = (g2 * cos - g1 * sin) * (1.0 + tl.load(W + half + column, mask=column < half, other=0.0).to(tl.float32))
    mean = (tl.sum(d1 * n1, 1, keep_dims=True) + tl.sum(d2 * n2, 1, keep_dims=True)) / (2 * half)
    tl.store(OUT + left, ((d1 - n1 * mean) * inverse).to(OUT.dtype.element_ty), mask=inside)
    tl.store(OUT + left + half, ((d2 - n2 * mean) * inverse).to(OUT.dtype.element_ty), mask=inside)
