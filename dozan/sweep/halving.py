"""Successive halving: many trials begin, the better third goes on at each rung, from where it stopped.

A trial is one planned run. Its rungs are a ninth, a third and all of its steps: at each it is scored, and waits there
until it is among the best third of those that came so far, or for good. (Jamieson and Talwalkar, arXiv:1502.07943.)
How many begin is decided by the time that is left: a new one only while all that then has to follow still fits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

KEPT = 3
"""One of so many goes on to the next rung."""
RUNGS = 3
_SPARE = 1.15
"""A prediction is taken times this."""


@dataclass(frozen=True)
class Result:
    """A trial at a rung. step: after which it was scored. score: None where rows have no calls. seconds: of the job
    that brought it there, of which `stepping` in its steps."""

    step: int
    steps_made: int
    score: float | None
    loss: float
    seconds: float
    stepping: float

    @property
    def rank(self) -> tuple[float, float]:
        """Lower is better: the score counts, the loss tells equals apart."""
        return -(self.score or 0.0), self.loss


@dataclass(frozen=True)
class Trial:
    """A trial, the steps of its whole run, and its results, a rung each."""

    number: int
    steps: int
    results: tuple[Result, ...] = ()

    def target(self, rung: int) -> int:
        """The step of a rung."""
        return math.ceil(self.steps / KEPT ** (RUNGS - 1 - rung))

    @property
    def at(self) -> int:
        return self.results[-1].step if self.results else 0


@dataclass(frozen=True)
class Cost:
    """Seconds of a step, and those of a job besides: loading, reading rows, scoring, saving."""

    step: float
    job: float

    def of(self, steps: float) -> float:
        """The seconds that a job of so many steps is taken to need."""
        return _SPARE * (self.job + steps * self.step) if steps else 0.0


def measured(trials: Sequence[Trial]) -> Cost | None:
    """What jobs took so far; None before the first."""
    jobs = [result for trial in trials for result in trial.results if result.steps_made]
    if not jobs:
        return None
    steps = sum(job.steps_made for job in jobs)
    return Cost(sum(job.stepping for job in jobs) / steps, statistics.fmean(job.seconds - job.stepping for job in jobs))


@dataclass(frozen=True)
class Job:
    """Bring a trial to a rung; `trial` of None: a new one."""

    trial: Trial | None
    rung: int


def next_job(trials: Sequence[Trial], seconds_left: float, new_steps: float, most: int | None = None) -> Job | None:
    """What to do next, None when nothing that is left fits into the time.

    new_steps: steps of the whole run of a trial that is yet to be drawn. most: trials at most.
    """
    begun = next((trial for trial in trials if not trial.results), None)
    if begun is not None:
        return Job(begun, 0)
    cost = measured(trials)
    if cost is None:
        return Job(None, 0)
    if most is None or len(trials) < most:
        new = Trial(len(trials), math.ceil(new_steps))
        if cost.of(new.target(0)) + ladder(trials, new, cost) <= seconds_left:
            return Job(None, 0)
    for rung in range(1, RUNGS):
        waiting = [trial for trial in chosen(trials, rung) if len(trial.results) == rung]
        for trial in waiting:
            if cost.of(trial.target(rung) - trial.at) <= seconds_left:
                return Job(trial, rung)
    return None


def chosen(trials: Sequence[Trial], rung: int) -> list[Trial]:
    """The trials that go on to a rung, the best first: a third of those that reached the one before, at least one."""
    came = sorted((trial for trial in trials if len(trial.results) >= rung), key=lambda t: t.results[rung - 1].rank)
    return came[: max(1, len(came) // KEPT)] if came else []


def ladder(trials: Sequence[Trial], new: Trial, cost: Cost) -> float:
    """The seconds of all that has to follow after a new trial at its first rung."""
    count, seconds = len(trials) + 1, 0.0
    steps = statistics.fmean([trial.steps for trial in trials] + [new.steps])
    for rung in range(1, RUNGS):
        count = max(1, count // KEPT)
        there = sum(len(trial.results) > rung for trial in trials)
        part = steps / KEPT ** (RUNGS - 1 - rung) * (1 - 1 / KEPT)
        seconds += max(0, count - there) * cost.of(part)
    return seconds


def best(trials: Sequence[Trial]) -> Trial | None:
    """The best of those that came furthest."""
    done = [trial for trial in trials if trial.results]
    return min(done, key=lambda trial: (-len(trial.results), trial.results[-1].rank), default=None)
