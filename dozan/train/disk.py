"""The disk of a run: its room is looked at before it is written to, and a full one stops the run so that it goes on."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from dozan.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_SPARE = 2**20


class DiskFull(InputError):
    """No room for what a run writes. What was written before is intact, and the same command goes on from it."""

    exit_status = 75


def require_room(folder: Path, needed: int) -> None:
    """Raises ENOSPC, as the disk itself would later, unless it has `needed` bytes and a MiB to spare."""
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise OSError(errno.ENOSPC, f"{free / 2**20:.1f} MiB are free, {(needed + _SPARE) / 2**20:.1f} MiB are needed")


@contextmanager
def stops_well(place: Path, what: str) -> Iterator[None]:
    """Turn an error of the disk while `place` is written into DiskFull when it is full, else InputError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise failed(place, what, error) from error


@contextmanager
def stops_when_full(out: Path) -> Iterator[None]:
    """Turn a full disk into DiskFull, whatever was being written to the run folder `out`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full(error):
            raise
        raise failed(out, "free some space, then run the same command again", error) from error


def failed(place: Path, what: str, error: OSError | SafetensorError) -> InputError:
    """What to raise for an error while `place` was written; `what`: what is intact and what to do."""
    kind = DiskFull if is_full(error) else InputError
    return kind(f"{place}: could not be written ({error}); {what}")


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk has no room; safetensors says so in words alone."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, SafetensorError) and any(f"os error {number}" in str(error) for number in _FULL)
