"""Making a run fit: the fewest layers computed again, and the protocol of what may be given up for memory.

The first steps change no result. Those at the end change the training, and are taken only when they are allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from dozan.train.memory import MARGIN, Table, predict
from dozan.train.memory_setup import Embedding, Setup

SHORT, SMALL_RANK, FEW_TARGETS = 2048, 32, ("q_proj", "v_proj")


@dataclass(frozen=True)
class Measure:
    """A step of the protocol: `apply` gives the setup with it, or None where it changes nothing. settings: what it
    sets in a recipe, as `--set` takes it. at_loading: it is too late for it once the model is loaded. of_dial: it goes
    with recomputation, which must be left to be chosen."""

    name: str
    apply: Callable[[Setup], Setup | None]
    settings: tuple[str, ...]
    changes_training: bool = False
    at_loading: bool = False
    of_dial: bool = False


def _offload(setup: Setup) -> Setup | None:
    return None if setup.offload or setup.on_cpu else replace(setup, offload=True)


def _embedding(place: Embedding) -> Callable[[Setup], Setup | None]:
    order = ("gpu", "int8", "cpu")

    def apply(setup: Setup) -> Setup | None:
        if setup.on_cpu or setup.full:
            return None
        return replace(setup, embedding=place) if order.index(place) > order.index(setup.embedding) else None

    return apply


def _short(setup: Setup) -> Setup | None:
    if setup.tokens <= SHORT:
        return None
    return replace(setup, tokens=SHORT, supervised=max(1, round(setup.supervised * SHORT / setup.tokens)))


def _small_rank(setup: Setup) -> Setup | None:
    if setup.full or setup.adapter.rank <= SMALL_RANK:
        return None
    return replace(setup, adapter=setup.adapter.model_copy(update={"rank": SMALL_RANK}))


def _no_dora(setup: Setup) -> Setup | None:
    if setup.full or not setup.adapter.dora:
        return None
    return replace(setup, adapter=setup.adapter.model_copy(update={"dora": False}))


def _few_targets(setup: Setup) -> Setup | None:
    if setup.full or set(setup.adapter.targets) <= set(FEW_TARGETS):
        return None
    return replace(setup, adapter=setup.adapter.model_copy(update={"targets": FEW_TARGETS}))


PROTOCOL = (
    Measure("inputs of layers in host memory", _offload, ("train.offload=true",), of_dial=True),
    Measure("embedding in int8", _embedding("int8"), ("model.embedding=int8",), at_loading=True),
    Measure("embedding in host memory", _embedding("cpu"), ("model.embedding=cpu",), at_loading=True),
    Measure(f"rows and packs of {SHORT} tokens", _short,
            (f"data.max_tokens={SHORT}", f"train.pack_tokens={SHORT}"), True),
    Measure(f"rank {SMALL_RANK}", _small_rank, (f"adapter.rank={SMALL_RANK}",), True),
    Measure("no DoRA", _no_dora, ("adapter.dora=false",), True),
    Measure("adapters on q and v alone", _few_targets, ("adapter.targets=[q_proj, v_proj]",), True),
)  # fmt: skip
"""After the dial of recomputation, in the order in which they are tried."""


@dataclass(frozen=True)
class Given:
    """What a step gives back in bytes, with all layers computed again; taken: it is part of what was chosen."""

    name: str
    bytes: int
    taken: bool
    changes_training: bool
    settings: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """What was chosen for a budget in bytes: the setup, its table, whether it fits, and the steps on the way.

    possible: whether it would fit with the steps that change the training, which were not allowed.
    """

    setup: Setup
    table: Table
    budget: int
    fits: bool
    steps: tuple[Given, ...]
    possible: bool

    @property
    def taken_changes(self) -> list[Given]:
        """The steps that were chosen although they change the training."""
        return [step for step in self.steps if step.taken and step.changes_training]

    @property
    def settings(self) -> tuple[str, ...]:
        """What a recipe must set for this, as `--set` takes it."""
        dial = (f"train.recompute={self.setup.recompute}",)
        return dial + tuple(text for step in self.steps if step.taken for text in step.settings)


def budget_of(card_bytes: int) -> int:
    """What a plan may use of a card that is empty."""
    return int(card_bytes * (1 - MARGIN))


@lru_cache(maxsize=512)
def _total(setup: Setup) -> int:
    return predict(setup).total


def fewest_layers(setup: Setup, budget: int) -> Setup | None:
    """The setup with the fewest layers computed again that fits, None when it does not with all of them."""
    most = setup.config.num_hidden_layers
    if _total(replace(setup, recompute=most)) > budget:
        return None
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if _total(replace(setup, recompute=middle)) <= budget:
            high = middle
        else:
            low = middle + 1
    return replace(setup, recompute=low)


def fit(
    setup: Setup, budget: int, adapt: bool = False, dial: bool = True, protocol: Sequence[Measure] = PROTOCOL
) -> Fit:
    """Walk the protocol until it fits. adapt: steps that change the training may be taken too. dial: the layers that
    are computed again may be chosen; else they stay as they are."""
    most = setup.config.num_hidden_layers

    def settled(at: Setup) -> Setup | None:
        if dial:
            return fewest_layers(at, budget)
        return at if _total(at) <= budget else None

    chosen, current = settled(setup), replace(setup, recompute=most) if dial else setup
    furthest, steps, allowed = current, list[Given](), current
    possible = chosen is not None
    for measure in protocol if chosen is None else ():
        after = None if possible else measure.apply(furthest)
        if after is None:
            continue
        may = adapt or not measure.changes_training
        gives = _total(furthest) - _total(after)
        furthest = after
        possible = settled(after) is not None
        if may:
            allowed, chosen = after, settled(after)
        steps.append(Given(measure.name, gives, may, measure.changes_training, measure.settings))
    final = chosen or allowed
    if final.recompute and dial:
        gives = _total(replace(setup, recompute=0)) - _total(replace(setup, recompute=final.recompute))
        name = f"{final.recompute} of {most} layers computed again"
        steps.insert(0, Given(name, gives, True, False, ()))
    return Fit(final, predict(final), budget, chosen is not None, tuple(steps), possible)


def longest_row(setup: Setup, budget: int) -> int:
    """The most tokens of a pack that fit with what changes no result; 0 when not even the shortest does. What is
    supervised keeps its share."""
    step, share = 128, setup.supervised / setup.tokens
    most = replace(setup, recompute=setup.config.num_hidden_layers)
    ways = [most, *_harmless(most)]

    def fits(blocks: int) -> bool:
        tokens = blocks * step
        supervised = max(1, round(share * tokens))
        return any(_total(replace(way, tokens=tokens, supervised=supervised)) <= budget for way in ways)

    low, high = 0, setup.config.max_position_embeddings // step
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low * step


def _harmless(setup: Setup) -> Sequence[Setup]:
    found = []
    for measure in PROTOCOL:
        after = None if measure.changes_training else measure.apply(setup)
        if after is not None:
            found.append(after)
            setup = after
    return found
