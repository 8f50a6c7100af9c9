"""A linear whose frozen weight is kept in NF4 and dequantised for each product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dozan.kernels.nf4 import NF4, dequantise


class _Product(torch.autograd.Function):
    """x Wᵀ. The backward pass dequantises again, so that nothing of 16 bits is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: NF4) -> Tensor:
        ctx.weight = weight
        return x @ dequantise(weight, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0] @ dequantise(ctx.weight, outer[0].dtype), None


class QuantisedLinear(nn.Module):
    """x [..., I] -> [..., O] in x's dtype; no bias, no parameter.

    The tensors of the weight are buffers beside the state dictionary: they follow the module to a device and keep their
    dtypes whatever the module is cast to.
    """

    bias: None = None

    def __init__(self, weight: NF4) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        for name in ("codes", "absmax", "nested", "nested_code", "offset"):
            self.register_buffer(name, getattr(weight, name), persistent=False)

    @property
    def nf4(self) -> NF4:
        """The weight [O, I]."""
        held = self._buffers
        codes, absmax = held["codes"], held["absmax"]
        assert codes is not None and absmax is not None
        shape = (self.out_features, self.in_features)
        return NF4(codes, absmax, held["nested"], held["nested_code"], held["offset"], shape)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self.nf4)
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, nf4"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        """Where `fn` takes the codes, the rest goes as it is: a cast to 16 bits would spoil the scales."""
        codes = self._buffers["codes"]
        assert codes is not None
        moved = fn(codes)
        for name, tensor in self._buffers.items():
            self._buffers[name] = None if tensor is None else tensor.to(moved.device)
        self._buffers["codes"] = moved
        return self
