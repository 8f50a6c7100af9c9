"""A model opened to be judged."""

from __future__ import annotations

from pathlib import Path

import torch

from dozan.kernels import training_dtype
from dozan.model.bundle import Bundle, open_model
from dozan.model.half import require_float16


def open_for_judging(model: str | Path) -> Bundle:
    """A run, a folder or a hub id: on a GPU in the dtype that it is trained in there, else in fp32 on the CPU."""
    if not torch.cuda.is_available():
        return open_model(model)
    bundle = open_model(model, training_dtype(torch.device("cuda")), device="cuda")
    require_float16(bundle.model, bundle.base_folder)
    return bundle
