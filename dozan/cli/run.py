"""`dozan run`: a thin layer over the terminal's conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dozan
from dozan.cli import complete
from dozan.cli.data import EMBEDDED_NAME


def run(
    prompt: Annotated[str | None, typer.Argument(help="What to say. Without it, a chat.", metavar="PROMPT")] = None,
    model: Annotated[
        str,
        typer.Option(
            help="A run, a checkpoint folder or a hub id.", show_default=EMBEDDED_NAME, metavar="MODEL",
            autocompletion=complete.models,
        ),
    ] = dozan.EMBEDDED_BASE,
    tools: Annotated[
        Path | None,
        typer.Option(help="Tool declarations (JSON).", show_default="the demo's phone tools", metavar="FILE"),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="New tokens an answer may take.", metavar="N")] = 256,
    grammar: Annotated[bool, typer.Option("--grammar", help="Let no call break the tools' schemas.")] = False,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="What each tool answers (JSON, by name). A call then goes on to the final sentence.",
            show_default="asked for in a chat", metavar="FILE",
        ),
    ] = None,
) -> None:
    """Ask a model: the parsed call, and after a tool's answer the sentence."""
    from dozan.terminal import chat

    chat(model, prompt, tools, max_new_tokens, grammar, answers)
