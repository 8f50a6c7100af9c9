"""Which rows of a file are whose, when several processes or machines share the work: `--shard 2/8`.

Rows are dealt in blocks of neighbours, four rounds each of 1, 2, 4 … 32 rows and then always 64: neighbours often share
their tools, so their prompts still share their beginning; small files are divided well too, and nobody needs to count
the rows first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import TypeVar

from dozan.errors import InputError

_BLOCKS, _ROUNDS, _LARGEST = (1, 2, 4, 8, 16, 32), 4, 64
_MOST = 100_000
_WRITTEN = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*")

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 1) of `count`."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def read_shard(text: str) -> Shard:
    """`2/8`: the second of eight. Raises InputError for anything else, with one that works."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise InputError(f"--shard {text!r}: write which part of how many, such as 1/4")
    index, count = int(found[1]), int(found[2])
    if not 1 <= count <= _MOST:
        raise InputError(f"--shard {text}: between 1 and {_MOST} parts can be made; give --shard 1/4, for example")
    if not 1 <= index <= count:
        near = f"{min(max(index, 1), count)}/{count}"
        raise InputError(f"--shard {text}: parts count from 1 to {count}; give --shard {near}")
    return Shard(index, count)


def owners(count: int) -> Iterator[int]:
    """For each row in order the index of the shard that it belongs to, without end."""
    for block in chain((block for block in _BLOCKS for _ in range(_ROUNDS)), repeat(_LARGEST)):
        for index in range(1, count + 1):
            yield from repeat(index, block)


def own_rows(
    rows: Iterable[_Row], shard: Shard, limit: int | None = None, passed: Callable[[_Row], object] | None = None
) -> tuple[list[_Row], int]:
    """The rows of a shard, of the first `limit` rows or of all, and how many these are; `passed` gets all others.
    Reads to the end, for what is wrong further on, and keeps no row but its own."""
    own, total = [], 0
    dealt = owners(shard.count)
    for row in rows:
        is_within = limit is None or total < limit
        total += is_within
        if is_within and next(dealt) == shard.index:
            own.append(row)
        elif passed is not None:
            passed(row)
    return own, total
