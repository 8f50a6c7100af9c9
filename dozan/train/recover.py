"""Back to the last good checkpoint: when steps are not finite, with layers in float32 where float16 was too narrow for
them, else at half the rate; when memory ended amid an update, as it was.

What went wrong stays in run.json, and so do the rate and the layers: a run that is resumed later goes on with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dozan.train.checkpoint import checkpoints, remove
from dozan.train.health import LOWER
from dozan.train.islands import islands_of, widen, widened
from dozan.train.live import OnEvent
from dozan.train.plan import Plan
from dozan.train.ranks import share
from dozan.train.retry import GoBack, make_room
from dozan.train.scoring import settle_best
from dozan.train.state import Progress, Trainee, restore_state
from dozan.world import World


@dataclass(frozen=True)
class Recovery:
    """As run.json keeps it. step: from 1, where the run could not go on; resumed_from: after which step it does;
    skipped: steps it had skipped for that; rate_factor: of every rate from then on; fp32_layers: that compute in
    float32 from then on (from 0); why: rows and module."""

    step: int
    resumed_from: int
    skipped: int
    rate_factor: float
    fp32_layers: tuple[int, ...] = ()
    why: str = ""

    def text(self) -> str:
        """A line for whoever watches the run."""
        wide = ", ".join(f"model.layers.{layer}" for layer in self.fp32_layers)
        return (f"step {self.step}: back to {'the checkpoint of ' * (self.resumed_from > 0)}step {self.resumed_from}, "
                f"with {self.rate_factor:g} x the planned rate" + f" and {wide} in float32" * bool(wide))  # fmt: skip


def go_back(
    trainee: Trainee, plan: Plan, out: Path, error: GoBack, before: Sequence[Mapping[str, Any]], report: OnEvent
) -> tuple[Plan, Progress, Recovery]:
    """The plan and the progress to go on with. Raises `error` when it is hopeless: `train.recoveries` are used up, no
    good checkpoint is there, it has the same weights and nothing else is to change, or this very step was gone back
    from before."""
    if not is_recoverable(plan, before, error.step):
        raise error
    make_room(trainee, plan)
    wide, lower = error.layers, error.factor
    if not widened(trainee.model, wide):
        wide, lower = (), LOWER
    layers = (*islands_of({"recoveries": before}), *wide)
    updates = float(trainee.optimizer.updates)
    progress = restore_state(trainee, out, report, sound=True)
    same, untouched = float(trainee.optimizer.updates) == updates, not updates
    if (not progress.step and not (wide and untouched)) or (error.skipped and same and not wide):
        raise error
    if not progress.step and trainee.scale is not None:
        trainee.scale.restart()
    factor = plan.rate_factor * lower
    for step, folder in checkpoints(out / "checkpoints"):
        if step > progress.step:
            remove(folder)
    progress = settle_best(out, progress, report)
    why = str(error).partition("; no update")[0] if error.skipped else ""
    recovery = Recovery(error.step, progress.step, error.skipped, factor, layers, why)
    return replace(plan, rate_factor=factor), progress, recovery


def go_back_together(
    world: World, trainee: Trainee, plan: Plan, out: Path, error: GoBack, before: Sequence[Mapping[str, Any]],
    report: OnEvent,
) -> tuple[Plan, Progress, Recovery]:  # fmt: skip
    """`go_back` of the first rank, and the others follow it."""
    if world.size == 1:
        return go_back(trainee, plan, out, error, before, report)
    progress, given = Progress(), dict[str, Any]()
    if world.first:
        _, progress, found = go_back(trainee, plan, out, error, before, report)
        given = asdict(found)
    else:
        make_room(trainee, plan)
    recovery = Recovery(**world.from_first(lambda: given))
    recovery = replace(recovery, fp32_layers=tuple(recovery.fp32_layers))
    if not world.first:
        widen(trainee.model, recovery.fp32_layers)
    return replace(plan, rate_factor=recovery.rate_factor), share(trainee, world, progress), recovery


def is_recoverable(plan: Plan, before: Sequence[Mapping[str, Any]], step: int) -> bool:
    """Whether `train.recoveries` are left after those `before`, none of them for this step."""
    return len(before) < plan.recipe.train.recoveries and all(each["step"] != step for each in before)


def slowed(plan: Plan, run: Mapping[str, Any] | None) -> Plan:
    """The plan at the rate that the recoveries in a run.json left it."""
    recoveries: Sequence[Mapping[str, Any]] = (run or {}).get("recoveries", ())
    return replace(plan, rate_factor=recoveries[-1]["rate_factor"]) if recoveries else plan
