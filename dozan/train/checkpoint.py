"""Checkpoints that survive a kill at any moment: staged, synced, hashed, renamed; the newest valid one wins.

A checkpoint is a folder `step-000100` with a `manifest.json` of every file's size and SHA-256. It is written beside
its place under a name that starts with a dot and renamed when it is whole, so a folder with the right name is either
complete or damaged later, and the manifest tells.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from dozan.errors import InputError

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")
_STAGING = ".staging-"
_CHUNK = 2**20


@dataclass(frozen=True)
class Found:
    """The newest valid checkpoint, if any, and one line for each newer one that was skipped."""

    folder: Path | None
    step: int
    skipped: tuple[str, ...]


def save_checkpoint(root: Path, step: int, write: Callable[[Path], None], keep: int) -> Path:
    """Have `write` fill a new `root/step-NNNNNN`, durably; then keep the newest `keep` checkpoints.

    When writing fails (a full disk), the staging folder is removed and InputError raised; earlier ones are intact.
    """
    root.mkdir(parents=True, exist_ok=True)
    clean(root)
    final = root / f"step-{step:06d}"
    staging = root / f"{_STAGING}{final.name}"
    try:
        staging.mkdir()
        write(staging)
        seal(staging)
        if final.exists():
            shutil.rmtree(final)
        os.rename(staging, final)
        sync_folder(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise InputError(
            f"{final}: could not be written ({error}); earlier checkpoints are intact: "
            "free some space, then run the same command again to go on from the newest"
        ) from error
    for _, old in checkpoints(root)[keep:]:
        shutil.rmtree(old)
    return final


def newest_valid(root: Path) -> Found:
    """The newest checkpoint whose every byte is as written, with what was skipped and why."""
    skipped: list[str] = []
    for step, folder in checkpoints(root):
        problems = verify(folder)
        if not problems:
            return Found(folder, step, tuple(skipped))
        skipped.append(f"{folder.name} is damaged: {'; '.join(problems)}")
    return Found(None, 0, tuple(skipped))


def checkpoints(root: Path) -> list[tuple[int, Path]]:
    """The (step, folder) of each checkpoint, newest first, damaged ones included."""
    if not root.is_dir():
        return []
    named = ((_NAME.fullmatch(path.name), path) for path in root.iterdir() if path.is_dir())
    return sorted(((int(match[1]), path) for match, path in named if match), reverse=True)


def seal(folder: Path) -> None:
    """Sync every file of `folder` and write the manifest of their sizes and hashes."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for path in [*files, folder / MANIFEST]:
        _sync(path)
    sync_folder(folder)


def verify(folder: Path) -> list[str]:
    """What is wrong with a checkpoint, one line each; empty when every byte is as written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        expected = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        return [f"{MANIFEST} is missing"]
    except (ValueError, AttributeError, TypeError, KeyError):
        return [f"{MANIFEST} is not readable"]
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    problems = [f"{name} is not in the manifest" for name in sorted(present - set(expected))]
    for name, (size, digest) in sorted(expected.items()):
        path = folder / name
        if name not in present:
            problems.append(f"{name} is missing")
        elif path.stat().st_size != size:
            problems.append(f"{name} has {path.stat().st_size} bytes instead of {size}")
        elif sha256(path) != digest:
            problems.append(f"{name} has other bytes than were written")
    return problems


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def clean(root: Path) -> None:
    """Remove what a killed save left behind."""
    for leftover in root.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover)


def write_text(path: Path, text: str) -> None:
    """Replace a file's text durably: it has the old text or the new one, whenever the process dies."""
    staging = path.with_name(f".{path.name}.staging")
    staging.write_text(text, encoding="utf-8")
    _sync(staging)
    os.replace(staging, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
