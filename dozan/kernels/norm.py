"""RMSNorm with Gemma's 1 + weight: alone, before a residual, and before rotary positions.

In float16 the residual stream is fp32: norms that read it give the weight's dtype, norms that add to it the residual's.
The backward pass needs x and one number a row. On a GPU each is one Triton kernel each way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton

Table = tuple[Tensor, Tensor]


class _RMSNorm(torch.autograd.Function):
    """With n = x / rms(x) and d = g · (1 + w):  dx = (d - n · mean(d · n)) / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> Tensor:
        if has_triton(x.device):
            from dozan.kernels import norm_triton

            x = x.contiguous()
            out, inverse = norm_triton.forward(x, weight, eps, residual)
        else:
            wide = x.float()
            inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
            out = (wide * inverse).mul_(1.0 + weight.float()).to(weight.dtype if residual is None else residual.dtype)
            out = out if residual is None else out.add_(residual)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, residual = outer[0], outer[0] if ctx.needs_input_grad[3] else None
        d_weight = _weight_gradient(grad, x, weight, inverse) if ctx.needs_input_grad[1] else None
        return _input_gradient(grad, x, weight, inverse, None), d_weight, None, residual


class _Branch(torch.autograd.Function):
    """The norm of x, and x itself: the gradients through both are added where that of the norm is made."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return _RMSNorm.forward(ctx, x, weight, eps, None), x

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        grad, through = outer
        d_weight = _weight_gradient(grad, x, weight, inverse) if ctx.needs_input_grad[1] else None
        return _input_gradient(grad, x, weight, inverse, through), d_weight, None


class _RotatedNorm(torch.autograd.Function):
    """The norm of each head and its rotation in one kernel; on a GPU alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        from dozan.kernels import norm_triton

        x = x.contiguous()
        out, inverse = norm_triton.rotated_forward(x, weight, eps, cos, sin)
        ctx.save_for_backward(x, weight, inverse, cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        from dozan.kernels import norm_triton

        x, weight, inverse, cos, sin = ctx.saved_tensors
        grad = outer[0].contiguous()
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = _weight_gradient(_turned(grad, cos, sin, -1.0), x, weight, inverse)
        return norm_triton.rotated_backward(grad, x, weight, inverse, cos, sin), d_weight, None, None, None


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turned(outer[0], cos, sin, -1.0), None, None


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    """x turned forward (sign 1) or back (-1)."""
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    return out


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor, through: Tensor | None) -> Tensor:
    """The gradient of the norm's input, and on top of it `through`, like x."""
    if has_triton(x.device):
        from dozan.kernels import norm_triton

        through = None if through is None else through.contiguous()
        return norm_triton.backward(grad.contiguous(), x, weight, inverse, through)
    normed, scaled = x * inverse, grad * (1.0 + weight.float())
    mean = (scaled * normed).mean(-1, keepdim=True)
    found = scaled.sub_(normed.mul_(mean)).mul_(inverse).to(x.dtype)
    return found if through is None else found.add_(through)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, inverse: Tensor) -> Tensor:
    normed = x * inverse.view(*x.shape[:-1], 1)
    return (grad.float() * normed).flatten(0, -2).sum(0).to(weight.dtype)


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """[residual +] x / rms(x) · (1 + weight) over the last dimension, the norm computed in fp32.

    x and residual [..., D], weight [D] -> [..., D] in the residual's dtype, without one in the weight's.
    """
    out: Tensor = _RMSNorm.apply(x, weight, eps, residual)
    return out


def rms_norm_branch(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`rms_norm` of x, and x for the residual: one pass makes the sum of the gradients of both."""
    normed, same = _Branch.apply(x, weight, eps)
    return normed, same


def rotate(x: Tensor, table: Table) -> Tensor:
    """Apply rotary positions to x [T, heads, E]: table = cosine and sine [T, 1, E], whose halves are equal."""
    out: Tensor = _Rotated.apply(x, *table)
    return out


def rotated_norm(x: Tensor, weight: Tensor, eps: float, table: Table) -> Tensor:
    """`rotate` of `rms_norm` of x [T, heads, E], weight [E]."""
    if not has_triton(x.device):
        return rotate(rms_norm(x, weight, eps), table)
    out: Tensor = _RotatedNorm.apply(x, weight, eps, *table)
    return out
