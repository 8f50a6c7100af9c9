"""`dozan runs` and `dozan clean`: thin layers over `dozan.runs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[Path, typer.Argument(help="The folder with the runs.", metavar="DIR")]


def runs(
    root: Root = Path("output"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List runs: state, step, score, size."""
    from dataclasses import asdict

    from dozan.runs import age, list_runs

    found = list_runs(root)
    if as_json:
        typer.echo(json.dumps([{**asdict(info), "folder": str(info.folder)} for info in found], indent=1))
        return
    if not found:
        typer.echo(f"no run in {root}")
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from dozan.terminal import console

    table = Table("run", "state", "step", "score", "loss", "size", "age", "base", box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[2:7]:
        column.justify = "right"
    for info in found:
        score = "" if info.score is None else f"{info.score:.1%}"
        loss = "" if info.loss is None else f"{info.loss:.4f}"
        name = str(info.folder.relative_to(root)) if info.folder != root else str(root)
        steps = "" if info.state == "damaged" else f"{info.step}/{info.steps}"
        table.add_row(name, info.state, steps, score, loss, mib(info.bytes), age(info.changed), Path(info.base).name)
    console.print(table)
    for info in found:
        if info.problem:
            console.print(f"{info.folder.name}: {info.problem}", markup=False)
        elif info.state == "stopped":
            console.print(f"{info.folder.name} goes on with: dozan resume {info.folder}", markup=False)


def clean(
    root: Root = Path("output"),
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; else it is only shown.")] = False,
) -> None:
    """Say what runs could do without; --yes removes it."""
    from dozan.runs import remove, waste

    found = waste(root)
    for each in found:
        typer.echo(f"{mib(each.bytes):>10}  {each.path}  ({each.why})")
    total = sum(each.bytes for each in found)
    if not found:
        typer.echo("nothing to remove")
    elif yes:
        typer.echo(f"{mib(remove(found))} freed")
    else:
        typer.echo(f"{mib(total)} would be freed; remove it with: dozan clean {root} --yes")


def mib(size: int) -> str:
    """Bytes as MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
