"""Forward and backward passes of one batch: what adds its gradients to those of what is trained.

Eager anywhere; on a GPU that runs Triton the passes are captured as CUDA graphs, one for each of few padded shapes,
because launching some thousand small kernels would take longer than running them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dozan.kernels import attends_in_triton, pack_attention, pack_multiple, supervised_cross_entropy
from dozan.kernels.capture import OWN_THREAD, uncollected
from dozan.kernels.precision import capability, has_triton
from dozan.model.adapter import set_dropout
from dozan.model.gathered import is_sharded
from dozan.model.gemma3 import Gemma3
from dozan.model.recompute import NOTHING, Recompute
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.train.scale import LossScale

_MOST_GRAPHS = 32


class Passes(Protocol):
    """Adds the gradients of a batch's loss, divided by `total`; gives that part of the loss, an fp32 scalar.

    With a loss scale the gradients are so many times larger, the loss is not.
    """

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor: ...


def make_passes(model: Gemma3, recipe: Recipe, scale: LossScale | None = None) -> Passes:
    """The passes for this model on its device.

    Captured only with Triton's attention, whose shapes depend on a pack's length alone, without dropout, which draws
    from generators on the host, and with all weights on this rank.

    Raises InputError when `train.recompute` is more than the model's layers.
    """
    device = model.device
    recompute = Recompute.of(recipe.train, model.config.num_hidden_layers, device)
    fixed = attends_in_triton(device, model.config.head_dim) and not is_sharded(model)
    if fixed and (not recipe.adapter.dropout or recipe.train.weights == "full"):
        return GraphedPasses(model, recompute, scale)
    return EagerPasses(model, recompute, scale)


def op_by_op(passes: Passes) -> EagerPasses:
    """The same passes without graphs, so that modules can be watched."""
    assert isinstance(passes, EagerPasses | GraphedPasses)
    return EagerPasses(passes._model, passes._recompute, passes._scale)


def engine(model: Gemma3, passes: Passes) -> str:
    """How the passes are computed on this model's device, in words."""
    device = model.device
    if device.type != "cuda":
        return "CPU: plain batched products, op by op"
    how = "captured as CUDA graphs" if isinstance(passes, GraphedPasses) else "op by op"
    found, own = capability(device), torch.cuda.get_device_capability(device)
    treated = "" if found == own else f", treated as {found[0]}.{found[1]}"
    name = f"{torch.cuda.get_device_name(device)}, capability {own[0]}.{own[1]}{treated}"
    return f"{name}: {_kernels(device, model.config.head_dim)}, {how}; {_precision(model.dtype)}"


def _kernels(device: torch.device, head_dim: int) -> str:
    if attends_in_triton(device, head_dim):
        return "Triton kernels"
    if has_triton(device):
        return "Triton kernels, but PyTorch's memory-efficient attention by blocks"
    return "portable kernels, PyTorch's memory-efficient attention by blocks"


def _precision(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"{name}, the residual stream in float32, with a loss scale" if dtype == torch.float16 else name


def batch_loss(
    model: Gemma3, batch: Batch, step: int = 0, recompute: Recompute = NOTHING, scale: LossScale | None = None
) -> Tensor:
    """The weighted sum of the losses of a batch's supervised tokens, times the scale if any, an fp32 scalar; `step`
    draws the dropout."""
    device = model.device
    batch = batch.padded(padded_length(len(batch), pack_multiple(device))).to(device)
    set_dropout(model, batch.rows, batch.row_starts, step)
    return _loss(model, batch, recompute, scale)


def _loss(model: Gemma3, batch: Batch, recompute: Recompute, scale: LossScale | None = None) -> Tensor:
    config = model.config
    attend = pack_attention(batch.position, batch.end, config.sliding_window, config.scale, config.head_dim)
    hidden = model(batch.ids, batch.position, attend, recompute)
    weight = batch.weight if scale is None else batch.weight * scale.value
    return supervised_cross_entropy(hidden.index_select(0, batch.at), model.embedding, batch.target, weight)


def _back(loss: Tensor, scale: LossScale | None) -> Tensor:
    """Back-propagate; the loss without its scale."""
    loss.backward()
    return loss.detach() if scale is None else loss.detach() / scale.value


def padded_length(length: int, multiple: int, parts: int = 16) -> int:
    """The next of few lengths: multiples of `multiple`, and of the power of two below over `parts`."""
    step = max(multiple, (1 << max(0, length.bit_length() - 1)) // parts)
    return -(-length // step) * step


class EagerPasses:
    """Op by op."""

    def __init__(self, model: Gemma3, recompute: Recompute, scale: LossScale | None = None) -> None:
        self._model, self._recompute, self._scale = model, recompute, scale

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor:
        # Weights in fp32 are divided, not the gradient, which half precision would round once more.
        return _back(batch_loss(self._model, batch.divided(total), step, self._recompute, self._scale), self._scale)


@dataclass(frozen=True)
class _Captured:
    """A graph, the batch that it reads, and the loss that it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    loss: Tensor


class GraphedPasses:
    """Replays of captured passes; their memory is one pool, for they never run at once."""

    def __init__(self, model: Gemma3, recompute: Recompute, scale: LossScale | None = None) -> None:
        self._model, self._recompute, self._scale = model, recompute, scale
        self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(model.device)
        self._captured: dict[tuple[int, int], _Captured] = {}
        for parameter in model.parameters():
            # Gradients of 16-bit weights are handed to their masters at once (`train.full`).
            if parameter.requires_grad and parameter.grad is None and parameter.dtype == torch.float32:
                parameter.grad = torch.zeros_like(parameter)

    def __call__(self, batch: Batch, total: float, step: int) -> Tensor:
        length = padded_length(len(batch), pack_multiple(self._model.device))
        # Fewer lengths here: a pack's supervised tokens vary more than its tokens, and are less work each.
        batch = batch.padded(length, padded_length(len(batch.at), 64, parts=8)).divided(total)
        shape = (len(batch), len(batch.at))
        if shape not in self._captured:
            if len(self._captured) == _MOST_GRAPHS:
                self._captured.pop(next(iter(self._captured)))
            self._captured[shape] = self._capture(batch)
        captured = self._captured[shape]
        captured.batch.copy_(batch)
        captured.graph.replay()
        return captured.loss.clone()

    def _capture(self, batch: Batch) -> _Captured:
        static = batch.to(self._model.device)
        # With weights of zero the passes that prepare the kernels add nothing to the gradients.
        static.weight.zero_()
        device = static.ids.device.index
        self._stream.wait_stream(torch.cuda.current_stream())
        # From the graphs' pool, whose memory is free between replays: each shape would need as much again outside.
        torch._C._cuda_beginAllocateToPool(device, self._pool)
        try:
            try:
                with torch.cuda.stream(self._stream):
                    _back(_loss(self._model, static, self._recompute, self._scale), self._scale)
            finally:
                torch._C._cuda_endAllocateToPool(device, self._pool)
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            record = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode=OWN_THREAD)
            with uncollected(), record:
                loss = _back(_loss(self._model, static, self._recompute, self._scale), self._scale)
        finally:  # else memory that did not do would stay with a pool that nobody has
            torch._C._cuda_releasePool(device, self._pool)
        return _Captured(graph, static, loss)
