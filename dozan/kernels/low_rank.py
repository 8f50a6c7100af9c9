"""Linears of one input with their low-rank adapters as one op: the small products are added where the large one is.

All adapters' A multiply the input at once, and the gradient of the input is summed in place. DoRA's factor on the
outputs is folded into the rows of the weight and of B: forward and backward are LoRA's. The magnitude's gradient is
that of the output times the output, which the next op keeps anyway.
Shapes: T tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dozan.kernels.nf4 import NF4, dequantise
from dozan.kernels.nf4 import row_norms as nf4_row_norms
from dozan.kernels.precision import has_triton, training_dtype


@dataclass(frozen=True)
class LowRank:
    """A frozen linear and its adapter.

    weight: [O, I] in any dtype, or NF4. a: fp32 [R, I], b: fp32 [O, R]. With DoRA magnitude: fp32 [O], and norm: fp32
    [O], that of the rows of weight + scale · b a, which is not differentiated.
    """

    weight: Tensor | NF4
    a: Tensor
    b: Tensor
    magnitude: Tensor | None = None
    norm: Tensor | None = None


class _LowRank(torch.autograd.Function):
    """y_i = c_i ⊙ (x W_iᵀ + s (z A_iᵀ) B_iᵀ) on flat tokens, c_i = m_i / n_i; z is x, or what dropout left of it.

    parts: all W, then all A, all B and all m. weights: those W that are no tensors.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, z: Tensor | None, scale: float, norms: Sequence[Tensor | None],
        weights: Sequence[NF4 | None], dots: list[Tensor] | None, *parts: Any,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        dense, a, b, magnitudes = _split(parts, len(norms))
        # A is scaled and not the larger x Aᵀ; with A's gradient scaled in turn, nothing else knows of the scale.
        wide_a = _scaled(torch.cat(list(a)) if len(a) > 1 else a[0], scale, x.dtype)
        folded = [_folded_b(*one, x.dtype) for one in zip(b, magnitudes, norms, strict=True)]
        narrow_b, factors = zip(*folded, strict=True)
        low = torch.mm(x if z is None else z, wide_a.t())
        ctx.scale, ctx.ranks, ctx.weights, ctx.dots = scale, [len(one) for one in a], weights, dots
        outs = tuple(
            torch.mm(x, _weight(w, d, c, x.dtype).t()).addmm_(p, n.t())
            for w, d, c, p, n in zip(weights, dense, factors, low.split(ctx.ranks, dim=1), narrow_b, strict=True)
        )
        kept = [None if c is None else out for c, out in zip(factors, outs, strict=True)]
        ctx.save_for_backward(x, z, wide_a, low, *dense, *narrow_b, *factors, *magnitudes, *kept)
        return outs

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, z, wide_a, low, *rest = ctx.saved_tensors
        count, wanted = len(ctx.ranks), ctx.needs_input_grad
        dense, b, factors, magnitudes, outs = _split(rest, count)
        grads = [grad.contiguous() for grad in outer]
        d_low = torch.empty_like(low)
        for grad, narrow_b, part in zip(grads, b, d_low.split(ctx.ranks, dim=1), strict=True):
            torch.mm(grad, narrow_b, out=part)
        d_a = _wide(d_low.t(), x if z is None else z).mul_(ctx.scale).split(ctx.ranks)
        d_b = [_wide(grad.t(), part) for grad, part in zip(grads, low.split(ctx.ranks, dim=1), strict=True)]
        given = ctx.dots or [None] * count
        d_m = [None if c is None else _factor_gradients(one, d, g, y, m, c) for one, d, g, y, m, c
               in zip(d_b, given, grads, outs, magnitudes, factors, strict=True)]  # fmt: skip
        d_weights = [_by_row(torch.mm(g.t(), x), c) if want else None
                     for g, c, want in zip(grads, factors, wanted[6:], strict=False)]  # fmt: skip
        d_x = None
        for grad, w, d, c in zip(grads, ctx.weights, dense, factors, strict=True):
            if wanted[0]:
                weight = _weight(w, d, c, x.dtype)
                d_x = torch.mm(grad, weight) if d_x is None else d_x.addmm_(grad, weight)
                del weight  # or it would lie beside the next one
        d_z = None
        if z is not None:
            d_z = torch.mm(d_low, wide_a) if wanted[1] else None
        elif d_x is not None:
            d_x.addmm_(d_low, wide_a)
        return d_x, d_z, None, None, None, None, *d_weights, *d_a, *d_b, *d_m


def _split(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def _scaled(x: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """x times a scale in `dtype`, rounded once."""
    return torch.mul(x, scale, out=torch.empty(x.shape, dtype=dtype, device=x.device))


def _by_row(x: Tensor, factor: Tensor | None) -> Tensor:
    """Each row of x [O, N] times its factor, fp32 [O]."""
    return x if factor is None else (x * factor[:, None]).to(x.dtype)


def _folded(x: Tensor, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x [O, N] in `dtype`, each row times its factor before the rounding."""
    if factor is None:
        return x.to(dtype)
    return torch.mul(x, factor[:, None], out=torch.empty(x.shape, dtype=dtype, device=x.device))


def _folded_b(b: Tensor, magnitude: Tensor | None, norm: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Any]:
    """B [O, R] in `dtype` times DoRA's factors m / n, and these, fp32 [O]: None without DoRA."""
    if magnitude is None or norm is None:
        return b.to(dtype), None
    if has_triton(b.device):
        from dozan.kernels import low_rank_triton

        return low_rank_triton.folded(b, magnitude, norm, dtype)
    factor = magnitude / norm
    return _folded(b, factor, dtype), factor


def _weight(weight: NF4 | None, dense: Tensor | None, factor: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight [O, I] in `dtype`, each row times its factor."""
    if weight is not None:
        return dequantise(weight, dtype, factor)
    assert dense is not None
    return _folded(dense, factor, dtype)


def _wide(left: Tensor, right: Tensor) -> Tensor:
    """The product in fp32: what parameters are kept in."""
    if left.is_cuda and left.dtype != torch.float32:
        return torch.mm(left, right, out_dtype=torch.float32)
    return torch.mm(left, right).float()


def _factor_gradients(d_b: Tensor, dots: Tensor | None, grad: Tensor, out: Tensor, magnitude: Tensor,
                      factor: Tensor) -> Tensor:  # fmt: skip
    """The gradient of the magnitudes, fp32 [O]: Σ_t grad · out / m; the rows of d_b are multiplied in place.

    dots: fp32 [S, O], whose sum is Σ_t grad · out, where somebody has it.
    """
    if has_triton(grad.device):
        from dozan.kernels import low_rank_triton

        dots = low_rank_triton.column_dots(grad, out) if dots is None else dots
        return low_rank_triton.factor_gradients(d_b, dots, factor, magnitude)
    d_b.mul_(factor[:, None])
    return torch.einsum("to,to->o", grad.float(), out.float()).div_(magnitude)


def row_norms(weight: Tensor | NF4) -> Tensor:
    """The length of each row of a weight [O, I]: fp32 [O]."""
    return weight.detach().float().norm(dim=1) if isinstance(weight, Tensor) else nf4_row_norms(weight)


def merged_row_norms(
    weight: Tensor | NF4, weight_norm: Tensor, a: Tensor, b: Tensor, scale: float, least: float, out: Tensor
) -> None:
    """Write the length of each row of weight + scale · b a, at least `least`, into out, without that sum.

    weight [O, I], weight_norm: `row_norms(weight)`, a fp32 [R, I], b fp32 [O, R], out fp32 [O]. In fp32 on a CPU; on a
    GPU the products' factors have 16 bits where the weight's passes have.
    """
    if has_triton(weight.device):
        from dozan.kernels import low_rank_triton

        cross, own = _narrow_products(weight, a)
        return low_rank_triton.merged_row_norms(cross, own, b, weight_norm, scale, least, out)
    dense = weight.float() if isinstance(weight, Tensor) else dequantise(weight, torch.float32)
    cross = (torch.mm(dense, a.t()) * b).sum(1)
    own = ((b @ (a @ a.t())) * b).sum(1)
    norms = (weight_norm.square() + 2 * scale * cross + scale * scale * own).clamp_min_(0).sqrt_()
    torch.clamp(norms, min=least, out=out)


def _narrow_products(weight: Tensor | NF4, a: Tensor) -> tuple[Tensor, Tensor]:
    """W Aᵀ as fp32 [S, O, R] to be added up, and A Aᵀ, fp32 [R, R]; A in the dtype of the weight's passes."""
    if isinstance(weight, Tensor):
        narrow = a.to(weight.dtype)
        return _wide(weight, narrow.t())[None], _wide(narrow, narrow.t())
    from dozan.kernels.nf4_triton import products

    rank, inputs = a.shape
    narrow = torch.empty(rank, inputs, dtype=training_dtype(weight.device), device=a.device)
    # Even columns before odd ones, as a byte holds two codes; A Aᵀ does not mind.
    narrow.view(rank, 2, inputs // 2).copy_(a.view(rank, inputs // 2, 2).transpose(1, 2))
    return products(weight, narrow), _wide(narrow, narrow.t())


def low_rank_linears(
    x: Tensor, linears: Sequence[LowRank], scale: float, dropped: Tensor | None = None,
    dots: list[Tensor] | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """c ⊙ (x Wᵀ + scale · (x Aᵀ) Bᵀ) in x's dtype, with c = magnitude / norm (1 without), for linears that share their
    input and their scale.

    x [..., I] -> [..., O] each. dropped [..., I]: what the adapters see in place of x. dots: an empty list in which the
    op that alone takes the outputs may leave, before their gradients arrive here, fp32 [S, O] for each: gradient times
    output, added up over S parts of the tokens.
    """
    flat, seen = x.flatten(0, -2), None if dropped is None else dropped.flatten(0, -2)
    quantised = [one.weight if isinstance(one.weight, NF4) else None for one in linears]
    dense = [None if isinstance(one.weight, NF4) else one.weight for one in linears]
    parts = (*dense, *(one.a for one in linears), *(one.b for one in linears), *(one.magnitude for one in linears))
    norms = [one.norm for one in linears]
    outs: tuple[Tensor, ...] = _LowRank.apply(flat, seen, scale, norms, quantised, dots, *parts)
    return tuple(out.view(*x.shape[:-1], out.shape[1]) for out in outs)
