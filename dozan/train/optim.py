"""The optimiser: AdamW, the learning rate of each step, clipping, and the optimiser's state by parameter name.

torch.optim's classes are not used: their first call imports the compiler, three seconds, and the number of a step is a
tensor for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels import adamw8
from dozan.kernels.adamw8 import Moments
from dozan.recipe import TrainRecipe

Named = Sequence[tuple[str, nn.Parameter]]
Copied = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
MOMENTS, STEP = "optimizer", "step"
"""What the files of an optimiser's state are called (`model.shards`); the last part of the names of scalars there."""
_WIDE = ("exp_avg", "exp_avg_sq")
_NARROW = ("exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale")


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


@dataclass(frozen=True)
class _Group:
    """Parameters with fp32 moments, and what decays them."""

    parameters: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    decay: float


class AdamW:
    """AdamW over fp32 parameters of one device (Loshchilov and Hutter, arXiv:1711.05101).

    Decay spares vectors (DoRA's magnitudes), whose natural value is not zero. With `adamw_8bit` the moments of matrices
    are kept in 8 bits, those of vectors in fp32. All that changes stands on the device: `rate`, the number of updates
    made, and the moments, so that a CUDA graph holds an update.
    """

    def __init__(self, parameters: Named, recipe: TrainRecipe) -> None:
        self.parameters, self._recipe = parameters, recipe
        device = parameters[0][1].device
        self.rate = torch.tensor(recipe.learning_rate, device=device)
        self.updates = torch.zeros((), device=device)

        def zeros(found: Sequence[Tensor]) -> list[Tensor]:
            return [torch.zeros_like(p, requires_grad=False) for p in found]

        narrow = recipe.optimizer == "adamw_8bit"
        matrices, vectors = ([p for _, p in parameters if (p.dim() > 1) == kind] for kind in (True, False))
        self.narrow = {p: Moments.zeros(p.detach()) for p in (matrices if narrow else [])}
        wide = ((vectors, 0.0),) if narrow else ((matrices, recipe.weight_decay), (vectors, 0.0))
        self.wide = [_Group(list(found), zeros(found), zeros(found), decay) for found, decay in wide if found]

    @torch.no_grad()
    def step(self, skip: Tensor | None = None) -> None:
        """One update from the gradients; of nothing where `skip`, an fp32 scalar on the device, is 1."""
        skip = torch.zeros_like(self.rate) if skip is None else skip
        self.updates.add_(1 - skip)
        recipe, (b1, b2) = self._recipe, self._recipe.betas
        for group in self.wide:
            torch._fused_adamw_(
                group.parameters, [_gradient(p) for p in group.parameters], group.first, group.second, [],
                [self.updates] * len(group.parameters), lr=self.rate, beta1=b1, beta2=b2, eps=recipe.epsilon,
                weight_decay=group.decay, amsgrad=False, maximize=False, found_inf=skip,
            )  # fmt: skip
        scalars = adamw8.Scalars(self.rate, self.updates, skip, recipe.betas, recipe.epsilon)
        for parameter, moments in self.narrow.items():
            if parameter.numel():  # a rank may have no rows of it
                adamw8.update(parameter.detach(), _gradient(parameter), moments, scalars, recipe.weight_decay)

    def zero_grad(self) -> None:
        """Gradients become zero, in their place."""
        gradients = [p.grad for _, p in self.parameters if p.grad is not None]
        if gradients:
            torch._foreach_zero_(gradients)

    def tensors(self, copied: Copied | None = None) -> dict[str, Tensor]:
        """The state by name, on the CPU: `moments` and `{name}.step`; empty before the first update. copied: how the
        moments come to the host."""
        updates = self.updates.cpu()
        if not float(updates):
            return {}
        moments = self.moments()
        held = {name: tensor.cpu() for name, tensor in moments.items()} if copied is None else copied(moments)
        return held | {f"{name}.{STEP}": updates.clone() for name, _ in self.parameters}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave; from none, as before the first update. Raises InputError that names every
        missing or unexpected tensor."""
        if not tensors:
            self._restart()
            return
        held = self.moments()
        expected = {**held, **{f"{name}.{STEP}": self.updates for name, _ in self.parameters}}
        problems = [f"missing: {name}" for name in expected if name not in tensors]
        problems += [f"unexpected: {name}" for name in tensors if name not in expected]
        problems += [
            f"shape: {name} is {list(tensors[name].shape)}, must be {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ]
        if problems:
            raise InputError("the optimiser's state does not fit this run:\n  " + "\n  ".join(problems))
        for name, tensor in held.items():
            tensor.copy_(tensors[name])
        self.updates.copy_(tensors[f"{self.parameters[0][0]}.{STEP}"])

    def _restart(self) -> None:
        """No update made, in place: a captured graph holds these tensors."""
        for group in self.wide:
            torch._foreach_zero_([*group.first, *group.second])
        for parameter, moments in self.narrow.items():
            for held, zero in zip(_parts(moments), _parts(Moments.zeros(parameter.detach())), strict=True):
                held.copy_(zero)
        self.updates.zero_()

    def moments(self) -> dict[str, Tensor]:
        """The moments where they are: `{name}.exp_avg`, `{name}.exp_avg_sq`, in 8 bits codes, with `…_scale` beside
        them."""
        wide = {p: (m, v) for group in self.wide
                for p, m, v in zip(group.parameters, group.first, group.second, strict=True)}  # fmt: skip
        found = {}
        for name, p in self.parameters:
            parts = zip(_WIDE, wide[p], strict=True) if p in wide else zip(_NARROW, _parts(self.narrow[p]), strict=True)
            found.update({f"{name}.{part}": tensor for part, tensor in parts})
        return found


def _parts(moments: Moments) -> tuple[Tensor, ...]:
    return moments.first, moments.first_scale, moments.second, moments.second_scale


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "a parameter without a gradient"
    return parameter.grad


def clip(
    parameters: Named, limit: float, scale: Tensor | None = None, sum_squares: Callable[[], Tensor] | None = None
) -> Tensor:
    """Scale the gradients so that their joint norm is at most `limit`; the norm before that, fp32 scalar.

    With a `scale` (fp32 scalar) the gradients are those of the loss times it: it is divided out, of the norm as well.
    sum_squares: gives the squared norm where these are only a part of the gradients.
    """
    trained = [p for _, p in parameters]
    if scale is None and sum_squares is None:
        return nn.utils.clip_grad_norm_(trained, limit)
    gradients = [p.grad for p in trained if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients) if sum_squares is None else sum_squares().sqrt().float()
    scale = torch.ones_like(norm) if scale is None else scale
    norm = norm / scale
    factor = (limit / (norm + 1e-6)).clamp(max=1.0) / scale
    torch._foreach_mul_(gradients, factor)
    return norm
