"""A sweep's memory: an Optuna study in a journal file, written after each result; a killed sweep goes on from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from dozan.errors import InputError
from dozan.sweep.halving import RUNGS, Result
from dozan.sweep.space import Choice, Range, Space, Value

JOURNAL, NAME = "study.journal", "dozan"


class Study:
    """The trials of the sweep in `out`. settled: what may not change once it has begun, as JSON."""

    def __init__(self, out: Path, settled: dict[str, Any], space: Space, first: dict[str, Value] | None) -> None:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
        except ModuleNotFoundError as error:
            raise InputError(f"a sweep needs {error.name}: pip install 'dozan[sweep]'") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = str(out / JOURNAL)
        storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
        direction: Literal["minimize", "maximize"] = "minimize" if settled["metric"] == "loss" else "maximize"
        self._study = optuna.create_study(
            storage=storage, study_name=NAME, load_if_exists=True, direction=direction,
            sampler=optuna.samplers.RandomSampler(),
        )  # fmt: skip
        self._optuna, self._space = optuna, space
        before = self._study.user_attrs.get("settled")
        now = json.loads(json.dumps(settled))
        if before is None:
            self._study.set_user_attr("settled", now)
            if first is not None:
                self._study.enqueue_trial(dict(first))
        elif before != now:
            changed = [key for key in now if before.get(key) != now[key]]
            raise InputError(f"{out} holds a sweep with another {', '.join(changed)}; give the same to go on with it, "
                             "or choose another folder with --out; --minutes may grow")  # fmt: skip

    @property
    def seconds(self) -> float:
        """Seconds that earlier processes spent."""
        return float(self._study.user_attrs.get("seconds", 0.0))

    def spend(self, seconds: float) -> None:
        """Note the seconds that were spent in all."""
        self._study.set_user_attr("seconds", seconds)

    def ask(self, seed: int) -> tuple[int, dict[str, Value]]:
        """A new trial's number and values, which depend on `seed` and on how many there were."""
        count = len(self._study.trials)
        self._study.sampler = self._optuna.samplers.RandomSampler(seed=seed * 1_000_003 + count)
        trial = self._study.ask(self._distributions())
        return trial.number, dict(trial.params)

    def add(self, number: int, rung: int, result: Result) -> None:
        """Note what a trial came to at a rung; at the last one it is finished."""
        value = result.loss if result.score is None else result.score
        trial = self._optuna.trial.Trial(self._study, self._study.get_trials(deepcopy=False)[number]._trial_id)
        trial.report(value, result.step)
        trial.set_user_attr(f"rung{rung}", asdict(result))
        if rung == RUNGS - 1:
            self._study.tell(number, value)

    def trials(self) -> list[tuple[int, dict[str, Value], tuple[Result, ...]]]:
        """Every trial that was drawn: its number, values and results."""
        found = []
        for trial in self._study.get_trials(deepcopy=False):
            kept = [trial.user_attrs[f"rung{i}"] for i in range(RUNGS) if f"rung{i}" in trial.user_attrs]
            if set(trial.params) == set(self._space):  # else it waits in the queue
                found.append((trial.number, dict(trial.params), tuple(Result(**each) for each in kept)))
        return found

    def _distributions(self) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, part in self._space.items():
            if isinstance(part, Choice):
                made[key] = self._optuna.distributions.CategoricalDistribution(part.values)
            else:
                assert isinstance(part, Range)
                made[key] = self._optuna.distributions.FloatDistribution(part.low, part.high, log=part.log)
        return made
