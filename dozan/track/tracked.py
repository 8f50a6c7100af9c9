"""Trackers beside a run: each is told what metrics.jsonl holds, once, whatever happened to the run in between.

A tracker is a copy. When a run begins or goes on, each is asked what it has, and gets the lines of metrics.jsonl that
it lacks: nothing is logged twice, and what a killed process had not written is made up for. Steps that a run goes back
over after figures that were not finite (`train.recover`) keep their first figures there. A tracker that fails is
named once and left alone; the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.recipe import TrackRecipe
from dozan.redact import redact
from dozan.track.facts import Record, RunFacts, Tracker, facts_of, figures_of, kind_of, read_metrics

Event = dict[str, Any]
Report = Callable[[Event], None]

_PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
_LINES = ("step", "eval", "score")


def require_trackers(names: Sequence[str]) -> None:
    """Raises InputError for those whose package is not there, or cannot be imported."""
    absent = [name for name in names if find_spec(_PACKAGES[name]) is None]
    if absent:
        raise InputError(f"track.to: {', '.join(absent)} is not installed: pip install 'dozan[{','.join(absent)}]', or "
                         "leave it out of track.to")  # fmt: skip
    for name in names:
        try:
            _kind(name)
        except (ImportError, TypeError) as error:  # TypeError: protobuf's, for code that another version generated
            raise InputError(
                f"track.to: {name} is installed, but cannot be imported ({_said(error)}): reinstall it with pip "
                f"install --upgrade 'dozan[{name}]', or leave it out of track.to"
            ) from None


@contextmanager
def tracked(report: Report, recipe: TrackRecipe, out: Path) -> Iterator[Report]:
    """The function to report a run's events with: it passes them on, and tells the recipe's trackers."""
    if not recipe.to:
        yield report
        return
    feed = _Feed(report, recipe, out)
    try:
        yield feed
    finally:
        feed.close()


@dataclass
class _Feed:
    """Passes events on and tells the trackers, which are opened when the plan is told: run.json is there then, and
    metrics.jsonl is as the run goes on from it."""

    report: Report
    recipe: TrackRecipe
    out: Path
    trackers: list[tuple[Tracker, dict[str, int]]] = field(default_factory=list)
    facts: RunFacts | None = None
    done: bool = False

    def __call__(self, event: Event) -> None:
        self.report(event)
        kind = event["event"]
        if kind == "plan":
            self._open()
        elif kind in _LINES:
            self._each(lambda tracker, seen: _tell(tracker, seen, event))
        elif kind == "done":
            self.done = True
            self._show(event["steps"])

    def close(self) -> None:
        self._each(lambda tracker, seen: tracker.close(self.done))
        self.trackers = []

    def _open(self) -> None:
        run = json.loads((self.out / "run.json").read_text(encoding="utf-8"))
        facts = self.facts = facts_of(self.out, run, self.recipe.project, self.recipe.name)
        lines = read_metrics(self.out / "metrics.jsonl")
        for name in self.recipe.to:
            kind = _kind(name)
            try:
                tracker = kind(facts)
                seen = dict(tracker.seen())
            except kind.failures as error:
                self._fails(name, error)
                continue
            self.report({"event": "note", "text": f"tracked by {name}: {tracker.place}"})
            self.trackers.append((tracker, seen))

        def catch_up(tracker: Tracker, seen: dict[str, int]) -> None:
            for line in lines:
                _tell(tracker, seen, line)

        self._each(catch_up)

    def _show(self, step: int) -> None:
        from dozan.track.pictures import pictures, write_page

        if not self.trackers or self.facts is None:
            return
        try:
            page = write_page(self.facts)
            # Those that take no picture need no drawing library.
            drawn = pictures(page) if {"tensorboard", "trackio"} & set(self.recipe.to) else []
        except OSError as error:
            self.report({"event": "note", "text": f"the training page cannot be written ({_said(error)}): the run is "
                                                  "done all the same, trackers lack the page alone"})  # fmt: skip
            return

        def show(tracker: Tracker, seen: dict[str, int]) -> None:
            if "report" not in seen:
                tracker.show(step, page, drawn)
                seen["report"] = step

        self._each(show)

    def _each(self, act: Callable[[Tracker, dict[str, int]], None]) -> None:
        """Do it with each tracker; one that fails is dropped."""
        for entry in list(self.trackers):
            tracker, seen = entry
            try:
                act(tracker, seen)
            except tracker.failures as error:
                self.trackers.remove(entry)
                self._fails(tracker.name, error)

    def _fails(self, name: str, error: Exception) -> None:
        text = (f"{name} fails ({_said(error)}): it is told nothing more, the run goes on; metrics.jsonl has every "
                "figure, and a resume gives the tracker what it lacks")  # fmt: skip
        self.report({"event": "note", "text": text})


def _said(error: Exception) -> str:
    """The first line of an error, without secrets."""
    return redact(str(error).strip() or type(error).__name__).splitlines()[0]


def _tell(tracker: Tracker, seen: dict[str, int], record: Record) -> None:
    """Log a line unless the tracker has it."""
    line = {key: value for key, value in record.items() if key not in ("event", "said")}
    kind, step = kind_of(line), int(line["step"])
    if step > seen.get(kind, -1):
        tracker.log(kind, step, figures_of(line, kind))
        seen[kind] = step


def _kind(name: str) -> Any:
    """The class of a tracker; its package is imported only here."""
    if name == "wandb":
        from dozan.track.to_wandb import Wandb

        return Wandb
    if name == "tensorboard":
        from dozan.track.to_tensorboard import TensorBoard

        return TensorBoard
    from dozan.track.to_trackio import Trackio

    return Trackio
