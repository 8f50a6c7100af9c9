"""Faults put into a process: at the n-th time that it writes, passes a phase, or computes something."""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dozan.model import peft_format
from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.train import evaluation, loop, passes, state, step, update
from torture import subject

Act = Callable[[Callable[[], object]], Any]
"""Does what a write would do, or something worse."""


def plain(write: Callable[[], object]) -> Any:
    """The write as it is."""
    return write()


@dataclass
class Writes:
    """Counts everything that changes the disk under a folder, and lets `act` happen to the n-th, or to all from it on.

    Files are opened, written, synced, renamed and removed through Python, but for safetensors', which is one write here
    of which half may be done.
    """

    root: Path
    at: int = 0
    act: Act = plain
    for_good: bool = False
    count: int = 0
    seen: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Watch this process."""
        for name in ("rename", "replace", "mkdir", "unlink", "rmdir", "link"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        os.fsync = self._counted("fsync", os.fsync, always=True)
        for opener in (io, builtins):
            opener.open = self._opened(opener.open)  # type: ignore[attr-defined]
        for module in (state, peft_format):
            module.save_file = self._half(module.save_file)  # type: ignore[attr-defined]

    def _happens(self, what: str, write: Callable[[], object]) -> Any:
        self.count += 1
        self.seen.append(what)
        hit = self.count == self.at or (self.for_good and self.at and self.count > self.at)
        return self.act(write) if hit else write()

    def _counted(self, name: str, real: Callable[..., Any], always: bool = False) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            if not always and not self._inside(args[0]) and not (len(args) > 1 and self._inside(args[1])):
                return real(*args, **more)
            place = "" if always else Path(os.fsdecode(args[0])).name
            return self._happens(f"{name} {place}", lambda: real(*args, **more))

        return called

    def _inside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return True  # a folder's handle: removed by name within it
        return os.path.abspath(os.fsdecode(path)).startswith(str(self.root))

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if not isinstance(path, str | os.PathLike) or not set(mode) & set("wax+") or not self._inside(path):
                return real(path, mode, *args, **more)
            name = Path(path).name
            return _Written(self._happens(f"open {name}", lambda: real(path, mode, *args, **more)), name, self)

        return opened

    def _half(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def saved(tensors: Any, path: Any, **more: Any) -> None:
            real(tensors, path, **more)
            content = Path(path).read_bytes()
            os.truncate(path, len(content) // 2)

            def rest() -> None:
                handle = os.open(path, os.O_WRONLY)
                os.pwrite(handle, content[len(content) // 2 :], len(content) // 2)
                os.close(handle)

            self._happens(f"save {Path(path).name}", rest)

        return saved


class _Written:
    """A file whose writes are counted; half of what is to be written is there when one fails."""

    def __init__(self, file: Any, name: str, writes: Writes) -> None:
        self._file, self._name, self._writes = file, name, writes

    def write(self, content: Any) -> Any:
        half = len(content) // 2
        self._file.write(content[:half])
        self._file.flush()
        return self._writes._happens(f"write {self._name}", lambda: self._file.write(content[half:])) or len(content)

    def __enter__(self) -> _Written:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def die(write: Callable[[], object]) -> None:
    """Killed before it is done."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(write: Callable[[], object]) -> None:
    """No room for it."""
    raise OSError(errno.ENOSPC, "No space left on device")


def unreadable(write: Callable[[], object]) -> None:
    """The disk fails."""
    raise OSError(errno.EIO, "Input/output error")


PHASES = {
    "forward": (passes, "_loss"), "backward": (passes, "_back"), "update": (update.Update, "__call__"),
    "gradients": (step, "gradients"), "evaluation": (evaluation, "evaluation_loss"), "saving": (state, "save_adapter"),
    "sealing": (state, "save_checkpoint"), "the last save": (loop, "save_final"),
    "the plan": (loop, "_plan_event"), "resuming": (loop, "restore_state"),
}  # fmt: skip
"""Where a signal may arrive: what is called then."""


def signalled(phase: str, at: int, number: int = signal.SIGTERM, times: int = 1) -> Callable[[], None]:
    """Send this process a signal as a phase begins for the n-th time."""
    module, name = PHASES[phase]

    def install() -> None:
        real, calls = getattr(module, name), [0]

        def called(*args: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                for _ in range(times):
                    os.kill(os.getpid(), number)
            return real(*args, **more)

        setattr(module, name, called)

    return install


def starved(where: str, at: int) -> Callable[[], None]:
    """Run out of memory at the n-th forward, backward or update; in an update before or amid it."""

    def install() -> None:
        calls = [0]

        def fails() -> bool:
            calls[0] += 1
            return calls[0] == at

        error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if where in ("forward", "backward"):
            real = passes.EagerPasses.__call__

            def computed(itself: Any, batch: Batch, *args: Any) -> Any:
                fail = fails()
                loss = None if fail and where == "forward" else real(itself, batch, *args)
                if fail:
                    raise error
                return loss

            passes.EagerPasses.__call__ = computed  # type: ignore[method-assign]
            return
        name = {"update": "clip", "amid the update": "refresh"}[where]
        real_part = getattr(update, name)

        def part(*args: Any, **more: Any) -> Any:
            if fails():
                raise error
            return real_part(*args, **more)

        setattr(update, name, part)

    return install


PLACES = {"mlp": "model.layers.1.mlp", "attention": "model.layers.0.self_attn.o_proj",
          "norm": "model.layers.1.post_feedforward_layernorm"}  # fmt: skip
POISONED = ("loss", "gradient", *PLACES)


def poisoned(where: str, value: float, bad: str, also: str | None = None) -> Callable[[], None]:
    """Make something not finite whenever the row `bad` is computed: its loss, the gradient of an adapter, or what a
    module gives."""

    def install() -> None:
        now = [False]
        real_loss, real_model = passes.batch_loss, loop.fit

        def batch_loss(model: Gemma3, batch: Batch, *more: Any) -> torch.Tensor:
            now[0] = bad in batch.rows or (also is not None and also in batch.rows)
            try:
                loss = real_loss(model, batch, *more)
            finally:
                forward, now[0] = now[0], False
            if where == "loss" and forward:
                return loss * value
            if where == "gradient" and forward and loss.requires_grad:
                return _BadGradient.apply(loss, value)
            return loss

        def hook(module: Any, args: Any, out: torch.Tensor) -> torch.Tensor | None:
            return out * value if now[0] else None

        def fit(model: Gemma3, *args: Any, **more: Any) -> Any:
            if where in PLACES:
                model.get_submodule(PLACES[where]).register_forward_hook(hook)
            return real_model(model, *args, **more)

        passes.batch_loss = batch_loss
        subject.fit = fit

    return install


class _BadGradient(torch.autograd.Function):
    """The loss as it is; its gradient times a number."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, value: float) -> torch.Tensor:
        ctx.value = value
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return gradient * ctx.value, None


def both(*disturbances: Callable[[], object]) -> Callable[[], None]:
    """All of them."""

    def install() -> None:
        for disturb in disturbances:
            disturb()

    return install

