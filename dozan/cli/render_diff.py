"""`dozan render-diff`: a thin layer over `ship.rendered`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dozan
from dozan.cli import complete


def render_diff(
    data: Annotated[Path, typer.Option("--data", "--dataset", help="Rows (JSONL).", metavar="FILE")],
    row: Annotated[str | None, typer.Option(help="Only the row of this id.", metavar="ID")] = None,
    model: Annotated[
        str,
        typer.Option(help="A run, a folder, a hub id or a GGUF: its layout and its template.",
                     show_default="dozan:embedded", metavar="MODEL", autocompletion=complete.models),
    ] = dozan.EMBEDDED_BASE,
    limit: Annotated[int, typer.Option(min=1, help="Only the first N rows.", metavar="N")] = 20,
    most: Annotated[int, typer.Option("--list", min=0, help="Places shown of each runtime.", metavar="N")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every place.", metavar="FILE")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
) -> None:  # fmt: skip
    """Show how each runtime would write your rows, byte by byte."""
    from dozan.errors import InputError
    from dozan.rows.readers import read_rows
    from dozan.ship.rendered import open_rendering, render_rows, write_json
    from dozan.ship.rendered_text import print_rows, rows_page
    from dozan.terminal import console

    examples = read_rows(data, say=lambda text: typer.echo(text, err=True))
    chosen = [example for example in examples if row is None or example.id == row][:limit]
    if not chosen:
        raise InputError(f"{data}: no row {row!r}; ids begin with {examples[0].id!r}" if examples
                         else f"{data}: holds no rows")  # fmt: skip
    found = render_rows(open_rendering(model), chosen)
    print_rows(found, most, console)
    if json_file is not None:
        write_json(json_file, found)
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(rows_page(found, f"{data.name} as runtimes write it"), encoding="utf-8")
