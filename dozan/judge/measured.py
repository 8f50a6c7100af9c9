"""A figure with what it is over and its interval, and the figures of one preset."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dozan.judge.intervals import wilson
from dozan.rows.example import Json


@dataclass(frozen=True)
class Measured:
    """A share (or a mixture of shares) over `n` rows with its 95 % interval; None where there is none."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class PresetScores:
    """Another's scores of the same predictions.

    rules: whose, in a sentence. figures: by name, the one to quote first. groups: figures by group (dialect or
    category). right: each row's id and whether the preset takes it to be right.
    """

    name: str
    rules: str
    figures: Mapping[str, Measured]
    groups: Mapping[str, Mapping[str, Measured]]
    right: Mapping[str, bool]

    def to_json(self) -> dict[str, Json]:
        return dataclasses.asdict(self)


def share(outcomes: Sequence[bool]) -> Measured:
    """The share that is true, with Wilson's interval."""
    if not outcomes:
        return Measured(None, 0)
    low, high = wilson(sum(outcomes), len(outcomes))
    return Measured(sum(outcomes) / len(outcomes), len(outcomes), low, high)
