"""Gemma's gated activation, gelu_tanh(gate) · up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dozan.kernels.precision import has_triton


class _GeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, dots: list[Tensor] | None) -> Tensor:
        from dozan.kernels.geglu_triton import forward

        ctx.save_for_backward(gate, up)
        ctx.dots = dots
        return forward(gate, up)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        from dozan.kernels import geglu_triton

        gate, up = ctx.saved_tensors
        grad = outer[0].contiguous()
        if ctx.dots is None:
            return *geglu_triton.backward(grad, gate, up), None
        d_gate, d_up, ctx.dots[:] = geglu_triton.backward_with_dots(grad, gate, up)
        return d_gate, d_up, None


def geglu(gate: Tensor, up: Tensor, dots: list[Tensor] | None = None) -> Tensor:
    """gelu(gate), approximated by tanh, times up: both [..., F] -> [..., F].

    dots: the list that `low_rank_linears` was given when it made gate and up, or None. A fused backward pass, which has
    these and their gradients at hand, leaves there what the magnitudes' gradients need: two of fp32 [S, F], whose sums
    over S are those of gradient times value over all positions.
    """
    if not has_triton(gate.device):
        return F.gelu(gate, approximate="tanh") * up
    out: Tensor = _GeGLU.apply(gate, up, dots)
    return out
