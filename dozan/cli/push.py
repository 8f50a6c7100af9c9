"""`dozan push`: a thin layer over `ship.push`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dozan.cli import complete
from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan.ship.push import Parcel


def push(
    run: Annotated[
        Path, typer.Argument(help="A finished run, or a merged folder.", metavar="RUN", autocompletion=complete.runs)
    ],
    repo: Annotated[str, typer.Argument(help="The repository on the hub.", metavar="OWNER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Only its owner sees it.")] = False,
    gguf: Annotated[
        Path | None, typer.Option(help="A folder that dozan export wrote: its files too.", metavar="DIR")
    ] = None,
    dry_run: Annotated[
        Path | None, typer.Option("--dry-run", help="Write what would be sent here, and send nothing.", metavar="DIR")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Send a run to the hub, with a model card; shows what, and asks."""
    from dozan.ship.push import prepare
    from dozan.ship.push import push as send

    if dry_run is not None:
        parcel = prepare(run, repo, private, gguf)
        typer.echo("\n".join(parcel.lines()))
        parcel.write(dry_run)
        return typer.echo(f"nothing was sent; it lies in {dry_run}")
    if not yes and not sys.stdin.isatty():
        raise InputError("push asks before it sends: answer at a terminal, or give --yes")

    def agreed(parcel: Parcel) -> bool:
        typer.echo("\n".join(parcel.lines()))
        return yes or typer.confirm("Send this?")

    address = send(run, repo, private, gguf, agreed)
    if address is None:
        typer.echo("nothing was sent")
        raise typer.Exit(1)
    typer.echo(address)
