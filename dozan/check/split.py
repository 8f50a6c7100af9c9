"""`dozan data split`: rows on two sides as they are, with near-duplicates and equal sentence patterns on one side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.check.fix import Tally, tools_copies
from dozan.check.fixes.repair import choose
from dozan.check.fixes.stream import Outcome, repaired_rows
from dozan.check.prepare import SIDES, KeptRows
from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.readers import Say
from dozan.rows.staged import refuse_existing, staged

_SHOWN = 20
_ALL = ("DZ",)


@dataclass(frozen=True)
class SplitRows:
    """What `split` wrote: its files, the rows of each side, and by label (tool, dialect, kind) how many each has.

    groups: sets of rows that hang together, patterns: different sentence patterns.
    """

    files: tuple[Path, ...]
    train_rows: int
    eval_rows: int
    groups: int
    patterns: int
    shares: Mapping[str, Mapping[str, int]]


def split(
    files: Sequence[str | Path], folder: str | Path, holdout: float = 0.1, seed: int = 0, shape: str | None = None,
    say: Say | None = None,
) -> SplitRows:  # fmt: skip
    """Write `train.jsonl` and `eval.jsonl` into a folder: about `holdout` of the rows held out, by whole groups.

    Rows of one sentence pattern and near-duplicates stand on one side; tools, dialects and kinds of rows are on both in
    the same shares. Nothing is repaired or left out: canonical rows keep their bytes, others are written canonically.
    The same rows and settings give the same files.

    Raises InputError, and writes nothing, for lines that are no rows, outputs that exist, and rows that are all alike.
    """
    if not 0 < holdout < 1:
        raise InputError(f"--holdout {holdout}: no share of rows; give more than 0 and less than 1, such as 0.1")
    folder = Path(folder)
    paths = [folder / f"{side}.jsonl" for side in SIDES]
    refuse_existing(paths, files)
    broken: list[Outcome] = []
    tally = Tally()
    with tempfile.TemporaryFile(prefix="dozan-rows-") as kept:
        rows = KeptRows(kept)
        rows.gather(_watched(repaired_rows(files, choose((), _ALL), shape, say=say), broken), tally, False)
        _refuse(broken, tally.states["quarantined"])
        if not rows.is_eval:
            raise InputError(f"{', '.join(map(str, files))}: no rows; write one JSON object a line")
        said: Mapping[str, Json] = rows.divide(holdout, seed)
        copies = tools_copies(tally.tools_files, folder)
        with staged([*copies, *paths]) as written:
            for file, content in zip(written, copies.values(), strict=False):
                file.write(content)
            for line, is_eval in rows.lines():
                written[len(copies) + is_eval].write(line)
        counts = rows.is_eval.count(False), rows.is_eval.count(True)
        return SplitRows((*copies, *paths), *counts, said["groups"], said["patterns"], rows.shares())


def _watched(outcomes: Iterable[Outcome], broken: list[Outcome]) -> Iterator[Outcome]:
    """Passes the outcomes on, and keeps the first that are no rows."""
    for outcome in outcomes:
        if outcome.after is None and len(broken) < _SHOWN:
            broken.append(outcome)
        yield outcome


def _refuse(broken: Sequence[Outcome], lines: int) -> None:
    """Raises InputError naming the lines that are no rows."""
    if broken:
        said = [f"{finding.place}: {finding.message}" for outcome in broken for finding in outcome.findings[:1]]
        more = [f"... and {lines - len(broken)} more"] if lines > len(broken) else []
        remedy = "nothing is left out in silence: correct them, or use dozan data prepare, which sets them aside"
        raise InputError("\n".join([*said, *more, remedy]))
