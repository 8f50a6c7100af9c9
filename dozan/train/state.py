"""What a run changes, saved and restored: adapter or weights, the optimiser's moments, loss scale, where the run is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dozan.chat.arranged import Arrangement
from dozan.model.adapter import adapter_parameters, adapter_state, refresh_alone
from dozan.model.bundle import folder_arrangement, write_arrangement
from dozan.model.full_format import load_weights, save_model, save_weights
from dozan.model.gemma3 import Gemma3
from dozan.model.sealed import sync
from dozan.model.shard import take_part
from dozan.model.shards import Seals, whole
from dozan.model.weights import load_adapter, resolve_model, save_adapter
from dozan.recipe import Recipe
from dozan.train import checkpoint
from dozan.train.checkpoint import Found, checkpoints, newest_valid, save_checkpoint, write_bytes, write_folder
from dozan.train.disk import stops_well
from dozan.train.full import Masters
from dozan.train.live import OnEvent
from dozan.train.optim import MOMENTS, AdamW, Named
from dozan.train.passes import Passes, make_passes
from dozan.train.reduce import Reducer
from dozan.train.run import FINAL, METRICS, RECORD, RUN, keep_metrics
from dozan.train.scale import LossScale
from dozan.train.sharded import ShardedMasters, idle, is_wanted, require_blocks
from dozan.train.update import Update, make_update
from dozan.world import ALONE, World, current

OPTIMIZER, STATE = f"{MOMENTS}.safetensors", "state.json"
"""Files of a checkpoint beside the adapter's, and beside metrics.jsonl and run.json as they were after the step."""
_SCALE = "loss_scale"
_ALIGNED = 16


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
    """What the loop changes: the adapted model or all of its weights, their optimiser, in float16 the loss scale; and
    what saves them. The passes are made anew when memory did not do (`train.retry`), the old ones with their graphs go
    at once. masters: where every weight is trained. reducer: on several ranks, each of which holds all that is trained.
    Where each holds a part, all of them save and load together.
    """

    model: Gemma3
    parameters: Named
    optimizer: AdamW
    passes: Passes
    update: Update
    recipe: Recipe
    base_name: str
    scale: LossScale | None = None
    masters: Masters | ShardedMasters | None = None
    reducer: Reducer | None = None
    writers: World = ALONE
    """The ranks that write a checkpoint together, as the thread speaks to them that does."""
    loaded: list[tuple[bool, str]] = field(default_factory=list)
    """What the first rank has loaded since the others followed: whether moments, and from which folder."""

    @staticmethod
    def of(model: Gemma3, recipe: Recipe, base_name: str) -> Trainee:
        """The `model`, adapted unless the recipe trains every weight, with a fresh optimiser."""
        masters = _masters(model, recipe)
        parameters = adapter_parameters(model) if masters is None else masters.parameters
        optimizer = AdamW(parameters, recipe.train)
        scale = LossScale(model.device) if model.dtype == torch.float16 else None
        # Before anything is captured: gradients move to where they are summed.
        alone = current().size == 1 or (masters is not None and masters.is_sharded)
        # Masters are given theirs by hand (`full.Masters`), which no hook of theirs sees.
        reducer = None if alone else Reducer(parameters, overlaps=masters is None)
        passes = make_passes(model, recipe, scale)
        update = make_update(model, parameters, optimizer, recipe.train.clip_norm, scale, masters)
        return Trainee(model, parameters, optimizer, passes, update, recipe, base_name, scale, masters, reducer)

    def renew_update(self) -> None:
        """Make the update anew: what a graph had captured may be cut short."""
        clip = self.recipe.train.clip_norm
        self.update = make_update(self.model, self.parameters, self.optimizer, clip, self.scale, self.masters)

    def trained(self) -> dict[str, Tensor]:
        """What was trained, fp32, detached: adapters by PEFT's names, or every weight by its text-only name."""
        if self.masters is None:
            return adapter_state(self.model)
        return {name: parameter.detach() for name, parameter in self.parameters}

    def save_trained(self, folder: Path, held: dict[str, Tensor] | None = None) -> Seals:
        """Write what was trained, or what `trained` gave earlier, to a folder that `load_trained` reads; what was
        hashed of it."""
        if isinstance(self.masters, ShardedMasters):
            return self.masters.save(folder, held)
        if self.masters is None:
            save_adapter(folder, self.model, self.recipe.adapter, self.base_name, held)
        else:
            save_weights(folder, self.trained() if held is None else held)
        return {}

    def load_trained(self, folder: Path) -> None:
        """Go on from what `save_trained` wrote. Raises InputError, before anything changes, when it does not fit."""
        if isinstance(self.masters, ShardedMasters):
            self.masters.load(folder)
            self.loaded.append((False, str(folder)))
        elif self.masters is None:
            load_adapter(folder, self.model)
        else:
            load_weights(folder, self.trained())
            self.masters.publish()

    def save_moments(self, folder: Path, held: dict[str, Tensor]) -> Seals:
        """Write what the optimiser's `tensors` gave; what was hashed of it."""
        if isinstance(self.masters, ShardedMasters):
            return self.masters.save_moments(folder, self.optimizer, held)
        save_file(held, folder / OPTIMIZER)
        return {}

    def load_moments(self, folder: Path) -> None:
        """Go on from what `save_moments` wrote. Raises InputError when it does not fit."""
        if isinstance(self.masters, ShardedMasters):
            self.masters.load_moments(folder, self.optimizer)
            self.loaded.append((True, str(folder)))
        else:
            self.optimizer.load(whole(folder, MOMENTS))

    def follow(self, world: World) -> None:
        """Have the other ranks load their parts of what the first one has loaded."""
        for are_moments, folder in world.from_first(lambda: self.loaded):
            if not world.first:
                (self.load_moments if are_moments else self.load_trained)(Path(folder))
        self.loaded.clear()

    def stand_in(self, step: int) -> None:
        """Take part in a pass of other ranks, which they cannot make alone, with nothing to learn from."""
        if isinstance(self.masters, ShardedMasters):
            self.passes(idle(), 1.0, step)
        else:
            take_part(self.model)

    def whole(self) -> AbstractContextManager[None]:
        """Within it a forward pass needs no other rank."""
        return self.masters.whole() if isinstance(self.masters, ShardedMasters) else nullcontext()

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a part of what is trained."""
        return self.masters is not None and self.masters.is_sharded

    @property
    def ahead(self) -> int:
        """Steps that may be launched before the result of an earlier one is read: a GPU then never waits for the
        host."""
        return 1 if self.model.device.type == "cuda" else 0

    @property
    def size(self) -> int:
        """Trained parameters."""
        if isinstance(self.masters, ShardedMasters):
            return self.masters.size
        return sum(parameter.numel() for _, parameter in self.parameters)


def _masters(model: Gemma3, recipe: Recipe) -> Masters | ShardedMasters | None:
    """What is trained where every weight is. Raises InputError when it cannot be shared out over these ranks."""
    if recipe.train.weights != "full":
        return None
    if not is_wanted(recipe, current()):
        return Masters(model)
    if recipe.train.optimizer == "adamw_8bit":
        require_blocks(model, current())
    return ShardedMasters(model, current())


@dataclass(frozen=True)
class Snapshot:
    """A run after a step, on the host. trained: see `Trainee`. ready: what a GPU signals when it has copied the
    tensors, None when they are there. metrics: bytes of metrics.jsonl by then."""

    progress: Progress
    trained: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    scale: dict[str, float] | None
    metrics: int
    record: bytes
    ready: torch.cuda.Event | None = None


class SnapshotMemory:
    """Where a run's snapshots are copied to, one after the other: a GPU's in pinned memory, which is slow to be had.

    said: what to tell once where the host does not give as much pinned; the GPU then waits for each copy.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self.said = ""

    def reserve(self, tensors: Mapping[str, Tensor]) -> None:
        """Have memory for tensors, by name; what there is stays."""
        missing = {name: tensor for name, tensor in tensors.items() if name not in self._held}
        sizes = [-(-tensor.nbytes // _ALIGNED) * _ALIGNED for tensor in missing.values()]
        on_gpu = any(tensor.is_cuda for tensor in missing.values())
        block, refused = _host_memory(sum(sizes), on_gpu)
        if refused:
            self.said = f"checkpoints are copied by way of pageable memory, which is slower: {refused}"
        parts = block.split(sizes)
        for (name, tensor), part in zip(missing.items(), parts, strict=True):
            self._held[name] = part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    @torch.no_grad()
    def copies(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies on the host, which a GPU makes behind its back; those of the snapshot before are gone."""
        self.reserve(tensors)
        held = {name: self._held[name] for name in tensors}
        if held:
            torch._foreach_copy_(list(held.values()), list(tensors.values()), non_blocking=True)
        return held


def _host_memory(size: int, pinned: bool) -> tuple[Tensor, str]:
    """So many bytes, pinned if it can be had; else why not, in words."""
    refused = ""
    if pinned:
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True), ""
        except RuntimeError as error:
            refused = str(error).strip().splitlines()[0]
    return torch.empty(size, dtype=torch.uint8), refused


def snapshot(trainee: Trainee, out: Path, progress: Progress, memory: SnapshotMemory | None = None) -> Snapshot:
    """The run as it is; in `memory` it stays so while the run goes on."""
    kept = memory is not None
    trained = trainee.trained() if memory is None else memory.copies(trainee.trained())
    optimizer = trainee.optimizer.tensors(None if memory is None else memory.copies)
    ready = torch.cuda.Event() if kept and trainee.model.device.type == "cuda" else None
    if ready is not None:
        ready.record()
    written, record = out / METRICS, out / RUN
    return Snapshot(
        progress, trained, optimizer, None if trainee.scale is None else trainee.scale.state(),
        written.stat().st_size if written.is_file() else 0, record.read_bytes() if record.is_file() else b"", ready,
    )  # fmt: skip


def write_snapshot(trainee: Trainee, out: Path, taken: Snapshot) -> Path:
    """Write a checkpoint of the run in `out`; the newest ones are kept, and the best on the held-out rows."""
    if taken.ready is not None:
        taken.ready.synchronize()

    def write(folder: Path) -> Seals:
        seals = trainee.save_trained(folder, taken.trained) | trainee.save_moments(folder, taken.optimizer)
        if not trainee.writers.first:
            return seals
        held = {} if taken.scale is None else {_SCALE: taken.scale}
        (folder / STATE).write_text(json.dumps(asdict(taken.progress) | held, indent=1), encoding="utf-8")
        (folder / METRICS).write_bytes(_beginning(out / METRICS, taken.metrics))
        (folder / RECORD).write_bytes(taken.record)
        return seals

    root, keep = out / "checkpoints", trainee.recipe.train.keep_checkpoints
    return save_checkpoint(root, taken.progress.step, write, keep, lambda: best_checkpoint(root), trainee.writers)


def best_checkpoint(root: Path) -> Path | None:
    """The checkpoint with the lowest loss on held-out rows, of those that were measured."""
    measured = [(loss, folder) for _, folder in checkpoints(root) if (loss := _heldout_loss(folder)) is not None]
    return min(measured, default=(0.0, None))[1]


def save_final(trainee: Trainee, out: Path) -> None:
    """Write the trained adapter to `out/adapter`, or the whole model to `out/model`, sealed. Raises InputError when the
    disk does not take it. Of several ranks the first one writes; those that hold a part give it."""
    masters, final = trainee.masters, out / FINAL[trainee.recipe.train.weights]
    gathered = masters.gathered() if isinstance(masters, ShardedMasters) else nullcontext(trainee.trained())
    with gathered as weights, stops_well(final, "free some space, then run the same command again"):
        if current().first:
            checkpoint.clean(out)
            write_folder(final, trainee.save_trained if masters is None else partial(_save_model, trainee, weights))


def _save_model(trainee: Trainee, weights: Mapping[str, Tensor], folder: Path) -> None:
    """A Hugging Face folder in the dtype that the model computes in."""
    save_model(folder, resolve_model(trainee.base_name), weights, trainee.model.dtype)
    data = trainee.recipe.data
    arrangement = Arrangement(data.tool_order, data.now, data.target)
    if folder_arrangement(folder) != arrangement:
        write_arrangement(folder, arrangement)


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
    put_aside(root, found)
    if found.folder is None:
        keep_metrics(out / METRICS, 0)
        refresh_alone(trainee.model)
        return Progress()
    trainee.load_trained(found.folder)
    trainee.load_moments(found.folder)
    refresh_alone(trainee.model)
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


def put_aside(root: Path, found: Found) -> None:
    """Rename the damaged checkpoints that are newer than the one found: they count no more, and are never lost."""
    for step, folder in checkpoints(root):
        if step > found.step and checkpoint.verify(folder):
            name = f"damaged-{folder.name}"
            names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
            os.rename(folder, next(aside for each in names if not (aside := root / each).exists()))


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
