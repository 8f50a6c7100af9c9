"""Files that appear whole or not at all: written beside their place under another name, synced, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from dozan.errors import InputError


@contextmanager
def staged(paths: Sequence[Path]) -> Iterator[list[IO[bytes]]]:
    """Open files to write that become `paths`, in their order, when the block ends well; else nothing is left of them.

    The last path appears last, so that where it is the others are too. Files left empty are made as well.
    """
    names = [path.with_name(f".{path.name}.staging") for path in paths]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            files: list[IO[bytes]] = [stack.enter_context(name.open("w+b")) for name in names]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for name, path in zip(names, paths, strict=True):
            os.replace(name, path)
        for folder in sorted({path.parent for path in paths}):
            _sync(folder)
    finally:
        for name in names:
            name.unlink(missing_ok=True)


def refuse_existing(paths: Sequence[Path], inputs: Sequence[str | Path]) -> None:
    """Raises InputError when an output is an input, or is there already: nothing is written over."""
    read = {Path(file).resolve() for file in inputs if Path(file).exists()}
    problems = [f"{path}: is read from; give --out another name" for path in paths if path.resolve() in read]
    problems += [f"{path}: exists already; remove it, or give --out another name"
                 for path in paths if path.exists() and path.resolve() not in read]  # fmt: skip
    if problems:
        raise InputError("\n".join(problems))


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
