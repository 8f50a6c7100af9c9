"""`--gpus N` of the verbs that train: the same command line, as that many ranks of this machine."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dozan.errors import InputError
from dozan.world.environment import place_of

Gpus = Annotated[int, typer.Option("--gpus", min=1, help="Train on N GPUs of this machine.", metavar="N")]
Restarts = Annotated[
    int | None,
    typer.Option(
        "--restarts", min=0, help="With --gpus: how often to go on after a rank died.", metavar="N", show_default="3",
    ),
]  # fmt: skip
Port = Annotated[
    int | None,
    typer.Option(
        "--port", min=1024, max=65535, help="With --gpus: where ranks meet.", metavar="PORT", show_default="a free one",
    ),
]  # fmt: skip
RESTARTS = 3


def trained_by_ranks(context: typer.Context, gpus: int, restarts: int | None, port: int | None) -> bool:
    """Run the command line as `gpus` ranks, if more than one is asked for, and say so. Raises typer.Exit with the run's
    status when that is not 0, and InputError for what does not go together."""
    if gpus == 1:
        given = [name for name, value in (("--restarts", restarts), ("--port", port)) if value is not None]
        if given:
            raise InputError(f"{given[0]} is for several ranks: give --gpus 2 or more with it, or leave it out")
        return False
    from dozan.launch import launch, without

    arguments = without(context.find_root().obj, ("--gpus", "--restarts", "--port"))
    status = launch(arguments, gpus, RESTARTS if restarts is None else restarts, port)
    if status:
        raise typer.Exit(status)
    return True


def may_ask() -> bool:
    """Whether somebody sits at this process's terminal; ranks share one, and nobody answers them all."""
    return place_of(os.environ) is None and sys.stdin.isatty() and sys.stdout.isatty()
