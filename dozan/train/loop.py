"""The training loop, top to bottom: rows, loss, backward, clip, optimiser, log.

The loss of a step is the weighted sum over its supervised tokens divided by the sum of their weights, counted before
the first forward: however a step is cut into micro-batches, it is the same. Everything random is drawn from
(seed, step, row), so a resumed run needs no generator's state and repeats the uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dozan.chat.encode import Tokens
from dozan.errors import InputError, Interrupted
from dozan.kernels.precision import determinism
from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.rows.example import Example
from dozan.train import passes
from dozan.train import run as run_folder
from dozan.train.live import Event, OnEvent, memory_bytes, reporter
from dozan.train.plan import Plan, Prepared
from dozan.train.prepare import Base, Split, prepare, write_split
from dozan.train.signals import StopRequest
from dozan.train.state import Progress, Trainee, restore_state, save_final, save_state

MOST_SKIPPED = 3
"""Steps in a row that are not finite stop the run; fewer are skipped."""


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: losses are a supervised token's, `tokens` the rows' own, `seconds` the steps'."""

    out: Path
    steps: int
    final_loss: float | None
    eval_loss: float | None
    tokens: int
    seconds: float
    skipped_steps: int
    warmup_steps: int
    trainable_parameters: int
    resumed_from: int | None = None


class _Stopped(Exception):
    """A signal arrived while a step was computed; its gradients are dropped."""


def train(
    data: str | Path | Sequence[Example], model: str | Path | None = None, out: str | Path = "output/run",
    recipe: Recipe | str | None = None, overrides: Sequence[str] = (),
    eval_data: str | Path | Sequence[Example] | None = None, on_event: OnEvent | None = None, resume: bool = True,
    force: bool = False,
) -> TrainResult:  # fmt: skip
    """Train an adapter on rows, or go on with the unfinished run in `out`.

    data, eval_data: a JSONL file or rows; without `eval_data` a share of the sentence patterns (`data.holdout`) is
    held out and written to `out/data`. model: None for the embedded base, a checkpoint folder or a hub id. recipe: a
    value, a shipped name or a file; None picks `embedded`, `functiongemma-ar` or `gemma3-12b-trinity` by the model.
    on_event gets each event as a dict (`event`: plan, note, step, eval, done); without it they are shown. force: train
    on rows that the checks refuse; `overridden` in run.json then counts the errors by rule.

    Raises InputError for what cannot be used, and Interrupted when a signal stopped the run after its state was saved.
    """
    with reporter(on_event) as report:
        job = prepare(data, model, recipe, overrides, eval_data, force)
        for note in job.notes:
            report({"event": "note", "text": note})
        model_to_train, out = job.open_model(), Path(out)
        result = fit(model_to_train, job.plan, out, job.base, report, resume, job.split, job.overridden)
        report({"event": "done", **asdict(result)})
        return result


def fit(
    model: Gemma3, plan: Plan, out: Path, base: Base, report: OnEvent, resume: bool = True,
    split: Split | None = None, overridden: Mapping[str, int] | None = None,
) -> TrainResult:  # fmt: skip
    """Train an adapted model by a plan, in the run folder `out`; the rows of a `split` are kept there."""
    trainee = Trainee.of(model, plan.recipe, base.name)
    run = _describe_run(plan, base) | {"overridden": dict(overridden or {})}
    before = run_folder.read_run(out)
    if before is not None and not resume:
        raise InputError(f"{out} holds a run already; choose another output folder, or let it resume")
    if before is not None:
        run_folder.require_same(out, before["fingerprint"], run["fingerprint"])
        if before["state"] == "done":
            report({"event": "note", "text": f"{out} holds this very run, finished: nothing to do"})
            return TrainResult(**{**before["final"], "out": out})
    with run_folder.locked(out), determinism(plan.recipe.train.deterministic):
        adapter_bytes = sum(p.numel() * p.element_size() for _, p in trainee.parameters)
        run_folder.require_space(out, adapter_bytes, plan.recipe.train.keep_checkpoints)
        run_folder.write_run(out, run, plan.recipe)
        if split is not None:
            write_split(out / "data", *split)
        start = restore_state(trainee, out, report)
        if trainee.model.embedding.is_cuda:
            report({"event": "note", "text": passes.engine(trainee.model, trainee.passes)})
        report(_plan_event(plan, trainee, start.step))
        with StopRequest() as stop:
            progress = _loop(trainee, plan, out, start, report, stop)
        final = TrainResult(
            out, progress.step, progress.loss, progress.eval_loss, progress.tokens, progress.seconds, progress.skipped,
            plan.warmup_steps, trainee.size, start.step if before is not None else None,
        )  # fmt: skip
        save_final(trainee, out)
        run_folder.write_run(out, run | {"state": "done", "final": {**asdict(final), "out": str(out)}}, plan.recipe)
    return final


def _loop(trainee: Trainee, plan: Plan, out: Path, progress: Progress, report: OnEvent, stop: StopRequest) -> Progress:
    metrics, heldout = out / "metrics.jsonl", plan.pack(plan.heldout)
    saved = progress.step if progress.step else -1
    prepared = plan.prepare(progress.step)
    while progress.step < plan.steps:
        try:
            progress, event, prepared = _timed_step(trainee, plan, progress, prepared, stop, report)
        except _Stopped:
            _stop(trainee, out, progress, saved, stop)
        run_folder.append_metrics(metrics, event)
        report({"event": "step", **event})
        last = progress.step == plan.steps
        if heldout and (last or progress.step % plan.eval_steps == 0):
            progress, event = _evaluated(trainee.model, plan, heldout, progress)
            run_folder.append_metrics(metrics, event)
            report({"event": "eval", **event})
        if last or progress.step % plan.save_steps == 0:
            save_state(trainee, out, progress)
            saved = progress.step
        if stop.requested and not last:
            _stop(trainee, out, progress, saved, stop)
    return progress


def _timed_step(
    trainee: Trainee, plan: Plan, progress: Progress, prepared: Prepared, stop: StopRequest, report: OnEvent
) -> tuple[Progress, Event, Prepared]:
    begun, step = time.perf_counter(), progress.step
    rate = plan.learning_rate(step)
    result = optimiser_step(trainee, prepared, rate, step, stop)
    # The next step's packs are made while a GPU computes this one; reading the result waits for it.
    following = plan.prepare(step + 1)
    loss, norm, finite = result.read()
    if not finite:
        guilty = _not_finite_rows(trainee.model, plan, prepared.rows, step)
        report({"event": "note", "text": f"step {step + 1}: not finite, update skipped; rows: {', '.join(guilty)}"})
        _require_few_skipped(progress.skipped_in_a_row + 1, guilty, rate)
    seconds = time.perf_counter() - begun
    tokens = sum(len(row.ids) for row in prepared.rows)
    progress = replace(
        progress, step=step + 1, tokens=progress.tokens + tokens, seconds=progress.seconds + seconds,
        loss=loss if finite else progress.loss, skipped=progress.skipped + (not finite),
        skipped_in_a_row=0 if finite else progress.skipped_in_a_row + 1,
    )  # fmt: skip
    event: Event = {
        "step": step + 1, "epoch": round((step + 1) / plan.steps_per_epoch, 6), "train/loss": loss,
        "train/grad_norm": norm, "train/learning_rate": rate, "train/tokens": tokens,
        "train/seconds": round(seconds, 6), "train/tokens_per_second": round(tokens / seconds, 1),
        "train/memory_bytes": memory_bytes(),
    }  # fmt: skip
    return progress, event if finite else {**event, "train/skipped": True}, following


@dataclass(frozen=True)
class StepResult:
    """A step's loss and gradient norm before clipping, scalars that a GPU may still be computing."""

    loss: Tensor
    norm: Tensor

    def read(self) -> tuple[float, float, bool]:
        """Waits for them: loss, norm, and whether both are finite; if not, nothing was updated."""
        loss, norm = torch.stack((self.loss.float(), self.norm.float())).tolist()
        return loss, norm, math.isfinite(loss) and math.isfinite(norm)


def optimiser_step(
    trainee: Trainee, prepared: Prepared, rate: float, step: int = 0, stop: StopRequest | None = None
) -> StepResult:
    """Compute the gradients of a step's packs and update the adapter, unless loss or norm is not finite."""
    loss = accumulate(trainee, prepared, step, stop)
    return StepResult(loss, trainee.update(loss, rate))


def accumulate(trainee: Trainee, prepared: Prepared, step: int, stop: StopRequest | None = None) -> Tensor:
    """Add the gradients of the packs to the adapter; the step's loss, an fp32 scalar."""
    loss = torch.zeros((), device=trainee.model.embedding.device)
    trainee.model.train()
    for batch in prepared.batches:
        loss += trainee.passes(batch, prepared.weight, step)
        if stop is not None and stop.requested:
            trainee.optimizer.zero_grad(set_to_none=False)
            raise _Stopped
    return loss


@torch.no_grad()
def evaluation_loss(model: Gemma3, batches: Sequence[Batch]) -> float:
    """The weighted mean loss over all supervised tokens of the batches, without dropout."""
    model.eval()
    total = sum(float(batch.weight.double().sum()) for batch in batches)
    return sum(float(passes.batch_loss(model, batch)) for batch in batches) / total


def _evaluated(model: Gemma3, plan: Plan, heldout: Sequence[Batch], progress: Progress) -> tuple[Progress, Event]:
    begun = time.perf_counter()
    loss = evaluation_loss(model, heldout)
    seconds = round(time.perf_counter() - begun, 6)
    epoch = round(progress.step / plan.steps_per_epoch, 6)
    event: Event = {"step": progress.step, "epoch": epoch, "eval/loss": loss, "eval/seconds": seconds}
    return replace(progress, eval_loss=loss), event


@torch.no_grad()
def _not_finite_rows(model: Gemma3, plan: Plan, rows: Sequence[Tokens], step: int) -> list[str]:
    """The rows whose own loss is not finite; all of them when the fault shows only in the gradients."""
    alone = ((row, batch) for row in rows for batch in plan.pack([row]))
    guilty = [row.row for row, batch in alone if not torch.isfinite(passes.batch_loss(model, batch, step))]
    return guilty or [row.row for row in rows]


def _require_few_skipped(in_a_row: int, guilty: Sequence[str], rate: float) -> None:
    if in_a_row >= MOST_SKIPPED:
        raise InputError(
            f"the loss or its gradient was not finite in {in_a_row} steps in a row, last in rows {', '.join(guilty)}; "
            f"no update was made from them. Look at these rows, or lower train.learning_rate (now {rate:g})"
        )


def _stop(trainee: Trainee, out: Path, progress: Progress, saved: int, stop: StopRequest) -> None:
    if progress.step > saved:
        save_state(trainee, out, progress)
    raise Interrupted(
        f"{stop.requested}: stopped after step {progress.step}, saved in {out}; the same command goes on from there"
    )


def _describe_run(plan: Plan, base: Base) -> dict[str, Any]:
    return {
        "base": base.name, "base_sha256": base.sha256, "chat": base.chat, "recipe": plan.recipe.model_dump(mode="json"),
        "versions": run_folder.versions(), "steps": plan.steps, "warmup_steps": plan.warmup_steps,
        "packing": plan.packing, "rows": len(plan.rows), "heldout_rows": len(plan.heldout), "tokens": plan.tokens,
        "notes": list(plan.notes), "state": "running", "final": None,
        "fingerprint": run_folder.fingerprint(plan.recipe, plan.rows, plan.heldout, base.sha256),
    }  # fmt: skip


def _plan_event(plan: Plan, trainee: Trainee, first: int) -> Event:
    return {
        "event": "plan", "recipe": plan.recipe.name, "rows": len(plan.rows), "heldout": len(plan.heldout),
        "tokens": plan.tokens, "supervised": plan.supervised, "sharing": plan.sharing(), "steps": plan.steps,
        "first": first, "batch_size": plan.recipe.train.batch_size, "warmup_steps": plan.warmup_steps,
        "trainable": trainee.size, "notes": list(plan.notes), "log_steps": plan.recipe.train.log_steps,
    }  # fmt: skip
