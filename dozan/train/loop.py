"""The training loop, top to bottom: rows, loss, backward, clip, optimiser, log.

The loss of a step is the weighted sum over its supervised tokens divided by the sum of their weights, counted before
the first forward: however a step is cut into micro-batches, it is the same. Everything random is drawn from
(seed, step, row), so a resumed run needs no generator's state and repeats the uninterrupted one bit for bit on a CPU.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from dozan.errors import InputError, Interrupted
from dozan.kernels.precision import T4, determinism, emulated
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe, TrackRecipe
from dozan.rows.example import Example
from dozan.rows.kept import SEALED
from dozan.track.tracked import require_trackers, tracked
from dozan.train import passes
from dozan.train import run as run_folder
from dozan.train.disk import stops_when_full
from dozan.train.evaluation import evaluated, evaluation_loss
from dozan.train.islands import islands_of, widen
from dozan.train.keeper import Keeper
from dozan.train.kept_rows import keep_rows
from dozan.train.live import Event, OnEvent, reporter
from dozan.train.memory_choice import Adapt, fitted
from dozan.train.memory_record import record_run
from dozan.train.memory_run import rehearse, settle
from dozan.train.mirror import fetch
from dozan.train.plan import Plan
from dozan.train.prepare import Base, Job, Split, prepare
from dozan.train.ranks import Ranks, dealt_plan, share
from dozan.train.recorded import Record, describe_run, mend
from dozan.train.recover import go_back_together, is_recoverable, slowed
from dozan.train.retry import GoBack, PackTooLarge, describe, hopeless, make_room, resumed, smaller
from dozan.train.scoring import Scorer, is_over, score_run, settle_best, take_best
from dozan.train.sentinels import said_in, watched
from dozan.train.signals import Stopped, StopRequest, leaving_at_once
from dozan.train.state import Progress, Trainee, restore_state, save_final
from dozan.train.step import Clock, Launched, StepResult, accumulate, finished, launch, optimiser_step
from dozan.train.watchdog import Watchdog
from dozan.world import World, current, joined

__all__ = ["StepResult", "TrainResult", "accumulate", "evaluation_loss", "fit", "optimiser_step", "train"]


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


def train(
    data: str | Path | Sequence[Example], model: str | Path | None = None, out: str | Path = "output/run",
    recipe: Recipe | str | None = None, overrides: Sequence[str] = (),
    eval_data: str | Path | Sequence[Example] | None = None, on_event: OnEvent | None = None, resume: bool = True,
    force: bool = False, precision: str = "auto", adapt: Adapt = False,
) -> TrainResult:  # fmt: skip
    """Train an adapter on rows, or every weight (`train.weights`), or go on with the unfinished run in `out`.

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
    given = {"data": _path(data), "eval_data": _path(eval_data), "model": _path(model), "force": force,
             "precision": precision}  # fmt: skip
    with leaving_at_once(), joined() as world, emulated(T4 if as_t4 else None):
        job = prepare(data, model, recipe, [*overrides, *["train.dtype=float16"] * as_t4], eval_data, force, out)
        brought = world.from_first(lambda: _brought(job, Path(out)))
        job = fitted(job, out, adapt)
        track = job.plan.recipe.track
        require_trackers(track.to)
        given |= world.from_first(lambda: run_folder.track_id(Path(out), bool(track.to)))
        with told(world, on_event, track, Path(out)) as report:
            for note in (*brought, *job.notes):
                report({"event": "note", "text": note})
            result = fit(
                job.open_model(), job.plan, Path(out), job.base, report, resume, job.split, job.overridden, job.adapted,
                job.scorer, given, job.findings,
            )  # fmt: skip
            report({"event": "done", **asdict(result)})
            return result


def _brought(job: Job, out: Path) -> list[str]:
    """Bring back from the mirror what the run folder lacks; what was done."""
    asked = job.plan.recipe.train
    return [] if asked.mirror is None else list(fetch(out, Path(asked.mirror), asked.keep_checkpoints))


@contextmanager
def told(world: World, on_event: OnEvent | None, track: TrackRecipe, out: Path) -> Iterator[OnEvent]:
    """Where events go: to the user and the trackers, from the first rank alone."""
    if not world.first:
        yield lambda event: None
        return
    with reporter(on_event) as shown, tracked(shown, track, out) as report:
        yield report


def _path(rows: str | Path | Sequence[Example] | None) -> str | None:
    """Where rows or a model are read from, as another folder would name it; None for rows in memory."""
    if not isinstance(rows, str | Path):
        return None
    return str(Path(rows).absolute()) if Path(rows).exists() else str(rows)


def fit(
    model: Gemma3, plan: Plan, out: Path, base: Base, report: OnEvent, resume: bool = True,
    split: Split | None = None, overridden: Mapping[str, int] | None = None, adapted: Sequence[str] = (),
    scorer: Scorer | None = None, given: Mapping[str, Any] | None = None, findings: Mapping[str, Any] | None = None,
) -> TrainResult:  # fmt: skip
    """Train an adapted model by a plan, in the run folder `out`; the rows of a `split` are kept there. overridden,
    adapted, given (to `train`) and findings are recorded; with a scorer the adapter that answers best is the run's."""
    world = current()
    asked, before = plan.recipe, world.from_first(lambda: run_folder.read_run(out))
    plan, found = settle(slowed(resumed(dealt_plan(plan, world, model.config), before), before), model)
    widen(model, islands_of(before))
    trainee = Trainee.of(model, plan.recipe, base.name)
    run = describe_run(plan, base) | {"overridden": dict(overridden or {}), "adapted": list(adapted), "given": given}
    run["memory"] = None if found is None else record_run(base.name, model.device, found)
    run["findings"] = findings
    for kind in ("oom_retries", "recoveries", "said"):
        run[kind] = [] if before is None else before.get(kind, [])
    run[SEALED] = run_folder.data_seals(before)
    world.require_same(run["fingerprint"])
    if before is not None:
        if not resume:
            raise InputError(f"{out} holds a run already; choose another output folder, or let it resume")
        run_folder.require_same(out, before["fingerprint"], run["fingerprint"])
        problem = world.from_first(lambda: before.get("recovered") or run_folder.final_problem(out, before))
        if before["state"] == "done" and not problem:
            if world.first:
                mend(out, split, before, base, given, asked, report)
            report({"event": "note", "text": f"{out} holds this very run, finished: nothing to do"})
            return TrainResult(**{**before["final"], "out": out})
        report({"event": "note", "text": problem}) if problem else None
    holding = run_folder.locked(out) if world.first else nullcontext()
    with stops_when_full(out), holding, determinism(plan.recipe.train.deterministic):
        record = Record(out, run, asked, report)
        start = share(trainee, world, _begun(trainee, record, split, before) if world.first else Progress())
        if trainee.model.device.type == "cuda":
            report({"event": "note", "text": passes.engine(trainee.model, trainee.passes)})
        report(_plan_event(plan, trainee, start.step))
        rehearse(trainee, plan)
        with StopRequest() as stop, Keeper(trainee, out, report, stop, start) as keeper:
            ranks = Ranks(world, trainee, stop, keeper.asked)
            with Watchdog(out, stop, 60 * plan.recipe.train.stall_minutes):
                progress = _loop(_Course(trainee, plan, report, stop, ranks, keeper, scorer, record), start)
            best = None if scorer is None else world.from_first(lambda: take_best(trainee, out, progress, report))
            progress = share(trainee, world, progress)
            final = TrainResult(
                out, progress.step, progress.loss, progress.eval_loss, progress.tokens, progress.seconds,
                progress.skipped + sum(each["skipped"] for each in run["recoveries"]), plan.warmup_steps, trainee.size,
                start.step if before is not None else None, len(run["oom_retries"]), best,
                None if best is None else progress.best_score,
            )  # fmt: skip
            keeper.wait()
            if world.first or trainee.is_sharded:
                save_final(trainee, out)
            if world.first:
                sealed = {SEALED: {**run[SEALED], **run_folder.sealed_final(out)}}
                record.write(state="done", final={**asdict(final), "out": str(out)}, **sealed)
            keeper.finish()
    world.agree([0])  # until the first one has written all of it
    return final


def _begun(trainee: Trainee, record: Record, split: Split | None, before: Mapping[str, Any] | None) -> Progress:
    """Begin to write the run down, and have the trainee stand where its newest checkpoint does; where that is."""
    out, report = record.out, record.report
    run_folder.require_space(out, 4 * trainee.size, trainee.recipe.train.keep_checkpoints)
    record.write()
    record.write(**{SEALED: keep_rows(out, split, before, report)})
    start = settle_best(out, restore_state(trainee, out, report), report)
    record.run["said"] = said_in(out / run_folder.METRICS)
    return start


def _loop(course: _Course, progress: Progress) -> Progress:
    """All steps; from the last good checkpoint again where a run cannot go on, as often as the recipe allows."""
    while True:
        try:
            return course.run(progress)
        except GoBack as error:
            keeper, record = course.keeper, course.record
            keeper.wait()
            before = record.run["recoveries"]
            course.plan, progress, back = go_back_together(
                course.ranks.world, course.trainee, course.plan, keeper.out, error, before, course.report
            )
            keeper.forget(progress)
            record.add("recoveries", back)


@dataclass
class _Course:
    """What the loop needs and calls; the plan changes where memory does not do."""

    trainee: Trainee
    plan: Plan
    report: OnEvent
    stop: StopRequest
    ranks: Ranks
    keeper: Keeper
    scorer: Scorer | None
    record: Record

    def run(self, progress: Progress) -> Progress:
        """The steps after those made already."""
        trainee, ranks, keeper, clock = self.trainee, self.ranks, self.keeper, Clock()
        step, prepared, launched = progress.step, self.plan.prepare(progress.step), deque[Launched]()
        train, metrics = self.plan.recipe.train, keeper.out / run_folder.METRICS
        written = metrics if ranks.world.first else Path(os.devnull)
        self.watch = watched(self.plan.steps, self.plan.warmup_steps, train.learning_rate, written)

        def finish(left: int) -> Progress:
            now = progress
            while len(launched) > left:
                now, event = finished(trainee, self.plan, now, launched.popleft(), clock, self.report, self.stop.beat,
                                      partial(is_recoverable, self.plan, self.record.run["recoveries"]))
                self._tell(event, "step", self.watch.step(event))
            return now

        while progress.owed or (step < self.plan.steps and not self._is_over(progress)):
            if progress.owed:
                ranks.consult()
            else:
                try:
                    launched.append(launch(trainee, self.plan, step, prepared, ranks))
                except Stopped:
                    _stop(keeper, finish(0), ranks)
                except PackTooLarge as error:
                    progress = finish(0)
                    self.plan = _with_room(trainee, self.plan, keeper, progress, error)
                    self.record.add("oom_retries", describe(self.plan, trainee, error.size, step))
                    prepared = replace(prepared, batches=self.plan.pack(prepared.rows))
                    continue
                step += 1
                # The next step's packs are made while a GPU computes this one.
                prepared = self.plan.prepare(step)
            last = step == self.plan.steps
            evaluate, score = self._due(step, progress)
            save = last or step % self.plan.save_steps == 0 or ranks.saving
            # A GPU is never waited for while it has nothing else to do.
            progress = finish(0 if evaluate or score or save or ranks.stopping else trainee.ahead)
            if evaluate or score:
                progress = self._look(progress, evaluate, score)
                save = save or last or self._is_over(progress)
            progress = replace(progress, owed=False)
            if save:
                keeper.save(progress)
            if evaluate or score or save:
                clock.restart()
            keeper.poll()
            if ranks.stopping and not last and not self._is_over(progress):
                _stop(keeper, progress, ranks)
        return progress

    def _due(self, step: int, progress: Progress) -> tuple[bool, bool]:
        """Whether to measure the loss after a step, and whether to score; what was measured before a stop is not
        measured again."""
        last = step == self.plan.steps
        evaluate = bool(self.plan.heldout) and (last or step % self.plan.eval_steps == 0)
        score = self.scorer is not None and (last or self.scorer.due(step, evaluate))
        return evaluate and progress.eval_step != step, score

    def _look(self, progress: Progress, evaluate: bool, score: bool) -> Progress:
        """Measure the loss, and score; a stop meanwhile leaves the rest to the run that goes on from there."""
        try:
            with self.trainee.whole():
                if evaluate:
                    progress, event = evaluated(self.trainee.model, self.plan, progress, self.ranks)
                    self._tell(event, "eval", self.watch.evaluated(event["eval/loss"]))
                if score and self.scorer is not None:
                    progress, event, said = score_run(
                        self.scorer, self.trainee, self.keeper.out, progress, self.plan.steps_per_epoch,
                        self.ranks.check, self.ranks.pause,
                    )  # fmt: skip
                    self._tell(event, "score", [*self.watch.scored(event), *said])
        except Stopped:
            _stop(self.keeper, replace(progress, owed=True), self.ranks)
        return progress

    def _is_over(self, progress: Progress) -> bool:
        return self.scorer is not None and is_over(self.scorer, progress)

    def _tell(self, event: Event, kind: str, notes: Sequence[str]) -> None:
        if not self.ranks.world.first:
            return
        metrics = self.keeper.out / run_folder.METRICS
        run_folder.append_metrics(metrics, {**event, "said": list(notes)} if notes else event)
        if notes:
            self.record.write(said=said_in(metrics))
        for one in [{"event": kind, **event}, *({"event": "note", "text": text} for text in notes)]:
            self.report(one)


def _with_room(trainee: Trainee, plan: Plan, keeper: Keeper, progress: Progress, error: PackTooLarge) -> Plan:
    """The plan with which the step is tried again, everything made ready for it. Raises InputError, after the last
    good step was saved, when a row alone is too large."""
    room = smaller(plan, trainee, error.size)
    make_room(trainee, room or plan)
    if room is not None:
        return room
    saved = _saved(keeper, progress)
    current().agree([0])
    raise InputError(f"{hopeless(trainee, error.size)}. Stopped after {saved}").of_all()


def _stop(keeper: Keeper, progress: Progress, ranks: Ranks) -> NoReturn:
    asked, saved = ranks.stopping, _saved(keeper, progress)
    ranks.world.agree([0])  # until the first one has saved: a launcher ends all when one has left
    raise Interrupted(f"{asked}: stopped after {saved}; the same command goes on from there").of_all()


def _saved(keeper: Keeper, progress: Progress) -> str:
    keeper.save(progress)
    keeper.wait()
    return f"step {progress.step}, saved in {keeper.out}"


def _plan_event(plan: Plan, trainee: Trainee, first: int) -> Event:
    return {
        "event": "plan", "recipe": plan.recipe.name, "rows": len(plan.rows), "heldout": len(plan.heldout),
        "tokens": plan.tokens, "supervised": plan.supervised, "sharing": plan.sharing(), "steps": plan.steps,
        "first": first, "batch_size": plan.recipe.train.batch_size, "warmup_steps": plan.warmup_steps,
        "trainable": trainee.size, "notes": list(plan.notes), "log_steps": plan.recipe.train.log_steps,
    }  # fmt: skip
