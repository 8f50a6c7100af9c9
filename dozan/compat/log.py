"""What a trainer tells of a run: log_history by transformers' names, and what trainer.train() returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dozan.compat.settings import SFTConfig
from dozan.train.live import Event, OnEvent

_NEVER = 2**31


class TrainOutput(NamedTuple):
    """What `trainer.train()` returns. metrics: train_runtime (seconds), train_loss (the mean over the steps made),
    train_samples_per_second, train_steps_per_second, epoch."""

    global_step: int
    training_loss: float
    metrics: dict[str, float]


@dataclass
class TrainerState:
    """Where a run stands."""

    global_step: int = 0
    epoch: float = 0.0
    max_steps: int = 0
    best_metric: float | None = None
    best_model_checkpoint: str | None = None
    log_history: list[dict[str, float]] = field(default_factory=list)


class Log:
    """Takes a run's events: keeps `state`, and passes each on to others."""

    def __init__(self, config: SFTConfig, listeners: Sequence[OnEvent]) -> None:
        self.state, self.listeners, self.losses = TrainerState(), listeners, list[float]()
        self._config, self._since = config, list[Event]()

    def __call__(self, event: Event) -> None:
        kind = event["event"]
        if kind == "plan":
            self.state.max_steps = event["steps"]
            self._every = {"no": _NEVER, "epoch": max(1, -(-event["rows"] // event["batch_size"]))}.get(
                self._config.logging_strategy, _interval(self._config.logging_steps, event["steps"])
            )
        elif kind == "step":
            self._step(event)
        elif kind == "eval":
            self.state.log_history.append({
                "eval_loss": event["eval/loss"], "eval_runtime": event["eval/seconds"], "epoch": event["epoch"],
                "step": event["step"],
            })  # fmt: skip
        for listener in self.listeners:
            listener(event)

    def _step(self, event: Event) -> None:
        state, first = self.state, not self.losses
        state.global_step, state.epoch = event["step"], event["epoch"]
        self.losses.append(event["train/loss"])
        self._since.append(event)
        if event["step"] % self._every and not (first and self._config.logging_first_step):
            return
        state.log_history.append({
            "loss": sum(each["train/loss"] for each in self._since) / len(self._since),
            "grad_norm": event["train/grad_norm"], "learning_rate": event["train/learning_rate"],
            "epoch": event["epoch"], "step": event["step"],
        })  # fmt: skip
        self._since.clear()


def _interval(value: float, steps: int) -> int:
    return max(1, round(value * steps)) if 0 < value < 1 else max(1, int(value))
