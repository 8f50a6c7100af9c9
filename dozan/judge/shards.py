"""Scores in parts: the rows of each, as `Scores` and `PurposeScores` write them, and all of them joined.

What a row is scored by lies in the row, so joined parts give every count, interval and preset as one process does, to
the byte. Two things of `--purpose` are not of one row: `guards`, those that held the code of every part, and the last
digits of a row's loss (1e-6), which depend on the rows in its pack.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dozan.judge.purposes import PurposeRow, PurposeScores
from dozan.judge.summary import RowScore, Scores
from dozan.rows.example import Example, Json
from dozan.rows.groups import hash_text
from dozan.rows.parts import Part, dealt, require_whole

KIND = "eval"


class OtherRows:
    """The rows that are scored elsewhere, by the hashes of their ids, in 8 bytes each; nothing is added once it was
    asked."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted: np.ndarray[Any, Any] | None = None

    def add(self, example: Example) -> None:
        assert self._sorted is None, "rows come before questions"
        self._hashes.append(hash_text(example.id))

    def __contains__(self, found: object) -> bool:
        if self._sorted is None:
            self._sorted = np.sort(np.asarray(self._hashes, np.uint64))
        assert isinstance(found, int)
        at = int(np.searchsorted(self._sorted, np.uint64(found)))
        return at < len(self._sorted) and int(self._sorted[at]) == found


@dataclass(frozen=True)
class Joined:
    """What parts make together. about: what the first part says of the work. examples: the scored rows, where a preset
    needs them."""

    about: Mapping[str, Json]
    scores: Scores | PurposeScores
    examples: Sequence[Example]


def score_entries(scores: Scores | PurposeScores | None, examples: Sequence[Example]) -> Iterator[Json]:
    """A part's rows; `examples` are those rows themselves, or none. No scores are those of no rows."""
    rows: tuple[RowScore | PurposeRow, ...] = () if scores is None else scores.rows
    for at, row in enumerate(rows):
        entry: dict[str, Json] = {"score": dataclasses.asdict(row)}
        if examples:
            entry["example"] = dataclasses.asdict(examples[at])
        yield entry


def join_scores(parts: Sequence[Part]) -> Joined:
    """The whole of parts in any order. Raises InputError for parts that are missing or do not belong together."""
    parts = require_whole(parts)
    about = parts[0].head.about
    entries = list(dealt(parts, [part.rows() for part in parts], about["rows"]))
    rows = [entry["score"] for entry in entries]
    examples = [_example(entry["example"]) for entry in entries if "example" in entry]
    if about["purpose"] is None:
        return Joined(about, Scores.from_json({"rows": rows}, parts[0].name), examples)
    held = [set(part.result["guards"]) for part in parts if part.result["guards"]]
    guards = tuple(sorted(set.intersection(*held))) if held else ()
    return Joined(about, PurposeScores(about["purpose"], tuple(PurposeRow(**row) for row in rows), guards), examples)


def _example(found: Mapping[str, Json]) -> Example:
    return Example(**{**found, "tools": tuple(found["tools"]), "messages": tuple(found["messages"])})
