"""`dozan data`: the verbs on rows, each a few lines over `dozan.data`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import dozan

EMBEDDED_NAME = "the embedded base"

app = typer.Typer(
    name="data",
    help="Rows: check them, repair them, see what is trained.",
    epilog="Start with: dozan data check rows.jsonl",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

Files = Annotated[list[str], typer.Argument(help="Rows in any known shape, or hf:org/name.", metavar="FILE...")]
OneFile = Annotated[str, typer.Argument(help="Rows in any known shape, or hf:org/name.", metavar="FILE")]
Model = Annotated[
    str,
    typer.Option(help="Whose tokens and chat format to use.", show_default=EMBEDDED_NAME, metavar="MODEL"),
]
Shape = Annotated[
    str | None, typer.Option(help="Read the rows in this shape.", show_default="told by the rows", metavar="NAME")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every figure here.", metavar="FILE")]


@app.command()
def check(
    files: Files,
    model: Annotated[
        str | None, typer.Option(help="The model the rows are for.", show_default=EMBEDDED_NAME, metavar="MODEL")
    ] = None,
    shape: Shape = None,
    eval_data: Annotated[
        list[str] | None, typer.Option(help="Evaluation rows, which must not be trained on.", metavar="FILE")
    ] = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.", metavar="FILE")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only these rules, as DZ402 or DZ5.", metavar="CODE")] = None,
    except_: Annotated[list[str] | None, typer.Option("--except", help="All rules but these.", metavar="CODE")] = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="The longest row that is trained.", metavar="N")] = 4096,
) -> None:
    """Find everything that is wrong with rows, in one pass."""
    import dozan.data as data
    from dozan.check.report_text import print_report

    report = data.check(files, model, shape, eval_data or (), only or (), except_ or (), max_tokens, json_file, html)
    print_report(report, _console())
    raise typer.Exit(report.exit_code)


@app.command()
def rules(
    code: Annotated[str | None, typer.Argument(help="Only this rule, with why and remedy.", metavar="CODE")] = None,
    json_file: JsonFile = None,
) -> None:
    """List every rule of check, with its code."""
    import dozan.data as data
    from dozan.check.rules_text import print_rules, rules_named

    found = rules_named(data.rules(), code)
    if json_file is not None:
        from dataclasses import asdict

        _write(json_file, [asdict(rule) for rule in found])
    print_rules(found, _console(), whole=code is not None)


@app.command()
def show(
    file: OneFile,
    row: Annotated[list[str] | None, typer.Option(help="A row's id, or its line.", metavar="ID|N")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page to look at instead.", metavar="FILE")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Without --row, the first N rows.", metavar="N")] = 1,
    model: Model = dozan.EMBEDDED_BASE,
    shape: Shape = None,
) -> None:
    """Show rows as the model sees them: what is trained and shared."""
    import dozan.data as data

    shown = data.show(file, row or (), model, html, shape, limit, _say)
    if html is not None:
        typer.echo(f"written: {html}")
        return
    from dozan.check.show_text import print_row

    for one in shown:
        print_row(one, _console())


@app.command()
def stats(files: Files, model: Model = dozan.EMBEDDED_BASE, shape: Shape = None, json_file: JsonFile = None) -> None:
    """Tokens, tools, dialects, and what shared beginnings save."""
    import dozan.data as data
    from dozan.check.stats_text import print_stats

    found = data.stats(files, model, shape, _say)
    if json_file is not None:
        _write(json_file, found.to_dict())
    print_stats(found, _console())


def _console():  # type: ignore[no-untyped-def]
    from rich.console import Console

    return Console(highlight=False)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
