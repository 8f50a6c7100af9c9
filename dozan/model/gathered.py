"""Weights of which each rank holds a part (`model.shard`), and having some of them whole for a while.

All ranks gather together: what is written here must be called by each of them, equally often and in the same order.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def is_group(module: nn.Module) -> bool:
    """Whether the weights of a module are shared out and gathered as one."""
    loaded = sys.modules.get("torch.distributed.fsdp")  # to import it takes a second, which one process need not pay
    return loaded is not None and isinstance(module, loaded.FSDPModule)


def is_sharded(model: nn.Module) -> bool:
    """Whether each rank holds a part of the model's frozen weights: then nothing may be captured as a CUDA graph, and
    every rank must make equally many passes (`model.shard.take_part`)."""
    return any(is_group(module) for module in model.modules())


def gathers(model: nn.Module) -> bool:
    """Whether a forward pass would gather weights now, so that the other ranks must make one as well."""
    return is_sharded(model) and any(is_part(parameter) for parameter in model.parameters())


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor stands for one that is shared out, which no kernel can read."""
    return hasattr(tensor, "to_local")


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Within it a group's weights are whole on every rank, plain tensors of the shapes that they had; of a module that
    is no group nothing changes."""
    if not is_group(module):
        yield
        return
    group: Any = module
    group.unshard()
    try:
        yield
    finally:
        group.reshard()


def each_gathered(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a model whose weights are shared out, one after the other, each whole while the caller has it; of
    another model the model itself."""
    groups = [module for module in model.modules() if module is not model and is_group(module)]
    for module in groups or [model]:
        with gathered(module):
            yield module
