"""PEFT's LoRA linears computed by `low_rank_linears`: which can be, what they are to the op, and several as one.

Asked at every call, for an adapter may be switched off, merged or exchanged at any time; then PEFT computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dozan.kernels.low_rank import LowRank, low_rank_linears, merged_row_norms, row_norms
from dozan.kernels.nf4 import BLOCK, NESTED_BLOCK, NF4

_SMALLEST_NORM = 1e-18
_DORA = "DoraLinearVariant"
NORMS = "_dozan_weight_norm"
"""Where a linear keeps the row norms of its frozen weight, and of which weight they are."""


def is_lora(module: nn.Module) -> bool:
    """Whether a module is one of PEFT's LoRA linears, over a dense weight or bitsandbytes' 4 bits."""
    kind = type(module)
    return kind.__module__.startswith("peft.tuners.lora") and kind.__name__ in ("Linear", "Linear4bit")


def why_not(layer: Any) -> str | None:
    """Why PEFT computes a LoRA linear itself at present, in words; None when it can be computed here."""
    if layer.disable_adapters:
        return "its adapter is switched off"
    if layer.merged:
        return "its adapter is merged"
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(active) != 1:
        return f"it has {len(active)} active adapters"
    (name,) = active
    if getattr(layer, "fan_in_fan_out", False):
        return "fan_in_fan_out is set"
    if layer.lora_A[name].bias is not None or layer.lora_B[name].bias is not None:
        return "its adapter has a bias"
    variant = _variant(layer, name)
    if variant not in (None, _DORA):
        return f"{variant} is not computed here"
    if variant == _DORA and _dropout(layer, name) is not None:
        return "DoRA with dropout is PEFT's own formula"
    return _why_not_base(layer.get_base_layer())


def _variant(layer: Any, name: str) -> str | None:
    found = getattr(layer, "lora_variant", {}).get(name)
    return None if found is None else type(found).__name__


def _dropout(layer: Any, name: str) -> nn.Module | None:
    """The adapter's dropout, where it drops anything now."""
    dropout: Any = layer.lora_dropout[name]
    return dropout if getattr(dropout, "p", 0.0) and dropout.training else None


def _why_not_base(base: Any) -> str | None:
    if base.bias is not None:
        return "the linear has a bias"
    if base._forward_hooks or base._forward_pre_hooks or "forward" in vars(base):
        return "somebody watches the linear or changed its forward"
    if type(base) is nn.Linear:
        return None if base.weight.is_floating_point() else f"weights in {base.weight.dtype}"
    state = getattr(base.weight, "quant_state", None)
    if type(base).__name__ != "Linear4bit" or state is None:
        return f"{type(base).__name__} is not read here"
    if state.quant_type != "nf4" or state.blocksize != BLOCK or base.weight.dtype != torch.uint8:
        return f"{state.quant_type} in blocks of {state.blocksize}: only NF4 in blocks of {BLOCK} is read here"
    if state.nested and state.state2.blocksize != NESTED_BLOCK:
        return f"scales in blocks of {state.state2.blocksize}"
    return "bitsandbytes has packed it for this CPU" if getattr(state, "packing_format_for_cpu", False) else None


def weight_of(base: Any) -> Tensor | NF4:
    """The frozen weight as the op takes it; bitsandbytes' tensors are shared, not copied."""
    if type(base) is nn.Linear:
        return base.weight
    state, codes = base.weight.quant_state, base.weight.detach().view(-1)
    shape = (int(state.shape[0]), int(state.shape[1]))
    if not state.nested:
        return NF4(codes, state.absmax, None, None, None, shape)
    return NF4(codes, state.absmax, state.state2.absmax, state.state2.code, state.offset, shape)


def part_of(layer: Any) -> LowRank:
    """What the op takes of a LoRA linear that nothing speaks against."""
    (name,) = [name for name in layer.active_adapters if name in layer.lora_A]
    a, b, weight = layer.lora_A[name].weight, layer.lora_B[name].weight, weight_of(layer.get_base_layer())
    if _variant(layer, name) is None:
        return LowRank(weight, a, b)
    magnitude = layer.lora_magnitude_vector[name].weight
    norm = torch.empty_like(magnitude, dtype=torch.float32, requires_grad=False)
    frozen = weight.detach() if isinstance(weight, Tensor) else weight
    with torch.no_grad():
        known = _weight_norms(layer, frozen)
        wide_a, wide_b = (x.detach().float() for x in (a, b))
        merged_row_norms(frozen, known, wide_a, wide_b, float(layer.scaling[name]), _SMALLEST_NORM, norm)
    return LowRank(weight, a, b, magnitude, norm)


def _weight_norms(layer: Any, weight: Tensor | NF4) -> Tensor:
    """The row norms of a frozen weight, computed once for as long as it stays the same tensor."""
    tensor = weight if isinstance(weight, Tensor) else weight.codes
    key = (tensor.data_ptr(), tensor._version, tensor.device)
    kept = vars(layer).get(NORMS)
    if kept is None or kept[0] != key:
        vars(layer)[NORMS] = kept = (key, row_norms(weight))
    found: Tensor = kept[1]
    return found


def _dtypes(layer: Any, x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """What a linear computes in for this input, and what it gives."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        return dtype, dtype
    return getattr(layer.get_base_layer(), "compute_dtype", None) or x.dtype, x.dtype


def _computed(layers: Sequence[Any], x: Tensor, dots: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    first = layers[0]
    (name,) = [name for name in first.active_adapters if name in first.lora_A]
    dropout, (inner, outer) = _dropout(first, name), _dtypes(first, x)
    x = x.to(inner)
    dropped = None if dropout is None else dropout(x)
    with torch.autocast(x.device.type, enabled=False):
        outs = low_rank_linears(x, [part_of(layer) for layer in layers], float(first.scaling[name]), dropped, dots)
    return tuple(out.to(outer) for out in outs)


def linear_forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """In place of the forward of PEFT's LoRA linear: x [..., I] -> [..., O]."""
    if args or any(value is not None for value in kwargs.values()) or why_not(self) is not None:
        return type(self).forward(self, x, *args, **kwargs)
    return _computed([self], x)[0]


def project(layers: Sequence[Any], x: Tensor, dots: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    """What each of some linears makes of x [..., I]; LoRA linears of one scale run as one op. dots: see
    `low_rank_linears`."""
    if all(map(_is_attached, layers)) and all(why_not(layer) is None for layer in layers):
        named = [(layer, *(name for name in layer.active_adapters if name in layer.lora_A)) for layer in layers]
        alike = {(layer.scaling[name], _dtypes(layer, x)) for layer, name in named}
        if len(alike) == 1 and all(_dropout(layer, name) is None for layer, name in named):
            return _computed(layers, x, dots)
    return tuple(layer(x) for layer in layers)


def has_magnitude(layer: Any) -> bool:
    """Whether a linear's active adapter is a DoRA."""
    return is_lora(layer) and any(_variant(layer, name) == _DORA for name in layer.active_adapters)


def _is_attached(layer: nn.Module) -> bool:
    """Whether it is a LoRA linear whose own call nobody watches."""
    return is_lora(layer) and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
