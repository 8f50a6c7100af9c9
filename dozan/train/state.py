"""What a run changes, saved and restored: adapter, optimiser's moments, loss scale, and where the run stands."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dozan.errors import InputError
from dozan.model.adapter import adapter_parameters, refresh
from dozan.model.gemma3 import Gemma3
from dozan.model.weights import load_adapter, save_adapter
from dozan.recipe import Recipe
from dozan.train.checkpoint import newest_valid, save_checkpoint
from dozan.train.live import OnEvent
from dozan.train.optim import AdamW, Named
from dozan.train.passes import Passes, make_passes
from dozan.train.run import keep_metrics
from dozan.train.scale import LossScale
from dozan.train.update import Update, make_update

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
_SCALE = "loss_scale"


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` optimiser steps: with the adapter, the moments and the loss scale, all that a
    resume needs.

    skipped: steps without an update; skipped_in_a_row: those of them that no smaller loss scale would have saved.
    best_score, best_step: the best score by generation so far, and after which step; scored_since_best: scorings since.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_score: float | None = None
    best_step: int | None = None
    scored_since_best: int = 0


@dataclass
class Trainee:
    """What the loop changes: the adapted model, its optimiser, in float16 the loss scale; and what saves them. The
    passes are made anew when memory did not do (`train.retry`), the old ones with their graphs go at once."""

    model: Gemma3
    parameters: Named
    optimizer: AdamW
    passes: Passes
    update: Update
    recipe: Recipe
    base_name: str
    scale: LossScale | None = None

    @staticmethod
    def of(model: Gemma3, recipe: Recipe, base_name: str) -> Trainee:
        """The adapted `model` with a fresh optimiser."""
        parameters = adapter_parameters(model)
        optimizer = AdamW(parameters, recipe.train)
        scale = LossScale(model.device) if model.dtype == torch.float16 else None
        passes = make_passes(model, recipe, scale)
        update = make_update(model, parameters, optimizer, recipe.train.clip_norm, scale)
        return Trainee(model, parameters, optimizer, passes, update, recipe, base_name, scale)

    @property
    def ahead(self) -> int:
        """Steps that may be launched before the result of an earlier one is read: a GPU then never waits for the
        host."""
        return 1 if self.model.device.type == "cuda" else 0

    @property
    def size(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for _, parameter in self.parameters)


def save_state(trainee: Trainee, out: Path, progress: Progress) -> None:
    """Write a checkpoint of the run in `out`."""

    def write(folder: Path) -> None:
        save_adapter(folder, trainee.model, trainee.recipe.adapter, trainee.base_name)
        save_file(trainee.optimizer.tensors(), folder / OPTIMIZER)
        held = {} if trainee.scale is None else {_SCALE: trainee.scale.state()}
        (folder / STATE).write_text(json.dumps(asdict(progress) | held, indent=1), encoding="utf-8")

    save_checkpoint(out / "checkpoints", progress.step, write, trainee.recipe.train.keep_checkpoints)


def save_final(trainee: Trainee, out: Path) -> None:
    """Write the trained adapter to `out/adapter`. Raises InputError when the disk does not take it."""
    try:
        save_adapter(out / "adapter", trainee.model, trainee.recipe.adapter, trainee.base_name)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{out / 'adapter'}: could not be written ({error}); free some space, then run the same command again"
        ) from error


def restore_state(trainee: Trainee, out: Path, report: OnEvent) -> Progress:
    """Load the newest valid checkpoint, if any, and cut the metrics to its step."""
    found = newest_valid(out / "checkpoints")
    for line in found.skipped:
        report({"event": "note", "text": f"skipped checkpoint {line}"})
    keep_metrics(out / "metrics.jsonl", found.step)
    if found.folder is None:
        refresh(trainee.model)
        return Progress()
    load_adapter(found.folder, trainee.model)
    trainee.optimizer.load(load_file(found.folder / OPTIMIZER))
    refresh(trainee.model)
    report({"event": "note", "text": f"resuming from step {found.step}"})
    state = json.loads((found.folder / STATE).read_bytes())
    held = state.pop(_SCALE, None)
    if trainee.scale is not None and held is not None:
        trainee.scale.load(held)
    return Progress(**state)
