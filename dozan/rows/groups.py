"""Rows by key in 8 bytes a row: keys are told apart by their 64-bit hashes, and wait on disk until they are sorted.

A split shuffles the sorted keys, so it needs their texts once, in order: they are written in sorted runs and merged.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import random
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dozan.errors import InputError

_RUN = 1 << 14
"""Different keys in memory before they are written: some 4 MB."""
_PART, _BLOCK = 1 << 16, 1 << 14


def hash_text(text: str) -> int:
    """64 bits of BLAKE2b: among a million rows two different texts collide with probability 3e-8."""
    return _hash(_bytes(text))


def repeated(hashes: Sequence[int]) -> frozenset[int]:
    """The hashes that come more than once."""
    values, counts = np.unique(np.asarray(hashes, np.uint64), return_counts=True)
    return frozenset(values[counts > 1].tolist())


class KeyGroups:
    """Rows in order, each with the key of the group it belongs to; keys hold no line end."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = array("Q")
        self._fresh: dict[int, bytes] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="dozan-keys-")  # noqa: SIM115
        self._ends = [0]
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, key: str) -> None:
        """The next row's key."""
        text = _bytes(key)
        found = _hash(text)
        self._hashes.append(found)
        self._fresh[found] = text
        if len(self._fresh) >= _RUN:
            self._spill()

    def hold_out(self, share: float, seed: int) -> bytearray:
        """For each row 1 if it is held out, else 0: about `share` of the rows (at least one), by whole groups.

        Groups are taken in an order by the seed while they fit; the smallest is, when none does. The same keys, share
        and seed give the same answer. Raises InputError when all rows have one key.
        """
        hashes = np.asarray(self._hashes)
        groups, sizes = np.unique(hashes, return_counts=True)
        if len(groups) < 2:
            raise InputError(
                f"holdout: all {len(hashes)} rows have one sentence pattern and cannot be divided; "
                "give a file of evaluation rows (--eval-data), or hold nothing out (--set data.holdout=0)"
            )
        order = array("Q", self._sorted())
        random.Random(seed).shuffle(order)
        places = np.searchsorted(groups, np.asarray(order))
        is_held = np.zeros(len(groups), np.uint8)
        is_held[places[_chosen(sizes[places], max(1, round(share * len(hashes))))]] = 1
        held = bytearray()
        for at in range(0, len(hashes), _PART):
            held += is_held[np.searchsorted(groups, hashes[at : at + _PART])].tobytes()
        return held

    def _spill(self) -> None:
        self._file.writelines(text + b"\n" for text in sorted(self._fresh.values()))
        self._file.flush()
        self._ends.append(self._file.tell())
        self._fresh.clear()

    def _sorted(self) -> Iterator[int]:
        """The hashes of the different keys, in the order of the keys: UTF-8 sorts as its characters do."""
        before = None
        for text in heapq.merge(*map(self._run, self._ends, self._ends[1:]), sorted(self._fresh.values())):
            if text != before:
                yield _hash(text)
            before = text

    def _run(self, start: int, end: int) -> Iterator[bytes]:
        """The lines of a stretch of the file."""
        rest = b""
        while start < end:
            block = os.pread(self._file.fileno(), min(_BLOCK, end - start), start)
            start += len(block)
            *lines, rest = (rest + block).split(b"\n")
            yield from lines


def _chosen(sizes: NDArray[Any], rows: int) -> list[int]:
    """The places of groups in order that fit into `rows`; the smallest group when none does, and never all."""
    chosen: list[int] = []
    for place, size in enumerate(sizes):
        if size <= rows and len(chosen) < len(sizes) - 1:
            chosen.append(place)
            rows -= int(size)
            if not rows:
                break
    return chosen or [int(np.argmin(sizes))]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _hash(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
