"""The tied embedding where it takes less of a GPU: in 8 bits, or in pinned host memory.

It is 1.9 GiB of Gemma 3 12B in 16 bits, and used twice a pass: a few rows at the bottom, all of it in the loss, where
`tile` brings a part at a time. Both give the dtype of the pass. Shapes: V words, D model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton

_ROWS = 1 << 14
"""Rows quantised at a time."""


@dataclass(frozen=True)
class Int8Rows:
    """codes int8 [V, D] with a scale for each row, fp32 [V]; `dtype` is what its rows are given in."""

    codes: Tensor
    scale: Tensor
    dtype: torch.dtype

    @staticmethod
    @torch.no_grad()
    def of(weight: Tensor, device: torch.device | None = None) -> Int8Rows:
        """A weight [V, D], each row over its largest number by 127, rounded; on `device`, a part at a time."""
        place = device or weight.device
        codes = torch.empty(weight.shape, dtype=torch.int8, device=place)
        scale = torch.empty(len(weight), dtype=torch.float32, device=place)
        for begin in range(0, len(weight), _ROWS):
            part = weight[begin : begin + _ROWS].to(place).float()
            largest = part.abs().amax(1).clamp_min_(torch.finfo(torch.float32).tiny)
            scale[begin : begin + _ROWS] = largest / 127
            codes[begin : begin + _ROWS] = (part * (127 / largest)[:, None]).round_().to(torch.int8)
        return Int8Rows(codes, scale, weight.dtype)

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def tile(self, begin: int, end: int) -> Tensor:
        """Rows [begin, end), a tensor of its own."""
        return self._wide(self.codes[begin:end], self.scale[begin:end])

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of ids int64 [T]: [T, D]."""
        return self._wide(self.codes[ids], self.scale[ids])

    def _wide(self, codes: Tensor, scale: Tensor) -> Tensor:
        out = torch.empty(codes.shape, dtype=self.dtype, device=codes.device)
        return torch.mul(codes, scale[:, None], out=out)


@dataclass(frozen=True)
class HostRows:
    """weight [V, D] in host memory, pinned when `device` is a GPU: its rows are given on the device."""

    weight: Tensor
    device: torch.device

    @staticmethod
    def of(weight: Tensor, device: torch.device) -> HostRows:
        """A weight [V, D] from anywhere."""
        weight = weight.detach().cpu()
        return HostRows(weight.pin_memory() if device.type == "cuda" else weight, device)

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def tile(self, begin: int, end: int) -> Tensor:
        """Rows [begin, end), on the device; the copy is not waited for."""
        return self.weight[begin:end].to(self.device, non_blocking=True)

    def rows(self, ids: Tensor) -> Tensor:
        """The rows of ids int64 [T]: [T, D]. A GPU with Triton reads them from host memory itself; else the host must
        know the ids, and waits for them."""
        if has_triton(self.device):
            from dozan.kernels.embedding_triton import gather

            return gather(self.weight, ids)
        return self.weight[ids.cpu()].to(self.device)


Rows = Int8Rows | HostRows
