"""Where the tied embedding is held in training: on the GPU as it is, there in 8 bits, or in pinned host memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dozan.kernels.embedding import HostRows, Int8Rows, Rows
from dozan.model.gemma3 import Gemma3
from dozan.recipe import ModelRecipe


class HeldEmbedding(nn.Module):
    """ids int64 [T] -> [T, D] in the dtype that the embedding had; no parameter.

    What is held follows the module to a device, but for rows in host memory, and no cast changes it.
    """

    def __init__(self, held: Rows) -> None:
        super().__init__()
        self.held = held

    def forward(self, ids: Tensor) -> Tensor:
        return self.held.rows(ids)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HeldEmbedding:
        if isinstance(self.held, Int8Rows):
            codes = fn(self.held.codes)
            self.held = Int8Rows(codes, self.held.scale.to(codes.device), self.held.dtype)
        return self


@torch.no_grad()
def hold_embedding(model: Gemma3, recipe: ModelRecipe, device: torch.device) -> None:
    """Put the model's embedding where the recipe says, for passes on `device`."""
    if recipe.embedding in ("auto", "gpu"):
        return
    weight = model.model.embed_tokens.weight
    assert isinstance(weight, Tensor)
    held = Int8Rows.of(weight.detach(), device) if recipe.embedding == "int8" else HostRows.of(weight, device)
    model.model.embed_tokens = HeldEmbedding(held)
