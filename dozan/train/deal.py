"""A step's rows dealt to ranks, so that each has as much to compute: contiguous parts of the rows as they are packed.

Rows that begin alike stand together, so a part shares what it can; what rows on both sides of a cut share is computed
on both. The same rows, ranks and cost give the same parts on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dozan.chat.encode import Numbers, Tokens
from dozan.chat.keys import common_prefix
from dozan.model.gemma3 import Gemma3Config


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
    shared = np.array([0, *(common_prefix(a.key, b.key) if share else 0 for a, b in zip(rows, rows[1:], strict=False))])
    alone = np.array([len(row.ids) + head_cost * len(row.supervised[0]) for row in rows])
    until = np.concatenate(([0.0], np.cumsum(alone - shared)))
    # A part that begins at row i costs what stands between, and what the row before would have shared.
    low, high = float(until[-1]) / ranks, float(until[-1]) + float(shared.max())
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_cuts(until, shared, middle)) <= ranks else (middle, high)
    stops = _cuts(until, shared, high * (1 + 1e-12))
    starts = [0, *stops[:-1]]
    found = [list(rows[a:b]) for a, b in zip(starts, stops, strict=True)]
    return found + [[] for _ in range(ranks - len(found))]


def _cuts(until: Numbers, shared: Numbers, most: float) -> list[int]:
    """Where parts end if each takes as many rows as cost at most so much, and one at least."""
    stops, at, rows = list[int](), 0, len(shared)
    while at < rows:
        limit = most + until[at] - shared[at]
        at = max(at + 1, int(np.searchsorted(until, limit, side="right")) - 1)
        stops.append(min(at, rows))
    return stops
