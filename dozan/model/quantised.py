"""A linear whose frozen weight is kept in NF4 and dequantised for each product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dozan.kernels.nf4 import NF4, dequantise
from dozan.model.gathered import is_part


class _Product(torch.autograd.Function):
    """x Wᵀ. The backward pass dequantises again, so that nothing of 16 bits is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: NF4) -> Tensor:
        ctx.weight = weight
        return x @ dequantise(weight, x.dtype).t()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0] @ dequantise(ctx.weight, outer[0].dtype), None


_AS_NUMBERS = torch.float8_e4m3fn
"""One byte each; they are only ever copied."""


def _plain(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.dtype == _AS_NUMBERS else tensor


class QuantisedLinear(nn.Module):
    """x [..., I] -> [..., O] in x's dtype; no bias, no parameter.

    The tensors of the weight are buffers beside the state dictionary: they follow the module to a device and keep their
    dtypes whatever the module is cast to. Where each rank holds a part (`model.shard`), those that are cut are frozen
    parameters, which stay on their device.
    """

    bias: None = None
    codes: Tensor
    absmax: Tensor
    nested: Tensor | None
    nested_code: Tensor | None
    offset: Tensor | None

    def __init__(self, weight: NF4) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        for name in ("codes", "absmax", "nested", "nested_code", "offset"):
            self.register_buffer(name, getattr(weight, name), persistent=False)

    @property
    def nf4(self) -> NF4:
        """The weight [O, I]."""
        assert not is_part(self.codes), "its layer must be gathered first"
        shape = (self.out_features, self.in_features)
        return NF4(_plain(self.codes), _plain(self.absmax), self.nested, self.nested_code, self.offset, shape)

    def divide(self) -> None:
        """Make parameters of what is large, so that it can be shared out; `nested` is 1/2,000 of the codes. It is done
        once."""
        for name in ("codes", "absmax") if "codes" in self._buffers else ():
            tensor = getattr(self, name)
            delattr(self, name)
            # torch 2.11 makes a parameter of each share that could have a gradient: bytes must look like numbers.
            held = tensor.view(_AS_NUMBERS) if tensor.dtype == torch.uint8 else tensor
            self.register_parameter(name, nn.Parameter(held, requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Product.apply(x, self.nf4)
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, nf4"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantisedLinear:
        """Where `fn` takes the codes, the rest goes as it is: a cast to 16 bits would spoil the scales."""
        moved = fn(self.codes)
        if "codes" in self._parameters:
            assert moved.device == self.codes.device, "a weight that is shared out stays where it is"
            return self
        for name, tensor in self._buffers.items():
            self._buffers[name] = None if tensor is None else tensor.to(moved.device)
        self._buffers["codes"] = moved
        return self
