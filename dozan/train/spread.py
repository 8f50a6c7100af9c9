"""A run over several GPUs before it begins: what each sends, how long a step takes, and where one more stops paying."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.pack import by_tokens
from dozan.train.cards import Card, step_seconds
from dozan.train.deal import head_cost, parts
from dozan.train.memory_fit import fit
from dozan.train.memory_setup import WIDE, Setup
from dozan.train.plan import Plan
from dozan.train.scaling import LINKS, MOST_GPUS, Cluster, Exchange, Link, Part, Point, inside_of, pays_up_to, step

Pack = tuple[int, int]
"""Tokens and supervised predictions."""
Deal = Callable[[int, int], list[list[list[Pack]]]]
"""(ranks, times) -> the packs of each rank, for each step looked at, of `times` as many rows as the recipe's."""

_LOOKED, _LOOKED_ROWS = 4, 4096
_GOOD = 0.8
"""An efficiency that needs no larger step."""
_TIMES = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Spread:
    """A run over `gpus` GPUs.

    sharded: each holds its share of the base, else all of it. exchange: bytes that a step moves. packs: of the rank
    that has most. sent: bytes that a rank sends in a step. rows: of a step. points: steps on 1, 2, 4, … GPUs, empty
    where the card's rate is not known. computed: tokens that the ranks compute together in a step, for each of them.
    pays: the most GPUs whose efficiency is above a half. larger: rows a step with which these GPUs would reach 80 %,
    and that efficiency.
    """

    gpus: int
    sharded: bool
    cluster: Cluster
    exchange: Exchange
    packs: int
    sent: float
    rows: int
    points: tuple[Point, ...] = ()
    computed: tuple[int, ...] = ()
    pays: int | None = None
    larger: tuple[int, float] | None = None

    @property
    def last(self) -> Point | None:
        """The step on all of them."""
        return self.points[-1] if self.points else None

    @property
    def link(self) -> Link:
        """What bounds the exchange."""
        return self.cluster.limit(self.gpus)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; bytes and seconds."""
        return {
            "gpus": self.gpus, "sharded": self.sharded, "link": asdict(self.link), "machine": self.cluster.machine,
            "exchange": asdict(self.exchange), "packs": self.packs, "sent_bytes": round(self.sent),
            "rows_a_step": self.rows,
            "points": [{"gpus": p.gpus, "step_seconds": p.seconds, "waiting_seconds": p.waiting, "speedup": p.speedup,
                        "efficiency": p.efficiency, "tokens": tokens}
                       for p, tokens in zip(self.points, self.computed, strict=True)],
            "pays_up_to": self.pays,
            "larger": None if self.larger is None else {"batch_size": self.larger[0], "efficiency": self.larger[1]},
        }  # fmt: skip


def cluster_of(card: str, link: str | None, machine: int | None) -> Cluster:
    """The machines: what joins the cards by their name, and 100 Gb/s Ethernet between machines of 8, unless said
    otherwise. A network that is named joins machines of one GPU each, unless `machine` says how many.

    Raises InputError for a link that is none.
    """
    inside, network = inside_of(card), LINKS["ethernet-100"]
    if machine is not None and machine < 1:
        raise InputError(f"--per-machine {machine}: at least 1")
    if link is None:
        return Cluster(inside, network, machine or 8)
    if link not in LINKS:
        raise InputError(f"--link {link!r}: one of {', '.join(LINKS)}")
    if LINKS[link].between:
        return Cluster(inside, LINKS[link], machine or 1)
    return Cluster(LINKS[link], network, machine or 8)


def exchange_of(setup: Setup) -> Exchange:
    """What a step of this run moves. A base in shares is gathered layer by layer, forward and back; a frozen one once
    more for layers that are computed again; the embedding once a pack; and all layers once a step for DoRA's norms."""
    layers, numbers = setup.config.num_hidden_layers, setup.trained_numbers
    if setup.shards == 1:
        return Exchange(summed=WIDE * numbers)
    a_layer, passes = setup.layer_bytes(), 2 * layers + setup.recompute * (not setup.full)
    norms, embedding = setup.adapter.dora and not setup.full, setup.embedding_bytes() * setup.is_embedding_shared
    return Exchange(
        summed=0 if setup.full else WIDE * numbers, gathered=passes * a_layer + embedding,
        scattered=WIDE * numbers if setup.full else 0, groups=passes + 1 + (layers + 1) * setup.full,
        once=layers * a_layer * norms, once_groups=layers if norms else 1,
    )  # fmt: skip


def dealt(planned: Plan, setup: Setup) -> Deal:
    """The packs of the first steps' real rows. What rows share is computed once on each rank that has some of them."""
    size = planned.recipe.train.batch_size
    looked, cost = max(1, min(planned.steps, _LOOKED, _LOOKED_ROWS // size)), head_cost(setup.config)
    share = planned.packing == "tries"

    def taken(step: int, times: int) -> list[Tokens]:
        rows = [row for i in range(times) for row in planned.rows_of(step * times + i)]
        return sorted(rows, key=by_tokens) if share else rows

    def deal(ranks: int, times: int) -> list[list[list[Pack]]]:
        steps = (parts(taken(step, times), ranks, cost, share) for step in range(looked))
        return [[[(len(b), len(b.at)) for b in planned.pack(rows)] for rows in each] for each in steps]

    return deal


def assumed(setup: Setup, batch_size: int) -> Deal:
    """Where no rows tell: each is a pack of its own, as long as the setup's."""

    def deal(ranks: int, times: int) -> list[list[list[Pack]]]:
        most, more = divmod(batch_size * times, ranks)
        return [[[(setup.tokens, setup.supervised)] * (most + (rank < more)) for rank in range(ranks)]]

    return deal


def spread(
    setup: Setup, card: Card, gpus: int, cluster: Cluster, deal: Deal, rows: int, rows_at_most: int, row_tokens: float
) -> Spread:
    """The run over so many GPUs. rows: of a step; rows_at_most: that a larger step could have."""
    exchange = exchange_of(setup)

    @cache
    def seconds(pack: Pack) -> float:
        return step_seconds(replace(setup, tokens=pack[0], supervised=max(1, pack[1])), card, row_tokens)

    @cache
    def packs(ranks: int, times: int) -> list[list[list[Pack]]]:
        return deal(ranks, times)

    def computed(ranks: int, times: int) -> list[list[Part]]:
        return [[Part(sum(map(seconds, of)), len(of)) for of in each] for each in packs(ranks, times)]

    @cache
    def point(ranks: int, times: int = 1) -> Point:
        alone = [sum(part.seconds for part in each) for each in computed(1, times)]
        found = [step(each, one, exchange, cluster) for each, one in zip(computed(ranks, times), alone, strict=True)]
        mean = sum(p.seconds for p in found) / len(found)
        waiting = sum(p.waiting for p in found) / len(found)
        return Point(ranks, mean, waiting, sum(alone) / len(alone) / (ranks * mean))

    most = max(len(of) for each in packs(gpus, 1) for of in each)
    found = Spread(gpus, setup.shards > 1, cluster, exchange, most, exchange.sent(gpus, most), rows)
    if not card.teraflops:
        return found
    counts = [2**i for i in range(math.ceil(math.log2(gpus)))] + [gpus]
    tokens = [
        round(sum(size for each in packs(n, 1) for of in each for size, _ in of) / len(packs(n, 1))) for n in counts
    ]
    times = () if point(gpus).efficiency >= _GOOD else [n for n in _TIMES if n * rows <= rows_at_most]
    larger = next(((n * rows, point(gpus, n).efficiency) for n in times if point(gpus, n).efficiency >= _GOOD), None)
    return replace(
        found, points=tuple(map(point, counts)), computed=tuple(tokens), larger=larger,
        pays=pays_up_to(lambda n: point(n).efficiency, min(MOST_GPUS, max(rows, 1))),
    )  # fmt: skip


def fits_from(setup: Setup, budget: int, dial: bool) -> int | None:
    """The fewest GPUs over which the base in shares fits, with nothing changed in the training; None when however many
    do not do."""

    @cache
    def fits(ranks: int) -> bool:
        return fit(replace(setup, shards=ranks), budget, False, dial).fits

    if not fits(MOST_GPUS):
        return None
    high = next(2**i for i in range(1, 11) if fits(2**i))
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
