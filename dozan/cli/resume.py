"""`dozan resume`: the training that a run folder's record names, gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dozan
from dozan.cli import complete
from dozan.cli.ranks import Gpus, Port, Restarts, trained_by_ranks
from dozan.errors import InputError


def resume(
    context: typer.Context,
    run: Annotated[
        Path, typer.Argument(help="The folder of a run that was stopped.", metavar="RUN", autocompletion=complete.runs)
    ],
    data: Annotated[Path | None, typer.Option(help="Where the rows lie now, if they moved.", metavar="FILE")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting that changes no weight: train.save_steps=50.", metavar="KEY=VALUE"),
    ] = None,
    gpus: Gpus = 1,
    restarts: Restarts = None,
    port: Port = None,
) -> None:
    """Go on with a stopped run, from its newest checkpoint."""
    from dozan.rows import kept
    from dozan.train.run import read_run

    record = read_run(run)
    if record is None:
        raise InputError(f"{run} holds no run; dozan runs {run.parent} lists those that are there")
    given = record.get("given") or {}
    rows = data or given.get("data")
    if rows is None:
        raise InputError(f"{run} was begun from Python, with rows in memory: call dozan.train(...) again with the same "
                         f"rows and out={str(run)!r}, or name their file with --data")  # fmt: skip
    recipe = run / "recipe.yaml"
    if not recipe.is_file():
        raise InputError(f"{recipe} is missing; give the command of the run again: dozan train … --out {run}")
    changed = kept.problem(run, record, recipe.name)
    if changed is not None:
        raise InputError(f"{changed}; give the command of the run again, with --set for what is to change: dozan train "
                         f"… --out {run}")  # fmt: skip
    if trained_by_ranks(context, gpus, restarts, port):
        return
    dozan.train(rows, given.get("model"), run, str(recipe), settings or (), given.get("eval_data"),
                force=bool(given.get("force")), precision=given.get("precision", "auto"))  # fmt: skip
