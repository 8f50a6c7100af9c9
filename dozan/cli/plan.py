"""`dozan plan`: a thin layer over `dozan.plan`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import dozan
from dozan.cli import complete
from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan.train.memory_plan import MemoryPlan

EMBEDDED_NAME = "the embedded base"


def plan(
    rows: Annotated[
        Path | None, typer.Argument(help="Rows; without them packs are taken to be full.", metavar="ROWS")
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="A folder, a hub id, or a size: 270m, 1b, 4b, 12b, 27b.", show_default=EMBEDDED_NAME, metavar="MODEL",
            autocompletion=complete.models,
        ),
    ] = dozan.EMBEDDED_BASE,
    recipe: Annotated[
        str | None, typer.Option(help="As for dozan train.", metavar="NAME|FILE", autocompletion=complete.recipes)
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="t4, l4, a100, h100, rtx4090 ..., or GiB.", show_default="the one here", metavar="NAME|GIB",
            autocompletion=complete.one_of(*complete.CARDS),
        ),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many of them divide each step.", metavar="N")] = 1,
    link: Annotated[
        str | None,
        typer.Option(
            help="What joins them: nvlink-4, pcie-4, ethernet-25 ...", show_default="as the card's", metavar="NAME",
            autocompletion=complete.one_of(*complete.LINKS),
        ),
    ] = None,
    per_machine: Annotated[
        int | None, typer.Option(min=1, help="GPUs of a machine.", show_default="8; 1 with a network", metavar="N")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="One setting, such as adapter.rank=64.", metavar="KEY=VALUE")
    ] = None,
    quantise: Annotated[
        str | None, typer.Option(help="How the base is held: none or nf4.", show_default="as it is", metavar="KIND")
    ] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="May change the training to make it fit.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure here.", metavar="FILE")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the plan as a page.", metavar="FILE")] = None,
) -> None:
    """What a run would take: memory, longest row, hours."""
    if quantise not in (None, "none", "nf4"):
        raise InputError(f"--quantise {quantise!r}: none or nf4")

    def planned(adapt: bool) -> MemoryPlan:
        return dozan.plan(
            rows, model, recipe, gpu, gpus, settings or (), adapt, quantise, link, per_machine  # type: ignore[arg-type]
        )  # fmt: skip

    found = _shown(planned(adapt))
    asks = not found.fit.fits and found.fit.possible and sys.stdin.isatty() and sys.stdout.isatty()
    if asks and typer.confirm("Change the training as above, so that it fits?"):
        found = _shown(planned(True))
    if found.fit.fits and any(step.changes_training for step in found.fit.steps):
        typer.echo("to train so: " + " ".join(f"--set '{text}'" for text in found.fit.settings))
    _write(found, json_file, html)
    raise typer.Exit(found.exit_code)


def _shown(found: MemoryPlan) -> MemoryPlan:
    from rich.console import Console

    from dozan.train.memory_text import print_plan

    print_plan(found, Console(highlight=False))
    return found


def _write(found: MemoryPlan, json_file: Path | None, html: Path | None) -> None:
    from dozan.train.memory_text import html as as_html

    for path, text in ((json_file, lambda: json.dumps(found.to_dict(), ensure_ascii=False, indent=1) + "\n"),
                       (html, lambda: as_html(found))):  # fmt: skip
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text(), encoding="utf-8")
