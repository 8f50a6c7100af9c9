"""Forward and backward passes of one batch: what adds its gradients to the adapter's.

Eager anywhere; on a GPU that runs Triton the passes are captured as CUDA graphs, one for each of few padded shapes,
because launching some thousand small kernels would take longer than running them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dozan.kernels import pack_attention, pack_multiple, supervised_cross_entropy
from dozan.kernels.precision import has_triton
from dozan.model.adapter import adapter_parameters, set_dropout
from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.recipe import Recipe


class Passes(Protocol):
    """Adds the gradients of a batch's loss, divided by `total`; gives that part of the loss, an fp32 scalar."""

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor: ...


def make_passes(model: Gemma3, recipe: Recipe) -> Passes:
    """The passes for this model on its device. Dropout draws from generators on the host, so it is never captured."""
    recompute = recipe.train.recompute == "layers"
    if has_triton(model.embedding.device) and not recipe.adapter.dropout:
        return GraphedPasses(model, recompute)
    return EagerPasses(model, recompute)


def batch_loss(model: Gemma3, batch: Batch, step: int = 0, recompute: bool = False) -> Tensor:
    """The weighted sum of the losses of a batch's supervised tokens, an fp32 scalar; `step` draws the dropout."""
    device = model.embedding.device
    batch = batch.padded(padded_length(len(batch), pack_multiple(device))).to(device)
    set_dropout(model, batch.rows, batch.row_starts, step)
    return _loss(model, batch, recompute)


def _loss(model: Gemma3, batch: Batch, recompute: bool) -> Tensor:
    config = model.config
    attend = pack_attention(batch.position, batch.end, config.sliding_window, config.scale)
    hidden = model(batch.ids, batch.position, attend, recompute)
    return supervised_cross_entropy(hidden.index_select(0, batch.at), model.embedding, batch.target, batch.weight)


def padded_length(length: int, multiple: int) -> int:
    """The next of few lengths: multiples of `multiple`, and of a sixteenth of the power of two below."""
    step = max(multiple, 1 << max(0, length.bit_length() - 5))
    return -(-length // step) * step


class EagerPasses:
    """Op by op."""

    def __init__(self, model: Gemma3, recompute: bool) -> None:
        self._model, self._recompute = model, recompute

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor:
        part = batch_loss(self._model, batch, step, self._recompute) / total
        part.backward()
        return part.detach()


@dataclass(frozen=True)
class _Captured:
    """A graph, the batch that it reads, and the loss that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor


class GraphedPasses:
    """Replays of captured passes; their memory is one pool, for they never run at once."""

    def __init__(self, model: Gemma3, recompute: bool) -> None:
        self._model, self._recompute = model, recompute
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[tuple[int, int], _Captured] = {}
        for _, parameter in adapter_parameters(model):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor:
        length = padded_length(len(batch), pack_multiple(self._model.embedding.device))
        batch = batch.padded(length, padded_length(len(batch.at), 64)).divided(total)
        shape = (len(batch), len(batch.at))
        if shape not in self._captured:
            self._captured[shape] = self._capture(batch)
        captured = self._captured[shape]
        captured.batch.copy_(batch)
        captured.graph.replay()
        return captured.loss.clone()

    def _capture(self, batch: Batch) -> _Captured:
        device = self._model.embedding.device
        static = batch.to(device)
        # With weights of zero the passes that prepare the kernels add nothing to the gradients.
        static.weight.zero_()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            _loss(self._model, static, self._recompute).backward()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss = _loss(self._model, static, self._recompute)
            loss.backward()
        return _Captured(graph, static, loss.detach())
