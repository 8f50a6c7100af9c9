"""A disk-backed index of rows: exact duplicates after folding, and near-duplicates by MinHash, checked on their texts.

A row is 255 bytes in one file (16 band hashes of 8, 80 marks of 1, four hashes of 8, side and offsets) and its place
and its folded text, of 4,000 characters at most, in another; nothing of it stays in memory while rows are added. A
search takes about 60 bytes of memory a row for its sorts, and maps the file of records.

Similarity is the Jaccard index of the sets of character trigrams of two folded texts, as in `rows.splits`. MinHash only
proposes: 16 bands of 5 hashes find two texts that are 0.8 alike with probability 0.998, 0.7 with 0.95. Each pair that
is reported was compared on its texts, if 65 % of its MinHashes agree (0.8 alike: all but 1 in 2,000). Rows of a
crowded bucket are compared with up to 6 of those before them, so the cost grows with the rows, not with their square.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, NamedTuple

import numpy as np
from rensa import RMinHash

from dozan.rows.arabic import fold

BANDS, ROWS_A_BAND, SEED = 16, 5, 20_261
THRESHOLD = 0.8
LONGEST = 4_000
TRIES = 6
_DOUBT = 0.15
_RECORD = np.dtype([
    ("bands", "<u8", (BANDS,)),
    ("marks", "u1", (BANDS * ROWS_A_BAND,)), ("request", "<u8"), ("context", "<u8"), ("answer", "<u8"), ("id", "<u8"),
    ("at", "<u8"), ("text_bytes", "<u4"), ("place_bytes", "<u2"), ("side", "u1"),
])  # fmt: skip
_CHUNK, _PART = 1 << 15, 1 << 13
_WORDS = re.compile(r"\w+")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sketch:
    """What the index keeps of a text: its folded words, 16 hashes of bands, and a byte of each of the 80 MinHashes.

    A text of more than 4,000 characters is cut in the middle.
    """

    text: str
    bands: bytes
    marks: bytes


class Keys(NamedTuple):
    """Hashes of what makes rows equal: the folded request, tools and system text, the answer, and the row's id."""

    request: int
    context: int
    answer: int
    id: int


class Pair(NamedTuple):
    """Two rows by number, the earlier first (in a leak: the training row), and how alike their texts are, 0 to 1."""

    first: int
    second: int
    similarity: float


def sketch(texts: Sequence[str]) -> list[Sketch]:
    """The sketches of some texts, folded here."""
    plain = [_plain(text) for text in texts]
    matrix = RMinHash.digest_matrix_from_token_sets([list(_grams(text)) for text in plain], BANDS * ROWS_A_BAND, SEED)
    digests = np.array(matrix.to_rows(), dtype="<u4").reshape(len(plain), BANDS, ROWS_A_BAND)
    marks = (digests & 0xFF).astype("u1")
    return [Sketch(text, _mixed(rows), mark.tobytes()) for text, rows, mark in zip(plain, digests, marks, strict=True)]


def similarity(first: str, second: str) -> float:
    """The Jaccard index of the trigrams of two texts as `Sketch.text` holds them."""
    left, right = _grams(first), _grams(second)
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


class NearIndex:
    """Rows by number, in the order in which they were added; `side` tells training (0) from evaluation rows (1)."""

    def __init__(self) -> None:
        self._records: IO[bytes] = tempfile.TemporaryFile(prefix="dozan-near-")  # noqa: SIM115
        self._texts: IO[bytes] = tempfile.TemporaryFile(prefix="dozan-near-")  # noqa: SIM115
        self._waiting: list[tuple[Any, ...]] = []
        self._written = 0
        self.rows = 0
        self.has_eval = False

    def add(self, found: Sketch, keys: Keys, place: str, side: int = 0) -> int:
        """Adds a row and gives its number."""
        name = place.encode("utf-8", "replace")[: 1 << 12]
        text = found.text.encode("utf-8", "replace")
        bands = np.frombuffer(found.bands, dtype="<u8")
        marks = np.frombuffer(found.marks, dtype="u1")
        self._waiting.append((bands, marks, *keys, self._written, len(text), len(name), side))
        self._texts.write(name + text)
        self._written += len(name) + len(text)
        self.rows += 1
        self.has_eval = self.has_eval or side == 1
        if len(self._waiting) >= _CHUNK // 16:
            self._flush()
        return self.rows - 1

    @property
    def bytes_a_row(self) -> float:
        """Bytes on disk, of records and texts, by row."""
        return _RECORD.itemsize + self._written / max(1, self.rows)

    def place(self, row: int) -> str:
        return self._read(row)[0]

    def column(self, name: str, band: int | None = None) -> Array:
        """One field of all rows; `bands` one band at a time."""
        self._flush()
        self._records.seek(0)
        parts = [np.empty(0, _RECORD[name].base)]
        while data := self._records.read(_CHUNK * _RECORD.itemsize):
            part = np.frombuffer(data, _RECORD)[name]
            parts.append(part.copy() if band is None else part[:, band].copy())
        return np.concatenate(parts)

    def pairs(self, threshold: float = THRESHOLD, side: int = 0) -> Iterator[Pair]:
        """For each row of a side that is like an earlier one of it (or equal), the first such pair found."""
        numbers = np.flatnonzero(self.column("side") == side)
        yield from self._search(numbers, numbers, threshold)

    def leaks(self, threshold: float = THRESHOLD) -> Iterator[Pair]:
        """For each evaluation row that is like a training row, one such pair: (training row, evaluation row)."""
        sides = self.column("side")
        yield from self._search(np.flatnonzero(sides == 0), np.flatnonzero(sides == 1), threshold)

    def groups(self, threshold: float = THRESHOLD) -> Array:
        """For each row (of either side) the number of the first row of its group: rows joined by any pair found."""
        parents = np.arange(self.rows)
        everything = np.arange(self.rows)
        for band in range(BANDS):
            for first, second in self._candidates(band, everything, everything, True, threshold):
                low, high = sorted((_root(parents, first), _root(parents, second)))
                if low != high and self._alike(first, second) >= threshold:
                    parents[high] = low
        return np.array([_root(parents, row) for row in range(self.rows)], dtype=np.int64)

    def _search(self, earlier: Array, later: Array, threshold: float) -> Iterator[Pair]:
        found = np.zeros(self.rows, dtype=bool)
        for band in range(BANDS):
            for first, second in self._candidates(band, earlier, later[~found[later]], earlier is later, threshold):
                if found[second]:
                    continue
                alike = self._alike(first, second)
                if alike >= threshold:
                    found[second] = True
                    yield Pair(first, second, alike)

    def _candidates(
        self, band: int, earlier: Array, later: Array, is_one_set: bool, threshold: float
    ) -> Iterator[tuple[int, int]]:
        """Pairs of one bucket whose MinHashes agree well enough; the texts decide."""
        marks = self._marks()
        least = (threshold - _DOUBT) * BANDS * ROWS_A_BAND
        for first, second in _bucket_pairs(self.column("bands", band), earlier, later, is_one_set):
            likely = (marks[first] == marks[second]).sum(axis=1) >= least
            yield from zip(first[likely].tolist(), second[likely].tolist(), strict=True)

    def _marks(self) -> Array:
        """A byte of each MinHash of each row, mapped from disk: [rows, 80]."""
        self._flush()
        return np.memmap(self._records, _RECORD, "r", shape=(self.rows,))["marks"]

    def _alike(self, first: int, second: int) -> float:
        return similarity(self._read(first)[1], self._read(second)[1])

    def _read(self, row: int) -> tuple[str, str]:
        """A row's place and text."""
        self._flush()
        self._records.seek(row * _RECORD.itemsize)
        record = np.frombuffer(self._records.read(_RECORD.itemsize), _RECORD)[0]
        self._texts.seek(int(record["at"]))
        name = self._texts.read(int(record["place_bytes"]))
        return name.decode("utf-8", "replace"), self._texts.read(int(record["text_bytes"])).decode("utf-8")

    def _flush(self) -> None:
        if self._waiting:
            self._records.seek(0, 2)
            self._records.write(np.array(self._waiting, dtype=_RECORD).tobytes())
            self._texts.flush()
            self._waiting.clear()
        self._texts.seek(0, 2)


def repeats(*columns: Array) -> Iterator[tuple[int, Array]]:
    """Rows whose values in all columns were there before: (the first row, all later rows), in order of the first."""
    order = np.lexsort(columns[::-1])
    same = np.ones(max(0, len(order) - 1), dtype=bool)
    for column in columns:
        same &= column[order[1:]] == column[order[:-1]]
    starts = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)) == 1)
    ends = np.flatnonzero(np.diff(np.concatenate([[False], same, [False]]).astype(np.int8)) == -1)
    found = [np.sort(order[start : end + 1]) for start, end in zip(starts, ends, strict=True)]
    for rows in sorted(found, key=lambda rows: int(rows[0])):
        yield int(rows[0]), rows[1:]


def _bucket_pairs(hashes: Array, earlier: Array, later: Array, is_one_set: bool) -> Iterator[tuple[Array, Array]]:
    """Pairs of rows of one bucket, in parts: each later row with up to `TRIES` earlier ones, evenly spread."""
    by_hash = earlier[np.argsort(hashes[earlier], kind="stable")]
    start = np.searchsorted(hashes[by_hash], hashes[later], "left")
    if is_one_set:
        position = np.empty(len(hashes), dtype=np.int64)
        position[by_hash] = np.arange(len(by_hash))
        many = position[later] - start
    else:
        many = np.searchsorted(hashes[by_hash], hashes[later], "right") - start
    crowded = np.flatnonzero(many > 0)
    steps = np.arange(TRIES)
    for at in range(0, len(crowded), _PART):
        rows = crowded[at : at + _PART]
        count = many[rows][:, None]
        spread = np.where(count <= TRIES, steps, steps * (count - 1) // (TRIES - 1))
        first = by_hash[np.minimum(start[rows][:, None] + spread, len(by_hash) - 1)]
        second = np.broadcast_to(later[rows][:, None], first.shape)
        is_there = spread < count
        yield first[is_there], second[is_there]


def _root(parents: Array, row: int) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = int(parents[row])
    return row


def _plain(text: str) -> str:
    """Folded words with single spaces; of a long text its first and last half."""
    if len(text) > 4 * LONGEST:
        text = f"{text[: 2 * LONGEST]} {text[-2 * LONGEST :]}"
    words = " ".join(_WORDS.findall(fold(text)))
    half = LONGEST // 2
    return words if len(words) <= LONGEST else f"{words[:half]} {words[-half:]}"


def _grams(plain: str) -> set[str]:
    padded = f"  {plain}  "
    return {padded[i : i + 3] for i in range(len(padded) - 2)}


_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5, 0x85EBCA77C2B2AE63],
                dtype="<u8")  # fmt: skip


def _mixed(rows: Array) -> bytes:
    """One hash of 64 bits a band, [BANDS, ROWS_A_BAND] to [BANDS]."""
    hashes = (rows.astype("<u8") + np.uint64(1)) * _MIX
    folded = np.bitwise_xor.reduce(hashes ^ (hashes >> np.uint64(29)), axis=1)
    return (folded * _MIX[0] ^ np.arange(BANDS, dtype="<u8")).astype("<u8").tobytes()
