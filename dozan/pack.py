"""Tokens -> Batch: rows packed as a forest of token tries, so that a prefix shared by many rows is computed once.

A pack lists the forest's tokens in depth-first order. Each token has a `position` (its depth) and an `end` (the
packed index where its subtree ends). Token q sees token k iff `k <= q < end[k]`, and in sliding layers also
`position[q] - position[k] < window`. Plain packing is a forest of paths. Supervision is a list of `(at, target,
weight)` apart from the tokens, so that a branching node is scored once for each of its branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dozan.chat.encode import Numbers, Tokens
from dozan.chat.keys import TOKEN_BYTES, common_prefix

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


class _Pack:
    """A pack under construction: the pieces of the forest so far, and the packed indices along the current path."""

    def __init__(self) -> None:
        self.length = self.tokens = self._depth = 0
        self.rows: list[str] = []
        self._row_starts: list[int] = []
        self._path = np.zeros(0, np.int64)
        self._pieces: list[bytes] = []
        self._positions: list[Numbers] = []
        self._closed: list[tuple[Numbers, int]] = []
        self._supervised: list[tuple[Numbers, Numbers, Numbers]] = []

    def close(self, depth: int) -> None:
        """End the subtrees of the current path from `depth` down."""
        self._closed.append((self._path[depth : self._depth].copy(), self.length))
        self._depth = depth

    def add(self, row: Tokens, shared: int) -> None:
        """Append a row of which the first `shared` tokens are those of the current path."""
        self.close(shared)
        start, count = self.length, len(row.ids)
        if count > len(self._path):
            self._path = np.concatenate((self._path, np.zeros(count, np.int64)))
        self._path[shared:count] = np.arange(start, start + count - shared)
        self._depth, self.length = count, start + count - shared
        self._pieces.append(row.key[TOKEN_BYTES * shared :])
        self._positions.append(np.arange(shared, count))
        at, weights = row.supervised
        self._supervised.append((self._path[at - 1], np.frombuffer(row.key, ">u4")[at], weights))
        self.rows.append(row.row)
        self._row_starts.append(start)
        self.tokens += count

    def batch(self) -> Batch:
        self.close(0)
        end = np.empty(self.length, np.int64)
        for indices, value in self._closed:
            end[indices] = value
        at, target, weight = (np.concatenate(column) for column in zip(*self._supervised, strict=True))
        return Batch(
            ids=_integers(np.frombuffer(b"".join(self._pieces), ">u4")),
            position=_integers(np.concatenate(self._positions)),
            end=_integers(end),
            at=_integers(at),
            target=_integers(target),
            weight=torch.from_numpy(weight),
            rows=tuple(self.rows),
            row_starts=tuple(self._row_starts),
            tokens=self.tokens,
        )


def _integers(values: Numbers) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def pack_rows(rows: Sequence[Tokens], how: Packing, max_tokens: int) -> list[Batch]:
    """Pack rows into batches of at most `max_tokens` packed tokens (a longer row stands alone).

    `tries` sorts the rows by their tokens, so that equal prefixes meet and are stored once; `paths` concatenates them
    in the given order; `none` makes one batch a row. The three give the same loss and gradients.
    """
    if how == "none":
        return [batch for row in rows for batch in _fill([row], False, max_tokens)]
    ordered = sorted(rows, key=by_tokens) if how == "tries" else rows
    return list(_fill(ordered, how == "tries", max_tokens))


def by_tokens(row: Tokens) -> bytes:
    """What rows are sorted by so that those with a common prefix stand together."""
    return row.key


def _fill(rows: Iterable[Tokens], share: bool, max_tokens: int) -> Iterable[Batch]:
    pack, previous = _Pack(), b""
    for row in rows:
        shared = common_prefix(previous, row.key) if share else 0
        if pack.rows and pack.length + len(row.ids) - shared > max_tokens:
            yield pack.batch()
            pack, shared = _Pack(), 0
        pack.add(row, shared)
        previous = row.key
    if pack.rows:
        yield pack.batch()
