"""The loss scale of a run in float16: gradients are computed so many times too large, so that small ones are not lost.

A power of two, so that it rounds nothing. It multiplies the weights of the supervised tokens in fp32, before anything
is rounded to float16, and is divided out of the adapters' fp32 gradients with the clipping. Where the loss is finite
and the gradients are not, the step is skipped and the scale halved; after `PATIENCE` good steps in a row it is doubled.
Where the loss itself is not finite no scale helps, and it stays (Micikevicius et al. 2018, arXiv:1710.03740).
All of it is on the device, in tensors that stay in their place: a CUDA graph can capture it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

START, LEAST, MOST = 2.0**14, 1.0, 2.0**24
PATIENCE = 200


class LossScale:
    """value: the scale, fp32 scalar; good: steps since it changed, fp32 scalar."""

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), START, device=device)
        self.good = torch.zeros((), device=device)

    def update(self, loss: Tensor, norm: Tensor) -> None:
        """Learn from a step's loss and gradient norm, fp32 scalars."""
        finite = torch.isfinite(norm)
        passed = torch.isfinite(loss) & ~finite
        good = (self.good + 1) * (finite & torch.isfinite(loss))
        grown = good >= PATIENCE
        self.value.mul_(1 + grown.float() - passed.float() / 2).clamp_(LEAST, MOST)
        self.good.copy_(good * ~grown)

    def state(self) -> dict[str, float]:
        """What `load` takes back, exactly."""
        return {"value": float(self.value), "good": float(self.good)}

    def restart(self) -> None:
        """Be as a new one."""
        self.load({"value": START, "good": 0.0})

    def load(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave."""
        self.value.fill_(state["value"])
        self.good.fill_(state["good"])
