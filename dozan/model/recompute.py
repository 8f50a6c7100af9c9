"""Recomputation as a dial: the first n layers keep only their input, on the device or in pinned host memory.

The first, not the last: the backward pass frees the last layers' activations first, and in that room the first layers
are computed again. With the last n, one layer's activations would come on top of all that is kept.

Per layer [T, D] stays on the device, or nothing with `HostMemory`: then a forward pass holds one input and a backward
pass two, the present layer's and the one that arrives for the layer below, however deep the model is.

One stream of its own makes all copies, in the order they are asked for. It waits for what was computed before, so that
an input is whole before it leaves and a block of memory is done with before an input arrives in it; the computation
waits for the copy at the end of the layer that ran beside it, so that the allocator may give the block away at once.
(`Tensor.record_stream` would hold blocks back until the host sees the copy's end: as the host is whole layers ahead,
memory would grow with depth again.)
Shapes: T tokens, D model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dozan.errors import InputError
from dozan.kernels import Attend
from dozan.recipe import TrainRecipe

Rope = tuple[Tensor, Tensor]
Run = Callable[[int, nn.Module, Tensor, Rope, Attend], Tensor]
Forward = Callable[..., Tensor]
Keep = Callable[[Forward, Sequence[nn.Parameter], Tensor, Rope, Attend], Tensor]
"""Computes a layer of which only the input is kept: its forward pass, its trained parameters, and the arguments."""


class HostMemory:
    """Pinned host memory for the inputs of layers on `device`, used again by every pass, and the stream that copies.

    Buffers are flat and sized in powers of two, as PyTorch pins memory: packs differ in length, and a buffer that is
    large enough serves any. A buffer is free as soon as its copy back is asked for, since the stream keeps the order.
    None is ever let go: a captured graph copies to the addresses that it has seen, and PyTorch gives memory that is
    free back to the system whenever another graph is captured.
    For a model on a CPU the same is done in plain memory, without streams.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._pinned = device, device.type == "cuda"
        self._streams: Any = torch.cuda if self._pinned else torch.cpu
        self._stream = torch.cuda.Stream(device) if self._pinned else torch.cpu.Stream()
        self._free: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """A buffer of at least `size` bytes, uint8, whatever it holds."""
        fitting = [place for place, buffer in enumerate(self._free) if len(buffer) >= size]
        if fitting:
            return self._free.pop(min(fitting, key=lambda place: len(self._free[place])))
        return torch.empty(1 << (size - 1).bit_length(), dtype=torch.uint8, pin_memory=self._pinned)

    def give(self, buffer: Tensor) -> None:
        """Take back a buffer whose last copy was asked for."""
        self._free.append(buffer)

    def copy(self, target: Tensor, source: Tensor) -> Any:
        """Start a copy behind all that was computed so far; the event of its end. Both must live until `wait`."""
        self._stream.wait_stream(self._streams.current_stream(self.device))
        with self._streams.stream(self._stream):
            target.copy_(source, non_blocking=self._pinned)
        return self._stream.record_event()

    def wait(self, copied: Any) -> None:
        """Let all that is computed from now on come after the copy."""
        self._streams.current_stream(self.device).wait_event(copied)


class _Away:
    """The inputs of one pass's recomputed layers in host memory: a stack, for they come back in the opposite order.

    A pass that is never back-propagated takes its buffers along when it goes.
    """

    def __init__(self, memory: HostMemory) -> None:
        self._memory = memory
        self._waiting: list[tuple[Tensor, Tensor]] = []  # flat buffers, and the inputs that they hold
        self._arrived: Tensor | None = None

    @property
    def height(self) -> int:
        """The inputs that are to come back."""
        return len(self._waiting) + (self._arrived is not None)

    @contextmanager
    def leaving(self, x: Tensor) -> Iterator[None]:
        """x [T, D] is copied while the body is computed."""
        buffer = self._memory.take(x.nbytes)
        held = buffer[: x.nbytes].view(x.dtype).view(x.shape)
        copied = self._memory.copy(held, x)
        self._waiting.append((buffer, held))
        try:
            yield
        finally:
            self._memory.wait(copied)

    @contextmanager
    def back(self) -> Iterator[Tensor]:
        """The input that left last [T, D]; the one before it is copied while the body is computed."""
        x = self._arrived
        if x is None:
            x, copied = self._fetch()
            self._memory.wait(copied)
        self._arrived = None
        if not self._waiting:
            yield x
            return
        self._arrived, copied = self._fetch()
        try:
            yield x
        finally:
            self._memory.wait(copied)

    def _fetch(self) -> tuple[Tensor, Any]:
        buffer, held = self._waiting.pop()
        x = torch.empty(held.shape, dtype=held.dtype, device=self._memory.device)
        copied = self._memory.copy(x, held)
        self._memory.give(buffer)
        return x, copied


class _Recomputed(torch.autograd.Function):
    """A layer of which only the input is kept; its trained parameters are arguments, so that autograd sees them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: Forward, rope: Rope, attend: Attend, away: _Away | None, *trained: nn.Parameter
    ) -> Tensor:
        ctx.layer, ctx.rope, ctx.attend, ctx.away, ctx.trained = layer, rope, attend, away, trained
        if away is None:
            ctx.save_for_backward(x)
            return layer(x, rope, attend)
        with away.leaving(x):
            ctx.height = away.height
            return layer(x, rope, attend)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        away: _Away | None = ctx.away
        if away is None:
            return _gradients(ctx, ctx.saved_tensors[0], outer[0])
        assert away.height == ctx.height, "with offload a pass is back-propagated once, from its end"
        with away.back() as x:
            return _gradients(ctx, x, outer[0])


def _gradients(ctx: Any, x: Tensor, outer: Tensor) -> tuple[Tensor | None, ...]:
    """What `_Recomputed.backward` returns, from the layer's input and the gradient of its output, both [T, D]."""
    x = x.detach().requires_grad_(ctx.needs_input_grad[0])
    with torch.enable_grad():
        out = ctx.layer(x, ctx.rope, ctx.attend)
    wanted = (x, *ctx.trained) if x.requires_grad else ctx.trained
    found = torch.autograd.grad(out, wanted, outer, allow_unused=True)
    d_x, d_trained = (found[0], found[1:]) if x.requires_grad else (None, found)
    return d_x, None, None, None, None, *d_trained


@dataclass(frozen=True)
class Recompute:
    """The first `layers` layers are computed again in the backward pass; with `memory` their inputs wait there.

    Masks of dropout are drawn again, from what `set_dropout` told last: back-propagate a pass before the next one.
    """

    layers: int
    memory: HostMemory | None = None

    @staticmethod
    def of(train: TrainRecipe, layers: int, device: torch.device) -> Recompute:
        """What the recipe asks of a model of so many layers; none for "auto", which a run's memory plan turns into a
        number before (`train.memory_run.settle`).

        Raises InputError when it asks for more layers than there are.
        """
        chosen = {"auto": 0, "none": 0, "layers": layers}.get(str(train.recompute), train.recompute)
        assert isinstance(chosen, int)
        if chosen > layers:
            raise InputError(
                f"train.recompute = {chosen}: this model has {layers} layers; write a number up to {layers}, or "
                "'layers' for all of them"
            )
        return Recompute(chosen, HostMemory(device) if train.offload else None)

    def runner(self) -> Run:
        """What runs the layers of one pass, in order: index, layer, x [T, D], rope, attention -> [T, D]."""
        away = None if self.memory is None else _Away(self.memory)

        def keep(layer: Forward, trained: Sequence[nn.Parameter], x: Tensor, rope: Rope, attend: Attend) -> Tensor:
            return _Recomputed.apply(x, layer, rope, attend, away, *trained)

        def run(index: int, layer: nn.Module, x: Tensor, rope: Rope, attend: Attend) -> Tensor:
            if index >= self.layers or not torch.is_grad_enabled():
                return layer(x, rope, attend)
            own: Any = layer
            if own.is_sharded:
                return own.recomputed(x, rope, attend, keep)
            return keep(layer, [p for p in layer.parameters() if p.requires_grad], x, rope, attend)

        return run


NOTHING = Recompute(0)
"""Every layer keeps its activations."""
