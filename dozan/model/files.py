"""Files of a model folder: JSON with located errors, safetensors opened safely, writes whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dozan.errors import InputError


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; InputError with line and column when it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: broken JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object, found {type(value).__name__}")
    return value


def inside(folder: Path, name: object) -> Path:
    """A file of the folder by the name an index gives it; InputError when it lies anywhere else.

    A link is followed only within the folder, or to the hub cache's own `blobs` beside `snapshots/REVISION`.
    """
    refused = f"{folder}: {name!r} leaves the folder; a checkpoint's files must lie in it (copy linked files)"
    if not isinstance(name, str) or not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(refused)
    root, target = folder.resolve(), (folder / name).resolve()
    cache = [root.parent.parent / "blobs"] if root.parent.name == "snapshots" else []
    if not any(target.is_relative_to(allowed) for allowed in (root, *cache)):
        raise InputError(refused)
    return folder / name


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file, open for reading; InputError naming the file when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: damaged or not a safetensors file ({error}); download or copy it again") from error


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file under a temporary name in its folder, flush it to the disk, and rename it."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(staging)
        with staging.open("rb") as file:
            os.fsync(file.fileno())
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where a safetensors file's data begins, in bytes, and its header (names, dtypes, shapes, offsets)."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return 8 + length, json.loads(file.read(length))
