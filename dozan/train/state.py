"""What a run changes, saved and restored: adapter, optimiser's moments, loss scale, and where the run stands."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dozan.model.adapter import adapter_parameters, adapter_state, refresh
from dozan.model.gemma3 import Gemma3
from dozan.model.sealed import sync
from dozan.model.weights import load_adapter, save_adapter
from dozan.recipe import Recipe
from dozan.train import checkpoint
from dozan.train.checkpoint import Found, checkpoints, newest_valid, save_checkpoint, write_bytes, write_folder
from dozan.train.disk import stops_well
from dozan.train.live import OnEvent
from dozan.train.optim import AdamW, Named
from dozan.train.passes import Passes, make_passes
from dozan.train.run import METRICS, RECORD, RUN, keep_metrics
from dozan.train.scale import LossScale
from dozan.train.update import Update, make_update

OPTIMIZER, STATE = "optimizer.safetensors", "state.json"
"""Files of a checkpoint beside the adapter's, and beside metrics.jsonl and run.json as they were after the step."""
_SCALE = "loss_scale"


@dataclass(frozen=True)
class Progress:
    """Where a run stands after `step` optimiser steps: with the adapter, the moments and the loss scale, all that a
    resume needs.

    skipped: steps without an update; skipped_in_a_row: those of them that no smaller loss scale would have saved.
    best_score, best_step: the best score by generation so far, and after which step; scored_since_best: scorings since.
    eval_step: the step after which `eval_loss` was measured. owed: a stop cut short what was due after this step.
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
    eval_step: int | None = None
    owed: bool = False


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

    def renew_update(self) -> None:
        """Make the update anew: what a graph had captured may be cut short."""
        clip = self.recipe.train.clip_norm
        self.update = make_update(self.model, self.parameters, self.optimizer, clip, self.scale)

    @property
    def ahead(self) -> int:
        """Steps that may be launched before the result of an earlier one is read: a GPU then never waits for the
        host."""
        return 1 if self.model.device.type == "cuda" else 0

    @property
    def size(self) -> int:
        """Trained parameters."""
        return sum(parameter.numel() for _, parameter in self.parameters)


@dataclass(frozen=True)
class Snapshot:
    """A run after a step, on the host. ready: what a GPU signals when it has copied the tensors, None when they are
    there. metrics: bytes of metrics.jsonl by then."""

    progress: Progress
    adapter: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    scale: dict[str, float] | None
    metrics: int
    record: bytes
    ready: torch.cuda.Event | None = None


def snapshot(trainee: Trainee, out: Path, progress: Progress, kept: bool = False) -> Snapshot:
    """The run as it is; with `kept`, copies that stay so while it goes on, which a GPU makes behind the host's back."""

    def copied(tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor.detach().clone()
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor.detach(), non_blocking=True)

    adapter = {name: copied(t) if kept else t for name, t in adapter_state(trainee.model).items()}
    optimizer = trainee.optimizer.tensors(copied) if kept else trainee.optimizer.tensors()
    ready = torch.cuda.Event() if kept and trainee.model.device.type == "cuda" else None
    if ready is not None:
        ready.record()
    written, record = out / METRICS, out / RUN
    return Snapshot(
        progress, adapter, optimizer, None if trainee.scale is None else trainee.scale.state(),
        written.stat().st_size if written.is_file() else 0, record.read_bytes() if record.is_file() else b"", ready,
    )  # fmt: skip


def write_snapshot(trainee: Trainee, out: Path, taken: Snapshot) -> Path:
    """Write a checkpoint of the run in `out`; the newest ones are kept, and the best on the held-out rows."""
    if taken.ready is not None:
        taken.ready.synchronize()

    def write(folder: Path) -> None:
        save_adapter(folder, trainee.model, trainee.recipe.adapter, trainee.base_name, taken.adapter)
        save_file(taken.optimizer, folder / OPTIMIZER)
        held = {} if taken.scale is None else {_SCALE: taken.scale}
        (folder / STATE).write_text(json.dumps(asdict(taken.progress) | held, indent=1), encoding="utf-8")
        (folder / METRICS).write_bytes(_beginning(out / METRICS, taken.metrics))
        (folder / RECORD).write_bytes(taken.record)

    root = out / "checkpoints"
    return save_checkpoint(
        root, taken.progress.step, write, trainee.recipe.train.keep_checkpoints, lambda: best_checkpoint(root)
    )


def best_checkpoint(root: Path) -> Path | None:
    """The checkpoint with the lowest loss on held-out rows, of those that were measured."""
    measured = [(loss, folder) for _, folder in checkpoints(root) if (loss := _heldout_loss(folder)) is not None]
    return min(measured, default=(0.0, None))[1]


def save_final(trainee: Trainee, out: Path) -> None:
    """Write the trained adapter to `out/adapter`, sealed. Raises InputError when the disk does not take it."""
    with stops_well(out / "adapter", "free some space, then run the same command again"):
        checkpoint.clean(out)
        recipe, name = trainee.recipe.adapter, trainee.base_name
        write_folder(out / "adapter", lambda folder: save_adapter(folder, trainee.model, recipe, name))


def restore_state(trainee: Trainee, out: Path, report: OnEvent, sound: bool = False) -> Progress:
    """Load the newest valid checkpoint, if any, and set the metrics back to its step; damaged ones are put aside, under
    a name that begins with `damaged-`. sound: of those alone whose last step was not skipped.
    """
    root = out / "checkpoints"
    for folder in (out, root):
        checkpoint.clean(folder)
    found = newest_valid(root, _is_sound if sound else lambda folder: True)
    for line in found.skipped:
        report({"event": "note", "text": f"skipped checkpoint {line}"})
    _put_aside(root, found)
    if found.folder is None:
        keep_metrics(out / METRICS, 0)
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
    _restore_metrics(out / METRICS, found, report)
    return Progress(**state)


def _restore_metrics(path: Path, found: Found, report: OnEvent) -> None:
    assert found.folder is not None
    kept = found.folder / METRICS
    if not kept.is_file():  # written by a version that did not keep them
        keep_metrics(path, found.step)
        return
    content = kept.read_bytes()
    if not path.is_file() or path.read_bytes()[: len(content)] != content:
        report({"event": "note", "text": f"{path.name} was not as written: taken from {found.folder.name}"})
    write_bytes(path, content)


def _put_aside(root: Path, found: Found) -> None:
    for step, folder in checkpoints(root):
        if step > found.step and checkpoint.verify(folder):
            aside = folder.with_name(f"damaged-{folder.name}")
            if not aside.exists():
                os.rename(folder, aside)


def _beginning(path: Path, size: int) -> bytes:
    if not size:
        return b""
    sync(path)
    with path.open("rb") as file:
        return file.read(size)


def _heldout_loss(folder: Path) -> float | None:
    """Of a checkpoint, if it was measured after its very step."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        return float(state["eval_loss"]) if state["eval_step"] == state["step"] else None
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or of a version without these
        return None


def _is_sound(folder: Path) -> bool:
    state = json.loads((folder / STATE).read_bytes())
    return state["skipped_in_a_row"] == 0
