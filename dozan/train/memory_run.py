"""The memory plan of a run that is about to begin: its largest pack, the dial settled, and one step rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.kernels import attends_in_triton, pack_multiple
from dozan.kernels.embedding import HostRows, Int8Rows
from dozan.model.files import read_json
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.quantised import QuantisedLinear
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.train.cards import GIB
from dozan.train.memory import CONTEXT_BYTES, MARGIN
from dozan.train.memory_fit import PROTOCOL, Fit, fit
from dozan.train.memory_setup import Dtype, Embedding, Quantise, Setup
from dozan.train.passes import padded_length
from dozan.train.plan import Plan
from dozan.train.state import Trainee
from dozan.world import current

_SAMPLED_STEPS, _COUNTED_ROWS = 64, 20_000
_SPARE = 1.2
"""Supervised tokens of the largest pack over those of the largest one that was looked at, when not all were."""


def largest_pack(plan: Plan) -> tuple[int, int]:
    """Tokens and supervised predictions that no pack of the run passes.

    Exact when the run has few steps. Otherwise tokens are bounded by `pack_tokens` and the longest row, and predictions
    by those of the packs of the first steps with some to spare.
    """
    looked = min(plan.steps, _SAMPLED_STEPS)
    packs = [batch for step in range(looked) for batch in plan.packs_of(step)]
    tokens, supervised = max(map(len, packs)), max(len(batch.at) for batch in packs)
    if looked == plan.steps:
        return tokens, supervised
    rows, train = plan.rows, plan.recipe.train
    counted = len(rows) <= _COUNTED_ROWS
    longest = max(len(row.ids) for row in rows) if counted else plan.recipe.data.max_tokens
    together = train.micro_batch_size or train.batch_size
    bound = max(longest, min(plan.pack_tokens, longest * (1 if plan.packing == "none" else together)))
    return max(tokens, bound), int(supervised * _SPARE)


def run_setup(plan: Plan, model: Gemma3) -> Setup:
    """The configuration of a run on the device that its model lies on; the dial at none when it is to be chosen."""
    nf4 = any(isinstance(m, QuantisedLinear) for m in model.modules())
    found = setup_on(plan, model.config, model.device, model.dtype, "nf4" if nf4 else "none", place_of(model))
    return replace(found, shards=current().size) if plan.recipe.train.fsdp is True else found


def setup_on(
    plan: Plan, config: Gemma3Config, device: torch.device, dtype: torch.dtype, quantise: Quantise, place: Embedding
) -> Setup:
    """The configuration of a run, from a model's shape alone."""
    triton, recipe = attends_in_triton(device, config.head_dim), plan.recipe
    tokens, supervised = largest_pack(plan)
    dtypes: dict[torch.dtype, Dtype] = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
    return Setup(
        config, recipe.adapter, *padded(tokens, supervised, pack_multiple(device)), dtype=dtypes[dtype],
        recompute=dial_of(recipe, config.num_hidden_layers), offload=recipe.train.offload, quantise=quantise,
        embedding=place, optimiser=recipe.train.optimizer,
        path="cpu" if device.type != "cuda" else "triton" if triton else "efficient",
        full=recipe.train.weights == "full",
    )  # fmt: skip


def dial_of(recipe: Recipe, layers: int) -> int:
    """How many of so many layers the recipe has computed again; none for auto, which is to be chosen."""
    asked = recipe.train.recompute
    if isinstance(asked, int):
        return min(asked, layers)
    return layers if asked == "layers" else 0


def place_of(model: Gemma3) -> Embedding:
    """Where the embedding is."""
    if isinstance(model.embedding, Int8Rows):
        return "int8"
    return "cpu" if isinstance(model.embedding, HostRows) else "gpu"


def held_as(recipe: Recipe, folder: Path | None) -> Quantise:
    """How the linears are held: as the recipe says, or as a checkpoint's folder brings them."""
    if recipe.model.quantise == "nf4":
        return "nf4"
    if folder is not None and read_json(folder / "config.json").get("quantization_config"):
        return "nf4"
    return "none"


def padded(tokens: int, supervised: int, multiple: int) -> tuple[int, int]:
    """As the passes pad a pack (predictions only within graphs, but at no great price)."""
    return padded_length(tokens, multiple), padded_length(supervised, 64, parts=8)


def budget_of_device(device: torch.device) -> int:
    """Bytes that this process may use of its GPU: what others leave free, or the share that it was given
    (`torch.cuda.set_per_process_memory_fraction`), less the margin; of several ranks the least. Its own context is
    there already."""
    free, total = torch.cuda.mem_get_info(device)
    given = int(total * torch.cuda.get_per_process_memory_fraction(device))
    mine = min(free + torch.cuda.memory_reserved(device), given)
    (least,) = current().agree([-int(mine * (1 - MARGIN))])
    return -least + CONTEXT_BYTES


class Settled(NamedTuple):
    """A plan whose settings of memory are all decided, and what was found on the way; None on a CPU."""

    plan: Plan
    fit: Fit | None


def settle(plan: Plan, model: Gemma3) -> Settled:
    """`train.recompute: auto` turned into a number of layers for the GPU that holds the model, and a note of it; on a
    CPU none. `model.embedding: auto` becomes the place where the model has it. What is not auto is left as it is.

    Changes no result, only what is kept. Raises InputError when the longest pack does not fit with all that the dial
    gives, with what would make it fit.
    """
    plan = with_place(plan, place_of(model))
    dial = plan.recipe.train.recompute == "auto"
    if model.device.type != "cuda":
        return Settled(with_dial(plan, 0, plan.recipe.train.offload) if dial else plan, None)
    setup, budget = run_setup(plan, model), budget_of_device(model.device)
    if not dial:
        return Settled(plan, fit(setup, budget, dial=False, protocol=()))
    found = fit(setup, budget, protocol=[measure for measure in PROTOCOL if not measure.at_loading])
    if not found.fits:
        raise InputError(refusal(fit(setup, budget)))
    offload = found.setup.offload and found.setup.recompute > 0
    settled = with_dial(plan, found.setup.recompute, offload)
    return Settled(replace(settled, notes=(*settled.notes, dial_note(found))), found)


def with_place(plan: Plan, place: Embedding) -> Plan:
    """The plan with `model.embedding: auto` decided; another value stays."""
    held = plan.recipe.model
    if held.embedding != "auto":
        return plan
    held = held.model_copy(update={"embedding": place})
    return replace(plan, recipe=plan.recipe.model_copy(update={"model": held}))


def with_dial(plan: Plan, layers: int, offload: bool) -> Plan:
    """The plan with so many layers computed again."""
    train = plan.recipe.train.model_copy(update={"recompute": layers, "offload": offload and layers > 0})
    return replace(plan, recipe=plan.recipe.model_copy(update={"train": train}))


def dial_note(found: Fit) -> str:
    """`recompute 12 of 48 layers: 14.1 of 14.7 GiB`."""
    setup = found.setup
    layers = f"{setup.recompute} of {setup.config.num_hidden_layers} layers" if setup.recompute else "no layer"
    where = ", their inputs in host memory" if setup.offload and setup.recompute else ""
    return (f"recompute {layers}{where}: {found.table.total / GIB:.1f} of {found.budget / GIB:.1f} GiB for packs of up "
            f"to {setup.tokens:,} tokens")  # fmt: skip


def refusal(found: Fit) -> str:
    """What is missing, and what to do about it; for a fit that was found, what a run must set for it."""
    if found.fits:
        return ("the run does not fit as it is set; it does with "
                + " ".join(f"--set {_quoted(text)}" for text in found.settings if "recompute" not in text))  # fmt: skip
    missing = found.table.total - found.budget
    short = (f"the run needs {found.table.total / GIB:.1f} GiB at its longest pack ({found.setup.tokens:,} tokens) and "
             f"{found.budget / GIB:.1f} GiB may be used: {missing / GIB:.1f} GiB are missing, with "
             f"{found.setup.recompute} of {found.setup.config.num_hidden_layers} layers computed again"
             f"{' and their inputs in host memory' if found.setup.offload else ''}")  # fmt: skip
    given = [f"{step.name} gives {step.bytes / GIB:.1f} GiB back (--set {' --set '.join(map(_quoted, step.settings))})"
             for step in found.steps if step.changes_training and not step.taken]  # fmt: skip
    if not found.possible:
        return f"{short}. No step would do; take a smaller model, a 4-bit base, or a card with more memory"
    return f"{short}. What changes the training would do (--adapt takes it): " + "; ".join(given)


def _quoted(setting: str) -> str:
    return f"'{setting}'" if " " in setting else setting


def rehearse(trainee: Trainee, plan: Plan) -> Batch | None:
    """Compute the gradients of the run's longest pack once and drop them, so that a lack of memory shows at once and
    not in hours. On a CPU nothing; the pack that was computed.

    The weights of its predictions are zero: nothing is learned, and where passes are captured as graphs this captures
    the largest. Raises InputError when it does not fit.
    """
    device = trainee.model.device
    if device.type != "cuda":
        return None
    batch = _longest(plan)
    blank = replace(batch, weight=torch.zeros_like(batch.weight))
    trainee.model.train()
    try:
        trainee.passes(blank, 1.0, 0)
        torch.cuda.synchronize(device)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"the longest pack ({len(batch):,} tokens, {len(batch.at):,} supervised) does not fit the GPU: {error}. "
            "See what does with dozan plan, or set train.recompute=layers, train.offload=true or a smaller "
            "train.pack_tokens"
        ) from error
    trainee.optimizer.zero_grad()
    return batch


def _longest(plan: Plan) -> Batch:
    """The largest of the packs of the first steps, and of the longest row alone."""
    steps = range(min(plan.steps, _SAMPLED_STEPS))
    packs = [batch for step in steps for batch in plan.prepare(step).batches]
    # A rank of many may have no rows in any of these steps.
    return max([*packs, *_alone(plan)] or plan.packs_of(0), key=lambda batch: (len(batch), len(batch.at)))


def _alone(plan: Plan) -> Sequence[Batch]:
    rows: Sequence[Tokens] = plan.rows
    if len(rows) > _COUNTED_ROWS:
        return []
    return plan.pack([max(rows, key=lambda row: len(row.ids))])
