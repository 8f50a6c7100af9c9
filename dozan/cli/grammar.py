"""`dozan grammar`: the grammar of calls to a tool list, as text for other servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import dozan


def grammar(
    tools: Annotated[
        Path | None,
        typer.Option(help="Tool declarations (JSON).", show_default="the demo's phone tools", metavar="FILE"),
    ] = None,
    gbnf: Annotated[bool, typer.Option("--gbnf/--lark", help="For llama.cpp, or for llguidance.")] = True,
    must_call: Annotated[bool, typer.Option("--must-call", help="Calls alone, no answer in words.")] = False,
) -> None:
    """Print what a well-formed answer to these tools is, for a server."""
    from dozan.chat import Tokenizer
    from dozan.chat.functiongemma import FUNCTIONGEMMA
    from dozan.chat.grammar import answer_grammar
    from dozan.chat.grammar_text import to_gbnf, to_lark
    from dozan.judge.guide import Guides
    from dozan.terminal import DEFAULT_TOOLS, read_tools

    found = answer_grammar(read_tools(tools or DEFAULT_TOOLS), FUNCTIONGEMMA, must_call)
    tokenizer = Tokenizer.load(dozan.EMBEDDED_BASE)
    Guides(tokenizer, {tokenizer.id(token) for token in FUNCTIONGEMMA.stop_tokens}, [found])
    typer.echo(to_gbnf(found) if gbnf else to_lark(found), nl=False)
