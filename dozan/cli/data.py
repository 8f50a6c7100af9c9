"""`dozan data`: the verbs on rows, each a few lines over `dozan.data`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import dozan
from dozan.cli import complete

if TYPE_CHECKING:
    from rich.console import Console

    from dozan.rows.parts import Part

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
    typer.Option(
        help="Whose tokens and chat format to use.", show_default=EMBEDDED_NAME, metavar="MODEL",
        autocompletion=complete.models,
    ),
]
Shape = Annotated[
    str | None, typer.Option(help="Read the rows in this shape.", show_default="told by the rows", metavar="NAME")
]
Only = Annotated[list[str] | None, typer.Option(help="Only these rules, as DZ402 or DZ5.", metavar="CODE")]
Except = Annotated[list[str] | None, typer.Option("--except", help="All rules but these.", metavar="CODE")]
EvalData = Annotated[list[str] | None, typer.Option(help="Rows that are held out.", metavar="FILE")]
Seed = Annotated[int, typer.Option(help="Of the split.", metavar="N")]
Holdout = Annotated[float, typer.Option(help="The share of rows to hold out.", metavar="SHARE")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write every figure here.", metavar="FILE")]


@app.command()
def check(
    files: Files,
    model: Annotated[
        str | None, typer.Option(help="The model the rows are for.", show_default=EMBEDDED_NAME, metavar="MODEL")
    ] = None,
    shape: Shape = None,
    eval_data: EvalData = None,
    json_file: JsonFile = None,
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.", metavar="FILE")] = None,
    only: Only = None,
    except_: Except = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="The longest row that is trained.", metavar="N")] = 4096,
    shard: Annotated[
        str | None, typer.Option(help="Check part I of N alone, into --json; dozan join joins them.", metavar="I/N")
    ] = None,
) -> None:
    """Find everything that is wrong with rows, in one pass."""
    import dozan.data as data
    from dozan.check.report_text import print_report

    if shard is not None:
        _check_part(shard, json_file, html, files, model, shape, eval_data or (), only or (), except_ or (), max_tokens)
        return
    with _console(stderr=True).status("reading") as status:
        report = data.check(
            files, model, shape, eval_data or (), only or (), except_ or (), max_tokens, json_file, html,
            lambda rows: status.update(f"checked {rows:,} rows"),
        )  # fmt: skip
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
def fix(
    files: Files,
    out: Annotated[Path, typer.Option(help="The JSONL file to write; logs go beside it.", metavar="FILE")],
    only: Only = None,
    except_: Except = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show the diff.")] = False,
    shape: Shape = None,
) -> None:
    """Repair what is safe to repair; set the rest aside, with reasons."""
    import dozan.data as data
    from dozan.check.fix_text import print_diff, print_fixed

    on_diff = partial(print_diff, console=_console()) if dry_run else None
    print_fixed(data.fix(files, out, only or (), except_ or (), dry_run, shape, _say, on_diff), _console())


@app.command()
def prepare(
    files: Files,
    out: Annotated[Path, typer.Option(help="A new folder.", metavar="DIR")],
    eval_data: EvalData = None,
    holdout: Holdout = 0.1,
    seed: Seed = 0,
    only: Only = None,
    except_: Except = None,
    dataset: Annotated[bool, typer.Option("--dataset", help="One dataset.json for both.")] = False,
    shape: Shape = None,
) -> None:
    """Write repaired rows to train and evaluate on, with a manifest."""
    import dozan.data as data
    from dozan.check.fix_text import print_fixed

    done = data.prepare(files, out, eval_data or (), holdout, seed, only or (), except_ or (), shape, dataset, _say)
    print_fixed(done.fixed, _console())
    typer.echo(f"{done.train_rows:,} rows to train on, {done.eval_rows:,} to evaluate on: {done.folder}")


@app.command()
def split(
    files: Files,
    out: Annotated[Path, typer.Option(help="The folder for both files.", metavar="DIR")],
    holdout: Holdout = 0.1,
    seed: Seed = 0,
    shape: Shape = None,
) -> None:
    """Divide rows so that near-duplicates and patterns do not leak."""
    import dozan.data as data

    done = data.split(files, out, holdout, seed, shape, _say)
    words = f"{done.groups:,} groups of {done.patterns:,} sentence patterns"
    typer.echo(f"{done.train_rows:,} rows to train on, {done.eval_rows:,} to evaluate on, {words}: {out}")


@app.command()
def generate(
    tools: Annotated[Path, typer.Option(help="The tools, a JSON array.", metavar="FILE")],
    lexicon: Annotated[Path, typer.Option(help="Patterns and values, YAML.", metavar="FILE")],
    out: Annotated[Path, typer.Option(help="The JSONL file to write.", metavar="FILE")],
    rows: Annotated[int, typer.Option(min=1, help="In both files together.", metavar="N")] = 500,
    seed: Annotated[int, typer.Option(help="Of the draw.", metavar="N")] = 0,
    dialects: Annotated[
        str | None, typer.Option(help="Separated by commas.", show_default="all", metavar="NAMES")
    ] = None,
    eval_out: Annotated[Path | None, typer.Option(help="Hold rows out, into this.", metavar="FILE")] = None,
    holdout: Holdout = 0.1,
) -> None:
    """Make Arabic rows for your tools from patterns and values."""
    import dozan.data as data

    names = [name.strip() for name in (dialects or "").split(",") if name.strip()]
    done = data.generate(tools, lexicon, out, eval_out, rows, seed, names, holdout)
    for counts in (done.dialects, done.kinds, done.tools):
        typer.echo(", ".join(f"{name} {count}" for name, count in counts.items()))
    for found in done.warnings:
        typer.echo(f"warning {found.code} {found.rule.title}: {found.message}", err=True)
    typer.echo(f"{done.train_rows + done.eval_rows:,} rows, no error: {', '.join(map(str, done.files))}")


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


def _check_part(
    shard: str, out: Path | None, html: Path | None, files: Sequence[str], model: str | None, shape: str | None,
    eval_data: Sequence[str], only: Sequence[str], except_: Sequence[str], max_tokens: int,
) -> None:  # fmt: skip
    """One part of a check; what it finds is judged when all parts are joined."""
    from dozan.check.shards import check_shard
    from dozan.model.hub import resolve_model
    from dozan.rows.parts import part_file
    from dozan.rows.shards import read_shard

    which, path = read_shard(shard), part_file(out, html)
    folder = None if model is None else resolve_model(model)
    with _console(stderr=True).status("reading") as status:
        done = check_shard(
            which, path, files, shape, folder, eval_data, max_tokens=max_tokens, only=only, except_=except_,
            progress=lambda rows: status.update(f"checked {rows:,} rows"),
        )  # fmt: skip
    typer.echo(f"part {which}: {done.own:,} of {done.rows:,} rows, {done.errors:,} errors in them: {path}")


def print_joined(parts: Sequence[Part], json_file: Path | None, html: Path | None) -> None:
    """What `dozan join` does with the parts of a check: print and write the report, and leave as `check` does."""
    from dozan.check.report_text import print_report
    from dozan.check.shards import join_checks, require_same_files

    report = join_checks(parts)
    about = next(part.head for part in parts if part.head.shard.index == 1)
    if html is not None:
        from dozan.check.report_page import write_report_page

        require_same_files(about)
        write_report_page(html, report, shape=about.about["shape"])
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        report.to_json(json_file)
    print_report(report, _console())
    raise typer.Exit(report.exit_code)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(highlight=False, stderr=stderr)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
