"""run.json of a run: what it says when the run begins, what is added on the way, and what is mended when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dozan.recipe import Recipe
from dozan.train import run as run_folder
from dozan.train.disk import stops_when_full
from dozan.train.kept_rows import mend_rows, recipe_problem
from dozan.train.live import OnEvent
from dozan.train.moved import follow_base, names_another
from dozan.train.plan import Plan
from dozan.train.prepare import Base, Split
from dozan.train.recover import Recovery
from dozan.train.retry import Retry
from dozan.world import current


def describe_run(plan: Plan, base: Base) -> dict[str, Any]:
    """What run.json says of a run that begins."""
    return {
        "base": base.name, "base_sha256": base.sha256, "chat": base.chat, "recipe": plan.recipe.model_dump(mode="json"),
        "versions": run_folder.versions(), "steps": plan.steps, "warmup_steps": plan.warmup_steps,
        "packing": plan.packing, "rows": len(plan.rows), "heldout_rows": len(plan.heldout), "tokens": plan.tokens,
        "notes": list(plan.notes), "ranks": plan.ranks, "state": "running", "final": None,
        "fingerprint": run_folder.fingerprint(plan.recipe, plan.rows, plan.heldout, base.sha256),
    }  # fmt: skip


def mend(
    out: Path, split: Split | None, done: Mapping[str, Any], base: Base, given: Mapping[str, Any] | None, asked: Recipe,
    report: OnEvent,
) -> None:  # fmt: skip
    """Put right what is written down of a finished run; where all is well nothing is touched."""
    if recipe_problem(out, done) or run_folder.data_problems(out, done) or names_another(out, done, base.name):
        with stops_when_full(out), run_folder.locked(out):
            mend_rows(out, split, follow_base(out, done, base.name, given, asked, report), asked, report)


@dataclass
class Record:
    """run.json, written again when there is something to add; by the first rank alone."""

    out: Path
    run: dict[str, Any]
    asked: Recipe
    report: OnEvent

    def write(self, **changes: object) -> None:
        """Write it down, with what has changed."""
        self.run.update(changes)
        if current().first:
            run_folder.write_run(self.out, self.run, self.asked)

    def add(self, kind: str, what: Retry | Recovery) -> None:
        """Keep what happened in the list of its kind, and tell it."""
        self.write(**{kind: [*self.run[kind], asdict(what)]})
        self.report({"event": "note", "text": what.text()})
