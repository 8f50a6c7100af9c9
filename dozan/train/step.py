"""A step: its gradients, the update, what came of it, and what is told of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from dozan.pack import Batch
from dozan.train.health import Beat, explain, require_few_skipped, silent
from dozan.train.islands import layers_that_mend
from dozan.train.live import Event, OnEvent, memory_bytes
from dozan.train.plan import Plan, Prepared
from dozan.train.ranks import Ranks, require_alone
from dozan.train.retry import GoBack, PackSize, PackTooLarge, gradients, updated
from dozan.train.signals import Stopped
from dozan.train.state import Progress, Trainee


class Clock:
    """Seconds from one step's end to the next, without what lies between steps."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._begun = time.perf_counter()

    def lap(self) -> float:
        before, self._begun = self._begun, time.perf_counter()
        return self._begun - before


@dataclass(frozen=True)
class Launched:
    """A step that a GPU may still be computing."""

    step: int
    prepared: Prepared
    rate: float
    result: StepResult


def launch(trainee: Trainee, plan: Plan, step: int, prepared: Prepared, ranks: Ranks) -> Launched:
    rate = plan.learning_rate(step)
    return Launched(step, prepared, rate, optimiser_step(trainee, prepared, rate, step, ranks))


def finished(
    trainee: Trainee, plan: Plan, progress: Progress, launched: Launched, clock: Clock, report: OnEvent,
    beat: Beat = silent, recoverable: Callable[[int], bool] = lambda step: True,
) -> tuple[Progress, Event]:  # fmt: skip
    """Wait for a step; where the run stands after it, and its event. recoverable: whether the run may go back for a
    step (from 1); else layers that mend it are not looked for."""
    step, (loss, norm, finite) = launched.step, launched.result.read()
    scale, in_a_row, skipped = launched.result.scale, 0, None
    if not finite:
        # Of every rank, so that all of them find the same.
        all_of_it = replace(launched.prepared, rows=plan.rows_of(step), batches=plan.packs_of(step))
        skipped = explain(trainee, plan, all_of_it, step, loss, scale, beat)
        report({"event": "note", "text": skipped.text(step + 1)})
        in_a_row = progress.skipped_in_a_row + (skipped.scale is None)
        mending = partial(layers_that_mend, trainee, all_of_it, step, skipped, beat)
        require_few_skipped(in_a_row, skipped, launched.rate, step + 1, mending if recoverable(step + 1) else tuple)
    seconds, tokens = clock.lap(), launched.prepared.tokens
    progress = replace(
        progress, step=step + 1, tokens=progress.tokens + tokens, seconds=progress.seconds + seconds,
        loss=loss if finite else progress.loss, skipped=progress.skipped + (not finite),
        skipped_in_a_row=in_a_row,
    )  # fmt: skip
    event: Event = {
        "step": step + 1, "epoch": round((step + 1) / plan.steps_per_epoch, 6), "train/loss": loss,
        "train/grad_norm": norm, "train/learning_rate": launched.rate, "train/tokens": tokens,
        "train/seconds": round(seconds, 6), "train/tokens_per_second": round(tokens / seconds, 1),
        "train/memory_bytes": memory_bytes(), **({} if scale is None else {"train/loss_scale": scale}),
    }  # fmt: skip
    return progress, event if skipped is None else {**event, "train/skipped": True, "train/skipped_why": skipped.why()}


class StepResult:
    """A step's loss and gradient norm before clipping, and in float16 the loss scale that it was computed with.

    A GPU may still be computing them: they are copied to the host behind it, so that reading them waits for this step
    and not for one launched after it.
    """

    def __init__(self, loss: Tensor, norm: Tensor, scale: Tensor | None) -> None:
        values = torch.stack([value.float() for value in (loss, norm, scale) if value is not None])
        self._event = torch.cuda.Event() if values.is_cuda else None
        self._values = values
        if self._event is not None:
            self._values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            self._event.record()

    def read(self) -> tuple[float, float, bool]:
        """Waits for them: loss, norm, and whether both are finite; if not, nothing was updated."""
        if self._event is not None:
            self._event.synchronize()
        loss, norm = self._values[:2].tolist()
        return loss, norm, math.isfinite(loss) and math.isfinite(norm)

    @property
    def scale(self) -> float | None:
        """The loss scale of the step; to be read after the rest."""
        return float(self._values[2]) if len(self._values) == 3 else None


def optimiser_step(
    trainee: Trainee, prepared: Prepared, rate: float, step: int = 0, ranks: Ranks | None = None
) -> StepResult:
    """Compute the gradients of a step's packs and update the adapter, unless loss or norm is not finite."""
    loss = accumulate(trainee, prepared, step, ranks)
    scale = None if trainee.scale is None else trainee.scale.value.clone()
    try:
        norm = updated(trainee, loss, rate, prepared.batches, step)
    except (PackTooLarge, GoBack) as error:
        require_alone(ranks, error)
        raise
    return StepResult(loss, norm, scale)


def accumulate(trainee: Trainee, prepared: Prepared, step: int, ranks: Ranks | None = None) -> Tensor:
    """Add the gradients of the packs, of all ranks, to the adapter; the step's loss, an fp32 scalar.

    Raises PackTooLarge when memory does not do; those of earlier packs are there then.
    """
    loss, failed = torch.zeros((), device=trainee.model.device), None
    trainee.model.train()
    try:
        if ranks is not None:
            ranks.restart()
        more = 0 if ranks is None else ranks.more(len(prepared.batches))
        for batch in prepared.batches:
            part, failed = _part(trainee, batch, prepared.weight, step)
            if part is None:
                break
            loss += part
            if ranks is not None:
                ranks.check()
        for _ in range(more):
            trainee.stand_in(step)
        if ranks is not None:
            ranks.sum_up(loss, len(prepared.batches), failed)
    except Stopped:
        trainee.optimizer.zero_grad()
        raise
    if failed is not None:
        raise PackTooLarge(failed)
    return loss


def _part(trainee: Trainee, batch: Batch, total: float, step: int) -> tuple[Tensor | None, PackSize | None]:
    """A pack's part of the loss, or the pack that did not fit."""
    try:
        return gradients(trainee, batch, total, step), None
    except PackTooLarge as error:
        return None, error.size
