"""`dozan data prepare` and `split`: files of rows to training and evaluation rows, with a manifest of what was done.

The same files and settings give the same bytes, so nothing in the folder tells a time or a machine.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import IO

import dozan
from dozan.check.fix import FixResult, Tally, log_repairs, tools_copies
from dozan.check.fixes.repair import choose
from dozan.check.fixes.stream import Outcome, repaired_rows
from dozan.check.near import THRESHOLD, Keys, NearIndex, sketch
from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.groups import hash_text
from dozan.rows.hub import is_hub_id
from dozan.rows.readers import Say, detect_file
from dozan.rows.splits import choose_heldout, joined_groups, last_user_text, row_labels, sentence_pattern
from dozan.rows.staged import staged

MANIFEST = "manifest.json"
LOGS = ("repairs.jsonl", "repairs.diff", "quarantine.jsonl")
SIDES = ("train", "eval")
_LIBRARIES = ("ftfy", "jsonschema", "rensa")
Files = Sequence[str | Path]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` wrote: the folder, its files, the rows of each side, what was done to them, the manifest."""

    folder: Path
    files: tuple[Path, ...]
    train_rows: int
    eval_rows: int
    fixed: FixResult
    manifest: Mapping[str, Json]


def prepare(
    files: Files, folder: str | Path, eval_files: Files = (), holdout: float = 0.1, seed: int = 0,
    only: Collection[str] = (), except_: Collection[str] = (), shape: str | None = None, chat: str = "auto",
    dataset: bool = False, say: Say | None = None,
) -> Prepared:  # fmt: skip
    """Write `train.jsonl` and `eval.jsonl` of repaired rows into a new folder, `manifest.json` and the logs of `fix`.

    Without `eval_files` a share of the rows is held out (0: none): rows of one sentence pattern and near-duplicates
    stand on one side, and tools, dialects and kinds of rows on both in the same shares. dataset: one `dataset.json` in
    place of the two, an array whose rows say `"metadata": "train"` or `"eval"`.

    Raises InputError, and writes no file, when the folder holds something or no row can be used.
    """
    folder = Path(folder)
    if folder.is_file() or folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds something already; empty it, or give another folder")
    chosen, tally = choose(only, except_), Tally()
    sides = SIDES if eval_files or holdout else SIDES[:1]
    names = ["dataset.json"] if dataset else [f"{side}.jsonl" for side in sides]
    paths = [folder / name for name in (*LOGS, *names, MANIFEST)]
    with tempfile.TemporaryFile(prefix="dozan-rows-") as kept, staged(paths) as written:
        rows = KeptRows(kept)
        for part, is_eval in ((files, False), (eval_files, True)):
            outcomes = repaired_rows(part, chosen, shape, chat, say) if part else ()
            rows.gather(log_repairs(outcomes, written[: len(LOGS)]), tally, is_eval)
        if False not in rows.is_eval:
            raise InputError(f"{folder}: no row can be used; what is wrong: {dict(tally.reasons) or 'no rows'}")
        split = rows.divide(holdout, seed) if holdout and not eval_files else {}
        _write_sides(rows, written[len(LOGS) : -1], dataset)
        copies = tools_copies(tally.tools_files, folder)
        for path, content in copies.items():
            path.write_bytes(content)
        result = tally.result([*copies, *paths])
        settings = {"holdout": holdout, "seed": seed, "only": sorted(only), "except": sorted(except_), "chat": chat,
                    "shape": shape}  # fmt: skip
        manifest = {
            "dozan": dozan.__version__,
            "libraries": {name: metadata.version(name) for name in _LIBRARIES},
            "settings": settings,
            "inputs": [{"side": side, **_input(file, shape)}
                       for side, part in zip(SIDES, (files, eval_files), strict=True) for file in part],
            **_done(result, tally),
            "split": {**split, **rows.shares()},
            "outputs": [_output(path.name, file) for path, file in zip(paths[:-1], written[:-1], strict=True)],
            "tools_files": {path.name: hashlib.sha256(content).hexdigest() for path, content in copies.items()},
        }  # fmt: skip
        written[-1].write(json.dumps(manifest, ensure_ascii=False, indent=1).encode() + b"\n")
    return Prepared(folder, result.files, rows.is_eval.count(False), rows.is_eval.count(True), result, manifest)


def read_manifest(folder: str | Path) -> dict[str, Json]:
    """The manifest of a prepared folder. Raises InputError when it is not there, or a file is not as it says."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{path}: not there; name a folder that dozan data prepare wrote")
    manifest: dict[str, Json] = json.loads(path.read_bytes())
    for output in manifest["outputs"]:
        file = Path(folder) / output["file"]
        if not file.is_file() or _hash(file) != output["sha256"]:
            raise InputError(f"{file}: not as {path} says; prepare the rows again")
    return manifest


class KeptRows:
    """The rows that are kept: their lines in a file, and in memory what divides them, some 150 bytes a row."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ends = array("q", [0])
        self._patterns = array("Q")
        self._labels: list[tuple[str, ...]] = []
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._index = NearIndex()
        self.is_eval: list[bool] = []

    def gather(self, outcomes: Iterable[Outcome], tally: Tally, is_eval: bool) -> None:
        """Takes in the rows that are kept, and counts all of them."""
        for outcome in outcomes:
            tally.add(outcome)
            if outcome.after is None:
                continue
            self._file.write(outcome.line)
            self._ends.append(self._ends[-1] + len(outcome.line))
            self._patterns.append(hash_text(sentence_pattern(outcome.after)))
            labels = row_labels(outcome.after)
            self._labels.append(self._known.setdefault(labels, labels))
            self._index.add(sketch([last_user_text(outcome.after)])[0], Keys(0, 0, 0, 0), "")
            self.is_eval.append(is_eval)

    def divide(self, holdout: float, seed: int) -> dict[str, Json]:
        """Holds out a share of the rows, and says how they hang together."""
        groups = joined_groups(self._patterns, self._index.groups().tolist())
        self.is_eval = choose_heldout(groups, self._labels, holdout, seed)
        return {"patterns": len(set(self._patterns)), "groups": len(set(groups)), "near_duplicates_from": THRESHOLD}

    def lines(self) -> Iterator[tuple[bytes, bool]]:
        """Every row's line, with its line end, and whether it is an evaluation row."""
        self._file.seek(0)
        for begin, end, is_eval in zip(self._ends, self._ends[1:], self.is_eval, strict=False):
            line = self._file.read(end - begin)
            yield (line if line.endswith(b"\n") else line + b"\n"), is_eval

    def shares(self) -> dict[str, Json]:
        """Rows of each side by label."""
        counts = [Counter[str](), Counter[str]()]
        for labels, is_eval in zip(self._labels, self.is_eval, strict=True):
            counts[is_eval].update(("rows", *labels))
        return {side: dict(sorted(count.items())) for side, count in zip(SIDES, counts, strict=True)}


def _write_sides(rows: KeptRows, written: Sequence[IO[bytes]], dataset: bool) -> None:
    """The rows by side, or as one JSON array in which each says its side."""
    if not dataset:
        for line, is_eval in rows.lines():
            written[is_eval].write(line)
        return
    before = b"[\n"
    for line, is_eval in rows.lines():
        row = {"metadata": SIDES[is_eval], **{k: v for k, v in json.loads(line).items() if k != "metadata"}}
        written[0].write(before + json.dumps(row, ensure_ascii=False).encode("utf-8"))
        before = b",\n"
    written[0].write(b"\n]\n")


def _done(result: FixResult, tally: Tally) -> dict[str, Json]:
    counts = {"read": result.rows, "clean": result.clean, "repaired": result.repaired, "converted": result.converted,
              "quarantined": result.quarantined}  # fmt: skip
    return {
        "rows": counts,
        "repairs": dict(result.repairs),
        "quarantine": dict(result.reasons),
        "findings": dict(sorted(tally.findings.items())),
        "renamed": result.renamed,
    }


def _input(file: str | Path, shape: str | None) -> dict[str, Json]:
    found = None if shape else detect_file(file)
    read_as = shape or (found.name if found else None)
    if is_hub_id(file):
        return {"file": str(file), "shape": read_as}
    path = Path(file)
    return {"file": path.name, "shape": read_as, "bytes": path.stat().st_size, "sha256": _hash(path)}


def _output(name: str, file: IO[bytes]) -> dict[str, Json]:
    size = file.tell()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    return {"file": name, "bytes": size, "sha256": digest}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
