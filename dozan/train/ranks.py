"""A run on several ranks: the gradients are summed, and whatever one rank decides is decided on all of them.

Every rank has the same rows, plan, weights and moments, and computes its part of each step. The first one writes the
run's files and talks. Alone, all of this is nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from typing import TypeVar

import torch
from torch import Tensor

from dozan.errors import Interrupted
from dozan.model.adapter import refresh
from dozan.model.gathered import gathers, is_sharded
from dozan.model.gemma3 import Gemma3Config
from dozan.model.shard import take_part
from dozan.train.deal import head_cost
from dozan.train.plan import Plan
from dozan.train.retry import PackSize, PackTooLarge
from dozan.train.signals import Stopped, StopRequest
from dozan.train.state import Progress, Trainee
from dozan.world import World

_Item = TypeVar("_Item")


class Ranks:
    """The ranks of a run over a trainee. stopping, saving: what was agreed on last: whether the run is to stop, and to
    save. asks: whether this rank knows of a wish to save."""

    def __init__(self, world: World, trainee: Trainee, stop: StopRequest, asks: Callable[[], bool]) -> None:
        self.world, self._stop, self._asks = world, stop, asks
        self._reducer, self._model = trainee.reducer, trainee.model
        self._agreed = (0, False)

    @property
    def stopping(self) -> str | None:
        """What asked for a stop, on whatever rank."""
        if self.world.size == 1:
            return self._stop.requested
        number = self._agreed[0]
        return None if not number else self._stop.requested or _name(number)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint was asked for, on whatever rank."""
        return self._asks() if self.world.size == 1 else self._agreed[1]

    def restart(self) -> None:
        """A step begins."""
        if self._reducer is not None:
            self._reducer.restart()

    def check(self) -> None:
        """A sign of life within a step. Alone, raises Stopped when a stop was asked for; ranks agree on it later."""
        if self.world.size == 1:
            self._stop.check()
        else:
            self._stop.beat()

    def pause(self) -> None:
        """Between parts of what takes long, on all ranks. Raises Stopped on all of them when a stop was asked for."""
        self.consult()
        if self.world.size > 1 and self._agreed[0]:
            raise Stopped

    def consult(self, failed: PackSize | None = None) -> PackSize | None:
        """What the ranks want; the pack that did not fit on one of them, if any."""
        if self.world.size == 1:
            return failed
        number, saves, fails = self.world.agree([_number(self._stop.requested), self._asks(), failed is not None])
        self._agreed = (number, bool(saves))
        if not fails:
            return None
        given = self.world.gathered(None if failed is None else list(asdict(failed).values()))
        # The one that leaves the least room for what to do about it.
        return min((PackSize(*each) for each in given if each is not None), key=lambda size: (size.rows, size.tokens))

    def more(self, passes: int) -> int:
        """Passes of other ranks in a step beyond this rank's own, that it must take part in."""
        if self.world.size == 1 or not is_sharded(self._model):
            return 0
        return self.world.agree([passes])[0] - passes

    def sum_up(self, loss: Tensor, passes: int, failed: PackSize | None) -> None:
        """After the passes of a step: its gradients and loss over all ranks. Raises PackTooLarge and Stopped on every
        rank when one has reason to."""
        worst = self.consult(failed)
        if worst is not None:
            raise PackTooLarge(worst)
        if self.world.size > 1 and self._agreed[0]:
            raise Stopped
        if self._reducer is not None:
            self._reducer.reduce(loss, passes)
        elif self.world.size > 1:
            self.world.sum_([loss])

    def through(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Those of the items that are this rank's to compute, every so many-th, each in one forward pass, in which the
        others take part if they must. Raises Stopped when a stop is asked for meanwhile, on every rank at the same
        item."""
        size, count = self.world.size, 0
        for i, item in enumerate(items):
            self.check()
            if size > 1 and i % size == 0:
                self.pause()
            if i % size == self.world.rank:
                yield item
            count = i + 1
        if size > 1 and 0 < count % size <= self.world.rank and gathers(self._model):
            take_part(self._model, backward=False)


def dealt_plan(plan: Plan, world: World, config: Gemma3Config) -> Plan:
    """The plan of this rank, for a model of this shape."""
    return replace(plan, rank=world.rank, ranks=world.size, head_cost=head_cost(config))


def share(trainee: Trainee, world: World, progress: Progress) -> Progress:
    """Have every rank stand where the first one does, in what is trained, moments and loss scale; its progress."""
    if world.size == 1:
        return progress
    scale = trainee.scale
    first = world.from_first(lambda: asdict(progress))
    if scale is not None:
        scale.load(world.from_first(scale.state))
    if trainee.is_sharded:
        trainee.follow(world)
    else:
        with torch.no_grad():
            world.broadcast_(p.detach() for _, p in trainee.parameters)
            world.broadcast_([*trainee.optimizer.moments().values(), trainee.optimizer.updates])
        if trainee.masters is None:
            refresh(trainee.model)
        else:
            trainee.masters.publish()
    return Progress(**first)


def require_alone(ranks: Ranks | None, error: Exception) -> None:
    """Raises Interrupted when other ranks have made the update that this one could not."""
    if ranks is not None and ranks.world.size > 1:
        raise Interrupted(f"{error}. Other ranks have made this step, so none can go on; free memory that other "
                          "processes hold, and run the same command again: it goes on from the newest checkpoint"
                          ) from error  # fmt: skip


def _number(asked: str | None) -> int:
    """Of a signal by name, 1 for another reason, 0 for none."""
    if asked is None:
        return 0
    return int(signal.Signals[asked]) if asked in signal.Signals.__members__ else 1


def _name(number: int) -> str:
    return signal.Signals(number).name if number > 1 else "another rank"
