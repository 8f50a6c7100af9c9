"""What the figures of a run say about it, in words: each is said once, when it is first seen.

The words stand in the run's metrics, as `said` of the line that gave reason to them, and in run.json.
"""

from __future__ import annotations

import json
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WINDOW, _LONG = 50, 100
_LEARNT = 0.002
_HIGH_NORM, _MOSTLY = 1.0, 0.9
_UNENDING, _NAMES, _PARSED, _VALUES = 0.2, 0.9, 0.02, 0.6
_HEALTHY_START, _HEALTHY_END = 2.0, 1.0


def watched(steps: int, warmup: int, rate: float, metrics: Path) -> Sentinels:
    """Sentinels of a run that may have begun earlier: its metrics so far are taken in."""
    found = Sentinels(steps, warmup, rate)
    if metrics.is_file():
        for line in metrics.read_text(encoding="utf-8").splitlines():
            found.replay(json.loads(line))
    return found


def said_in(metrics: Path) -> list[dict[str, Any]]:
    """What was said in a run by its metrics, each with its step; nothing where there are none."""
    if not metrics.is_file():
        return []
    lines = [line for line in metrics.read_text(encoding="utf-8").splitlines() if '"said"' in line]
    return [{"step": line["step"], "text": text} for line in map(json.loads, lines) for text in line["said"]]


class Sentinels:
    """Watches a run's steps and evaluations. What was seen before a resume is told again by `replay`."""

    def __init__(self, steps: int, warmup: int, rate: float) -> None:
        self._steps, self._warmup, self._rate = steps, warmup, rate
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._norms: deque[float] = deque(maxlen=_LONG)
        self._first: list[float] = []
        self._evaluations: list[float] = []
        self._said: set[str] = set()

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take in a line of metrics.jsonl that an earlier process wrote; what it was worth saying was said then."""
        if "train/loss" in event:
            self.step(event)
        elif "eval/loss" in event:
            self.evaluated(float(event["eval/loss"]))
        elif "score/unended" in event:
            self.scored(event)

    def step(self, event: Mapping[str, Any]) -> list[str]:
        """What a step's event gives reason to say."""
        if event.get("train/skipped"):
            return []
        loss, step = float(event["train/loss"]), int(event["step"])
        self._losses.append(loss)
        if len(self._first) < _WINDOW:
            self._first.append(loss)
        if step > self._warmup:
            self._norms.append(float(event["train/grad_norm"]))
        return [*self._learnt_by_heart(step), *self._restless(), *self._healthy(step)]

    def evaluated(self, loss: float) -> list[str]:
        """What the loss on held-out rows gives reason to say."""
        self._evaluations.append(loss)
        last = self._evaluations[-3:]
        if len(last) == 3 and last[0] < last[1] < last[2]:
            shown = " to ".join(f"{value:.3f}" for value in last)
            return self._say("rising", f"the loss on held-out rows rises, {shown}: rows are learnt by heart; fewer "
                             "epochs or more rows would do better")  # fmt: skip
        return []

    def scored(self, event: Mapping[str, Any]) -> list[str]:
        """What scores by generation give reason to say; `score/unended` is the share of answers cut off."""
        said = []
        if event["score/unended"] > _UNENDING:
            said += self._say("unended", f"{event['score/unended']:.0%} of the answers never stop: the stop token is "
                              "not learnt yet; if this lasts, look at a row with dozan data show")  # fmt: skip
        names, parsed, strict = (event[f"score/{key}"] for key in ("tool_name", "parse_failures", "strict"))
        if names is None or parsed is None or strict is None:
            return said
        if names > _NAMES and parsed < _PARSED and strict < _VALUES:
            said += self._say("values", f"names and syntax are right ({names:.0%}), values are wrong (strict "
                              f"{strict:.0%}): more rows will help, a higher rank will not")  # fmt: skip
        return said

    def _learnt_by_heart(self, step: int) -> list[str]:
        full = len(self._losses) == _WINDOW
        if not full or step > _MOSTLY * self._steps or statistics.mean(self._losses) > _LEARNT:
            return []
        lower = min(5e-4, self._rate / 2)
        return self._say("flat", f"the loss is flat near {statistics.mean(self._losses):.4f} with "
                         f"{self._steps - step} steps to go: overfitting; fewer epochs, or a rate of {lower:g} instead "
                         f"of {self._rate:g}")  # fmt: skip

    def _restless(self) -> list[str]:
        high = sum(norm > _HIGH_NORM for norm in self._norms)
        if len(self._norms) < _LONG or high < _MOSTLY * _LONG:
            return []
        return self._say("norm", f"the gradient's norm was above {_HIGH_NORM:g} in {high} of {_LONG} steps: "
                         f"the rate of {self._rate:g} may be too high, or rows contradict each other")  # fmt: skip

    def _healthy(self, step: int) -> list[str]:
        if step < self._steps or len(self._losses) < _WINDOW:
            return []
        start, end = statistics.mean(self._first[:10]), statistics.mean(self._losses)
        if not (start > _HEALTHY_START and _LEARNT < end < _HEALTHY_END):
            return []
        return self._say("healthy", f"the loss fell from {start:.1f} to {end:.2f}: healthy")

    def _say(self, what: str, text: str) -> list[str]:
        if what in self._said:
            return []
        self._said.add(what)
        return [text]
