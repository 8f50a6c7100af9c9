"""Tokens -> Batch: rows packed as a forest of token tries, so that a prefix shared by many rows is computed once.

A pack lists the forest's tokens in depth-first order. Each token has a `position` (its depth) and an `end` (the
packed index where its subtree ends). Token q sees token k iff `k <= q < end[k]`, and in sliding layers also
`position[q] - position[k] < window`. Plain packing is a forest of paths. Supervision is a list of `(at, target,
weight)` apart from the tokens, so that a branching node is scored once for each of its branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from dozan.chat.encode import Tokens

Packing = Literal["tries", "paths", "none"]


@dataclass(frozen=True)
class Batch:
    """One pack of T tokens from one or more rows, with S supervised predictions.

    ids, position, end: int64 [T]. at, target: int64 [S]; weight: float32 [S]: the hidden state at packed index `at`
    predicts `target` with that weight. `rows` are the ids of the rows in packed order, `row_starts` the packed index
    at which each begins to differ from the row before it (for paths: where it begins), `tokens` the tokens of the
    rows before sharing.
    """

    ids: Tensor
    position: Tensor
    end: Tensor
    at: Tensor
    target: Tensor
    weight: Tensor
    rows: tuple[str, ...]
    row_starts: tuple[int, ...]
    tokens: int

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self, length: int, supervised: int | None = None) -> Batch:
        """The same batch at `length` tokens, by tokens at its end that see only themselves; and at `supervised`
        predictions, by ones without weight."""
        missing = length - len(self)
        unweighted = 0 if supervised is None else supervised - len(self.at)
        if not missing and not unweighted:
            return self
        alone, nothing = torch.arange(len(self) + 1, length + 1), torch.zeros(missing, dtype=torch.int64)
        none = torch.zeros(unweighted, dtype=torch.int64)
        rows = (*self.rows, "padding") if missing else self.rows
        row_starts = (*self.row_starts, len(self)) if missing else self.row_starts
        return replace(
            self, ids=torch.cat((self.ids, nothing)), position=torch.cat((self.position, nothing)),
            end=torch.cat((self.end, alone)), at=torch.cat((self.at, none)), target=torch.cat((self.target, none)),
            weight=torch.cat((self.weight, none.float())), rows=rows, row_starts=row_starts,
        )  # fmt: skip

    def divided(self, total: float) -> Batch:
        """The same batch with its weights divided by `total`."""
        return replace(self, weight=self.weight / total)

    def copy_(self, other: Batch) -> None:
        """Take over the tensors of a batch of equal shape; from the host through pinned memory, without waiting."""
        for name in _TENSORS:
            source = getattr(other, name)
            pinned = source.pin_memory() if getattr(self, name).is_cuda and not source.is_cuda else source
            getattr(self, name).copy_(pinned, non_blocking=True)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in _TENSORS}
        return replace(self, **moved)


_TENSORS = ("ids", "position", "end", "at", "target", "weight")


@dataclass
class _Pack:
    """A pack under construction: the forest so far and the packed indices along the current path."""

    ids: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)
    supervised: list[tuple[int, int, float]] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    row_starts: list[int] = field(default_factory=list)
    tokens: int = 0

    def close(self, depth: int) -> None:
        """End the subtrees of the current path from `depth` down."""
        for index in self.path[depth:]:
            self.end[index] = len(self.ids)
        del self.path[depth:]

    def add(self, row: Tokens, shared: int) -> None:
        """Append a row of which the first `shared` tokens are those of the current path."""
        self.close(shared)
        start = len(self.ids)
        fresh = len(row.ids) - shared
        self.ids.extend(row.ids[shared:])
        self.position.extend(range(shared, len(row.ids)))
        self.end.extend([0] * fresh)
        self.path.extend(range(start, start + fresh))
        self.supervised.extend((self.path[i - 1], row.ids[i], w) for i, w in enumerate(row.weights) if w > 0)
        self.rows.append(row.row)
        self.row_starts.append(start)
        self.tokens += len(row.ids)

    def batch(self) -> Batch:
        self.close(0)
        at, target, weight = zip(*self.supervised, strict=True) if self.supervised else ((), (), ())
        return Batch(
            ids=_integers(self.ids),
            position=_integers(self.position),
            end=_integers(self.end),
            at=_integers(at),
            target=_integers(target),
            weight=torch.tensor(weight, dtype=torch.float32),
            rows=tuple(self.rows),
            row_starts=tuple(self.row_starts),
            tokens=self.tokens,
        )


def _integers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def pack_rows(rows: Sequence[Tokens], how: Packing, max_tokens: int) -> list[Batch]:
    """Pack rows into batches of at most `max_tokens` packed tokens (a longer row stands alone).

    `tries` sorts the rows by their tokens, so that equal prefixes meet and are stored once; `paths` concatenates them
    in the given order; `none` makes one batch a row. The three give the same loss and gradients.
    """
    if how == "none":
        return [batch for row in rows for batch in _fill([row], False, max_tokens)]
    ordered = sorted(rows, key=lambda row: row.ids) if how == "tries" else rows
    return list(_fill(ordered, how == "tries", max_tokens))


def _fill(rows: Iterable[Tokens], share: bool, max_tokens: int) -> Iterable[Batch]:
    pack, previous = _Pack(), tuple[int, ...]()
    for row in rows:
        shared = _common_prefix(previous, row.ids) if share else 0
        if pack.rows and len(pack.ids) + len(row.ids) - shared > max_tokens:
            yield pack.batch()
            pack, shared = _Pack(), 0
        pack.add(row, shared)
        previous = row.ids
    if pack.rows:
        yield pack.batch()


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix; by halves, since slices compare in C."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
