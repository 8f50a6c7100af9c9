"""Where runs lie under a folder: told by names alone, so that a shell can ask at every key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

RUN = "run.json"
_DEPTH = 4


def run_folders(root: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Folders with a run.json, at or under `root`; runs hold no runs."""
    if (root / RUN).is_file():
        yield root
    elif depth:
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.is_symlink():
                yield from run_folders(path, depth - 1)
