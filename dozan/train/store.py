"""The tokens of a run's rows on disk: 8 bytes of memory a row, a read of some hundred bytes when a step asks for it.

The file has no name, so that nothing is left of it however the process ends. A beginning that many rows share (tools)
is kept once, in memory. A record is: bytes of the row's id, runs of trained tokens, the beginning's number and the
tokens after it (uint32 each); the id (UTF-8); the runs (first, after, weight); the tokens, most significant byte first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import struct
import sys
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np

from dozan.chat.encode import Tokens
from dozan.chat.keys import TOKEN_BYTES, common_prefix
from dozan.errors import InputError

_HEADER = struct.Struct("<4I")
_RUN = struct.Struct("<2Id")
_SHORTEST, _START, _MOST = 64, 16 * TOKEN_BYTES, 1 << 19
"""Tokens that sharing a beginning saves a row at least; bytes by which it is looked up; tokens of all that are kept."""
_CHECKED_EVERY = 64 * 2**20


class TokenStore(Sequence[Tokens]):
    """Rows in the order in which they were added, each read from disk when it is asked for.

    tokens: of all rows, each counted once. supervised: those that the loss sees.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        """A store for about `rows` rows on the disk of a folder. Raises InputError when it cannot be written to."""
        self.tokens = self.supervised = 0
        self._folder, self._expected = folder, rows
        self._ends = array("Q", [0])
        self._checked = -_CHECKED_EVERY
        self._beginnings = _Beginnings()
        self._digest = hashlib.sha256()
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="dozan-tokens-")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{folder}: cannot be written to ({error.strerror}); choose another folder") from None

    def add(self, rows: Sequence[Tokens]) -> None:
        """Append rows. Raises InputError, with what is needed, when the disk has no room for all that are expected."""
        if not rows:
            return
        self._beginnings.learn(sorted(row.key for row in rows))
        records = [self._record(row) for row in rows]
        for record in records:
            self._ends.append(self._ends[-1] + len(record))
        self._require_space()
        try:
            self._file.write(b"".join(records))
            self._file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._full(sum(map(len, records))) from None

    @property
    def sha256(self) -> str:
        """The hash of `row_text` over all rows: what `run.hash_rows` gives for them in memory."""
        return self._digest.hexdigest()

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Tokens: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tokens]: ...
    def __getitem__(self, index: int | slice) -> Tokens | list[Tokens]:
        if isinstance(index, slice):
            return [self._read(i) for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self._read(index % len(self))

    def __iter__(self) -> Iterator[Tokens]:
        return (self._read(i) for i in range(len(self)))

    def _record(self, row: Tokens) -> bytes:
        name, runs = row.row.encode("utf-8", "surrogatepass"), weight_runs(row)
        number, beginning = self._beginnings.longest(row.key)
        own = row.key[len(beginning) :]
        self.tokens += len(row.ids)
        self.supervised += sum(after - first for first, after, _ in runs)
        self._digest.update(row_text(row, runs, self._beginnings.texts[number], len(beginning) // TOKEN_BYTES))
        header = _HEADER.pack(len(name), len(runs), number, len(own) // TOKEN_BYTES)
        return b"".join((header, name, *(_RUN.pack(*run) for run in runs), own))

    def _read(self, i: int) -> Tokens:
        start, end = self._ends[i], self._ends[i + 1]
        record = os.pread(self._file.fileno(), end - start, start)
        assert len(record) == end - start, "the token store was cut short"
        name_bytes, runs, number, own = _HEADER.unpack_from(record)
        at = _HEADER.size + name_bytes
        name = record[_HEADER.size : at].decode("utf-8", "surrogatepass")
        ids = array("I", self._beginnings.keys[number] + record[at + runs * _RUN.size :])
        if sys.byteorder == "little":
            ids.byteswap()
        weights = array("d", bytes(8 * len(ids)))
        for first, after, weight in _RUN.iter_unpack(record[at : at + runs * _RUN.size]):
            weights[first:after] = array("d", [weight]) * (after - first)
        return Tokens(name, ids, weights)

    def _require_space(self) -> None:
        """Looks at the disk before the first rows are written, and again every 64 MiB."""
        written = self._ends[-1]
        if written - self._checked < _CHECKED_EVERY:
            return
        self._checked = written
        if self._needed() > shutil.disk_usage(self._folder).free:
            raise self._full(0)

    def _needed(self) -> int:
        """Bytes that the rows to come take, by the mean of those that are there; with a tenth to spare."""
        return max(0, self._expected - len(self)) * self._ends[-1] // len(self) * 11 // 10

    def _full(self, waiting: int) -> InputError:
        free = shutil.disk_usage(self._folder).free
        needed = math.ceil((waiting + self._needed()) / 2**20)
        return InputError(
            f"{self._folder}: {free / 2**20:.0f} MiB are free, and the tokens of {self._expected} rows take "
            f"{needed} MiB more while they are trained; free some space, or choose an output folder on another disk"
        )


class _Beginnings:
    """Beginnings that rows share, by number, 0 for the empty one; `texts` are their tokens as JSON writes them."""

    def __init__(self) -> None:
        self.keys = [b""]
        self.texts = [""]
        self._kept = 0
        self._by_start: dict[bytes, list[int]] = {}

    def learn(self, keys: Sequence[bytes]) -> None:
        """Keeps what neighbours of some sorted keys share, where that is much longer than what is kept already."""
        for before, key in pairwise(keys):
            shared = common_prefix(before, key)
            if shared < len(self.longest(key)[1]) // TOKEN_BYTES + _SHORTEST or self._kept + shared > _MOST:
                continue
            self._kept += shared
            self._by_start.setdefault(key[:_START], []).append(len(self.keys))
            self.keys.append(key[: shared * TOKEN_BYTES])
            self.texts.append("".join(f"{i}, " for i in np.frombuffer(self.keys[-1], ">u4").tolist()))

    def longest(self, key: bytes) -> tuple[int, bytes]:
        """The longest beginning of a row that is kept."""
        found = [number for number in self._by_start.get(key[:_START], ()) if key.startswith(self.keys[number])]
        number = max(found, key=lambda number: len(self.keys[number]), default=0)
        return number, self.keys[number]


def row_text(row: Tokens, runs: Sequence[tuple[int, int, float]], beginning: str = "", known: int = 0) -> bytes:
    """`json.dumps([row.row, row.ids, row.weights])`, some times faster; of the ids the first `known` as text."""
    ids = beginning + str(list(row.ids[known:]))[1:-1] if known < len(row.ids) else beginning[:-2]
    weights, at = [], 0
    for first, after, weight in runs:
        weights += ["0.0, " * (first - at), f"{float(weight)!r}, " * (after - first)]
        at = after
    weights.append("0.0, " * (len(row.weights) - at))
    return f"[{json.dumps(row.row)}, [{ids}], [{''.join(weights)[:-2]}]]".encode()


def weight_runs(row: Tokens) -> list[tuple[int, int, float]]:
    """(first, after, weight) of each run of tokens of equal weight, 0 left out."""
    weights = np.asarray(row.weights, np.float64)
    borders = [0, *(np.nonzero(np.diff(weights))[0] + 1).tolist(), len(weights)]
    runs = ((first, after, float(weights[first])) for first, after in pairwise(borders))
    return [run for run in runs if run[2]]
