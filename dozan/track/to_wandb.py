"""A run in Weights & Biases; offline, in `wandb` of the run folder, unless the user is online there.

It is online when WANDB_MODE says so, or when that is not set and WANDB_API_KEY is. W&B's own looking around (git, code,
console, machine, crash reports) is off: what is told is what metrics.jsonl and run.json hold.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dozan.track.facts import KINDS, Picture, RunFacts, later

# Crash reports would go out in offline mode too; read when the package is imported.
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import wandb  # noqa: E402
from wandb.errors import Error as WandbError  # noqa: E402

from dozan.track.wandb_files import DamagedFile, history  # noqa: E402

FOLDER = "wandb"


class Wandb:
    """Each line of metrics.jsonl is a row of the history, drawn over `step`."""

    name = "wandb"
    failures: tuple[type[Exception], ...] = (OSError, WandbError, DamagedFile)

    def __init__(self, facts: RunFacts) -> None:
        mode = mode_of(os.environ)
        self._seen = _read(facts)
        settings = wandb.Settings(
            console="off", save_code=False, disable_git=True, x_disable_meta=True, x_disable_stats=True,
            x_disable_machine_info=True, x_save_requirements=False, quiet=True, silent=True, host="", email="",
        )  # fmt: skip
        self._run: Any = wandb.init(
            project=facts.project, name=facts.name, id=facts.id, dir=str(facts.out), mode=mode,
            config=dict(facts.config), resume="allow" if mode == "online" else None, settings=settings,
        )  # fmt: skip
        there = self._run.summary.get("step") if self._run.resumed and not self._seen else None
        if there is not None:
            # The files are on another machine; the server knows the last step.
            self._seen = {kind: int(there) for kind in KINDS}
        self._run.define_metric("step", hidden=True)
        for pattern in (*(f"{kind}/*" for kind in KINDS), "epoch"):
            self._run.define_metric(pattern, step_metric="step")
        offline = "offline; to send it: wandb sync " + str(Path(self._run.dir).parent)
        self.place = str(self._run.url) if mode == "online" else offline if mode == "offline" else mode

    def seen(self) -> Mapping[str, int]:
        return self._seen

    def log(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        self._run.log({"step": step, **figures})

    def show(self, step: int, page: Path, pictures: list[Picture]) -> None:
        self._run.log({"step": step, "report/page": wandb.Html(page.read_text(encoding="utf-8"), inject=False)})

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


def mode_of(environment: Mapping[str, str]) -> Any:
    """WANDB_MODE as it is set, else online where there is WANDB_API_KEY, else offline."""
    said = environment.get("WANDB_MODE", "").strip().lower()
    return said or ("online" if environment.get("WANDB_API_KEY") else "offline")


def _read(facts: RunFacts) -> dict[str, int]:
    """What earlier processes of this run wrote to files beside it."""
    seen: dict[str, int] = {}
    for path in sorted((facts.out / FOLDER).glob(f"*run-*/run-{facts.id}.wandb")):
        for row in history(path):
            for kind in (*KINDS, "report"):
                if any(key.startswith(f"{kind}/") for key in row):
                    if not isinstance(row.get("step"), int):
                        raise DamagedFile(path)
                    later(seen, kind, row["step"])
    return seen
