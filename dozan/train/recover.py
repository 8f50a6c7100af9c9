"""Back to the last good checkpoint: when steps are not finite, at half the rate; when memory ended amid an update, as
it was.

What went wrong stays in run.json, and so does the rate: a run that is resumed later goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dozan.train.checkpoint import checkpoints, remove
from dozan.train.live import OnEvent
from dozan.train.plan import Plan
from dozan.train.retry import GoBack, make_room
from dozan.train.state import Progress, Trainee, restore_state

LOWER = 0.5


@dataclass(frozen=True)
class Recovery:
    """As run.json keeps it. step: from 1, where the run could not go on; resumed_from: after which step it does;
    skipped: steps it had skipped for that; rate_factor: of every rate from then on."""

    step: int
    resumed_from: int
    skipped: int
    rate_factor: float

    def text(self) -> str:
        """A line for whoever watches the run."""
        return (f"step {self.step}: back to the checkpoint of step {self.resumed_from}, with "
                f"{self.rate_factor:g} x the planned rate")  # fmt: skip


def go_back(
    trainee: Trainee, plan: Plan, out: Path, error: GoBack, before: Sequence[Mapping[str, Any]], report: OnEvent
) -> tuple[Plan, Progress, Recovery]:
    """The plan and the progress to go on with. Raises `error` when it is hopeless: `train.recoveries` are used up, no
    good checkpoint is there, it has the same weights, or this very step was gone back from before."""
    used = len(before) >= plan.recipe.train.recoveries
    if used or any(each["step"] == error.step for each in before):
        raise error
    make_room(trainee, plan)
    updates = float(trainee.optimizer.updates)
    progress = restore_state(trainee, out, report, sound=True)
    if not progress.step or (error.skipped and float(trainee.optimizer.updates) == updates):
        raise error
    factor = plan.rate_factor * error.factor
    for step, folder in checkpoints(out / "checkpoints"):
        if step > progress.step:
            remove(folder)
    recovery = Recovery(error.step, progress.step, error.skipped, factor)
    return replace(plan, rate_factor=factor), progress, recovery


def slowed(plan: Plan, run: Mapping[str, Any] | None) -> Plan:
    """The plan at the rate that the recoveries in a run.json left it."""
    recoveries: Sequence[Mapping[str, Any]] = (run or {}).get("recoveries", ())
    return replace(plan, rate_factor=recoveries[-1]["rate_factor"]) if recoveries else plan
