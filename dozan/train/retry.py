"""Out of memory in mid-run: the same step again, from the same weights and rows, in smaller packs.

A step's loss is divided by the weights of the whole step, so however it is cut it is the same. The failed pack is
halved until each row has one of its own; if one row alone does not fit, all layers are computed again, then their
inputs wait in host memory, as in the plan of a run. None of it changes the training, and all of it stays for the rest
of the run.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.model.gathered import is_sharded
from dozan.pack import Batch
from dozan.train.memory_run import dial_of, with_dial
from dozan.train.passes import make_passes
from dozan.train.plan import Plan
from dozan.train.state import Trainee


@dataclass(frozen=True)
class PackSize:
    """A pack that did not fit. tokens, supervised, rows: how many; row: the first; text: what the allocator said."""

    tokens: int
    supervised: int
    rows: int
    row: str
    text: str

    @staticmethod
    def of(batch: Batch, text: str) -> PackSize:
        """Of a pack."""
        return PackSize(len(batch), len(batch.at), len(batch.rows), batch.rows[0], text)


class PackTooLarge(torch.OutOfMemoryError):
    """The gradients of a pack did not fit in memory; nothing of the error that said so is kept, for its frames hold
    what was computed."""

    def __init__(self, size: PackSize) -> None:
        super().__init__(size.text)
        self.size = size


class GoBack(InputError):
    """Step `step` (from 1) cannot be gone on from. skipped: steps that were skipped for it. factor: of the rate with
    which to try again from the last good checkpoint; layers: those that must compute in float32 then."""

    def __init__(self, text: str, step: int, skipped: int, factor: float, layers: tuple[int, ...] = ()) -> None:
        super().__init__(text)
        self.step, self.skipped, self.factor, self.layers = step, skipped, factor, layers


@dataclass(frozen=True)
class Retry:
    """One retry as run.json keeps it. step: from 1; tokens, rows: of the pack that did not fit; pack_tokens, recompute,
    offload: what the run goes on with."""

    step: int
    tokens: int
    rows: int
    pack_tokens: int
    recompute: int
    offload: bool

    def text(self) -> str:
        """A line for whoever watches the run."""
        pack = f"a pack of {self.tokens:,} tokens ({self.rows} row{'s' * (self.rows != 1)})"
        if self.rows > 1:
            now = f"packs of at most {self.pack_tokens:,} tokens"
        else:
            now = f"{self.recompute} layers computed again" + ", their inputs in host memory" * self.offload
        return (f"step {self.step}: out of memory in {pack}; once more from the same weights and rows, and from now on "
                f"with {now}; no result changes")  # fmt: skip


def gradients(trainee: Trainee, batch: Batch, total: float, step: int) -> Tensor:
    """Add the gradients of a pack; its part of the loss. Raises PackTooLarge when memory does not do."""
    try:
        return trainee.passes(batch, total, step)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).strip().splitlines()[0]
    # Outside of the handler, so that the error and its frames are gone.
    if is_sharded(trainee.model):  # other ranks wait amid this very pass
        raise InputError(
            f"step {step + 1}: out of memory in a pack of {len(batch):,} tokens, beginning with row {batch.rows[0]} "
            f"({text}); with weights shared out over ranks a step cannot be tried again. Set train.recompute=layers or "
            "train.offload=true and run the same command again: it goes on from the newest checkpoint"
        )
    raise PackTooLarge(PackSize.of(batch, text))


def updated(trainee: Trainee, loss: Tensor, rate: float, batches: Sequence[Batch], step: int) -> Tensor:
    """Update from the gradients of a step (from 0); their norm. Raises PackTooLarge for the longest pack when memory
    does not do before anything was changed, and GoBack when it ends amid the update."""
    before = trainee.optimizer.updates.clone()
    try:
        return trainee.update(loss, rate)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        text = str(error).strip().splitlines()[0]
    if not torch.equal(before, trainee.optimizer.updates):
        said = (f"step {step + 1}: out of memory amid the update of the adapter ({text}), and no checkpoint to go back "
                "to; free memory that other processes hold, and run the same command again")  # fmt: skip
        raise GoBack(said, step + 1, 0, 1.0)
    raise PackTooLarge(PackSize.of(max(batches, key=len), text) if batches else PackSize(0, 0, 1, "", text))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator said so, or the driver where a graph or a kernel is loaded; or what it interrupted failed
    for it, as the end of a capture does."""
    before = error.__context__
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error) or (
        before is not None and is_out_of_memory(before))  # fmt: skip


def smaller(plan: Plan, trainee: Trainee, size: PackSize) -> Plan | None:
    """The plan with packs of at most half of one that did not fit, or for one row alone with more of the dial; None
    when nothing is left."""
    if size.rows > 1:
        assert size.tokens <= plan.pack_tokens, "not a pack of this plan"
        return replace(plan, most_tokens=max(1, size.tokens // 2))
    layers, model = trainee.model.config.num_hidden_layers, trainee.model
    if dial_of(plan.recipe, layers) < layers:
        return with_dial(plan, layers, plan.recipe.train.offload)
    if model.device.type == "cuda" and not plan.recipe.train.offload:
        return with_dial(plan, layers, True)
    return None


def make_room(trainee: Trainee, plan: Plan) -> None:
    """Drop the gradients of a step that is half done, and what was captured or cached; passes are made anew for the
    plan. Earlier steps must have been read."""
    device = trainee.model.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    trainee.optimizer.zero_grad()
    trainee.passes = make_passes(trainee.model, plan.recipe, trainee.scale)
    trainee.renew_update()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def describe(plan: Plan, trainee: Trainee, size: PackSize, step: int) -> Retry:
    """The retry of `step` (from 0) with `plan`, after a pack did not fit."""
    train = plan.recipe.train
    again = dial_of(plan.recipe, trainee.model.config.num_hidden_layers)
    return Retry(step + 1, size.tokens, size.rows, plan.pack_tokens, again, train.offload)


def resumed(plan: Plan, run: Mapping[str, Any] | None) -> Plan:
    """The plan as the retries in a run.json left it."""
    retries: Sequence[Mapping[str, Any]] = (run or {}).get("oom_retries", ())
    if not retries:
        return plan
    last = Retry(**retries[-1])
    plan = replace(plan, most_tokens=last.pack_tokens)
    moved = any(retry["rows"] == 1 for retry in retries)
    return with_dial(plan, last.recompute, last.offload) if moved else plan


def hopeless(trainee: Trainee, size: PackSize) -> str:
    """What to say when a row alone does not fit with all that changes no result."""
    layers = trainee.model.config.num_hidden_layers
    where = " and their inputs in host memory" if trainee.model.device.type == "cuda" else ""
    return (
        f"row {size.row} ({size.tokens:,} tokens, {size.supervised:,} supervised) does not fit in memory, alone in "
        f"its pack, with all {layers} layers computed again{where}: {size.text}. Free memory that other processes hold "
        "and run the same command again, which goes on from there; or shorten the row, set model.embedding=cpu or a "
        "smaller adapter.rank (see dozan plan) and begin in another folder"
    )
