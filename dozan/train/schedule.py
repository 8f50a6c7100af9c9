"""Which rows meet in a step when the rows of several steps are looked at together, and how mixed that leaves a step.

The rows of a window of N steps are sorted by how they begin and cut into blocks of rows that share a long beginning,
at most `batch_size / BLOCKS` rows each; the blocks are shuffled, laid end to end, and cut into steps. So every step has
as many rows as without looking ahead, every row of the window is used once, and a step holds rows of several blocks.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from itertools import chain, pairwise

from dozan.chat.encode import Tokens
from dozan.chat.keys import TOKEN_BYTES, common_prefix

BLOCKS = 2
"""Blocks that a step holds at least. More mix a step better, but a beginning is computed once for each."""
_GRAIN = 16
"""A beginning counts in sixteenths of a mean row: sharing a word more is not worth rows that look alike."""


def deal(rows: Sequence[Tokens], batch_size: int, seed: str) -> list[list[int]]:
    """The rows of a window, given in random order, dealt to its steps: indices of `rows`, `batch_size` a step (the last
    step takes the rest). Rows that fit one step stay as they are."""
    if len(rows) <= batch_size:
        return [list(range(len(rows)))]
    blocks = _blocks(rows, max(1, batch_size // BLOCKS))
    random.Random(seed).shuffle(blocks)
    order = list(chain.from_iterable(blocks))
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def common_beginning(rows: Sequence[Tokens]) -> int:
    """How many first tokens all rows have in common."""
    keys = [row.key for row in rows]
    return common_prefix(min(keys), max(keys))


def kinds(rows: Sequence[Tokens], common: int) -> int:
    """How many kinds of beginnings the rows have; those of a kind share half of what follows the first `common`
    tokens, which all rows share."""
    pairs = pairwise(sorted(row.key for row in rows))
    return 1 + sum(2 * (common_prefix(a, b) - common) < min(len(a), len(b)) // 4 - common for a, b in pairs)


def _blocks(rows: Sequence[Tokens], most: int) -> list[list[int]]:
    """The rows in blocks of at most `most` that share beginnings, cut where the least has to be computed again."""
    begins = _beginnings(rows)
    order = sorted(range(len(rows)), key=begins.__getitem__)
    shared = [common_prefix(begins[a], begins[b]) for a, b in pairwise(order)]
    # What all rows share is computed once in any pack, so a cut costs only what goes beyond.
    costs = [0, *(length - min(shared) for length in shared)]
    blocks, stop = [], len(rows)
    starts = _starts(costs, most)
    while stop:
        blocks.append(order[starts[stop - 1] : stop])
        stop = starts[stop - 1]
    return blocks


def _starts(costs: Sequence[int], most: int) -> list[int]:
    """For each row where its block starts when it ends there, if cutting before row i costs `costs[i]` and all cuts up
    to it are to cost the least; the shortest block of equals. A sliding minimum: O(rows)."""
    starts: list[int] = []
    near: deque[tuple[int, int]] = deque()  # cost up to and with a cut, and the row after it; both rise
    least = 0
    for i, cost in enumerate(costs):
        while near and near[-1][0] >= least + cost:
            near.pop()
        near.append((least + cost, i))
        if near[0][1] <= i - most:
            near.popleft()
        least, start = near[0]
        starts.append(start)
    return starts


def _beginnings(rows: Sequence[Tokens]) -> list[bytes]:
    """What each row shares with the row that begins most like it, in whole grains, as bytes that sort as ids do."""
    keys = [row.key for row in rows]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    shared = [0, *(common_prefix(keys[a], keys[b]) for a, b in pairwise(order)), 0]
    grain = max(1, sum(len(row.ids) for row in rows) // (len(rows) * _GRAIN))
    begins = [b""] * len(rows)
    for place, i in enumerate(order):
        begins[i] = rows[i].key[: TOKEN_BYTES * (max(shared[place : place + 2]) // grain * grain)]
    return begins
