"""Whether a checkpoint's weights can be held in float16, whose largest number is 65,504."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from dozan.errors import InputError
from dozan.model.gemma3 import Gemma3


def require_float16(model: Gemma3, place: str | Path) -> None:
    """Raises InputError that names every parameter of a model read in float16 that is not finite in it.

    place: the folder it was read from. Of a model in another dtype nothing is asked.
    """
    if model.dtype != torch.float16:
        return
    refuse_beyond(beyond_float16(model), place)


def beyond_float16(module: nn.Module, prefix: str = "") -> list[str]:
    """The parameters of a module that are not finite, by name."""
    return [n for n, parameter in module.named_parameters(prefix) if not torch.isfinite(parameter).all()]


def refuse_beyond(beyond: Sequence[str], place: str | Path) -> None:
    """Raises InputError that names these parameters, if there are any."""
    if beyond:
        raise InputError(
            f"{place}: {len(beyond)} tensors hold numbers beyond 65,504, where float16 ends: {', '.join(beyond)}; "
            "train with train.dtype=float32, or on a GPU of capability 8.0, which computes in bfloat16"
        )
