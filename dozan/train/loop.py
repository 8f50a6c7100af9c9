"""The training loop, top to bottom: rows, loss, backward, clip, optimiser, log.

The loss of a step is the weighted sum over its supervised tokens divided by the sum of their weights, counted before
the first forward: however a step is cut into micro-batches, it is the same. Everything random is drawn from
(seed, step, row), so a resumed run needs no generator's state and repeats the uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dozan.errors import InputError, Interrupted
from dozan.kernels.precision import T4, determinism, emulated
from dozan.model.gemma3 import Gemma3
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.rows.example import Example
from dozan.train import passes
from dozan.train import run as run_folder
from dozan.train.health import explain, require_few_skipped
from dozan.train.live import Event, OnEvent, memory_bytes, reporter
from dozan.train.memory_choice import Adapt, fitted
from dozan.train.memory_record import record_run
from dozan.train.memory_run import rehearse, settle
from dozan.train.plan import Plan, Prepared
from dozan.train.prepare import Base, Split, prepare, write_split
from dozan.train.retry import PackTooLarge, Retry, describe, gradients, hopeless, make_room, resumed, smaller
from dozan.train.scoring import Scorer, is_over, score_run, take_best
from dozan.train.sentinels import watched
from dozan.train.signals import StopRequest
from dozan.train.state import Progress, Trainee, restore_state, save_final, save_state


@dataclass(frozen=True)
class TrainResult:
    """What a run came to: losses are a supervised token's, `tokens` the rows' own, `seconds` the steps'; oom_retries:
    times that a step was computed again in smaller packs, because memory did not do."""

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
    oom_retries: int = 0
    best_step: int | None = None
    best_score: float | None = None


class _Stopped(Exception):
    """A signal arrived while a step was computed; its gradients are dropped."""


def train(
    data: str | Path | Sequence[Example], model: str | Path | None = None, out: str | Path = "output/run",
    recipe: Recipe | str | None = None, overrides: Sequence[str] = (),
    eval_data: str | Path | Sequence[Example] | None = None, on_event: OnEvent | None = None, resume: bool = True,
    force: bool = False, precision: str = "auto", adapt: Adapt = False,
) -> TrainResult:  # fmt: skip
    """Train an adapter on rows, or go on with the unfinished run in `out`.

    data, eval_data: a JSONL file or rows; without `eval_data` a share of the sentence patterns (`data.holdout`) is
    held out and written to `out/data`. model: None for the embedded base, a checkpoint folder or a hub id. recipe: a
    value, a shipped name or a file; None picks `embedded`, `functiongemma-ar` or `gemma3-12b-trinity` by the model.
    on_event gets each event as a dict (`event`: plan, note, step, eval, done); without it they are shown. force: train
    on rows that the checks refuse; `overridden` in run.json then counts the errors by rule. precision: "t4" trains as
    on a T4 whatever the GPU: float16, and only what runs from capability 7.5. adapt: when the run does not fit its
    GPU, what changes the training may be changed (`dozan plan` shows it), or a function that is told what is missing
    and answers; what was changed is `adapted` in run.json.

    Raises InputError for what cannot be used, and Interrupted when a signal stopped the run after its state was saved.
    """
    if precision not in ("auto", "t4"):
        raise InputError(f"precision {precision!r} is not known: 'auto' or 't4'")
    as_t4 = precision == "t4"
    with emulated(T4 if as_t4 else None):
        job = prepare(data, model, recipe, [*overrides, *["train.dtype=float16"] * as_t4], eval_data, force, out)
        job = fitted(job, out, adapt)
        with reporter(on_event) as report:
            for note in job.notes:
                report({"event": "note", "text": note})
            result = fit(
                job.open_model(), job.plan, Path(out), job.base, report, resume, job.split, job.overridden, job.adapted,
                job.scorer,
            )  # fmt: skip
            report({"event": "done", **asdict(result)})
            return result


def fit(
    model: Gemma3, plan: Plan, out: Path, base: Base, report: OnEvent, resume: bool = True,
    split: Split | None = None, overridden: Mapping[str, int] | None = None, adapted: Sequence[str] = (),
    scorer: Scorer | None = None,
) -> TrainResult:  # fmt: skip
    """Train an adapted model by a plan, in the run folder `out`; the rows of a `split` are kept there. overridden and
    adapted are recorded; with a scorer the adapter that answers best is the run's."""
    asked, before = plan.recipe, run_folder.read_run(out)
    plan, found = settle(resumed(plan, before), model)
    trainee = Trainee.of(model, plan.recipe, base.name)
    run = _describe_run(plan, base) | {"overridden": dict(overridden or {}), "adapted": list(adapted)}
    run["memory"] = None if found is None else record_run(base.name, model.device, found)
    run["oom_retries"] = [] if before is None else before.get("oom_retries", [])
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
        run_folder.write_run(out, run, asked)
        if split is not None:
            write_split(out / "data", *split)
        start = restore_state(trainee, out, report)
        if trainee.model.device.type == "cuda":
            report({"event": "note", "text": passes.engine(trainee.model, trainee.passes)})
        report(_plan_event(plan, trainee, start.step))
        rehearse(trainee, plan)

        def retried(retry: Retry) -> None:
            run["oom_retries"] = [*run["oom_retries"], asdict(retry)]
            run_folder.write_run(out, run, asked)
            report({"event": "note", "text": retry.text()})

        with StopRequest() as stop:
            progress = _loop(trainee, plan, out, start, report, stop, retried, scorer)
        best = None if scorer is None else take_best(trainee, out)
        final = TrainResult(
            out, progress.step, progress.loss, progress.eval_loss, progress.tokens, progress.seconds, progress.skipped,
            plan.warmup_steps, trainee.size, start.step if before is not None else None, len(run["oom_retries"]),
            best, progress.best_score,
        )  # fmt: skip
        save_final(trainee, out)
        run_folder.write_run(out, run | {"state": "done", "final": {**asdict(final), "out": str(out)}}, asked)
    return final


def _loop(
    trainee: Trainee, plan: Plan, out: Path, progress: Progress, report: OnEvent, stop: StopRequest,
    retried: Callable[[Retry], None], scorer: Scorer | None,
) -> Progress:  # fmt: skip
    step, prepared, clock = progress.step, plan.prepare(progress.step), _Clock()
    saved, launched = step or -1, deque[_Launched]()
    watch = watched(plan.steps, plan.warmup_steps, plan.recipe.train.learning_rate, out / "metrics.jsonl")

    def told(event: Event, kind: str, notes: Sequence[str]) -> None:
        run_folder.append_metrics(out / "metrics.jsonl", event)
        for one in [{"event": kind, **event}, *({"event": "note", "text": text} for text in notes)]:
            report(one)

    def finish(left: int) -> Progress:
        now = progress
        while len(launched) > left:
            now, event = _finished(trainee, plan, now, launched.popleft(), clock, report)
            told(event, "step", watch.step(event))
        return now

    while step < plan.steps:
        try:
            launched.append(_launch(trainee, plan, step, prepared, stop))
        except _Stopped:
            _stop(trainee, out, finish(0), saved, stop)
        except PackTooLarge as error:
            progress = finish(0)
            plan = _with_room(trainee, plan, out, progress, saved, error)
            retried(describe(plan, trainee, error.batch, step))
            prepared = replace(prepared, batches=plan.pack(prepared.rows))
            continue
        step += 1
        # The next step's packs are made while a GPU computes this one.
        prepared = plan.prepare(step)
        last = step == plan.steps
        evaluate = bool(plan.heldout) and (last or step % plan.eval_steps == 0)
        save = last or step % plan.save_steps == 0
        score = scorer is not None and (last or scorer.due(step, evaluate))
        # A GPU is never waited for while it has nothing else to do.
        progress = finish(0 if evaluate or score or save or stop.requested else trainee.ahead)
        if evaluate:
            progress, event = _evaluated(trainee.model, plan, progress)
            told(event, "eval", watch.evaluated(event["eval/loss"]))
        if scorer is not None and score:
            progress, event, said = score_run(scorer, trainee, out, progress, plan.steps_per_epoch)
            told(event, "score", [*watch.scored(event), *said])
            if is_over(scorer, progress):
                last = save = True
        if save:
            save_state(trainee, out, progress)
            saved = step
        if evaluate or score or save:
            clock.restart()
        if stop.requested and not last:
            _stop(trainee, out, progress, saved, stop)
        if last:
            break
    return progress


class _Clock:
    """Seconds from one step's end to the next, without what lies between steps."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._begun = time.perf_counter()

    def lap(self) -> float:
        before, self._begun = self._begun, time.perf_counter()
        return self._begun - before


@dataclass(frozen=True)
class _Launched:
    """A step that a GPU may still be computing."""

    step: int
    prepared: Prepared
    rate: float
    result: StepResult


def _launch(trainee: Trainee, plan: Plan, step: int, prepared: Prepared, stop: StopRequest) -> _Launched:
    rate = plan.learning_rate(step)
    return _Launched(step, prepared, rate, optimiser_step(trainee, prepared, rate, step, stop))


def _finished(
    trainee: Trainee, plan: Plan, progress: Progress, launched: _Launched, clock: _Clock, report: OnEvent
) -> tuple[Progress, Event]:
    """Wait for a step; where the run stands after it, and its event."""
    step, rows, (loss, norm, finite) = launched.step, launched.prepared.rows, launched.result.read()
    scale, in_a_row = launched.result.scale, 0
    if not finite:
        skipped = explain(trainee, plan, launched.prepared, step, loss, scale)
        report({"event": "note", "text": skipped.text(step + 1)})
        in_a_row = progress.skipped_in_a_row + (skipped.scale is None)
        require_few_skipped(in_a_row, skipped, launched.rate)
    seconds, tokens = clock.lap(), sum(len(row.ids) for row in rows)
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
    return progress, event if finite else {**event, "train/skipped": True}


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
    trainee: Trainee, prepared: Prepared, rate: float, step: int = 0, stop: StopRequest | None = None
) -> StepResult:
    """Compute the gradients of a step's packs and update the adapter, unless loss or norm is not finite."""
    loss = accumulate(trainee, prepared, step, stop)
    scale = None if trainee.scale is None else trainee.scale.value.clone()
    return StepResult(loss, trainee.update(loss, rate), scale)


def accumulate(trainee: Trainee, prepared: Prepared, step: int, stop: StopRequest | None = None) -> Tensor:
    """Add the gradients of the packs to the adapter; the step's loss, an fp32 scalar.

    Raises PackTooLarge when memory does not do; those of earlier packs are there then.
    """
    loss = torch.zeros((), device=trainee.model.device)
    trainee.model.train()
    for batch in prepared.batches:
        loss += gradients(trainee, batch, prepared.weight, step)
        if stop is not None and stop.requested:
            trainee.optimizer.zero_grad()
            raise _Stopped
    return loss


@torch.no_grad()
def evaluation_loss(model: Gemma3, batches: Iterable[Batch]) -> float:
    """The weighted mean loss over all supervised tokens of the batches, without dropout."""
    model.eval()
    found = ((float(batch.weight.double().sum()), float(passes.batch_loss(model, batch))) for batch in batches)
    weights, losses = zip(*found, strict=True)
    return sum(losses) / sum(weights)


def _evaluated(model: Gemma3, plan: Plan, progress: Progress) -> tuple[Progress, Event]:
    begun = time.perf_counter()
    loss = evaluation_loss(model, plan.heldout_packs())
    seconds = round(time.perf_counter() - begun, 6)
    epoch = round(progress.step / plan.steps_per_epoch, 6)
    event: Event = {"step": progress.step, "epoch": epoch, "eval/loss": loss, "eval/seconds": seconds}
    return replace(progress, eval_loss=loss), event


def _with_room(
    trainee: Trainee, plan: Plan, out: Path, progress: Progress, saved: int, error: PackTooLarge
) -> Plan:  # fmt: skip
    """The plan with which the step is tried again, everything made ready for it. Raises InputError, after the last
    good step was saved, when a row alone is too large."""
    room = smaller(plan, trainee, error.batch)
    make_room(trainee, room or plan)
    if room is not None:
        return room
    if progress.step > saved:
        save_state(trainee, out, progress)
    raise InputError(f"{hopeless(trainee, error.batch, error)}. Stopped after step {progress.step}, saved in {out}")


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
