"""The update after a step's gradients: clip, AdamW, DoRA's norms or the model's weights from their masters, zeroed
gradients; on a GPU one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from dozan.kernels.capture import OWN_THREAD, uncollected
from dozan.kernels.precision import has_triton
from dozan.model.adapter import refresh
from dozan.model.gathered import is_sharded
from dozan.model.gemma3 import Gemma3
from dozan.train.full import Masters
from dozan.train.optim import AdamW, Named, clip
from dozan.train.scale import LossScale
from dozan.train.sharded import ShardedMasters


class Update:
    """Called with a step's loss (fp32 scalar) and rate; gives the gradient norm before clipping, an fp32 scalar.

    Where loss or norm is not finite nothing is updated; the host need not know of it. Afterwards gradients are zero.
    With a `scale` the gradients are those of the loss times it, and it learns from the step.
    """

    def __init__(
        self, model: Gemma3, parameters: Named, optimizer: AdamW, clip_norm: float,
        scale: LossScale | None = None, masters: Masters | ShardedMasters | None = None,
    ) -> None:  # fmt: skip
        self._model, self._parameters, self._optimizer, self._clip_norm = model, parameters, optimizer, clip_norm
        self._scale, self._masters = scale, masters
        self._sum_squares = masters.sum_squares if isinstance(masters, ShardedMasters) else None

    def __call__(self, loss: Tensor, rate: float) -> Tensor:
        self._optimizer.rate.fill_(rate)
        return self._update(loss)

    def _update(self, loss: Tensor) -> Tensor:
        scale = None if self._scale is None else self._scale.value
        norm = clip(self._parameters, self._clip_norm, scale, self._sum_squares)
        self._optimizer.step(skip=(~(torch.isfinite(loss) & torch.isfinite(norm))).float())
        if self._scale is not None:
            self._scale.update(loss, norm)
        if self._masters is None:
            refresh(self._model)
        else:
            self._masters.publish()
        self._optimizer.zero_grad()
        return norm


class GraphedUpdate(Update):
    """The same as a replay: some hundred small tensors make it several milliseconds of launches otherwise."""

    def __init__(
        self, model: Gemma3, parameters: Named, optimizer: AdamW, clip_norm: float,
        scale: LossScale | None = None, masters: Masters | ShardedMasters | None = None,
    ) -> None:  # fmt: skip
        super().__init__(model, parameters, optimizer, clip_norm, scale, masters)
        self._loss = torch.zeros_like(optimizer.rate)
        self._first = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._norm = self._loss

    def __call__(self, loss: Tensor, rate: float) -> Tensor:
        self._optimizer.rate.fill_(rate)
        self._loss.copy_(loss)
        if self._first:  # compiles the kernels, which a graph must find ready
            self._first = False
            return self._update(self._loss)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with uncollected(), torch.cuda.graph(self._graph, capture_error_mode=OWN_THREAD):
                self._norm = self._update(self._loss)
        self._graph.replay()
        return self._norm.clone()


def make_update(
    model: Gemma3, parameters: Named, optimizer: AdamW, clip_norm: float, scale: LossScale | None = None,
    masters: Masters | ShardedMasters | None = None,
) -> Update:  # fmt: skip
    """The update for this model on its device."""
    kind = GraphedUpdate if has_triton(model.device) and not is_sharded(model) else Update
    return kind(model, parameters, optimizer, clip_norm, scale, masters)
