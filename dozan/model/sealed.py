"""Folders whose every byte can be checked: a manifest of sizes and SHA-256, written last, and compared before use."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dozan.errors import InputError
from dozan.rows.kept import require_kept, sha256

__all__ = ["MANIFEST", "require_intact", "seal", "sha256", "sync", "verify"]

MANIFEST = "manifest.json"


def seal(folder: Path, known: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> None:
    """Sync every file of `folder` and write the manifest of their sizes and hashes. known: the entries of files that
    whoever wrote them has hashed already."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    assert set(known) <= {path.name for path in files}, "a file that is not there"
    manifest = {
        path.name: known.get(path.name) or {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files
    }
    (folder / MANIFEST).write_text(_text(manifest), encoding="utf-8")
    for path in [*files, folder / MANIFEST]:
        sync(path)
    sync(folder)


def verify(folder: Path, strict: bool = True) -> list[str]:
    """What is wrong with a sealed folder, one line each; empty when every byte is as written. strict: and nothing else
    is there."""
    return _compared(folder, strict)


def is_sealed(folder: Path) -> bool:
    """Whether a folder has a manifest of this kind; other programs give files of theirs the same name."""
    try:
        entries = list(json.loads((folder / MANIFEST).read_bytes()).values())
        return bool(entries) and all(set(entry) == {"bytes", "sha256"} for entry in entries)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def require_intact(folder: Path) -> None:
    """Raises InputError when a file that the folder's manifest names is not as written, or the manifest is not the one
    that the record of the run around it names; a folder without a manifest of which no record speaks is accepted, and
    so are files beside those."""
    require_kept(folder / MANIFEST)
    if not (folder / MANIFEST).is_file():
        return
    problems = _compared(folder, strict=False)
    if problems:
        raise InputError(f"{folder} is damaged: {'; '.join(problems)}; copy it again, or take one of the run's "
                         "checkpoints/")  # fmt: skip


def _compared(folder: Path, strict: bool) -> list[str]:
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = json.loads(content)
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError):
        return [f"{MANIFEST} is not readable"]
    if content.decode("utf-8", "replace") != _text(manifest):
        return [f"{MANIFEST} has other bytes than were written"]
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    extra = sorted(present - set(expected)) if strict else []
    problems = [f"{name} is not in the manifest" for name in extra]
    for name, (size, digest) in sorted(expected.items()):
        problem = f"{name} is missing" if name not in present else _problem(folder / name, size, digest)
        problems += [problem] if problem else []
    return problems


def _problem(path: Path, size: object, digest: object) -> str | None:
    try:
        found = path.stat().st_size
        if found != size:
            return f"{path.name} has {found} bytes instead of {size}"
        return None if sha256(path) == digest else f"{path.name} has other bytes than were written"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"


def sync(path: Path) -> None:
    """Make a file's bytes, or the renames in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _text(manifest: object) -> str:
    return json.dumps(manifest, indent=1)
