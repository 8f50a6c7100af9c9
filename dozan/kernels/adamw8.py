"""AdamW whose moments take 8 bits a number: blockwise dynamic quantisation (Dettmers et al., arXiv:2110.02861).

    m = β1 m + (1 - β1) g        v = β2 v + (1 - β2) g²        p = p (1 - r d) - r · m̂ / (√v̂ + ε)

with m̂, v̂ freed of their bias, rate r and decay d. Moments are kept as codes of 8 bits, bitsandbytes' dynamic maps, with
a scale for each 256 numbers. All scalars that change stand on the device: nothing waits for the host, and a CUDA graph
holds the update.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from dozan.kernels.nf4 import nested_code
from dozan.kernels.precision import has_triton

BLOCK = 256
"""Numbers to a scale."""
_SMALLEST_SCALE = 1e-38
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Moments:
    """The moments of a parameter of N numbers in ⌈N / 256⌉ blocks: codes uint8 [N], scales fp32 [blocks]."""

    first: Tensor
    first_scale: Tensor
    second: Tensor
    second_scale: Tensor

    @staticmethod
    def zeros(parameter: Tensor) -> Moments:
        """Both zero, on the parameter's device."""
        numbers, device = parameter.numel(), parameter.device
        (first, second), blocks = (int((code == 0).nonzero()) for code in codes()), -(-numbers // BLOCK)

        def filled(code: int) -> Tensor:
            return torch.full((numbers,), code, dtype=torch.uint8, device=device)

        return Moments(filled(first), torch.zeros(blocks, device=device),
                       filled(second), torch.zeros(blocks, device=device))  # fmt: skip


@dataclass(frozen=True)
class Scalars:
    """fp32 scalars on the device: the rate, the number of this update (from 1), and whether to leave all as it is (not
    zero); and what never changes."""

    rate: Tensor
    step: Tensor
    skip: Tensor
    betas: tuple[float, float]
    epsilon: float


@functools.cache
def codes() -> tuple[Tensor, Tensor]:
    """What the codes of first and second moments stand for, fp32 [256] each, ascending, on the CPU."""
    values = [torch.tensor([0.0, 1.0])]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (exponent + 1) + 1)
        values.append((edges[1:] + edges[:-1]) / 2 * 10 ** (exponent - 6))
    return nested_code(), torch.cat(values).sort().values


@functools.cache
def tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """For each moment fp32 [2, 256] on the device: the codes' values, and the borders between them (the last is ∞)."""
    end = torch.tensor([float("inf")])
    pairs = [torch.stack((code, torch.cat(((code[1:] + code[:-1]) / 2, end)))) for code in codes()]
    return pairs[0].to(device), pairs[1].to(device)


@torch.no_grad()
def update(parameter: Tensor, gradient: Tensor, moments: Moments, scalars: Scalars, decay: float) -> None:
    """One update of a contiguous fp32 parameter and its moments, in place; of nothing where `skip` is not zero."""
    assert parameter.is_contiguous() and gradient.is_contiguous(), "a parameter that is not contiguous"
    if has_triton(parameter.device):
        from dozan.kernels.adamw8_triton import update as fast

        return fast(parameter, gradient, moments, scalars, decay, tables(parameter.device))
    if float(scalars.skip):
        return
    for begin in range(0, parameter.numel(), _CHUNK):
        _update(parameter, gradient, moments, scalars, decay, begin)


def _update(p: Tensor, g: Tensor, moments: Moments, scalars: Scalars, decay: float, begin: int) -> None:
    flat, numbers = slice(begin, begin + _CHUNK), slice(begin // BLOCK, (begin + _CHUNK) // BLOCK)
    part, gradient, (b1, b2) = p.view(-1)[flat], g.view(-1)[flat].float(), scalars.betas
    ours, theirs = tables(p.device)
    first = _dequantised(moments.first[flat], moments.first_scale[numbers], ours).mul_(b1).add_(gradient, alpha=1 - b1)
    second = _dequantised(moments.second[flat], moments.second_scale[numbers], theirs)
    second.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
    root = (1 - b2**scalars.step).sqrt()
    part.mul_(1 - scalars.rate * decay)
    part.sub_(scalars.rate / (1 - b1**scalars.step) * first / (second.sqrt() / root + scalars.epsilon))
    _quantise(first, moments.first[flat], moments.first_scale[numbers], ours)
    _quantise(second, moments.second[flat], moments.second_scale[numbers], theirs)


def _dequantised(code: Tensor, scale: Tensor, table: Tensor) -> Tensor:
    return table[0][code.int()] * scale.repeat_interleave(BLOCK)[: len(code)]


def _quantise(x: Tensor, code: Tensor, scale: Tensor, table: Tensor) -> None:
    blocks = torch.nn.functional.pad(x, (0, -len(x) % BLOCK)).view(-1, BLOCK)
    scale.copy_(blocks.abs().amax(1))
    normal = blocks / scale.clamp_min(_SMALLEST_SCALE)[:, None]
    code.copy_(torch.bucketize(normal, table[1]).view(-1)[: len(x)])
