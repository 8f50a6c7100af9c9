"""The optimiser: AdamW, the learning rate of each step, clipping, and the optimiser's state by parameter name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.recipe import TrainRecipe

Named = Sequence[tuple[str, nn.Parameter]]
_STATE = ("step", "exp_avg", "exp_avg_sq")


def warmup_of(configured: int, steps: int) -> int:
    """Steps of warm-up: the configured ones, but at most a tenth of the run, so that the peak is always reached."""
    return min(configured, steps // 10)


def learning_rate(step: int, steps: int, warmup: int, recipe: TrainRecipe) -> float:
    """The rate of update `step` (from 0) of `steps`.

    It rises in equal parts over `warmup` steps, is `learning_rate` exactly at step `warmup`, and then follows the
    schedule towards `min_learning_rate`, which it would reach at step `steps`: no update is spent at a rate of zero.
    """
    peak, lowest = recipe.learning_rate, recipe.min_learning_rate
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    if recipe.schedule == "constant":
        return peak
    if recipe.schedule == "linear":
        return lowest + (peak - lowest) * (1 - progress)
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizer(parameters: Named, recipe: TrainRecipe) -> torch.optim.AdamW:
    """AdamW over fp32 parameters; weight decay spares vectors (DoRA's magnitudes), whose natural value is not zero."""
    matrices = [p for _, p in parameters if p.dim() > 1]
    vectors = [p for _, p in parameters if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate, betas=recipe.betas, eps=recipe.epsilon, fused=True,
    )  # fmt: skip


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(parameters: Named, limit: float) -> Tensor:
    """Scale the gradients so that their joint norm is at most `limit`; the norm before that, fp32 scalar."""
    return nn.utils.clip_grad_norm_([p for _, p in parameters], limit)


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Named) -> dict[str, Tensor]:
    """The state as `{name}.exp_avg`, `{name}.exp_avg_sq` and `{name}.step`; empty before the first update."""
    return {
        f"{name}.{part}": optimizer.state[parameter][part].detach().cpu().contiguous()
        for name, parameter in parameters
        if parameter in optimizer.state
        for part in _STATE
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Named, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` gave. Raises InputError that names every missing or unexpected tensor."""
    if not tensors:
        return
    expected = {f"{name}.{part}": p.shape if part != "step" else () for name, p in parameters for part in _STATE}
    problems = [f"missing: {name}" for name in expected if name not in tensors]
    problems += [f"unexpected: {name}" for name in tensors if name not in expected]
    problems += [
        f"shape: {name} is {list(tensors[name].shape)}, must be {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tuple(tensors[name].shape) != tuple(shape)
    ]
    if problems:
        raise InputError("the optimiser's state does not fit this run:\n  " + "\n  ".join(problems))
    for name, parameter in parameters:
        state = {part: tensors[f"{name}.{part}"].to(parameter.device, copy=True) for part in _STATE}
        optimizer.state[parameter] = state
