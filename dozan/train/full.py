"""Training every weight: fp32 masters that the optimiser moves, and the model's weights as rounded copies of them.

A 16-bit weight of 0.1 cannot take an update of 1e-5: half its last bit is 2e-4. So where the model computes in 16 bits
its weights are kept in fp32 too, gradients are added up in fp32 as soon as a pack has them, and after each update the
model gets its weights from the masters. In fp32 the weights are their own masters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.model.gemma3 import Gemma3
from dozan.model.weights import holds_nf4
from dozan.recipe import Recipe

HIGH_RATE, USUAL_RATE = 2e-4, 5e-5
"""Above the first every weight moves so far in a step that a model forgets; the second is a rate that works."""


class Masters:
    """What the optimiser moves of a model in which everything is trained. parameters: fp32, by text-only name, each
    with a gradient; the tied embedding is there once. is_sharded: whether each rank holds a part of them."""

    is_sharded = False

    def __init__(self, model: Gemma3) -> None:
        model.requires_grad_(True)
        self.parameters: list[tuple[str, nn.Parameter]] = []
        self._weights: list[Tensor] = []
        self._sources: list[Tensor] = []
        for name, weight in model.named_parameters():
            if weight.dtype == torch.float32:
                self.parameters.append((name, weight))
                continue
            master = nn.Parameter(weight.detach().float())
            master.grad = torch.zeros_like(master)
            weight.register_post_accumulate_grad_hook(_handing_to(master))
            self.parameters.append((name, master))
            self._weights.append(weight.detach())
            self._sources.append(master.detach())

    @torch.no_grad()
    def publish(self) -> None:
        """Give the model its weights: due after every update and whenever masters were set."""
        if self._weights:
            torch._foreach_copy_(self._weights, self._sources)


def _handing_to(master: nn.Parameter) -> Callable[[Tensor], None]:
    return partial(_hand_over, master)


@torch.no_grad()
def _hand_over(master: nn.Parameter, weight: Tensor) -> None:
    """Add a weight's new gradient to its master's, and let go of it."""
    assert master.grad is not None and weight.grad is not None
    master.grad.add_(weight.grad)
    weight.grad = None


def require_trainable(recipe: Recipe, folder: Path) -> None:
    """Raises InputError when every weight is to be trained of a checkpoint that holds them in 4 bits."""
    if recipe.train.weights == "full" and holds_nf4(folder):
        raise InputError(
            f"{folder}: holds its weights in 4 bits (NF4), which cannot be trained; give the 16-bit checkpoint it was "
            "made from, or leave train.weights at adapter"
        )


def full_notes(recipe: Recipe) -> list[str]:
    """What to say of a recipe that trains every weight."""
    train = recipe.train
    if train.weights != "full":
        return []
    notes = ["train.weights = full: every weight is trained, the embedding too; the adapter section is not used"]
    if train.learning_rate > HIGH_RATE:
        notes.append(f"train.learning_rate = {train.learning_rate:g} is an adapter's rate; where every weight is "
                     f"trained a model forgets at it: a value that works is {USUAL_RATE:g}")  # fmt: skip
    return notes
