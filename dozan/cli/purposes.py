"""`dozan forget` and `dozan eval --purpose`: thin layers over `ship.purposed`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dozan.cli import complete

if TYPE_CHECKING:
    from dozan.judge.purposes import PurposeScores


def forget(
    base: Annotated[
        str, typer.Argument(help="The model before tuning.", metavar="BASE", autocompletion=complete.models)
    ],
    tuned: Annotated[str, typer.Argument(help="The model after.", metavar="TUNED", autocompletion=complete.models)],
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--rows", help="Held-out rows of code, reasoning, conversation, domain or creative. Repeats.",
            metavar="PURPOSE=FILE",
        ),
    ] = None,
    replay: Annotated[
        str | None, typer.Option(help="A run tuned with replay rows: what it brings back.", metavar="RUN")
    ] = None,
    answers: Annotated[bool, typer.Option("--answers", help="Generate too: run code, read final answers.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure here.", metavar="FILE")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page: radar, table, side by side.", metavar="FILE")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Only the first N rows of each.", metavar="N")] = 100,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="New tokens an answer may take.", metavar="N")] = 512,
) -> None:  # fmt: skip
    """Measure what tuning cost: the five purposes before and after."""
    from dozan.judge.forgetting import forgetting, table, to_json, verdict
    from dozan.judge.forgetting import html as as_html
    from dozan.judge.purposes import guard_note
    from dozan.ship.compared import short_names
    from dozan.ship.purposed import read_purposes, score_purposes
    from dozan.terminal import console, progress

    models = [base, tuned, *([replay] if replay else [])]
    names, purposes = short_names(models), read_purposes(rows or (), limit)
    scored = {
        name: score_purposes(model, purposes, progress, max_new_tokens, answers)
        for name, model in zip(names, models, strict=True)
    }
    found = forgetting(scored)
    console.print(table(found))
    console.print(verdict(found), markup=False)
    for note in {guard_note(scores) for each in scored.values() for scores in each.values()} - {""}:
        console.print(note, markup=False)
    _write(json_file, json.dumps(to_json(found), ensure_ascii=False, indent=1) + "\n")
    if html is not None:
        _write(html, as_html(found, scored))


def evaluate_for(
    purpose: str, model: str, data: Path, json_file: Path | None = None, html: Path | None = None,
    limit: int | None = None, max_new_tokens: int = 512,
) -> None:  # fmt: skip
    """What `dozan eval --purpose` does: score, print one table, write what was asked for."""
    from dozan.ship.purposed import evaluate_purpose
    from dozan.terminal import progress

    print_purpose(evaluate_purpose(purpose, model, data, progress, max_new_tokens, limit), model, json_file, html)


def print_purpose(scores: PurposeScores, model: str, json_file: Path | None, html: Path | None) -> None:
    """Prints the scores of one model and writes what was asked for."""
    from dozan.judge.purposes import guard_note
    from dozan.judge.purposes_page import html as as_html
    from dozan.judge.purposes_page import table
    from dozan.terminal import console

    runs = {Path(model).name: scores}
    console.print(table(runs))
    if note := guard_note(scores):
        console.print(note, markup=False)
    _write(json_file, json.dumps({"model": model, **scores.to_json()}, ensure_ascii=False, indent=1) + "\n")
    if html is not None:
        _write(html, as_html(runs))


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
