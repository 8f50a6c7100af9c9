"""What a run sets by itself so that it fits its GPU, decided before its model is loaded: where the embedding lies, and
with a yes what changes the training. The dial of recomputation follows when the model is there (`memory_run.settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dozan.errors import InputError
from dozan.model.weights import read_config
from dozan.recipe import override
from dozan.train.memory_fit import PROTOCOL, fit
from dozan.train.memory_run import budget_of_device, held_as, refusal, setup_on, with_place
from dozan.train.memory_setup import Embedding, Setup
from dozan.train.plan import make_plan
from dozan.train.prepare import Job, dtype_of, training_device
from dozan.train.run import read_run
from dozan.world import current

Adapt = bool | Callable[[str], bool]
"""Whether steps that change the training may be taken: yes, no, or what is asked once, with what is missing."""

KERNEL_BYTES = 256 * 2**20
"""Kernels that a GPU loads with the model and the first step: what is free before is more by so much at most."""


def fitted(job: Job, out: str | Path, adapt: Adapt = False) -> Job:
    """The job with what it must set to fit the GPU that trains it; a run that `out` holds goes on as it began. Without
    a GPU nothing changes.

    Raises InputError when it does not fit, with what would make it fit.
    """
    before, device = current().from_first(lambda: read_run(Path(out))), training_device()
    if before is not None:
        job = _as_before(job, before)
    ranks = current().size
    if device.type != "cuda" or (before is not None and ranks == 1):
        return job
    budget = budget_of_device(device) - KERNEL_BYTES
    job, setup = shared_out(job, _setup(job, device), ranks, budget)
    return choose(job, setup, budget, adapt) if before is None else job


def shared_out(job: Job, setup: Setup, ranks: int, budget: int) -> tuple[Job, Setup]:
    """The job with `train.fsdp` true where it is auto and a run with the whole base does not fit its budget; and what a
    rank then holds."""
    recipe, dial = job.plan.recipe, job.plan.recipe.train.recompute == "auto"
    parted = replace(setup, shards=ranks)
    if ranks == 1 or recipe.train.fsdp is False:
        return job, setup
    if recipe.train.fsdp == "auto":
        if fit(setup, budget, False, dial).fits:
            return job, setup
        train = recipe.train.model_copy(update={"fsdp": True})
        plan = replace(job.plan, recipe=recipe.model_copy(update={"train": train}))
        note = f"each of the {ranks} ranks holds its share of the weights, for one alone does not fit (train.fsdp=true)"
        job = replace(job, plan=plan, notes=(*job.notes, note))
    return job, parted


def _setup(job: Job, device: torch.device) -> Setup:
    recipe = job.plan.recipe
    place = "gpu" if recipe.model.embedding == "auto" else recipe.model.embedding
    dtype, quantise = dtype_of(recipe, device), held_as(recipe, job.folder)
    return setup_on(job.plan, read_config(job.folder), device, dtype, quantise, place)


def choose(job: Job, setup: Setup, budget: int, adapt: Adapt) -> Job:
    """The job with what lets `setup` fit a budget in bytes. Where the dial is set by hand, what does not fit is left to
    the rehearsal. Raises InputError as `fitted`."""
    recipe = job.plan.recipe
    dial, auto = recipe.train.recompute == "auto", recipe.model.embedding == "auto"
    allowed = [measure for measure in PROTOCOL if (auto or not measure.at_loading) and (dial or not measure.of_dial)]

    found = fit(setup, budget, False, dial, allowed)
    if not found.fits and found.possible and (adapt(refusal(found)) if callable(adapt) else adapt):
        found = fit(setup, budget, True, dial, allowed)
    if dial and not found.fits:
        raise InputError(refusal(fit(setup, budget, False, dial)))
    job = _with(job, [text for step in found.taken_changes for text in step.settings])
    return _with_place(job, found.setup.embedding)


def _as_before(job: Job, before: Mapping[str, Any]) -> Job:
    """The job with what the run that it goes on with had set."""
    job = _with(job, before.get("adapted", ()))
    return _with_place(job, before["recipe"].get("model", {}).get("embedding", "gpu"))


def _with_place(job: Job, place: Embedding) -> Job:
    """The job with an embedding that is left to be placed held elsewhere than on the GPU as it is."""
    if job.plan.recipe.model.embedding != "auto" or place == "gpu":
        return job
    where = "in 8 bits" if place == "int8" else "in host memory"
    note = f"the embedding is held {where}, so that the run fits (model.embedding={place})"
    return replace(job, plan=with_place(job.plan, place), notes=(*job.notes, note))


def _with(job: Job, settings: Sequence[str]) -> Job:
    """The job with settings that change the training. Raises InputError when rows are too long for them."""
    if not settings:
        return job
    recipe, rows = override(job.plan.recipe, settings), [*job.plan.rows, *job.plan.heldout]
    most = recipe.data.max_tokens
    long = [row for row in rows if len(row.ids) > most]
    if long:
        longest = max(long, key=lambda row: len(row.ids))
        raise InputError(
            f"to fit, rows may have {most:,} tokens, and {len(long):,} of {len(rows):,} have more (the longest, "
            f"{longest.row}, {len(longest.ids):,}); shorten them or leave them out, then run the same command again"
        )
    plan = make_plan(recipe, job.plan.rows, job.plan.heldout)
    note = f"changed so that the run fits: {', '.join(settings)}"
    return replace(job, plan=plan, adapted=tuple(settings), notes=(*job.notes, note))
