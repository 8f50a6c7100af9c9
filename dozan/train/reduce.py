"""The gradients of what is trained, summed over the ranks once a step, beside the end of the backward pass.

Gradients are views of few flat buffers in the order in which a backward pass ends them. On a GPU each buffer has an
event that the pass records when the last of its gradients is there, within a captured graph as well: its sum begins on
a stream of its own while the pass goes on to earlier layers. Bytes: 4 for each trained parameter.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from dozan.train.optim import Named

BUFFER_BYTES, BUFFERS = 16 * 2**20, 8
"""A buffer is large enough to use the link, and there are few: an event within a captured pass takes some 60 µs."""


def buffers_of(size: float) -> int:
    """How many buffers gradients of so many bytes take."""
    return max(1, min(BUFFERS, math.ceil(size / BUFFER_BYTES)))


class Buffer:
    """Gradients side by side. flat: fp32; event: recorded when a pass has added to the last of them."""

    def __init__(self, parameters: Named) -> None:
        device = parameters[0][1].device
        self.flat = torch.zeros(sum(p.numel() for _, p in parameters), device=device)
        self.event = torch.cuda.Event(external=True) if self.flat.is_cuda else None
        self._missing = self._count = len(parameters)
        for (_, parameter), part in zip(parameters, self.flat.split([p.numel() for _, p in parameters]), strict=True):
            gradient = part.view(parameter.shape)
            if parameter.grad is not None:
                gradient.copy_(parameter.grad)
            parameter.grad = gradient

    def arrived(self, parameter: Tensor) -> None:
        """A pass has added to one of the gradients."""
        self._missing -= 1
        if not self._missing:
            self._missing = self._count
            assert self.event is not None
            self.event.record(torch.cuda.current_stream(self.flat.device))

    def restart(self) -> None:
        """A pass begins; one before may have been cut short."""
        self._missing = self._count


class Reducer:
    """The buffers of some parameters, fp32 and on one device; `buffer_bytes`: the least of one, but the last;
    overlaps: whether backward passes give them their gradients themselves, so that a sum may begin during a pass."""

    def __init__(self, parameters: Named, buffer_bytes: int = BUFFER_BYTES, overlaps: bool = True) -> None:
        self.buffers: list[Buffer] = []
        enough = max(buffer_bytes, 4 * sum(p.numel() for _, p in parameters) // BUFFERS)
        taken: list[tuple[str, torch.nn.Parameter]] = []
        for name, parameter in reversed(parameters):
            assert parameter.dtype == torch.float32, f"{name} is {parameter.dtype}"
            taken.append((name, parameter))
            if 4 * sum(p.numel() for _, p in taken) >= enough:
                self.buffers.append(Buffer(taken))
                taken = []
        if taken:
            self.buffers.append(Buffer(taken))
        self._device = self.buffers[0].flat.device
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._overlaps = self._stream is not None and overlaps
        if self._overlaps:
            for buffer, (_, parameter) in self._pairs(parameters):
                parameter.register_post_accumulate_grad_hook(buffer.arrived)

    def _pairs(self, parameters: Named) -> list[tuple[Buffer, tuple[str, torch.nn.Parameter]]]:
        def owner(parameter: torch.nn.Parameter) -> Buffer:
            assert parameter.grad is not None
            storage = parameter.grad.untyped_storage().data_ptr()
            return next(b for b in self.buffers if b.flat.untyped_storage().data_ptr() == storage)

        return [(owner(parameter), (name, parameter)) for name, parameter in parameters]

    @property
    def bytes(self) -> int:
        """What is summed in a step."""
        return sum(buffer.flat.nbytes for buffer in self.buffers)

    def restart(self) -> None:
        """A step begins."""
        for buffer in self.buffers:
            buffer.restart()

    def reduce(self, loss: Tensor, passes: int) -> None:
        """Sum the gradients and the step's loss (fp32 scalar) over the ranks, in place; what is launched afterwards
        waits for it. passes: how many this rank has launched for the step."""
        if self._stream is None:
            for tensor in (*(buffer.flat for buffer in self.buffers), loss):
                dist.all_reduce(tensor)
            return
        now, launch = torch.cuda.current_stream(self._device), partial(torch.cuda.stream, self._stream)
        for buffer in self.buffers:
            if self._overlaps and passes and buffer.event is not None:
                self._stream.wait_event(buffer.event)
            else:
                self._stream.wait_stream(now)
            with launch():
                dist.all_reduce(buffer.flat)
        self._stream.wait_stream(now)
        with launch():
            dist.all_reduce(loss)
        now.wait_stream(self._stream)
