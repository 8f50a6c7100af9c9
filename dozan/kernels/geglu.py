"""Gemma's gated activation, gelu_tanh(gate) · up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dozan.kernels.precision import has_triton


class _GeGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        from dozan.kernels.geglu_triton import forward

        ctx.save_for_backward(gate, up)
        return forward(gate, up)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        from dozan.kernels.geglu_triton import backward

        gate, up = ctx.saved_tensors
        return backward(outer[0].contiguous(), gate, up)


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate), approximated by tanh, times up: both [..., F] -> [..., F]."""
    if not has_triton(gate.device):
        return F.gelu(gate, approximate="tanh") * up
    out: Tensor = _GeGLU.apply(gate, up)
    return out
