"""`dozan serve`: a thin layer over `ship.serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dozan.cli import complete


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, a run or a checkpoint folder.", metavar="MODEL", autocompletion=complete.models
        ),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="A second model, shown beside it in the playground.", metavar="MODEL", autocompletion=complete.models
        ),
    ] = None,
    tools: Annotated[
        Path | None,
        typer.Option(help="Tools that the playground starts with (JSON).", show_default="the run's", metavar="FILE"),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.", metavar="ADDRESS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.", metavar="N")] = 8000,
    token_env: Annotated[
        str | None,
        typer.Option(help="The environment variable with the token that clients must send.", metavar="NAME"),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name under which the server is asked. Repeats.", metavar="NAME")
    ] = None,
    grammar: Annotated[bool, typer.Option("--grammar/--no-grammar", help="Let no call break its schema.")] = True,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Answers at the same time.", metavar="N")] = 8,
    context: Annotated[int, typer.Option(min=256, help="Tokens of a prompt and its answer.", metavar="N")] = 4096,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.", metavar="N")] = 256,
    max_body: Annotated[int, typer.Option(min=1024, help="Bytes a request may have.", metavar="N")] = 1 << 20,
) -> None:
    """Answer OpenAI's API on this machine, with a page to try it."""
    from dozan.ship.serve import Address, Limits
    from dozan.ship.serve import serve as serve_model

    address = Address(host, port, tuple(allow_host or ()), token_env)
    limits = Limits(slots=parallel, length=context, waiting=queue)
    serve_model(model, base, tools, address, limits, grammar, max_body, say=lambda line: print(line, flush=True))
