"""The loss on held-out rows while a run trains."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import zip_longest

import torch

from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.train import passes
from dozan.train.live import Event
from dozan.train.plan import Plan
from dozan.train.ranks import Ranks
from dozan.train.state import Progress
from dozan.world import ALONE, World


@torch.no_grad()
def evaluation_loss(model: Gemma3, batches: Iterable[Batch], world: World = ALONE) -> float:
    """The weighted mean loss over all supervised tokens of the batches, without dropout. In a world each rank gives
    every so many-th batch, beginning with the one of its rank; the sum is that of one rank, to the bit."""
    model.eval()
    found = [(float(batch.weight.double().sum()), float(passes.batch_loss(model, batch))) for batch in batches]
    each = world.gathered(found)
    weights, losses = zip(*(pair for row in zip_longest(*each) for pair in row if pair is not None), strict=True)
    return sum(losses) / sum(weights)


def evaluated(model: Gemma3, plan: Plan, progress: Progress, ranks: Ranks) -> tuple[Progress, Event]:
    """Measure the loss on the plan's held-out rows; its event. Raises Stopped when a stop is asked for meanwhile."""
    begun = time.perf_counter()
    loss = evaluation_loss(model, ranks.through(plan.heldout_packs()), ranks.world)
    seconds = round(time.perf_counter() - begun, 6)
    epoch = round(progress.step / plan.steps_per_epoch, 6)
    event: Event = {"step": progress.step, "epoch": epoch, "eval/loss": loss, "eval/seconds": seconds}
    return replace(progress, eval_loss=loss, eval_step=progress.step), event
