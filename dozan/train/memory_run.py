"""The memory plan of a run that is about to begin: its largest pack, the dial settled, and one step rehearsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.kernels import attends_in_triton, pack_multiple
from dozan.kernels.embedding import HostRows, Int8Rows
from dozan.model.gemma3 import Gemma3
from dozan.model.quantised import QuantisedLinear
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.train.cards import GIB
from dozan.train.memory import CONTEXT_BYTES, MARGIN
from dozan.train.memory_fit import PROTOCOL, Fit, fit
from dozan.train.memory_setup import Dtype, Embedding, Setup
from dozan.train.passes import padded_length
from dozan.train.plan import Plan
from dozan.train.state import Trainee

_SAMPLED_STEPS, _COUNTED_ROWS = 64, 20_000
_SPARE = 1.2
"""Supervised tokens of the largest pack over those of the largest one that was looked at, when not all were."""


def largest_pack(plan: Plan) -> tuple[int, int]:
    """Tokens and supervised predictions that no pack of the run passes.

    Exact when the run has few steps. Otherwise tokens are bounded by `pack_tokens` and the longest row, and predictions
    by those of the packs of the first steps with some to spare.
    """
    looked = min(plan.steps, _SAMPLED_STEPS)
    packs = [batch for step in range(looked) for batch in plan.pack(plan.rows_of(step))]
    tokens, supervised = max(map(len, packs)), max(len(batch.at) for batch in packs)
    if looked == plan.steps:
        return tokens, supervised
    rows, train = plan.rows, plan.recipe.train
    counted = len(rows) <= _COUNTED_ROWS
    longest = max(len(row.ids) for row in rows) if counted else plan.recipe.data.max_tokens
    together = train.micro_batch_size or train.batch_size
    bound = max(longest, min(train.pack_tokens, longest * (1 if plan.packing == "none" else together)))
    return max(tokens, bound), int(supervised * _SPARE)


def run_setup(plan: Plan, model: Gemma3) -> Setup:
    """The configuration of a run on the device that its model lies on; the dial at none when it is to be chosen."""
    device, recipe = model.device, plan.recipe
    triton = attends_in_triton(device, model.config.head_dim)
    tokens, supervised = largest_pack(plan)
    again = {"auto": 0, "none": 0, "layers": model.config.num_hidden_layers}.get(
        str(recipe.train.recompute), recipe.train.recompute
    )
    assert isinstance(again, int)
    dtypes: dict[torch.dtype, Dtype] = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
    return Setup(
        model.config, recipe.adapter, *padded(tokens, supervised, pack_multiple(device)),
        dtype=dtypes[model.dtype], recompute=again, offload=recipe.train.offload,
        quantise="nf4" if any(isinstance(m, QuantisedLinear) for m in model.modules()) else "none",
        embedding=_place(model), optimiser=recipe.train.optimizer,
        path="cpu" if device.type != "cuda" else "triton" if triton else "efficient",
    )  # fmt: skip


def _place(model: Gemma3) -> Embedding:
    """Where the embedding is."""
    if isinstance(model.embedding, Int8Rows):
        return "int8"
    return "cpu" if isinstance(model.embedding, HostRows) else "gpu"


def padded(tokens: int, supervised: int, multiple: int) -> tuple[int, int]:
    """As the passes pad a pack (predictions only within graphs, but at no great price)."""
    return padded_length(tokens, multiple), padded_length(supervised, 64, parts=8)


def budget_of_device(device: torch.device) -> int:
    """Bytes that this process may use of its GPU: what others leave free, or the share that it was given
    (`torch.cuda.set_per_process_memory_fraction`), less the margin. Its own context is there already."""
    free, total = torch.cuda.mem_get_info(device)
    given = int(total * torch.cuda.get_per_process_memory_fraction(device))
    mine = min(free + torch.cuda.memory_reserved(device), given)
    return int(mine * (1 - MARGIN)) + CONTEXT_BYTES


def settle(plan: Plan, model: Gemma3) -> Plan:
    """The plan with `train.recompute: auto` turned into numbers of layers for the GPU that holds the model, and a note
    of it; on a CPU none. Anything else than auto is left as it is.

    Changes no result, only what is kept. Raises InputError when the longest pack does not fit with all that the dial
    gives, with what would make it fit.
    """
    if plan.recipe.train.recompute != "auto":
        return plan
    if model.device.type != "cuda":
        return with_dial(plan, 0, plan.recipe.train.offload)
    setup, budget = run_setup(plan, model), budget_of_device(model.device)
    found = fit(setup, budget, protocol=[measure for measure in PROTOCOL if not measure.at_loading])
    if not found.fits:
        raise InputError(refusal(fit(setup, budget)))
    offload = found.setup.offload and found.setup.recompute > 0
    settled = with_dial(plan, found.setup.recompute, offload)
    return replace(settled, notes=(*settled.notes, dial_note(found)))


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
    return f"{short}. What changes the training would do: " + "; ".join(given)


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
    packs = [batch for step in steps for batch in plan.pack(plan.rows_of(step))]
    return max([*packs, *_alone(plan)], key=lambda batch: (len(batch), len(batch.at)))


def _alone(plan: Plan) -> Sequence[Batch]:
    rows: Sequence[Tokens] = plan.rows
    if len(rows) > _COUNTED_ROWS:
        return []
    return plan.pack([max(rows, key=lambda row: len(row.ids))])


def adapted_recipe(recipe: Recipe, found: Fit) -> Recipe:
    """The recipe with what was chosen."""
    from dozan.recipe import override

    return override(recipe, list(found.settings))
