"""The update after a step's gradients: clip, AdamW, DoRA's norms, zeroed gradients; on a GPU one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton
from dozan.model.adapter import refresh
from dozan.model.gemma3 import Gemma3
from dozan.train.optim import Named, clip, set_learning_rate


class Update:
    """Called with a step's loss (fp32 scalar) and rate; gives the gradient norm before clipping, an fp32 scalar.

    Where loss or norm is not finite nothing is updated; the host need not know of it. Afterwards gradients are zero.
    """

    def __init__(self, model: Gemma3, parameters: Named, optimizer: torch.optim.AdamW, clip_norm: float) -> None:
        self._model, self._parameters, self._optimizer, self._clip_norm = model, parameters, optimizer, clip_norm

    def __call__(self, loss: Tensor, rate: float) -> Tensor:
        set_learning_rate(self._optimizer, rate)
        return self._update(loss)

    def _update(self, loss: Tensor) -> Tensor:
        norm = clip(self._parameters, self._clip_norm)
        # AdamW's own switch for gradients that are not finite, read on the parameters' device.
        self._optimizer.found_inf = (~(torch.isfinite(loss) & torch.isfinite(norm))).float()  # type: ignore[attr-defined]
        self._optimizer.step()
        refresh(self._model)
        self._optimizer.zero_grad(set_to_none=False)
        return norm


class GraphedUpdate(Update):
    """The same as a replay: some hundred small tensors make it several milliseconds of launches otherwise."""

    def __init__(self, model: Gemma3, parameters: Named, optimizer: torch.optim.AdamW, clip_norm: float) -> None:
        super().__init__(model, parameters, optimizer, clip_norm)
        device = model.embedding.device
        self._rate, self._loss = (torch.zeros((), device=device) for _ in range(2))
        for group in optimizer.param_groups:
            group["lr"], group["capturable"] = self._rate, True
        self._first = True
        self._graph: torch.cuda.CUDAGraph | None = None
        self._norm = self._loss

    def __call__(self, loss: Tensor, rate: float) -> Tensor:
        self._rate.fill_(rate)
        self._loss.copy_(loss)
        if self._first:  # makes the optimiser's state, which a graph must find in its place
            self._first = False
            return self._update(self._loss)
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._norm = self._update(self._loss)
        self._graph.replay()
        return self._norm.clone()


def make_update(model: Gemma3, parameters: Named, optimizer: torch.optim.AdamW, clip_norm: float) -> Update:
    """The update for this model on its device."""
    kind = GraphedUpdate if has_triton(model.embedding.device) else Update
    return kind(model, parameters, optimizer, clip_norm)
