"""Checkpoints that survive a kill at any moment: staged, synced, hashed, renamed; the newest valid one wins.

A checkpoint is a folder `step-000100` with a `manifest.json` of every file's size and SHA-256. It is written beside
its place under a name that starts with a dot and renamed when it is whole, so a folder with the right name is either
complete or damaged later, and the manifest tells. One that goes is renamed first too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from dozan.errors import InputError
from dozan.model.sealed import MANIFEST, seal, sha256, sync, verify
from dozan.model.shards import Seals
from dozan.train.disk import failed, require_room
from dozan.world import ALONE, World

__all__ = ["MANIFEST", "Found", "checkpoints", "clean", "newest_valid", "save_checkpoint", "seal", "sha256",
           "sync_folder", "verify", "write_text"]  # fmt: skip

Write = Callable[[Path], Seals | None]
"""Fills a folder; what it has hashed already of what it wrote."""
_NAME = re.compile(r"step-(\d{6,})")
_STAGING, _REPLACED = ".staging-", ".replaced-"
_INTACT = "earlier checkpoints are intact: free some space, then run the same command again to go on from the newest"


@dataclass(frozen=True)
class Found:
    """The newest valid checkpoint, if any, and one line for each newer one that was skipped."""

    folder: Path | None
    step: int
    skipped: tuple[str, ...]


def save_checkpoint(
    root: Path, step: int, write: Write, keep: int, spare: Callable[[], Path | None] = lambda: None,
    world: World = ALONE,
) -> Path:  # fmt: skip
    """Have `write` fill a new `root/step-NNNNNN`, durably; then keep the newest `keep` checkpoints, and what `spare`
    names then. In a world every rank calls this, and writes its own files; see `write_folder`.

    The disk must have room for as much as the newest one takes. When it has not, or writing fails, the staging folder
    is removed and InputError raised (DiskFull where it is full); earlier ones are intact.
    """
    final = root / f"step-{step:06d}"
    try:
        if not world.first:
            write_folder(final, write, world)
            return final
        if not root.is_dir():
            root.mkdir(parents=True)
            sync(root.parent)
        clean(root)
        require_room(root, max((folder_bytes(folder) for _, folder in checkpoints(root)[:1]), default=0))
        write_folder(final, write, world)
        going = set(checkpoints(root)[keep:]) - {(_step(kept), kept) for kept in [spare()] if kept is not None}
        for _, old in sorted(going):
            remove(old)
    except (OSError, SafetensorError) as error:
        raise failed(final, _INTACT, error) from error
    return final


def write_folder(final: Path, write: Write, world: World = ALONE) -> None:
    """Have `write` fill a folder that takes the place of `final` when it is whole, sealed and on the disk.

    In a world every rank calls this. The first one makes the folder, then each writes its own files into it, and when
    all have the first one seals it and gives it its name; nobody returns before.
    """
    staging, aside = (final.with_name(f"{kind}{final.name}") for kind in (_STAGING, _REPLACED))
    if not world.first:
        world.agree([0])
        if not staging.is_dir():
            raise InputError(f"{final.parent}: rank {world.rank} does not see what rank 0 writes there; where weights "
                             "are shared out over ranks, all of them need the same run folder: put it on a file system "
                             "that their machines share")  # fmt: skip
        world.gathered(write(staging))
        world.agree([0])
        return
    try:
        staging.mkdir()
        world.agree([0])
        known = {name: said for each in world.gathered(write(staging)) for name, said in (each or {}).items()}
        seal(staging, known)
        if final.exists():
            os.rename(final, aside)
        os.rename(staging, final)
        sync_folder(final.parent)
    except (OSError, SafetensorError):
        if world.size == 1:  # others may still write into it, and must not fail for another reason; `clean` takes it
            shutil.rmtree(staging, ignore_errors=True)
        raise
    if aside.exists():
        shutil.rmtree(aside)
    world.agree([0])


def newest_valid(root: Path, accept: Callable[[Path], bool] = lambda folder: True) -> Found:
    """The newest checkpoint whose every byte is as written, of those accepted, with what was skipped and why."""
    recover(root)
    skipped: list[str] = []
    for step, folder in checkpoints(root):
        problems = verify(folder)
        if problems:
            skipped.append(f"{folder.name} is damaged: {'; '.join(problems)}")
        elif accept(folder):
            return Found(folder, step, tuple(skipped))
    return Found(None, 0, tuple(skipped))


def checkpoints(root: Path) -> list[tuple[int, Path]]:
    """The (step, folder) of each checkpoint, newest first, damaged ones included."""
    if not root.is_dir():
        return []
    return sorted(((_step(path), path) for path in root.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()),
                  reverse=True)  # fmt: skip


def recover(root: Path) -> None:
    """Give a checkpoint its name back that was to be replaced when the process died before its successor had it."""
    for aside in root.glob(f"{_REPLACED}*"):
        final = root / aside.name.removeprefix(_REPLACED)
        if not final.exists():
            os.rename(aside, final)
            sync_folder(root)


def clean(root: Path) -> None:
    """Remove what a killed save left behind."""
    recover(root)
    for leftover in [*root.glob(f"{_STAGING}*"), *root.glob(f"{_REPLACED}*")]:
        shutil.rmtree(leftover)


def remove(folder: Path) -> None:
    """Remove a checkpoint: it is whole under its name, or gone."""
    aside = folder.with_name(f"{_STAGING}old-{folder.name}")
    os.rename(folder, aside)
    shutil.rmtree(aside)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files in a folder, at any depth."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_text(path: Path, text: str) -> None:
    """Replace a file's text durably: it has the old text or the new one, whenever the process dies."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content as `write_text` does."""
    staging = path.with_name(f".{path.name}.staging")
    staging.write_bytes(content)
    sync(staging)
    os.replace(staging, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable."""
    sync(folder)


def _step(folder: Path) -> int:
    match = _NAME.fullmatch(folder.name)
    assert match is not None, folder
    return int(match[1])
