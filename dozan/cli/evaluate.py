"""`dozan eval`: scores what a model, or a file of predictions, answers to rows, and prints every part of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from dozan.errors import InputError
from dozan.judge.evaluate import add_preset, score_predictions, write_scores
from dozan.judge.presets import apply_preset, print_preset, rows_for
from dozan.judge.purposes import PurposeScores
from dozan.judge.report import write_report
from dozan.judge.shards import Joined, join_scores
from dozan.judge.summary import Scores
from dozan.judge.summary_text import print_parts
from dozan.rows.parts import Part, part_file
from dozan.rows.readers import read_rows
from dozan.rows.shards import read_shard
from dozan.ship.served import evaluate
from dozan.ship.sharded import Asked, evaluate_together, write_shard
from dozan.terminal import console, print_scores, progress


def evaluate_rows(
    data: Path, model: str, json_file: Path | None, limit: int | None, max_new_tokens: int, predictions: Path | None,
    preset: str | None, grammar: bool = False, html: Path | None = None,
) -> None:  # fmt: skip
    """Scores the rows of `data`; `predictions` stand for what `model` would answer; `preset` adds another's score;
    `grammar` holds every answer to the tools' schemas; `html` gets a page."""
    examples = read_rows(data, say=_say)
    if preset is not None:
        examples = rows_for(preset, examples)
    if predictions is not None:
        scores = score_predictions(predictions, examples, json_file, limit)
    else:
        with progress("scoring") as on_progress:
            scores = evaluate(model, examples, json_file, max_new_tokens, limit, on_progress, grammar=grammar)
    given = str(predictions or model)
    _print(scores, given, data.name, html)
    if preset is not None:
        found = apply_preset(preset, scores, examples[:limit])
        if json_file is not None:
            add_preset(json_file, found)
        print_preset(found, console)


def evaluate_part(asked: Asked, shard: str, json_file: Path | None, html: Path | None) -> None:
    """What `dozan eval --shard` does: score one part of the rows, and write it for `dozan join`."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("--shard: the ranks that torchrun starts share the rows by themselves; leave --shard out, or "
                         "start each part without torchrun")  # fmt: skip
    which, out = read_shard(shard), part_file(json_file, html)
    own, rows = write_shard(asked, which, out, progress, _say)
    typer.echo(f"part {which}: {own:,} of {rows:,} rows: {out}")


def evaluate_ranks(asked: Asked, json_file: Path | None, html: Path | None) -> bool:
    """Under torchrun each rank scores its share, and the first prints and writes the whole; False for one alone."""
    from dozan.world import joined

    with joined() as world:
        if world.size == 1:
            return False
        whole = evaluate_together(asked, world, progress, _say)
        if whole is not None:
            _print_whole(whole, json_file, html)
    return True


def print_joined(parts: Sequence[Part], json_file: Path | None, html: Path | None) -> None:
    """What `dozan join` does with the parts of an evaluation."""
    _print_whole(join_scores(parts), json_file, html)


def _print_whole(whole: Joined, json_file: Path | None, html: Path | None) -> None:
    """Prints and writes what one process would have."""
    about, scores = whole.about, whole.scores
    if isinstance(scores, PurposeScores):
        from dozan.cli.purposes import print_purpose

        print_purpose(scores, about["given"], json_file, html)
        return
    if json_file is not None:
        write_scores(json_file, scores, about["model"])
    _print(scores, about["given"], about["data"], html)
    if about["preset"] is not None:
        found = apply_preset(about["preset"], scores, whole.examples)
        if json_file is not None:
            add_preset(json_file, found)
        print_preset(found, console)


def _print(scores: Scores, given: str, data: str, html: Path | None) -> None:
    name = Path(given).name
    print_scores({name: scores})
    print_parts(scores, console)
    if html is not None:
        write_report(html, f"{name} on {data}", {name: scores}, [], {"model": given})


def _say(text: str) -> None:
    typer.echo(text, err=True)
