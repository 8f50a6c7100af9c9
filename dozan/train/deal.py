"""A step's rows dealt to ranks, so that each has as much to compute: contiguous parts of the rows as they are packed.

Rows that begin alike stand together, so a part shares what it can; what rows on both sides of a cut share is computed
on both. The same rows, ranks and cost give the same parts on every rank. What decides is known of every row before the
first step: a rank reads no rows but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dozan.chat.encode import Numbers, Tokens
from dozan.chat.keys import TOKEN_BYTES, common_prefix
from dozan.model.gemma3 import Gemma3Config

SORTED_BYTES = 2**29
"""Rows of more tokens than this holds are dealt in the order of a step, each part sorted by itself: they share less."""


def head_cost(config: Gemma3Config) -> float:
    """What a supervised token costs at the head, in tokens through the layers: their weights' ratio."""
    width, heads = config.hidden_size, config.head_dim * config.num_attention_heads
    shared = config.head_dim * config.num_key_value_heads
    layer = width * (2 * heads + 2 * shared + 3 * config.intermediate_size)
    return config.vocab_size * width / (config.num_hidden_layers * layer)


def parts(rows: Sequence[Tokens], ranks: int, head_cost: float, share: bool = True) -> list[list[Tokens]]:
    """The rows in `ranks` contiguous parts whose most expensive is as cheap as can be; the last ones may be empty.

    share: whether rows that stand together share what they begin with. head_cost: see there.
    """
    if ranks == 1:
        return [list(rows)]
    lengths, supervised = (np.array([found(row) for row in rows]) for found in (_length, _supervised))
    return [list(rows[a:b]) for a, b in cuts(_shared(rows, share), lengths + head_cost * supervised, ranks)]


def even(rows: Sequence[Tokens], most: int) -> list[list[Tokens]]:
    """Sorted rows in as few contiguous parts as hold at most so many packed tokens each, and as even ones as can be; a
    longer row may stand alone. Then packs of one step are alike, and so are those of the next."""
    shared, lengths = _shared(rows, True), np.array([len(row.ids) for row in rows], np.float64)
    count = len(_stops(_until(shared, lengths), shared, float(most)))
    return [list(rows)] if count == 1 else [list(rows[a:b]) for a, b in cuts(shared, lengths, count)]


def cuts(shared: Numbers, alone: Numbers, count: int) -> list[tuple[int, int]]:
    """First row and the one after the last of `count` contiguous parts: what a row costs `alone`, less what it has
    `shared` with the one before in its part; the most expensive part is as cheap as can be."""
    until, rows = _until(shared, alone), len(shared)
    if not rows:
        return [(0, 0)] * count
    low, high = float(until[-1]) / count, float(until[-1] + shared.max())
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_stops(until, shared, middle)) <= count else (middle, high)
    stops = _stops(until, shared, high)
    found = list(pairwise([0, *stops]))
    return found + [(rows, rows)] * (count - len(found))


def _until(shared: Numbers, alone: Numbers) -> Numbers:
    """What the rows before each one cost together, and all of them."""
    return np.concatenate(([0.0], np.cumsum(alone - shared)))


def _stops(until: Numbers, shared: Numbers, most: float) -> list[int]:
    """Where parts end if each takes as many rows as cost at most so much, and one at least."""
    stops, at, rows = list[int](), 0, len(shared)
    while at < rows:
        # A part that begins at a row costs what stands between, and what the row before would have shared.
        limit = most + until[at] - shared[at]
        at = min(rows, max(at + 1, int(np.searchsorted(until, limit, side="right")) - 1))
        stops.append(at)
    return stops


def _shared(rows: Sequence[Tokens], share: bool) -> Numbers:
    return np.array([0, *(common_prefix(a.key, b.key) if share else 0 for a, b in pairwise(rows))])


def _length(row: Tokens) -> int:
    return len(row.ids)


def _supervised(row: Tokens) -> int:
    return len(row.supervised[0])


@dataclass(frozen=True)
class RowIndex:
    """What is known of N rows without reading them, all [N]. tokens, supervised: how many; weight: the sum of the
    supervised ones', fp64; place: in the order of all rows by their tokens; shared: by place, tokens in common with the
    row before."""

    tokens: Numbers
    supervised: Numbers
    weight: Numbers
    place: Numbers
    shared: Numbers

    @staticmethod
    def of(rows: Sequence[Tokens], share: bool, limit: int = SORTED_BYTES) -> RowIndex:
        """Of all rows, each read once. share: whether those that stand together share what they begin with."""
        found, keys, held = list[tuple[int, int, float]](), list[bytes](), 0
        for row in rows:
            found.append((len(row.ids), len(row.supervised[0]), float(row.supervised[1].sum(dtype=np.float64))))
            held += TOKEN_BYTES * len(row.ids)
            if share and held <= limit:
                keys.append(row.key)
        tokens, supervised, weight = (np.array(column) for column in zip(*found, strict=True))
        place, shared = np.arange(len(found)), np.zeros(len(found), np.int64)
        if share and held <= limit:
            order = sorted(range(len(keys)), key=keys.__getitem__)
            place[order] = np.arange(len(order))
            shared[1:] = [common_prefix(keys[a], keys[b]) for a, b in pairwise(order)]
        return RowIndex(tokens, supervised, weight, place, shared)

    def dealt(self, rows: Numbers, ranks: int, head_cost: float) -> list[Numbers]:
        """Rows, by number, in as many parts as `parts` gives."""
        order = rows[np.argsort(self.place[rows], kind="stable")]
        places = self.place[order]
        # What two rows share is the least that any rows between them do, in the order of all.
        between = np.minimum.reduceat(self.shared[: places[-1] + 1], places[:-1] + 1) if len(places) > 1 else ()
        shared = np.concatenate(([0], between)).astype(np.int64)
        alone = self.tokens[order] + head_cost * self.supervised[order]
        return [order[a:b] for a, b in cuts(shared, alone, ranks)]
