"""The plan of a run: how many steps, which rows each takes, and how a step's rows are packed."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np

from dozan.chat.encode import Numbers, Tokens
from dozan.errors import InputError
from dozan.pack import Batch, Packing, by_tokens, pack_rows
from dozan.recipe import Recipe
from dozan.train.deal import RowIndex, even
from dozan.train.optim import learning_rate, warmup_of
from dozan.train.schedule import common_beginning, deal, kinds
from dozan.train.store import TokenStore

HELDOUT_TOGETHER = 2048
"""Held-out rows that are packed together, and kept when there are no more."""
_SAMPLED_STEPS = 16
_LARGE, _FEW_ROWS = "gemma3-12b-trinity", 500


@dataclass(frozen=True)
class Prepared:
    """A step as a rank computes it: its rows and their packs; and of the whole step the sum of the weights of all
    supervised tokens, and the number of tokens where they are not those of `rows`."""

    rows: list[Tokens]
    batches: list[Batch]
    weight: float
    of_all: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all rows of the step, each counted once."""
        return sum(len(row.ids) for row in self.rows) if self.of_all is None else self.of_all


@dataclass(frozen=True)
class Measured:
    """What the packs of some steps come to.

    sharing: tokens of the rows for each token computed. fill: tokens computed for each that packs of `pack_tokens`
    could hold. kinds, kinds_at_random: the mean number of different beginnings in a step (`schedule.kinds`), and the
    same for rows drawn at random; where they are equal, looking ahead costs no randomness.
    """

    sharing: float
    fill: float
    kinds: float
    kinds_at_random: float


def total_weight(rows: Sequence[Tokens]) -> float:
    """The sum of the weights of all supervised tokens of the rows."""
    total = sum(float(row.supervised[1].sum(dtype=np.float64)) for row in rows)
    assert total > 0, "a step without a supervised token"
    return total


@dataclass(frozen=True)
class Plan:
    """What is decided before the first step; the same recipe and rows give the same plan."""

    recipe: Recipe
    rows: Sequence[Tokens]
    heldout: Sequence[Tokens]
    packing: Packing
    steps: int
    steps_per_epoch: int
    warmup_steps: int
    notes: tuple[str, ...]
    most_tokens: int | None = None
    """What packs are held to, below the recipe's `pack_tokens`, after memory did not do for larger ones."""
    rate_factor: float = 1.0
    """Of every rate, after steps that were not finite (`train.recover`)."""
    rank: int = 0
    ranks: int = 1
    """Which of so many ranks this plan is of; each has the same rows and steps, and packs of its own."""
    head_cost: float = 1.0
    """See `deal.head_cost`."""
    known: dict[Packing, RowIndex] = field(default_factory=dict, compare=False, repr=False)
    """What ranks know of all rows, once it was asked for; plans made of this one share it."""

    @cached_property
    def tokens(self) -> int:
        """Tokens of the training rows, each counted once."""
        return self.rows.tokens if isinstance(self.rows, TokenStore) else sum(len(row.ids) for row in self.rows)

    @cached_property
    def supervised(self) -> int:
        """Tokens of the training rows that the loss sees."""
        if isinstance(self.rows, TokenStore):
            return self.rows.supervised
        return sum(len(row.supervised[0]) for row in self.rows)

    @property
    def pack_tokens(self) -> int:
        """Tokens that a pack of more than one row may have."""
        asked = self.recipe.train.pack_tokens
        return asked if self.most_tokens is None else min(asked, self.most_tokens)

    @property
    def eval_steps(self) -> int:
        """Steps between two evaluations of the loss on held-out rows."""
        return self.recipe.train.eval_steps or self.steps_per_epoch

    @property
    def save_steps(self) -> int:
        """Steps between two checkpoints."""
        return self.recipe.train.save_steps or self.steps_per_epoch

    def rows_of(self, step: int) -> list[Tokens]:
        """The rows of optimiser step `step` (from 0)."""
        return [self.rows[i] for i in self.places_of(step)]

    def places_of(self, step: int) -> Sequence[int]:
        """Which rows optimiser step `step` has, which depends on the seed and `step` alone.

        The epoch's seeded shuffle gives the next `batch_size` rows to each step (the last takes the rest); within each
        window of `lookahead` steps they change places, so that rows that begin alike meet (`schedule.deal`).
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        window, at = divmod(place, self.recipe.train.lookahead)
        return self._dealt(epoch, window)[at]

    def learning_rate(self, step: int) -> float:
        """The rate of optimiser step `step`."""
        return self.rate_factor * learning_rate(step, self.steps, self.warmup_steps, self.recipe.train)

    def prepare(self, step: int) -> Prepared:
        """The rows and packs of optimiser step `step`; none of a step after the last."""
        if step >= self.steps:
            return Prepared([], [], 0.0)
        if self.ranks == 1:
            rows = self.rows_of(step)
            return Prepared(rows, self.pack(rows), total_weight(rows))
        places = np.array(self.places_of(step))
        rows = [self.rows[i] for i in self._dealt_places(places)[self.rank]]
        index = self._index
        return Prepared(rows, self.pack(rows), float(index.weight[places].sum()), int(index.tokens[places].sum()))

    def dealt(self, step: int) -> list[list[Tokens]]:
        """The rows of optimiser step `step` by rank, each with as much to compute."""
        if self.ranks == 1:
            return [self.rows_of(step)]
        return [[self.rows[i] for i in part] for part in self._dealt_places(np.array(self.places_of(step)))]

    def packs_of(self, step: int) -> list[Batch]:
        """The packs of optimiser step `step`, of all ranks."""
        return [batch for rows in self.dealt(step) for batch in self.pack(rows)]

    def _dealt_places(self, places: Numbers) -> list[Numbers]:
        return self._index.dealt(places, self.ranks, self.head_cost)

    @property
    def _index(self) -> RowIndex:
        if self.packing not in self.known:
            self.known[self.packing] = RowIndex.of(self.rows, self.packing == "tries")
        return self.known[self.packing]

    def pack(self, rows: Sequence[Tokens]) -> list[Batch]:
        """The micro-batches of rows: at most `micro_batch_size` rows and `pack_tokens` tokens each."""
        train = self.recipe.train
        # Rows that share a prefix should meet in one micro-batch.
        ordered = sorted(rows, key=by_tokens) if self.packing == "tries" else rows
        size = train.micro_batch_size or max(1, len(ordered))
        chunks = (ordered[i : i + size] for i in range(0, len(ordered), size))
        if self.packing == "tries":
            chunks = (part for chunk in chunks if chunk for part in even(chunk, self.pack_tokens))
        return [batch for chunk in chunks for batch in pack_rows(chunk, self.packing, self.pack_tokens)]

    def heldout_packs(self) -> Iterable[Batch]:
        """The packs of the held-out rows; beyond `HELDOUT_TOGETHER` rows they are made as they are asked for."""
        return self._few_heldout if len(self.heldout) <= HELDOUT_TOGETHER else self._many_heldout()

    @cached_property
    def _few_heldout(self) -> list[Batch]:
        return self.pack(self.heldout)

    def _many_heldout(self) -> Iterator[Batch]:
        for at in range(0, len(self.heldout), HELDOUT_TOGETHER):
            yield from self.pack(self.heldout[at : at + HELDOUT_TOGETHER])

    def sharing(self) -> float:
        """Tokens of the rows for each token computed, over the first steps."""
        return self.measure().sharing

    def measure(self) -> Measured:
        """What the packs of the first steps come to."""
        return self._measured

    @cached_property
    def _measured(self) -> Measured:
        steps = [self.rows_of(step) for step in range(min(self.steps, _SAMPLED_STEPS))]
        batches = [batch for rows in steps for batch in self.pack(rows)]
        computed = sum(len(batch) for batch in batches)
        taken = (self._at_random(*divmod(step, self.steps_per_epoch), 1) for step in range(len(steps)))
        at_random = [[self.rows[i] for i in places] for places in taken]
        common = common_beginning([row for rows in (*steps, *at_random) for row in rows])
        return Measured(
            sharing=sum(batch.tokens for batch in batches) / computed,
            fill=computed / (len(batches) * self.pack_tokens),
            kinds=sum(kinds(rows, common) for rows in steps) / len(steps),
            kinds_at_random=sum(kinds(rows, common) for rows in at_random) / len(steps),
        )

    def _at_random(self, epoch: int, window: int, steps: int) -> Sequence[int]:
        """Which rows a window of so many steps has, in the order of the epoch's shuffle."""
        size = self.recipe.train.batch_size * steps
        order = _order(self.recipe.train.seed, epoch, len(self.rows))
        return order[window * size : (window + 1) * size]

    @cached_property
    def _dealt(self) -> Callable[[int, int], list[Sequence[int]]]:
        """(epoch, window) -> which rows each of its steps has; the last windows asked for are kept."""
        return lru_cache(maxsize=2)(self._deal)

    def _deal(self, epoch: int, window: int) -> list[Sequence[int]]:
        train = self.recipe.train
        places = self._at_random(epoch, window, train.lookahead)
        if len(places) <= train.batch_size:
            return [places]
        dealt = deal([self.rows[i] for i in places], train.batch_size, f"{train.seed}:{epoch}:{window}")
        return [[places[i] for i in step] for step in dealt]


def make_plan(recipe: Recipe, rows: Sequence[Tokens], heldout: Sequence[Tokens] = ()) -> Plan:
    """Decide the steps, warm-up and packing; what differs from the recipe is in `notes`.

    Raises InputError when there is no row to train on.
    """
    if not rows:
        raise InputError("no rows to train on; give at least one, or lower data.holdout")
    train = recipe.train
    per_epoch = math.ceil(len(rows) / train.batch_size)
    # The small number keeps 0.1 x 30 at 3 steps.
    steps = train.max_steps or max(1, math.ceil(train.epochs * per_epoch - 1e-9))
    kept, kept_heldout = (part if isinstance(part, TokenStore) else tuple(part) for part in (rows, heldout))
    plan = Plan(recipe, kept, kept_heldout, recipe.pack, steps, per_epoch, 0, ())
    return _settle(replace(plan, warmup_steps=warmup_of(train.warmup_steps, steps)))


def _settle(plan: Plan) -> Plan:
    recipe, notes, packing = plan.recipe, [], plan.packing
    if plan.warmup_steps < recipe.train.warmup_steps:
        notes.append(
            f"warm-up takes {plan.warmup_steps} steps instead of {recipe.train.warmup_steps}: "
            f"a tenth of {plan.steps}, so that the peak rate is reached"
        )
    if recipe.name == _LARGE and len(plan.rows) < _FEW_ROWS and recipe.train.learning_rate == 2e-4:
        notes.append(f"{len(plan.rows)} rows are few for a rate of 2e-4; 3e-4 is worth trying (train.learning_rate)")
    if recipe.adapter.dropout and packing == "tries":
        packing = "paths"
        notes.append("with adapter.dropout each row draws its own: rows are packed as paths and share no prefix")
    plan = replace(plan, packing=packing)
    return replace(plan, notes=(*notes, *_lookahead_note(plan)))


def _lookahead_note(plan: Plan) -> list[str]:
    ahead = plan.recipe.train.lookahead
    if ahead == 1:
        return []
    if plan.packing != "tries":
        return [f"train.lookahead = {ahead} brings rows together that begin alike, but packed as {plan.packing} they "
                "share nothing; take it out, or set it to 1"]  # fmt: skip
    found = plan.measure()
    return [f"rows of {ahead} steps are looked at together: {found.sharing:.1f} tokens for one computed, packs "
            f"{found.fill:.0%} full; a step mixes {found.kinds:.1f} kinds of beginnings, at random "
            f"{found.kinds_at_random:.1f}"]  # fmt: skip


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Sequence[int]:
    """The rows in an epoch's order, 4 bytes each."""
    order = array("I", range(count))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order
