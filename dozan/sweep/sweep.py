"""`dozan.sweep`: settings tried within a budget of minutes, each trial a run that is paused at its rungs and resumed.

A pause is a stop as of a signal: the run saves its state, and going on from it changes no bit. So a trial that is
promoted costs only the steps that it has not made.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dozan.errors import InputError, Interrupted
from dozan.recipe import Recipe, dump, override
from dozan.rows.example import Example
from dozan.sweep.halving import RUNGS, Job, Result, Trial, best, next_job
from dozan.sweep.page import write_page
from dozan.sweep.space import Space, Value, own_values, parse_space, shown, with_values
from dozan.sweep.study import Study
from dozan.train.checkpoint import checkpoints, write_text
from dozan.train.loop import train
from dozan.train.prepare import Job as Prepared
from dozan.train.prepare import prepare
from dozan.train.run import METRICS, hash_rows
from dozan.train.signals import StopRequest

SCORED_ROWS = 64
METRIC = "graded_f1"
"""Over the calls' arguments: a model that never calls, which has every row without a call right, has 0 in it."""
BEST, RECORD, PAGE, TRIALS = "best.yaml", "sweep.json", "sweep.html", "trials"
Say = Callable[[str], None]


@dataclass(frozen=True)
class SweepResult:
    """values: the best trial's; score: its score by generation, None where rows have no calls; loss: on held-out rows.
    step, steps: how far it came of its whole run. recipe: the file to train with. folder: its run."""

    values: Mapping[str, Value]
    score: float | None
    loss: float
    step: int
    steps: int
    trials: int
    seconds: float
    recipe: Path
    folder: Path


def sweep(
    data: str | Path | Sequence[Example], model: str | Path | None = None, out: str | Path = "output/sweep",
    recipe: Recipe | str | None = None, overrides: Sequence[str] = (), minutes: float = 30.0,
    space: Sequence[str] = (), eval_data: str | Path | Sequence[Example] | None = None, trials: int | None = None,
    say: Say = print,
) -> SweepResult:  # fmt: skip
    """Try settings on the rows by successive halving, and write the best recipe, sweep.json and sweep.html to `out`.

    Trials are ranked by the score of their calls on held-out rows (F1 over names, keys and values), by the loss there
    where no row has a call.
    minutes: in all, those of earlier calls with this `out` counted; a sweep that was stopped, or whose minutes grow,
    goes on. space: `key=low..high` or `key=a,b,c` of recipe settings; without it rate, rank, alpha and epochs around
    the recipe's. trials: at most so many. The other arguments are those of `dozan.train`; it runs in the main thread.

    Raises InputError for what cannot be used, and Interrupted when a signal stopped it; the same call goes on.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise InputError(f"minutes is {minutes}; give a positive number, for example 30")
    given = override(recipe, overrides) if isinstance(recipe, Recipe) else recipe
    prepared = prepare(data, model, given, () if isinstance(recipe, Recipe) else overrides, eval_data)
    base = prepared.plan.recipe
    if not prepared.plan.heldout:
        raise InputError("a sweep is measured on held-out rows, and none are: set data.holdout, or give --eval-data")
    parts = parse_space(space, base)
    calls = _has_calls(prepared, eval_data, data)
    out = Path(out)
    if out.exists() and any(out.iterdir()) and not (out / RECORD).is_file() and not (out / "study.journal").is_file():
        raise InputError(f"{out} holds something that is no sweep; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    metric = METRIC if calls else "loss"
    settled = {"recipe": base.model_dump(mode="json"), "space": {k: str(v) for k, v in parts.items()}, "metric": metric,
               "base": prepared.base.sha256, "rows": hash_rows(prepared.plan.rows),
               "heldout rows": hash_rows(prepared.plan.heldout)}  # fmt: skip
    study = Study(out, settled, parts, own_values(base, parts))
    arguments = {"data": data, "model": model, "eval_data": eval_data}
    return _Sweep(out, study, base, parts, prepared, arguments, calls, 60 * minutes, trials, say).run()


@dataclass
class _Sweep:
    """A sweep at work; all that outlives the process is in the study and in the trials' run folders."""

    out: Path
    study: Study
    recipe: Recipe
    space: Space
    prepared: Prepared
    arguments: dict[str, Any]
    calls: bool
    budget: float
    most: int | None
    say: Say
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.before = self.study.seconds

    @property
    def spent(self) -> float:
        """Seconds of this process and of those before it."""
        return self.before + time.monotonic() - self.began

    def run(self) -> SweepResult:
        while True:
            known = self._trials()
            typical = self._steps(own_values(self.recipe, self.space) or {})
            job = next_job([trial for trial, _ in known], self.budget - self.spent, typical, self.most)
            if job is None or self.spent >= self.budget:
                break
            try:
                is_whole = self._do(job, dict((trial.number, values) for trial, values in known))
            finally:
                self.study.spend(self.spent)
                self._write()
            if not is_whole:
                break
        return self._finish()

    def _do(self, job: Job, known: Mapping[int, Mapping[str, Value]]) -> bool:
        """Bring a trial to a rung; False when the time ran out first."""
        if job.trial is None:
            number, values = self.study.ask(self.recipe.train.seed)
            trial = Trial(number, self._steps(values))
        else:
            trial, values = job.trial, dict(known[job.trial.number])
        told = ", ".join(f"{key.rpartition('.')[2]} {shown(value)}" for key, value in values.items())
        target = trial.target(job.rung)
        self.say(f"trial {trial.number}, to step {target} of {trial.steps}: {told}")
        if target == trial.at:
            self.study.add(trial.number, job.rung, trial.results[-1])
            return True
        result = self._train(trial, values, target)
        if result is None:
            self.say(f"the time is over in the midst of trial {trial.number}")
            return False
        self.study.add(trial.number, job.rung, result)
        scored = "" if result.score is None else f"F1 of the calls {result.score:.1%}, "
        self.say(f"  {scored}held-out loss {result.loss:.4f}, {result.seconds:.0f} s; {self.spent / 60:.1f} of "
                 f"{self.budget / 60:g} minutes")  # fmt: skip
        return True

    def _train(self, trial: Trial, values: Mapping[str, Value], target: int) -> Result | None:
        """Train from where the trial stands to step `target`, and pause it there; None when the time is over first.

        What was measured there is read from the run's own figures: a process that was stopped or killed in between may
        have measured some of it, or all.
        """
        folder = self._folder(trial.number)
        if target < trial.steps and any(step >= target for step, _ in checkpoints(folder / "checkpoints")):
            found = _result(folder, trial, target, self.calls)
            if found is not None:
                return found
        watch = _Watch(target, self.calls, self.began + self.budget - self.before)
        rows = (self.recipe.score.rows or SCORED_ROWS) if self.calls else 0
        settings = [
            f"train.eval_steps={target}", f"train.save_steps={trial.steps}", "train.keep_checkpoints=1",
            f"score.rows={rows}", f"score.steps={target}", "score.patience=null",
        ]  # fmt: skip
        recipe = override(with_values(self.recipe, values), settings)
        begun = time.monotonic()
        try:
            train(**self.arguments, out=folder, recipe=recipe, on_event=watch)
        except Interrupted:
            if not watch.paused:
                raise
        if watch.stopped is not None:  # too late for this run, which was about to be whole
            raise Interrupted(f"{watch.stopped}: stopped between steps; the same command goes on from there")
        return _result(folder, trial, target, self.calls, time.monotonic() - begun - watch.stepping)

    def _finish(self) -> SweepResult:
        known = self._trials()
        found = best([trial for trial, _ in known])
        if found is None:
            raise InputError(f"{self.budget / 60:g} minutes do not do for one trial; give more with --minutes: what "
                             "was begun goes on")  # fmt: skip
        if len(found.results) < RUNGS:
            self.say(f"{self.budget / 60:g} minutes were too few for a whole run of {found.steps} steps: the best came "
                     f"to step {found.at}; more --minutes go on from there")  # fmt: skip
        values = dict(known)[found]
        chosen = with_values(self.recipe, values).model_copy(update={"name": f"{self.recipe.name}-swept"})
        write_text(self.out / BEST, dump(chosen))
        self._write()
        last = found.results[-1]
        return SweepResult(values, last.score, last.loss, last.step, found.steps, len(known), self.spent,
                           self.out / BEST, self._folder(found.number))  # fmt: skip

    def _write(self) -> None:
        """sweep.json and sweep.html."""
        known = self._trials()
        chosen = best([trial for trial, _ in known])
        record = {
            "metric": METRIC if self.calls else "loss", "minutes": self.budget / 60,
            "seconds": round(self.spent, 3), "recipe": self.recipe.name,
            "best": None if chosen is None else chosen.number,
            "trials": [
                {"number": trial.number, "values": values, "steps": trial.steps,
                 "folder": f"{TRIALS}/{trial.number:03d}", "rungs": [vars(result) for result in trial.results]}
                for trial, values in known
            ],
        }  # fmt: skip
        write_text(self.out / RECORD, json.dumps(record, ensure_ascii=False, indent=1))
        write_page(self.out / PAGE, record)

    def _trials(self) -> list[tuple[Trial, dict[str, Value]]]:
        return [(Trial(number, self._steps(values), results), values)
                for number, values, results in self.study.trials()]  # fmt: skip

    def _steps(self, values: Mapping[str, Value]) -> int:
        """The steps of a whole run with these values."""
        settings = with_values(self.recipe, values).train
        per_epoch = math.ceil(len(self.prepared.plan.rows) / settings.batch_size)
        return settings.max_steps or max(1, math.ceil(settings.epochs * per_epoch - 1e-9))

    def _folder(self, number: int) -> Path:
        return self.out / TRIALS / f"{number:03d}"


@dataclass
class _Watch:
    """Hears a trial's events: pauses it when it is measured at step `target`, or when the time is over.

    stepping: seconds in this process's steps. paused: it was asked to stop here. stopped: the signal by which someone
    else had asked already; a second one would end the process at once.
    """

    target: int
    calls: bool
    until: float
    stepping: float = 0.0
    paused: bool = False
    stopped: str | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "step":
            self.stepping += event["train/seconds"]
            if time.monotonic() >= self.until and event["step"] < self.target:
                self._pause()
        elif kind == ("score" if self.calls else "eval") and event["step"] == self.target:
            self._pause()

    def _pause(self) -> None:
        asked = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        assert isinstance(asked, StopRequest), "a trial trains in the main thread"
        if self.paused:
            return
        if asked.requested is not None:
            self.stopped = asked.requested
            return
        self.paused = True
        signal.raise_signal(signal.SIGTERM)


def _result(folder: Path, trial: Trial, target: int, calls: bool, besides: float = 0.0) -> Result | None:
    """What a trial's metrics.jsonl says of step `target`; None where it was not measured there, or not scored.

    besides: seconds that this process spent on it outside of steps; those of others count as they measured.
    """
    path = folder / METRICS
    lines = [line for line in map(_read, path.read_bytes().splitlines()) if line] if path.is_file() else []
    there = {key: value for line in lines if line["step"] == target for key, value in line.items()}
    if "eval/loss" not in there or (calls and f"score/{METRIC}" not in there):
        return None
    stepping = [line["train/seconds"] for line in lines
                if "train/seconds" in line and trial.at < line["step"] <= target]  # fmt: skip
    loss = math.inf if there["eval/loss"] is None else there["eval/loss"]
    score = float(there[f"score/{METRIC}"] or 0.0) if calls else None
    besides = max(besides, there["eval/seconds"] + there.get("score/seconds", 0.0))
    return Result(target, len(stepping), score, loss, besides + sum(stepping), sum(stepping))


def _read(line: bytes) -> dict[str, Any] | None:
    """A line of metrics.jsonl, None for one that a kill cut off."""
    try:
        return dict(json.loads(line))
    except ValueError:
        return None


def _has_calls(prepared: Prepared, eval_data: Any, data: Any) -> bool:
    """Whether a held-out row asks for a call."""
    from dozan.rows.readers import read_rows

    if eval_data is not None:
        return any(map(_calls, read_rows(eval_data) if isinstance(eval_data, str | Path) else eval_data))
    assert prepared.split is not None, data
    rows = prepared.split.rows.read()
    return any(is_heldout and isinstance(row, Example) and _calls(row) for row, is_heldout in rows)


def _calls(row: Example) -> bool:
    return any(message.get("tool_calls") for message in row.messages)

