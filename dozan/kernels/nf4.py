"""NF4: weights in 4 bits, in bitsandbytes' own form and bit for bit with its arithmetic (QLoRA, arXiv:2305.14314).

    value = code16[c] · scale                                       one scale for a block of 64 weights of a row
    scale = nested_code[absmax] · nested + offset                   the scales in 8 bits, 256 of them to a nested scale

All in fp32 and rounded once, to the dtype that is asked for. Without double quantisation `absmax` holds the scales.
Shapes: O outputs, I inputs (a multiple of 64), N = O · I / 64 blocks. A weight costs 4.127 bits when doubly quantised.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton

BLOCK, NESTED_BLOCK = 64, 256
"""Weights to a scale; scales to a nested scale."""
CODE = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of a code (QLoRA, appendix E)."""

_CHUNK = 1 << 20
"""Weights worked on at a time in plain PyTorch: 4 MiB in fp32."""
_SMALLEST_SCALE = 1e-38
_GRID, _CELLS = 65536, 32


@dataclass(frozen=True)
class NF4:
    """A weight [O, I] in NF4. `nested`, `nested_code` and `offset` are None together: then `absmax` is fp32."""

    codes: Tensor
    """uint8 [O · I / 2]: two codes a byte, the first in the high half."""
    absmax: Tensor
    """uint8 [N], or fp32 [N] without double quantisation."""
    nested: Tensor | None
    """fp32 [⌈N / 256⌉]"""
    nested_code: Tensor | None
    """fp32 [256]: what a byte of `absmax` stands for."""
    offset: Tensor | None
    """fp32, a scalar: the mean scale."""
    shape: tuple[int, int]

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """What its tensors hold, in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name, those that are there."""
        named = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in named if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> NF4:
        """The same on a device."""
        held = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        nested = held.get("nested"), held.get("nested_code"), held.get("offset")
        return NF4(held["codes"], held["absmax"], *nested, self.shape)


@torch.no_grad()
def quantise(weight: Tensor) -> NF4:
    """NF4 of a weight [O, I] of any float dtype, doubly quantised, on its device.

    Equal bit for bit to bitsandbytes' `quantize_4bit(weight, blocksize=64, compress_statistics=True,
    quant_type="nf4")` on a CPU: the scales are always quantised there, so every device gives the same. (`offset` is a
    sum in PyTorch's order, which on large weights knows the number of threads.) Beyond the result it needs
    about 40 MiB. Weights that are not finite give scales that are not.
    """
    outputs, inputs = weight.shape
    assert inputs % BLOCK == 0, f"{inputs} inputs are no multiple of {BLOCK}"
    flat = weight.reshape(-1)
    codes = torch.empty(flat.numel() // 2, dtype=torch.uint8, device=weight.device)
    absmax = torch.empty(flat.numel() // BLOCK, dtype=torch.float32, device=weight.device)
    base, bound = (table.to(weight.device) for table in _cells())
    for begin in range(0, flat.numel(), _CHUNK):
        blocks = flat[begin : begin + _CHUNK].float().view(-1, BLOCK)
        scale = blocks.abs().amax(1)
        absmax[begin // BLOCK : begin // BLOCK + len(scale)] = scale
        normal = (blocks * (1.0 / scale.clamp_min(_SMALLEST_SCALE)[:, None])).clamp_(-1, 1).nan_to_num_(0.0).view(-1)
        cell = _cell(normal)
        found = (base.index_select(0, cell) + (normal > bound.index_select(0, cell))).view(-1, 2)
        codes[begin // 2 : begin // 2 + len(found)] = (found[:, 0] << 4) | found[:, 1]
    small, nested, offset = _quantise_scales(absmax.cpu())
    place = weight.device
    return NF4(codes, small.to(place), nested.to(place), nested_code().to(place), offset.to(place), (outputs, inputs))


def _cell(normal: Tensor) -> Tensor:
    """int32: the cell of [-1, 1] that a number lies in; never a lower one for a larger number."""
    return ((normal + 1.0) * (_CELLS / 2)).to(torch.int32)


@functools.cache
def _cells() -> tuple[Tensor, Tensor]:
    """On the CPU, for each cell: uint8, how many bounds between codes lie in lower cells; fp32, the bound within it.

    A code is the number of bounds below a number: two looks and a comparison, a sixth of a binary search's time.
    """
    code = torch.tensor(CODE)
    bounds = (code[1:] + code[:-1]) / 2
    cells = _cell(bounds).long()
    assert len(cells.unique()) == len(bounds), "two bounds in a cell"
    bound = torch.full((_CELLS + 1,), 2.0).index_put_((cells,), bounds)
    return torch.tensor([int((cells < cell).sum()) for cell in range(_CELLS + 1)], dtype=torch.uint8), bound


def _quantise_scales(scales: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(uint8 [N], fp32 [⌈N / 256⌉], fp32 scalar) of fp32 [N] on the CPU."""
    offset = scales.mean()
    blocks = torch.nn.functional.pad(scales - offset, (0, -len(scales) % NESTED_BLOCK)).view(-1, NESTED_BLOCK)
    nested = blocks.abs().amax(1)
    normal = (blocks * (1.0 / nested[:, None])).clamp_(-1, 1)
    # bitsandbytes goes through a grid of 65,536 steps; where a block is zero it writes zeros, which NaN becomes here.
    step = ((normal + 1.0) * ((_GRID - 1) / 2) + 0.5).nan_to_num_(0.0).long()
    small = _nearest_on_grid()[step]
    return small.to(torch.uint8).view(-1)[: len(scales)].clone(), nested, offset


@functools.cache
def nested_code() -> Tensor:
    """fp32 [256] on the CPU, ascending: bitsandbytes' signed dynamic map (arXiv:1511.04561)."""
    values = [torch.tensor([0.0, 1.0])]
    for exponent in range(7):
        edges = torch.linspace(0.1, 1, 2**exponent + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10 ** (exponent - 6)
        values += [middles, -middles]
    return torch.cat(values).sort().values


@functools.cache
def _nearest_on_grid() -> Tensor:
    """int64 [65536]: the place in `nested_code` of what is nearest to each step of a grid over [-1, 1]."""
    code = nested_code()
    grid = torch.arange(_GRID, dtype=torch.float32) / ((_GRID - 1) / 2) - 1
    above = torch.searchsorted(code, grid).clamp_(1, len(code) - 1)
    return torch.where(grid - code[above - 1] <= code[above] - grid, above - 1, above)


def scales(weight: NF4) -> Tensor:
    """fp32 [N]: the scale of each block of 64 weights."""
    if weight.nested is None or weight.nested_code is None or weight.offset is None:
        return weight.absmax
    found = weight.nested_code[weight.absmax.int()]
    return found * weight.nested.repeat_interleave(NESTED_BLOCK)[: len(found)] + weight.offset


def dequantise(weight: NF4, dtype: torch.dtype, rows: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """[O, I] in float32, bfloat16 or float16, on the weight's device; equal to bitsandbytes' bit for bit.

    rows: fp32 [O], a factor for each row, multiplied in fp32 before the rounding (DoRA's m / ‖·‖). out: [O, I],
    contiguous and of that dtype, to write into.
    """
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device) if out is None else out
    assert out.shape == weight.shape and out.dtype == dtype and out.is_contiguous(), (out.shape, out.dtype)
    assert rows is None or (rows.shape == weight.shape[:1] and rows.dtype == torch.float32), rows
    if has_triton(weight.device):
        from dozan.kernels.nf4_triton import dequantise as fast

        fast(weight, out, None if rows is None else rows.contiguous())
    else:
        _dequantise(weight, out, rows)
    return out


@torch.no_grad()
def _dequantise(weight: NF4, out: Tensor, rows: Tensor | None) -> None:
    code = torch.tensor(CODE, device=weight.device)
    pairs = torch.stack((code.repeat_interleave(16), code.repeat(16)), 1)
    scale, per_row = scales(weight), weight.shape[1] // BLOCK
    factor = None if rows is None else rows.detach().repeat_interleave(per_row)
    target = out.view(-1, BLOCK)
    for begin in range(0, len(target), _CHUNK // BLOCK):
        some = slice(begin, begin + _CHUNK // BLOCK)
        chosen = weight.codes[begin * BLOCK // 2 : some.stop * BLOCK // 2].int()
        values = pairs.index_select(0, chosen).view(-1, BLOCK).mul_(scale[some, None])
        target[some] = values if factor is None else values.mul_(factor[some, None])


def row_slice(weight: NF4, begin: int, end: int) -> NF4:
    """Rows [begin, end) of a weight, with plain scales; the codes are shared."""
    inputs = weight.shape[1]
    blocks, half = inputs // BLOCK, inputs // 2
    codes, absmax = weight.codes[begin * half : end * half], scales(weight)[begin * blocks : end * blocks]
    return NF4(codes, absmax, None, None, None, (end - begin, inputs))


@torch.no_grad()
def row_norms(weight: NF4) -> Tensor:
    """fp32 [O]: the length √Σw² of each row of the dequantised weight, before any rounding to another dtype."""
    outputs, inputs = weight.shape
    plain, step = row_slice(weight, 0, outputs), max(1, _CHUNK // inputs)
    parts = (row_slice(plain, begin, min(begin + step, outputs)) for begin in range(0, outputs, step))
    return torch.cat([dequantise(part, torch.float32).norm(dim=1) for part in parts])
