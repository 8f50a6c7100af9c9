"""How many tokens rows share at their beginnings, counted as the packer stores them; a row is its key."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dozan.chat.keys import TOKEN_BYTES, common_prefix


@dataclass(frozen=True)
class Sharing:
    """Tokens of some rows, and how many of them are computed: rows taken at random as training does, or all sorted."""

    tokens: int
    computed_shuffled: int
    computed_sorted: int

    @property
    def shuffled(self) -> float:
        """Tokens of the rows for each token computed, `batch_rows` random rows together."""
        return self.tokens / max(1, self.computed_shuffled)

    @property
    def sorted(self) -> float:
        """Tokens of the rows for each token computed, all rows sorted by their tokens before they are packed."""
        return self.tokens / max(1, self.computed_sorted)


def measure(rows: Sequence[bytes], batch_rows: int, pack_tokens: int, seed: int = 0) -> Sharing:
    """Sharing of rows in packs of at most `pack_tokens`: `batch_rows` of them at random together, and all sorted."""
    order = list(rows)
    random.Random(seed).shuffle(order)
    batches = (sorted(order[i : i + batch_rows]) for i in range(0, len(order), batch_rows))
    shuffled = sum(computed(batch, pack_tokens) for batch in batches)
    return Sharing(sum(map(len, rows)) // TOKEN_BYTES, shuffled, computed(sorted(rows), pack_tokens))


def computed(rows: Iterable[bytes], pack_tokens: int) -> int:
    """Tokens that packs of these rows in this order hold; equal to what `pack.pack_rows` makes of sorted rows."""
    total = size = 0
    previous = b""
    for row in rows:
        length = len(row) // TOKEN_BYTES
        shared = common_prefix(previous, row)
        if size and size + length - shared > pack_tokens:
            total, size, shared = total + size, 0, 0
        size += length - shared
        previous = row
    return total + size
