"""`dozan compare`: a thin layer over `ship.compared` and `judge.compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dozan.cli import complete

Models = Annotated[
    list[str], typer.Argument(
        help="Models, or score files of dozan eval --json, the base first; a run alone is held against its base.",
        metavar="A B [C…]", autocompletion=complete.models,
    ),
]


def compare(
    models: Models,
    data: Annotated[
        Path | None, typer.Option("--data", "--dataset", help="Rows to score models on (JSONL).", metavar="FILE")
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="A gate: normalised>=0.9, strict>=base-0.01, regressions<=5. Repeats.", metavar="GATE"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe whose gates (score.require) count too.", metavar="NAME|FILE",
            autocompletion=complete.recipes,
        ),
    ] = None,
    most: Annotated[int, typer.Option("--list", min=0, help="Rows shown, lost and won each.", metavar="N")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every figure here.", metavar="FILE")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N rows.", metavar="N")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="New tokens a row may take.", metavar="N")] = 256,
) -> None:
    """Tell models apart on the same rows; 1 when a gate is missed."""
    from dataclasses import asdict

    from dozan.judge.compare import compare as compare_scores
    from dozan.judge.compare import print_table, print_versus, to_json
    from dozan.judge.gates import check_gates
    from dozan.judge.report import report_run, write_report
    from dozan.ship.compared import gates_for, score_all, with_base
    from dozan.terminal import console, progress

    models = with_base(models)
    gates = gates_for(models, require or (), recipe)
    runs = score_all(models, data, progress, max_new_tokens, limit)
    comparison, verdicts = compare_scores(runs), check_gates(gates, runs)
    print_versus(comparison, runs, most, console)
    print_table(comparison, console)
    for verdict in verdicts:
        console.print(str(verdict), style=None if verdict.met else "bold red", markup=False)
    if json_file is not None:
        found = {**to_json(comparison), "gates": [asdict(verdict) for verdict in verdicts]}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if html is not None:
        title = " against ".join(reversed(list(runs)[:2]))
        if (Path(models[1]) / "run.json").is_file():
            report_run(html, models[1], runs, title, gates=verdicts)
        else:
            write_report(html, title, runs, [], {"models": list(models)}, gates=verdicts)
    if not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)
