"""What trackers are told of a run: who it is, its settings, and the figures of a line of metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Record = Mapping[str, Any]
KINDS = ("train", "eval", "score")
"""What a line of metrics.jsonl is about: its figures' names begin so."""


@dataclass(frozen=True)
class RunFacts:
    """id: the same for all of a run's life. out: its folder. config: recipe, base and fingerprints, without secrets."""

    id: str
    project: str
    name: str
    out: Path
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Picture:
    """A figure of the training page: a name for a tracker, its caption, and a PNG."""

    name: str
    caption: str
    png: bytes


class Tracker(Protocol):
    """Takes a run's figures.

    failures: what its library raises when disk or network fail. place: where a person finds the run, in words.
    """

    name: str
    failures: tuple[type[Exception], ...]
    place: str

    def seen(self) -> Mapping[str, int]:
        """The last step that it has figures of, by kind; and "report" where it has the pictures."""

    def log(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a step."""

    def show(self, step: int, page: Path, pictures: list[Picture]) -> None:
        """Take the training page, or its pictures."""

    def close(self, done: bool) -> None:
        """Write what is left; done: the run came to its end."""


def facts_of(out: Path, run: Mapping[str, Any], project: str | None, name: str | None) -> RunFacts:
    """From a run folder and its run.json, which holds no secrets, of a run that is tracked."""
    config = {
        "recipe": run["recipe"], "base": run["base"], "base_sha256": run["base_sha256"], "chat": run["chat"],
        "rows": run["rows"], "heldout_rows": run["heldout_rows"], "steps": run["steps"],
        "rows_sha256": run["fingerprint"]["rows"], "heldout_rows_sha256": run["fingerprint"]["heldout rows"],
        "versions": run["versions"],
    }  # fmt: skip
    return RunFacts(run["given"]["track_id"], project or "dozan", name or out.resolve().name, out, config)


def kind_of(record: Record) -> str:
    """Which of KINDS a line of metrics.jsonl is."""
    return next(kind for kind in KINDS if any(key.startswith(f"{kind}/") for key in record))


def figures_of(record: Record, kind: str) -> dict[str, float]:
    """The finite numbers of a line but for its step, by their names; of `epoch`, which a step's lines share, one."""
    passed = ("step",) if kind == "train" else ("step", "epoch")
    return {
        key: float(value) for key, value in record.items()
        if key not in passed and isinstance(value, int | float) and math.isfinite(value)
    }  # fmt: skip


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def later(seen: dict[str, int], kind: str, step: int) -> None:
    """Note that figures of a kind are there up to a step."""
    seen[kind] = max(step, seen.get(kind, step))
