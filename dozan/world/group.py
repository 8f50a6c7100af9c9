"""The ranks of a run: torch.distributed's process group, and on it what the run's own decisions need.

Tensors are reduced where they are (NCCL on GPUs, gloo on a CPU). What is decided is decided on the host, by gloo and as
JSON, so that a GPU is never waited for and nothing is ever unpickled.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dozan.errors import InputError
from dozan.world.watch import Watch

if TYPE_CHECKING:
    from torch import Tensor

_Json = TypeVar("_Json")


@dataclass(frozen=True)
class World:
    """This process among those that work together. local_rank: its place on its own machine, of `local_size`. group:
    the process group to speak on, if it is not the one that all have."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks."""
        return self.rank == 0

    def aside(self) -> World:
        """The same ranks on a process group of their own, for another thread; all of them ask for it together."""
        if self.size == 1:
            return self
        import torch.distributed as dist

        from dozan.world.meeting import COLLECTIVE

        return replace(self, group=dist.new_group(backend="gloo", timeout=COLLECTIVE))

    def agree(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over all ranks."""
        if self.size == 1:
            return list(values)
        import torch
        import torch.distributed as dist

        held = torch.tensor(values, dtype=torch.int64)
        with _answered():
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self.group)
        return [int(value) for value in held]

    def from_first(self, compute: Callable[[], _Json]) -> _Json:
        """What the first rank computes; must be what JSON can hold."""
        if self.size == 1:
            return compute()
        import torch
        import torch.distributed as dist

        text = json.dumps(compute()).encode() if self.first else b""
        size = torch.tensor([len(text)])
        with _answered():
            dist.broadcast(size, 0, group=self.group)
            held = torch.frombuffer(bytearray(text or bytes(int(size))), dtype=torch.uint8)
            dist.broadcast(held, 0, group=self.group)
        found: _Json = json.loads(held.numpy().tobytes())
        return found

    def gathered(self, value: _Json) -> list[_Json]:
        """The value of each rank, in their order; must be what JSON can hold."""
        if self.size == 1:
            return [value]
        import torch
        import torch.distributed as dist

        text = json.dumps(value).encode()
        (longest,) = self.agree([len(text)])
        mine = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
        held = [torch.empty_like(mine) for _ in range(self.size)]
        with _answered():
            dist.all_gather(held, mine, group=self.group)
        return [json.loads(each.numpy().tobytes()) for each in held]

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """The first rank's tensors, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _answered():
            for tensor in tensors:
                dist.broadcast(tensor, 0, group=self.group)

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """The sum of each tensor over all ranks, in place."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _answered():
            for tensor in tensors:
                dist.all_reduce(tensor, group=self.group)

    def require_same(self, what: Mapping[str, str]) -> None:
        """Raises InputError on every rank that names each entry in which ranks differ, and how."""
        given = self.gathered(dict(what))
        lines = []
        for key in dict.fromkeys(key for each in given for key in each):
            values: dict[str, list[str]] = {}
            for rank, each in enumerate(given):
                values.setdefault(each.get(key, "nothing"), []).append(str(rank))
            if len(values) > 1:
                said = (f"{_ranks(ranks)} {'has' if len(ranks) == 1 else 'have'} {_short(value)}"
                        for value, ranks in values.items())  # fmt: skip
                lines.append(f"  {key}: {', '.join(said)}")
        if lines:
            text = "\n".join(lines)
            raise InputError(f"the ranks differ, and would train different models:\n{text}\ngive every rank the same "
                             "code, versions, rows, base and settings")  # fmt: skip


ALONE = World()
"""One process that needs nobody."""

_joined: list[World] = []
_watches: list[Watch] = []


def current() -> World:
    """The world that this process has joined, else ALONE."""
    return _joined[0] if _joined else ALONE


def is_silenced() -> bool:
    """Whether another rank has said already why all of them end."""
    return any(watch.silenced for watch in _watches)


def joined() -> AbstractContextManager[World]:
    """The world of this process, by the environment that torchrun sets; ALONE without one. An exception within it ends
    every rank, with what it says.

    It is joined once; the end of the process leaves it. Raises InputError when ranks are missing, when the port is
    taken, and when code or versions differ between them.
    """
    return _Joined()


class _Joined(AbstractContextManager[World]):
    def __enter__(self) -> World:
        from dozan.world.meeting import meet

        met = None if _joined else meet(os.environ)
        if met is not None:
            _joined.append(met[0])
            _watches.append(met[1])
            atexit.register(leave)
        return current()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            for watch in _watches:
                watch.fail(error)


def leave() -> None:
    """Leave the world that was joined, if any: this rank is needed no more."""
    import torch.distributed as dist

    while _watches:
        _watches.pop().leave()
    if _joined:
        _joined.clear()
        atexit.unregister(leave)
        if dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _answered() -> Iterator[None]:
    """Within it a rank that does not answer any more is waited for no longer than it takes to say which."""
    try:
        yield
    except RuntimeError as error:
        _lost(error)


def _lost(error: RuntimeError) -> NoReturn:
    for watch in _watches:
        watch.find_out()  # ends the process when it is known who failed
    raise error


def _ranks(names: Sequence[str]) -> str:
    return f"rank{'s' * (len(names) > 1)} {', '.join(names)}"


def _short(value: Any) -> str:
    return f"{value[:12]}…" if len(str(value)) == 64 else str(value)
