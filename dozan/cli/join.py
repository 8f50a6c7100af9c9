"""`dozan join`: the parts that `eval --shard` or `data check --shard` wrote, as one whole result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def join(
    parts: Annotated[list[Path], typer.Argument(help="Every part, in any order.", metavar="PART...")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what one process would have written.", metavar="FILE")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
) -> None:
    """Join the parts of a sharded eval or data check, exactly."""
    from dozan.check.shards import KIND
    from dozan.rows.parts import read_part

    read = [read_part(path) for path in parts]
    if read[0].head.kind == KIND:
        from dozan.cli.data import print_joined

        print_joined(read, json_file, html)
    else:
        from dozan.cli.evaluate import print_joined as print_scores

        print_scores(read, json_file, html)
