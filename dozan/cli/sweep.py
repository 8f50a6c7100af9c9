"""`dozan sweep`: settings searched within a budget of minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

import dozan


def sweep(
    data: Annotated[Path, typer.Option("--data", "--dataset", help="Rows to train on (JSONL).", metavar="FILE")],
    model: Annotated[
        str, typer.Option(help="A checkpoint folder or a hub id.", show_default="the embedded base", metavar="MODEL")
    ] = dozan.EMBEDDED_BASE,
    out: Annotated[Path, typer.Option(help="The sweep's folder.", metavar="DIR")] = Path("output/sweep"),
    recipe: Annotated[
        str | None,
        typer.Option(help="A shipped recipe or a YAML file.", show_default="by the model", metavar="NAME|FILE"),
    ] = None,
    minutes: Annotated[float, typer.Option(help="In all; more of them go on.", metavar="M")] = 30.0,
    space: Annotated[
        list[str] | None,
        typer.Option("--set-space", help="What to try: train.learning_rate=1e-4..1e-2 or adapter.rank=8,16,32.",
                     metavar="KEY=VALUES", show_default="rate, rank, alpha and epochs around the recipe's"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting that all trials have.", metavar="KEY=VALUE")
    ] = None,
    eval_data: Annotated[
        Path | None, typer.Option(help="Rows to measure on. Without it a share is held out.", metavar="FILE")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="At most so many trials.", metavar="N")] = None,
) -> None:
    """Search rate, rank, alpha and epochs within minutes; writes the best recipe."""
    from dozan.sweep.sweep import sweep as run_sweep
    from dozan.sweep.table import print_sweep
    from dozan.terminal import print_line

    found = run_sweep(data, model, out, recipe, settings or (), minutes, space or (), eval_data, trials, print_line)
    print_sweep(out)
    print_line(f"best recipe: {found.recipe}; its run: {found.folder}; picture: {out / 'sweep.html'}")
    print_line(f"train with it: {train_command(data, model, eval_data, found.recipe)}")


def train_command(data: Path, model: str, eval_data: Path | None, recipe: Path) -> str:
    """The command that trains what was swept, quoted for a shell."""
    parts = ["dozan", "train", "--data", str(data)]
    parts += [] if model == dozan.EMBEDDED_BASE else ["--model", model]
    parts += [] if eval_data is None else ["--eval-data", str(eval_data)]
    return shlex.join([*parts, "--recipe", str(recipe)])
