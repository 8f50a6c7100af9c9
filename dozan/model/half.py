"""Whether a checkpoint's weights can be held in float16, whose largest number is 65,504."""

from __future__ import annotations

from pathlib import Path

import torch

from dozan.errors import InputError
from dozan.model.gemma3 import Gemma3


def require_float16(model: Gemma3, place: str | Path) -> None:
    """Raises InputError that names every parameter of a model read in float16 that is not finite in it.

    place: the folder it was read from. Of a model in another dtype nothing is asked.
    """
    if model.dtype != torch.float16:
        return
    beyond = [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]
    if beyond:
        raise InputError(
            f"{place}: {len(beyond)} tensors hold numbers beyond 65,504, where float16 ends: {', '.join(beyond)}; "
            "train with train.dtype=float32, or on a GPU of capability 8.0, which computes in bfloat16"
        )
