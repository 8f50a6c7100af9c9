"""The rows that a run divided, in its data folder, and its recipe.yaml: written with it, sealed in run.json, written
anew when damaged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dozan.recipe import Recipe
from dozan.rows import kept
from dozan.rows.kept import SEALED
from dozan.train import run as run_folder
from dozan.train.live import OnEvent
from dozan.train.prepare import Split, write_split


def keep_rows(out: Path, split: Split | None, before: Mapping[str, Any] | None, report: OnEvent) -> dict[str, Any]:
    """Write the rows of a run that begins or goes on, and tell which were not as the run had written them. Gives what
    run.json is to say of them; without a split, what it says already."""
    for problem in run_folder.data_problems(out, before or {}):
        anew = "written anew" if split is not None else "the file of rows that it was divided from writes it anew"
        report({"event": "note", "text": f"{problem}: {anew}"})
    if split is None:
        return run_folder.data_seals(before)
    write_split(out / run_folder.DATA, *split)
    return run_folder.sealed_data(out)


def recipe_problem(out: Path, run: Mapping[str, Any]) -> str | None:
    """What is wrong with a run's recipe.yaml; None when all is well."""
    return kept.problem(out, run, run_folder.RECIPE)


def mend_rows(out: Path, split: Split | None, done: Mapping[str, Any], asked: Recipe, report: OnEvent) -> None:
    """The same for a finished run, of which nothing else is to be done, and for its recipe.yaml."""
    settings = recipe_problem(out, done)
    if settings is not None:
        report({"event": "note", "text": f"{settings}: written anew"})
        run_folder.write_run(out, done, asked)
    if not run_folder.data_problems(out, done):
        return
    others = {name: said for name, said in done[SEALED].items() if not name.startswith(f"{run_folder.DATA}/")}
    sealed = {**others, **keep_rows(out, split, done, report)}
    if sealed != done[SEALED]:
        run_folder.write_run(out, {**done, SEALED: sealed}, asked)
