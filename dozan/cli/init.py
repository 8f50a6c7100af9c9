"""`dozan init`: a thin layer over `dozan.init`, and its five questions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dozan.cli import complete
from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan.init import Answers, Project


def init(
    folder: Annotated[Path, typer.Argument(help="The project's folder.", metavar="[DIR]")] = Path("."),
    purpose: Annotated[
        str | None,
        typer.Option(
            help="function-calls, code, conversation, domain, creative or reasoning.", metavar="NAME",
            autocompletion=complete.one_of("function-calls", *complete.PURPOSES),
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="embedded, functiongemma, 1b, 4b, 12b, 27b, a folder or a hub id.", metavar="MODEL",
            autocompletion=complete.one_of("embedded", "functiongemma", "1b", "4b", "12b", "27b"),
        ),
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Your rows, checked at once; 'example' for ours.", metavar="FILE")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="none, t4, l4, a100 ..., or GiB.", metavar="NAME|GIB",
                     autocompletion=complete.one_of("none", *complete.CARDS)),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help="Where it will run: here, colab or server.", metavar="PLACE",
                     autocompletion=complete.one_of("here", "colab", "server")),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: take what is usual.")] = False,
) -> None:  # fmt: skip
    """Lay out a project: five questions, then recipe and folders."""
    from dozan.init import EXAMPLE, Answers, lay_out, usual

    given = {"purpose": purpose, "model": model, "rows": rows, "gpu": gpu, "where": where}
    asks = not yes and None in given.values()
    if asks and not sys.stdin.isatty():
        missing = ", ".join(f"--{name}" for name, value in given.items() if value is None)
        raise InputError(f"init asks at a terminal; here give {missing}, or --yes for what is usual")
    answers = Answers()
    for name, value in given.items():
        default = usual(name, answers)
        asked = _ask(name, default, answers) if asks and value is None else value or default
        answers = answers.with_answer(name, asked)
    project = lay_out(folder, answers)
    _tell(project, None if answers.rows == EXAMPLE else answers.rows)


def _ask(name: str, default: str, before: Answers) -> str:
    """Ask until the answer can be used."""
    from dozan.init import QUESTIONS

    while True:
        answer: str = typer.prompt(QUESTIONS[name], default=default).strip()
        problems = before.with_answer(name, answer).problems(name)
        if not problems:
            return answer
        typer.echo("\n".join(problems))


def _tell(project: Project, rows: str | None) -> None:
    """What was written, what the rows are, and the commands that come next."""
    from dozan.terminal import print_line

    for path in project.files:
        typer.echo(f"written: {path}")
    report = project.report
    if report is not None:
        found = f"{sum(report.rows.values()):,} rows, {report.errors:,} errors, {report.warnings:,} warnings"
        print_line(f"{rows}: {found}")
        for code, count in report.counts.items():
            finding = report.examples(code, 1)[0]
            print_line(f"  {code} {finding.rule.title}: {count:,}, the first at {finding.place}: {finding.message}")
    for note in project.notes:
        print_line(note)
    here = project.folder.resolve() == Path.cwd()
    typer.echo("\nNext:")
    for command in (*([] if here else [f"cd {project.folder}"]), *project.commands):
        print_line(f"  {command}")
