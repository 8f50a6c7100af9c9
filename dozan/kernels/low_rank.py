"""Linears of one input with their low-rank adapters as one op: the small products are added where the large one is.

All adapters' A multiply the input at once, and the gradient of the input is summed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _LowRank(torch.autograd.Function):
    """y_i = x W_iᵀ + s (z A_iᵀ) B_iᵀ on flat tokens; z is x itself, or what dropout left of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, z: Tensor | None, scale: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        count = len(tensors) // 3
        weights, a, b = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        wide_a = torch.cat(a).to(x.dtype) if count > 1 else a[0].to(x.dtype)
        narrow_b = [one.to(x.dtype) for one in b]
        low = torch.mm(x if z is None else z, wide_a.t()).mul_(scale)
        parts = low.split([len(one) for one in a], dim=1)
        ctx.save_for_backward(x, z, wide_a, low, *weights, *narrow_b)
        ctx.scale, ctx.ranks = scale, [len(one) for one in a]
        return tuple(torch.mm(x, w.t()).addmm_(p, n.t()) for w, p, n in zip(weights, parts, narrow_b, strict=True))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, z, wide_a, low, *rest = ctx.saved_tensors
        count, wanted = len(ctx.ranks), ctx.needs_input_grad
        weights, b = rest[:count], rest[count:]
        grads = [grad.contiguous() for grad in outer]
        d_low = torch.empty_like(low)
        for grad, narrow_b, part in zip(grads, b, d_low.split(ctx.ranks, dim=1), strict=True):
            torch.mm(grad, narrow_b, out=part)
        d_low.mul_(ctx.scale)
        d_a = _wide(d_low.t(), x if z is None else z).split(ctx.ranks)
        d_b = [_wide(grad.t(), part) for grad, part in zip(grads, low.split(ctx.ranks, dim=1), strict=True)]
        d_weights = [torch.mm(g.t(), x) if want else None for g, want in zip(grads, wanted[3:], strict=False)]
        d_x = _sum_of_products(grads, weights) if wanted[0] else None
        if z is not None:
            return d_x, torch.mm(d_low, wide_a) if wanted[1] else None, None, *d_weights[:count], *d_a, *d_b
        return None if d_x is None else d_x.addmm_(d_low, wide_a), None, None, *d_weights[:count], *d_a, *d_b


def _wide(left: Tensor, right: Tensor) -> Tensor:
    """The product in fp32: what parameters are kept in."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()


def _sum_of_products(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    total = torch.mm(left[0], right[0])
    for a, b in zip(left[1:], right[1:], strict=True):
        total.addmm_(a, b)
    return total


def low_rank_linears(
    x: Tensor, weights: Sequence[Tensor], a: Sequence[Tensor], b: Sequence[Tensor], scale: float,
    dropped: Tensor | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """x W_iᵀ + scale · (x A_iᵀ) B_iᵀ in x's dtype, for linears that share their input and their scale.

    x [..., I], weights [O_i, I], a fp32 [R_i, I], b fp32 [O_i, R_i] -> [..., O_i] each. dropped [..., I]: what the
    adapters see in place of x.
    """
    flat, seen = x.flatten(0, -2), None if dropped is None else dropped.flatten(0, -2)
    outs: tuple[Tensor, ...] = _LowRank.apply(flat, seen, scale, *weights, *a, *b)
    return tuple(out.view(*x.shape[:-1], out.shape[1]) for out in outs)
