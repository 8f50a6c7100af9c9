"""`dozan reproduce`: a published result made again with real weights, and written up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def reproduce(
    name: Annotated[str, typer.Argument(help="What to reproduce: functiongemma-ar.", metavar="NAME")],
    model: Annotated[
        str, typer.Option(help="A hub id or a checkpoint folder.", metavar="MODEL")
    ] = "google/functiongemma-270m-it",
    data: Annotated[
        str, typer.Option(help="A hub id, or a folder with train and test rows.", metavar="DATA")
    ] = "TuwaiqAcademy/AISA-ArabicFC",
    out: Annotated[Path, typer.Option(help="Where all of it goes.", metavar="DIR")] = Path("output/reproduce"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the training; recorded.", metavar="KEY=VALUE")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most N test rows.", metavar="N")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="New tokens an answer may take.", metavar="N")] = 256,
) -> None:
    """Check against transformers, train, score beside published figures, write up."""
    from dozan.reproduce.reproduce import reproduce as run_reproduce
    from dozan.terminal import print_line

    run_reproduce(name, model, data, out, settings or (), limit, max_new_tokens, print_line)
