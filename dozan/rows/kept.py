"""What a run's run.json says of files that the run wrote: the size and SHA-256 of each, compared before it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dozan.errors import InputError

RUN, SEALED = "run.json", "sealed"
"""The record, and its entry for files: by their path in the run folder, each with `bytes` and `sha256`."""

_CHUNK = 2**20


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest(record: Mapping[str, Any]) -> str:
    """The SHA-256 that a record holds of itself: over all of its entries but this one."""
    plain = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def checked(content: bytes) -> tuple[dict[str, Any] | None, str]:
    """The record that a run.json holds, or what is wrong with it."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        return None, f"is not readable ({error})"
    if not isinstance(record, dict) or "fingerprint" not in record:
        return None, "was not written by a training run"
    if "sha256" in record and record["sha256"] != digest(record):
        return None, "is damaged: it has other bytes than were written"
    return record, ""


def seal_of(content: bytes) -> dict[str, Any]:
    """What run.json says of a file with this content."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def seals(run: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What run.json is to say of those of the files that are there."""
    there = [(name, run / name) for name in names if (run / name).is_file()]
    return {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in there}


def problem(run: Path, record: Mapping[str, Any], name: str) -> str | None:
    """What is wrong with a file of the run; None when it is as written, or the record says nothing of it."""
    said = (record.get(SEALED) or {}).get(name)
    if said is None:
        return None
    path = run / name
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != said["bytes"]:
        return f"{path} is damaged: it has {size:,} bytes instead of {said['bytes']:,}"
    return None if sha256(path) == said["sha256"] else f"{path} is damaged: it has other bytes than were written"


def require_kept(path: Path) -> None:
    """Raises InputError when a file in a folder of a run is not as the run wrote it, or when the run's record is
    damaged; a file of which no record speaks is accepted."""
    run = path.absolute().parent.parent
    try:
        record, wrong = checked((run / RUN).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return
    if record is None and "fingerprint" not in (run / RUN).read_text(encoding="utf-8", errors="replace"):
        return  # of something else
    found = f"{run / RUN} {wrong}" if record is None else problem(run, record, f"{path.parent.name}/{path.name}")
    if found is not None:
        raise InputError(f"{found}; the command that trained it, or dozan resume {run}, writes it anew; your own files "
                         "belong elsewhere")  # fmt: skip
