"""A reproduction's rows, from the hub or a folder: written as train.jsonl and test.jsonl, which all steps then read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dozan.errors import InputError
from dozan.reproduce.published import DataSet, known
from dozan.rows.arabic import fold
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.rows.splits import last_user_text
from dozan.rows.staged import staged
from dozan.ship.manifest import file_sha256

_NAMES = {"train": ("train",), "test": ("test", "dev", "validation", "valid", "eval", "heldout")}
_KINDS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
Say = Callable[[str], None]


def gather(data: str, out: Path, limit: int | None, say: Say) -> dict[str, object]:
    """Write `out/train.jsonl` and `out/test.jsonl` from a hub id or a folder; what they are, by name.

    A test row whose query is one to train on, Arabic spellings folded, is counted and stays: published figures count
    it too. limit: at most so many test rows, spread evenly. Raises InputError for rows that cannot be found or read.
    """
    folder, found = Path(data).expanduser(), known(data)
    if folder.is_dir():
        training, test = (_of_folder(folder, side, say) for side in ("train", "test"))
    elif found is not None:
        training, test = _of_set(found, say)
    else:
        training, test = (_read(f"hf:{data.removeprefix('hf:')}:{split}", say) for split in ("train", "test"))
    if limit is not None and limit < len(test):
        test = [test[place * len(test) // limit] for place in range(limit)]
    out.mkdir(parents=True, exist_ok=True)
    with staged([out / "train.jsonl", out / "test.jsonl"]) as files:
        for rows, file in zip((training, test), files, strict=True):
            for row in rows:
                plain = {"id": row.id, "tools": list(row.tools), "messages": list(row.messages), **row.meta}
                file.write(f"{json.dumps(plain, ensure_ascii=False)}\n".encode())
    seen = {fold(last_user_text(row)) for row in training}
    return {
        "data": data, "published_set": None if found is None else found.id, "train_rows": len(training),
        "test_rows": len(test), "test_queries_in_training": sum(fold(last_user_text(row)) in seen for row in test),
        "train_sha256": file_sha256(out / "train.jsonl"), "test_sha256": file_sha256(out / "test.jsonl"),
    }  # fmt: skip


def _of_set(found: DataSet, say: Say) -> tuple[list[Example], list[Example]]:
    if "=" not in found.train:
        training, test = (_read(f"hf:{found.id}:{split}", say) for split in (found.train, found.test))
        return training, test
    rows = _read(f"hf:{found.id}", say)
    key, _, of_train = found.train.partition("=")
    of_test = found.test.partition("=")[2]
    return [row for row in rows if row.meta.get(key) == of_train], [row for row in rows if row.meta.get(key) == of_test]


def _of_folder(folder: Path, side: str, say: Say) -> list[Example]:
    """The rows of a side: `train.jsonl`, `dev-00000.parquet` and the like, in the folder or in its `data`; those of
    the first name that is there, in one format."""
    named: dict[str, list[Path]] = {name: [] for name in _NAMES[side]}
    for place in (folder, folder / "data"):
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            name = path.name.split(".")[0].split("-")[0]
            if path.name.endswith(_KINDS) and name in named:
                named[name].append(path)
    chosen = next((name for name, found in named.items() if found), None)
    files = [] if chosen is None else named[chosen]
    if not files:
        raise InputError(f"{folder}: no {side} rows; expected a file such as {_NAMES[side][0]}.jsonl"
                         f"{' or dev.jsonl' if side == 'test' else ''}")  # fmt: skip
    by_kind = {(path.parent, next(kind for kind in _KINDS if path.name.endswith(kind))): path for path in files}
    if len(by_kind) > 1:
        shown = ", ".join(str(path.relative_to(folder)) for path in by_kind.values())
        raise InputError(f"{folder}: {side} rows are there more than once ({shown}); leave those of one place and "
                         "format in it")  # fmt: skip
    for name, others in named.items():
        if others and name != chosen:
            say(f"{folder}: {chosen} rows are taken as {side} rows, {name} rows are left out")
    return [row for path in files for row in _read(str(path), say)]


def _read(name: str, say: Say) -> list[Example]:
    rows = read_rows(name, say=say)
    if not rows:
        raise InputError(f"{name}: has no rows")
    return rows
