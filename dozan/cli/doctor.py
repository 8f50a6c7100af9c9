"""`dozan doctor`: a thin layer over `dozan.doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def doctor(
    out: Annotated[Path, typer.Option(help="Where runs will be written.", metavar="DIR")] = Path("output"),
    hub: Annotated[
        str | None, typer.Option(help="Ask the hub about this model, with HF_TOKEN.", metavar="MODEL")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port of dozan serve.", metavar="N")] = 8000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look whether this machine can train; one fix a line."""
    from dozan.doctor import doctor as look
    from dozan.doctor import exit_status

    found = look(out, hub, port)
    typer.echo(json.dumps([check.to_dict() for check in found], indent=1) if as_json
               else "\n".join(check.text() for check in found))  # fmt: skip
    raise typer.Exit(exit_status(found))
