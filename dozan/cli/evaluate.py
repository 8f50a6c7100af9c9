"""`dozan eval`: scores what a model, or a file of predictions, answers to rows, and prints every part of it."""

from __future__ import annotations

from pathlib import Path

import typer

from dozan.judge.evaluate import add_preset, score_predictions
from dozan.judge.presets import apply_preset, print_preset, rows_for
from dozan.judge.report import write_report
from dozan.judge.summary_text import print_parts
from dozan.rows.readers import read_rows
from dozan.ship.served import evaluate
from dozan.terminal import console, print_scores, progress


def evaluate_rows(
    data: Path, model: str, json_file: Path | None, limit: int | None, max_new_tokens: int, predictions: Path | None,
    preset: str | None, grammar: bool = False, html: Path | None = None,
) -> None:  # fmt: skip
    """Scores the rows of `data`; `predictions` stand for what `model` would answer; `preset` adds another's score;
    `grammar` holds every answer to the tools' schemas; `html` gets a page."""
    examples = read_rows(data, say=lambda text: typer.echo(text, err=True))
    if preset is not None:
        examples = rows_for(preset, examples)
    if predictions is not None:
        scores = score_predictions(predictions, examples, json_file, limit)
    else:
        with progress("scoring") as on_progress:
            scores = evaluate(model, examples, json_file, max_new_tokens, limit, on_progress, grammar=grammar)
    name = Path(predictions or model).name
    print_scores({name: scores})
    print_parts(scores, console)
    if html is not None:
        write_report(html, f"{name} on {data.name}", {name: scores}, [], {"model": str(predictions or model)})
    if preset is not None:
        found = apply_preset(preset, scores, examples[:limit])
        if json_file is not None:
            add_preset(json_file, found)
        print_preset(found, console)
