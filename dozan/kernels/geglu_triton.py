"""gelu_tanh(gate) · up in Triton: one pass over memory each way, computed in fp32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
_ROWS, _COLUMNS, _STRIPS = 32, 64, 16


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """gate and up contiguous, of one shape."""
    out = torch.empty_like(gate)
    _forward[(triton.cdiv(gate.numel(), _BLOCK),)](gate, up, out, gate.numel(), BLOCK=_BLOCK)
    return out


def backward(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up."""
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    _backward[(triton.cdiv(gate.numel(), _BLOCK),)](grad, gate, up, d_gate, d_up, gate.numel(), BLOCK=_BLOCK)
    return d_gate, d_up


def backward_with_dots(grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The gradients of gate and up [..., F], and fp32 [S, F] of each: gradient times value, added up over S strips of
    rows."""
    d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
    columns = gate.shape[-1]
    rows = gate.numel() // columns
    strips = min(_STRIPS, triton.cdiv(rows, _ROWS))
    dots = [torch.empty(strips, columns, dtype=torch.float32, device=gate.device) for _ in range(2)]
    _backward_dots[(triton.cdiv(columns, _COLUMNS), strips)](
        grad, gate, up, d_gate, d_up, *dots, rows, columns, ROWS=_ROWS, COLUMNS=_COLUMNS
    )
    return d_gate, d_up, dots


@triton.jit
def _gate(x):
    """(the smooth step s(x) = (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2, its derivative); gelu(x) = x s(x)."""
    inner = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    step = tl.sigmoid(2.0 * inner)
    slope = 2.0 * step * (1.0 - step) * 0.7978845608028654 * (1.0 + 0.134145 * x * x)
    return step, slope


@triton.jit
def _forward(GATE, UP, OUT, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    x = tl.load(GATE + place, mask=inside, other=0.0).to(tl.float32)
    step, _ = _gate(x)
    # The activation has its own rounding in the model, before the product.
    active = (x * step).to(OUT.dtype.element_ty).to(tl.float32)
    out = active * tl.load(UP + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + place, out.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def _backward(GRAD, GATE, UP, DGATE, DUP, count, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    x = tl.load(GATE + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(UP + place, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(GRAD + place, mask=inside, other=0.0).to(tl.float32)
    step, slope = _gate(x)
    tl.store(DGATE + place, (grad * up * (step + x * slope)).to(DGATE.dtype.element_ty), mask=inside)
    tl.store(DUP + place, (grad * x * step).to(DUP.dtype.element_ty), mask=inside)


@triton.jit
def _backward_dots(GRAD, GATE, UP, DGATE, DUP, GATEDOTS, UPDOTS, rows, columns,
                   ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    strip, strips = tl.program_id(1), tl.num_programs(1)
    gates = tl.zeros([ROWS, COLUMNS], tl.float32)
    ups = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(strip * ROWS, rows, strips * ROWS):
        row = start + tl.arange(0, ROWS)
        place = row[:, None].to(tl.int64) * columns + column[None, :]
        inside = (row[:, None] < rows) & (column[None, :] < columns)
        x = tl.load(GATE + place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(UP + place, mask=inside, other=0.0).to(tl.float32)
        grad = tl.load(GRAD + place, mask=inside, other=0.0).to(tl.float32)
        step, slope = _gate(x)
        d_gate = (grad * up * (step + x * slope)).to(DGATE.dtype.element_ty)
        d_up = (grad * x * step).to(DUP.dtype.element_ty)
        gates += d_gate.to(tl.float32) * x
        ups += d_up.to(tl.float32) * up
        tl.store(DGATE + place, d_gate, mask=inside)
        tl.store(DUP + place, d_up, mask=inside)
    target = strip.to(tl.int64) * columns + column
    tl.store(GATEDOTS + target, tl.sum(gates, 0), mask=column < columns)
    tl.store(UPDOTS + target, tl.sum(ups, 0), mask=column < columns)
