"""`dozan plan`: what a run would take and give, from a shape or a folder, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dozan.errors import InputError
from dozan.kernels import training_dtype
from dozan.model.gemma3 import Gemma3Config
from dozan.model.hub import resolve_model
from dozan.recipe import Recipe, load_recipe, override
from dozan.train.cards import GIB, Card, card_like, card_named, tokens_per_second
from dozan.train.deal import head_cost
from dozan.train.memory_fit import Fit, budget_of, fit, longest_row
from dozan.train.memory_record import verdict
from dozan.train.memory_run import dial_of, held_as, largest_pack, padded
from dozan.train.memory_setup import Dtype, Quantise, Setup
from dozan.train.memory_setup import Path as ComputePath
from dozan.train.plan import Plan
from dozan.train.prepare import Rows, choose_recipe, prepare
from dozan.train.scaling import MOST_GPUS, Cluster
from dozan.train.shapes import SIZES, shape_of
from dozan.train.spread import Spread, assumed, cluster_of, dealt, fits_from, spread

_SUPERVISED_SHARE = 0.15
"""Of the tokens, when no rows tell."""
_MULTIPLE = {"triton": 64, "efficient": 128, "cpu": 128}


@dataclass(frozen=True)
class RowsFound:
    """What the rows come to: their number, tokens, steps, tokens of the rows for one computed, all that the run
    computes, and the tokens of a pack on average."""

    rows: int
    tokens: int
    steps: int
    sharing: float
    computed: int
    pack_tokens: int


@dataclass(frozen=True)
class MemoryPlan:
    """A plan for a card.

    longest: tokens of the longest pack that fits with what changes no result. tokens_per_second: of the rows' own
    tokens, expected, None where the card's rate is not known. hours: of the whole run, None without rows. spread: over
    several GPUs, of which `fit` is one's memory; None for one. fits_from: the fewest GPUs with shares of the base over
    which it would fit, None where it fits or never does.
    """

    model: str
    recipe: Recipe
    card: Card
    gpus: int
    fit: Fit
    longest: int
    tokens_per_second: float | None
    hours: float | None
    rows: RowsFound | None
    notes: tuple[str, ...]
    spread: Spread | None = None
    fits_from: int | None = None

    @property
    def exit_code(self) -> int:
        """0 when it fits, else 2."""
        return 0 if self.fit.fits else 2

    @property
    def verdict(self) -> str:
        """One sentence: that it fits and how, or what is missing and what would do."""
        return verdict(self.fit)

    def to_dict(self) -> dict[str, Any]:
        """Every figure, as JSON takes it; sizes in bytes."""
        found, setup, card = self.fit, self.fit.setup, self.card
        return {
            "model": self.model, "recipe": self.recipe.name, "fits": found.fits, "verdict": self.verdict,
            "card": {"name": card.name, "bytes": card.bytes, "capability": list(card.capability),
                     "teraflops": card.teraflops, "bandwidth": card.bandwidth}, "gpus": self.gpus,
            "budget": found.budget, "total": found.table.total, "allocated": found.table.allocated,
            "apart": found.table.apart, "context": found.table.context, "moment": found.table.moment,
            "parts": dict(found.table.parts), "tokens": setup.tokens, "supervised": setup.supervised,
            "dtype": setup.dtype, "quantise": setup.quantise, "path": setup.path, "graphs": setup.graphs,
            "optimiser": setup.optimiser, "weights": "full" if setup.full else "adapter", "embedding": setup.embedding,
            "recompute": setup.recompute, "layers": setup.config.num_hidden_layers, "offload": setup.offload,
            "settings": list(found.settings),
            "protocol": [{"name": s.name, "bytes": s.bytes, "taken": s.taken, "changes_training": s.changes_training,
                          "settings": list(s.settings)} for s in found.steps],
            "longest_tokens": self.longest, "tokens_per_second": self.tokens_per_second, "hours": self.hours,
            "rows": None if self.rows is None else vars(self.rows), "notes": list(self.notes),
            "ranks": None if self.spread is None else self.spread.to_dict(), "fits_from_gpus": self.fits_from,
        }  # fmt: skip


def plan(
    data: Rows | None = None, model: str | Path | None = None, recipe: Recipe | str | None = None,
    gpu: str | None = None, gpus: int = 1, overrides: Sequence[str] = (), adapt: bool = False,
    quantise: Quantise | None = None, link: str | None = None, per_machine: int | None = None,
) -> MemoryPlan:  # fmt: skip
    """The memory that a run takes, whether it fits a card, and what makes it fit; no weight is read.

    data: rows, as `dozan.train` takes them; without them packs are taken to be full and rows as long as the recipe
    allows. model: a folder with config.json and a tokenizer, a hub id, or a size (270m, 1b, 4b, 12b, 27b); None is the
    embedded base. gpu: a card's name or its memory in GiB; None is the one that is here, else this machine's memory.
    adapt: steps that change the training may be taken. quantise: how the linears are held; None is as recipe or
    checkpoint say. gpus: ranks that divide each step; memory is then that of one, which with `train.fsdp` holds its
    share of the base. link, per_machine: what joins them (`scaling.LINKS`), and how many a machine has; see
    `spread.cluster_of`.

    Raises InputError for what cannot be used. That it does not fit is no error: see `fits`, `verdict`, `exit_code`.
    """
    if gpus < 1:
        raise InputError(f"--gpus {gpus}: at least 1")
    card, named = _card(gpu), str(model or "dozan:embedded")
    shape = None if Path(named).exists() else shape_of(named)
    if shape is not None and data is not None:
        raise InputError(f"model {named!r} is a size without a tokenizer, which rows need: give the model's folder, or "
                         "leave the rows out")  # fmt: skip
    planned: Plan | None = None
    if shape is not None:
        config, chosen = shape, _recipe_of_size(named, recipe, overrides)
        folder = None
    else:
        folder = resolve_model(named)
        config = _config(folder)
        if data is not None:
            planned = prepare(data, model, recipe, overrides, None).plan
            chosen = planned.recipe
        else:
            from dozan.chat.tokenizer import Tokenizer

            chosen = choose_recipe(folder, Tokenizer.load(folder), recipe, overrides)
    held = quantise or held_as(chosen, folder)
    if chosen.train.weights == "full" and held == "nf4":
        raise InputError(f"train.weights = full with {named} in NF4: weights in 4 bits cannot be trained; give a "
                         "16-bit checkpoint and --quantise none, or train.weights=adapter")  # fmt: skip
    cluster = cluster_of(card.name, link, per_machine)
    own = planned if planned is None else replace(planned, ranks=gpus, head_cost=head_cost(config))
    setup = _setup(config, chosen, card, own, held)
    made = _planned(named, chosen, card, gpus, setup, planned, adapt)
    return made if gpus == 1 else _over_ranks(made, planned, cluster)


def _fit(recipe: Recipe, card: Card, gpus: int, setup: Setup, adapt: bool) -> tuple[Fit, int | None]:
    """The fit, and from how many GPUs on it would fit in shares. `train.fsdp: auto` takes shares only where the whole
    base does not fit."""
    dial, budget = recipe.train.recompute == "auto" and not card.on_cpu, budget_of(card.bytes)
    asked = recipe.train.fsdp
    whole = gpus == 1 or asked is False
    found = None if asked is True and not whole else fit(setup, budget, adapt and whole, dial)
    if found is None or not (found.fits or whole):
        found = fit(replace(setup, shards=gpus), budget, adapt, dial)
    return found, None if found.fits or card.on_cpu else fits_from(setup, budget, dial)


def _over_ranks(made: MemoryPlan, planned: Plan | None, cluster: Cluster) -> MemoryPlan:
    """The plan with what several GPUs make of it."""
    setup, size = made.fit.setup, made.recipe.train.batch_size
    deal = assumed(setup, size) if planned is None else dealt(planned, setup)
    row_tokens = float(setup.tokens) if planned is None else planned.tokens / len(planned.rows)
    there = MOST_GPUS * size if planned is None else len(planned.rows)
    found = spread(setup, made.card, made.gpus, cluster, deal, min(size, there), there, row_tokens)
    if found.last is None:
        return replace(made, spread=found)
    hours = None if planned is None else planned.steps * found.last.seconds / 3600
    return replace(made, spread=found, tokens_per_second=found.rows * row_tokens / found.last.seconds, hours=hours)


def _planned(
    model: str, recipe: Recipe, card: Card, gpus: int, setup: Setup, planned: Plan | None, adapt: bool
) -> MemoryPlan:
    found, fits_over = _fit(recipe, card, gpus, setup, adapt)
    rows = None if planned is None else _rows_found(planned)
    row_tokens = setup.tokens if planned is None else planned.tokens / len(planned.rows)
    common = found.setup
    if rows is not None:
        share = rows.pack_tokens / common.tokens
        common = replace(common, tokens=rows.pack_tokens, supervised=max(1, round(share * common.supervised)))
    rate = tokens_per_second(common, card, row_tokens) if card.teraflops else None
    notes = [*(planned.notes if planned is not None else ()), *_assumptions(card, gpus, planned is not None, setup)]
    return MemoryPlan(
        model, recipe, card, gpus, found, longest_row(found.setup, found.budget),
        None if rate is None else rate * (rows.sharing if rows else 1.0),
        None if rate is None or rows is None else rows.computed / rate / 3600, rows, tuple(notes), None, fits_over,
    )  # fmt: skip


def _assumptions(card: Card, gpus: int, with_rows: bool, setup: Setup) -> list[str]:
    notes = []
    if card.teraflops:
        share = "as measured on it" if card.name == "h200" else "at the share of it that we measured on an H200"
        notes.append(f"tokens/s: {card.teraflops:g} TFLOP/s, {share}; no waiting for rows")
    else:
        notes.append("tokens/s: this device's rate is not known")
    if setup.full and card.teraflops:
        notes.append("tokens/s where every weight is trained follow from the work; they are not measured")
    if gpus > 1:
        notes.append("several GPUs: the rate of their link is measured for H200s of one machine, else it is others' "
                     "(docs/en/scaling.md); nothing of this is measured on this machine")  # fmt: skip
    if not with_rows:
        notes.append(f"no rows: packs of {setup.tokens:,} tokens, one row each, of which "
                     f"{_SUPERVISED_SHARE:.0%} are supervised")  # fmt: skip
    if setup.path == "cpu":
        notes.append("on a CPU nothing is computed again unless train.recompute says so; rows that share need less")
    return notes


def _rows_found(planned: Plan) -> RowsFound:
    sharing = planned.sharing()
    epochs = planned.steps / planned.steps_per_epoch
    packs = [len(batch) for step in range(min(planned.steps, 16)) for batch in planned.pack(planned.rows_of(step))]
    return RowsFound(
        len(planned.rows), planned.tokens, planned.steps, sharing, round(planned.tokens * epochs / sharing),
        round(sum(packs) / len(packs)),
    )  # fmt: skip


def _setup(config: Gemma3Config, recipe: Recipe, card: Card, planned: Plan | None, quantise: Quantise) -> Setup:
    path = _path(card, config)
    if planned is not None:
        tokens, supervised = largest_pack(planned)
    else:
        tokens = max(recipe.data.max_tokens, recipe.train.pack_tokens)
        supervised = max(1, round(_SUPERVISED_SHARE * tokens))
    return Setup(
        config, recipe.adapter, *padded(tokens, supervised, _MULTIPLE[path]), dtype=_dtype(recipe, card),
        recompute=dial_of(recipe, config.num_hidden_layers), offload=recipe.train.offload, quantise=quantise,
        embedding="gpu" if recipe.model.embedding == "auto" else recipe.model.embedding,
        optimiser=recipe.train.optimizer, path=path, full=recipe.train.weights == "full",
    )  # fmt: skip


def _path(card: Card, config: Gemma3Config) -> ComputePath:
    if card.on_cpu:
        return "cpu"
    power = config.head_dim >= 16 and not config.head_dim & (config.head_dim - 1)
    return "triton" if card.capability >= (8, 0) and power else "efficient"


def _dtype(recipe: Recipe, card: Card) -> Dtype:
    if recipe.train.dtype != "auto":
        return recipe.train.dtype
    if card.on_cpu:
        return "bfloat16" if training_dtype(torch.device("cpu")) == torch.bfloat16 else "float32"
    return "bfloat16" if card.capability >= (8, 0) else "float16"


def _config(folder: Path) -> Gemma3Config:
    from dozan.model.weights import read_config

    return read_config(folder)


def _recipe_of_size(size: str, recipe: Recipe | str | None, overrides: Sequence[str]) -> Recipe:
    if isinstance(recipe, Recipe):
        return override(recipe, overrides)
    assert size.lower() in SIZES
    return load_recipe(recipe or ("functiongemma-ar" if size.lower() == "270m" else "gemma3-12b-trinity"), overrides)


def _card(gpu: str | None) -> Card:
    if gpu is not None:
        return card_named(gpu)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return card_like(torch.cuda.get_device_name(), min(free, total), torch.cuda.get_device_capability())
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Card("this machine's memory", host, (0, 0), 0.0, 0.0)


__all__ = ["GIB", "MemoryPlan", "RowsFound", "plan"]
