"""Reads a GGUF in this process, every bound of its header checked: a damaged count neither loops nor allocates.

Layout: magic, version, number of tensors, number of keys; keys (name, type, value); tensors (name, dimensions, the
row's length first, type, offset); data, aligned. The `gguf` package's own reader believes what a header says, and takes
seven seconds for a vocabulary of 2^18.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from dozan.chat.tokens import UNK
from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.ship.quants import row_bytes

_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""How a value is packed by GGUF's number for its type; 8 is a string, 9 a list."""
_STRING, _LIST = 8, 9
_MOST_DIMENSIONS = 4
_MOST_ITEMS = 1 << 24
"""Of a list; vocabularies have 2^18."""
_ALIGNMENT = "general.alignment"
_SIZE = struct.Struct("<Q")
_CHUNK = 1 << 22
"""Numbers dequantised at a time."""


class _Damaged(Exception):
    """What is wrong with the header."""


@dataclass(frozen=True)
class GgufTensor:
    """`count` rows of `columns` numbers each, in `kind`, at a place in a file; read when they are asked for."""

    file: Path
    begin: int
    kind: Type
    columns: int
    count: int

    def stored(self, first: int, last: int) -> np.ndarray:
        """Rows from `first` up to `last` as they lie there, uint8 [last - first, bytes of a row]."""
        size = row_bytes(self.kind, self.columns)
        wanted = max(0, min(last, self.count) - first)
        found = np.fromfile(self.file, np.uint8, wanted * size, offset=self.begin + first * size)
        return found.reshape(wanted, size)

    def values(self, first: int, last: int) -> Tensor:
        """The same in fp32 [last - first, columns]."""
        out = torch.empty(max(0, min(last, self.count) - first), self.columns)
        step = max(1, _CHUNK // self.columns)
        for at in range(0, len(out), step):
            rows = self.stored(first + at, min(last, first + at + step))
            with np.errstate(invalid="ignore", over="ignore"):
                part = gguf.quants.dequantize(rows, self.kind)
            out[at : at + step] = torch.from_numpy(np.array(part, dtype=np.float32))
        return out


@dataclass(frozen=True)
class GgufFile:
    """A file's keys with their values (lists of numbers as arrays) and its tensors by name."""

    keys: Mapping[str, Json]
    tensors: Mapping[str, GgufTensor]


@dataclass
class _Header:
    """A place in the bytes of a file."""

    data: mmap.mmap
    at: int = 0

    def take(self, count: int) -> int:
        """Where `count` bytes begin, which are passed over."""
        first, self.at = self.at, self.at + count
        if self.at > len(self.data):
            raise _Damaged(f"ends within its header, at byte {len(self.data):,}")
        return first

    def number(self, form: str) -> Json:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]

    def texts(self, count: int) -> list[str]:
        data, at, end = self.data, self.at, len(self.data)
        found = []
        try:
            for _ in range(count):
                first = at + 8
                at = first + _SIZE.unpack_from(data, at)[0]
                if at > end:
                    raise _Damaged(f"ends within its header, at byte {end:,}")
                found.append(data[first:at].decode())
        except (struct.error, UnicodeDecodeError):
            raise _Damaged(f"has text that is damaged, near byte {at:,}") from None
        self.at = at
        return found

    def value(self, kind: int) -> Json:
        if kind == _STRING:
            return self.texts(1)[0]
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind != _LIST:
            raise _Damaged(f"has a value of the unknown type {kind}, before byte {self.at:,}")
        inner, count = self.number("<I"), self.number("<Q")
        if count > _MOST_ITEMS or (inner not in _NUMBERS and inner != _STRING):
            raise _Damaged(f"has a list of {count:,} items of type {inner}")
        if inner == _STRING:
            return self.texts(count)
        form = np.dtype(_NUMBERS[inner])
        first = self.take(count * form.itemsize)
        return np.frombuffer(self.data[first : self.at], form)


def is_vocabulary(texts: Json, scores: Json, kinds: Json) -> bool:
    """Whether these are the parallel lists of a vocabulary: different texts, numbers and whole numbers."""
    numbers = isinstance(scores, np.ndarray) and isinstance(kinds, np.ndarray)
    if not isinstance(texts, list) or not numbers or not len(texts) == len(scores) == len(kinds):
        return False
    whole = np.issubdtype(kinds.dtype, np.integer) and bool(np.isfinite(scores).all())
    return whole and UNK in texts and len(set(texts)) == len(texts)


def open_gguf(path: str | Path) -> GgufFile:
    """A GGUF's keys and tensors. Raises InputError for a file that is damaged, cut short or no GGUF."""
    try:
        with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            keys, places = _read(_Header(data))
    except (_Damaged, OSError, ValueError) as reason:
        raise InputError(f"{path}: not a readable GGUF file ({reason}); export the model again") from None
    tensors = {name: GgufTensor(Path(path), begin, kind, shape[0], prod(shape[1:]))
               for name, (kind, shape, begin) in places.items()}  # fmt: skip
    return GgufFile(keys, tensors)


_Place = tuple[Type, list[int], int]
"""Type, shape with the row's length first, and first byte of a tensor."""


def _read(header: _Header) -> tuple[dict[str, Json], dict[str, _Place]]:
    if header.data[header.take(4) : header.at] != b"GGUF":
        raise _Damaged("does not start with GGUF")
    version = header.number("<I")
    if version not in (2, 3):
        raise _Damaged(f"is of version {version}, not 2 or 3")
    count_of_tensors, count_of_keys = header.number("<Q"), header.number("<Q")
    keys: dict[str, Json] = {}
    for _ in range(count_of_keys):
        (name,), kind = header.texts(1), header.number("<I")
        if name in keys:
            raise _Damaged(f"has the key {name!r} twice")
        keys[name] = header.value(kind)
    alignment = keys.get(_ALIGNMENT, gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _Damaged(f"has an alignment of {alignment}")
    places: dict[str, _Place] = {}
    for _ in range(count_of_tensors):
        name, place = _tensor(header, alignment)
        if name in places:
            raise _Damaged(f"has the tensor {name!r} twice")
        places[name] = place
    start, size = -(-header.at // alignment) * alignment, len(header.data)
    ends = (begin + prod(shape[1:]) * row_bytes(kind, shape[0]) for kind, shape, begin in places.values())
    end = start + max(ends, default=0)
    if end > size:
        raise _Damaged(f"ends at byte {size:,}, its tensors at {end:,}")
    return keys, {name: (kind, shape, start + begin) for name, (kind, shape, begin) in places.items()}


def _tensor(header: _Header, alignment: int) -> tuple[str, _Place]:
    """A tensor's name and place, its data counted from where all data begins."""
    (name,), dimensions = header.texts(1), header.number("<I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise _Damaged(f"{name} has {dimensions} dimensions")
    shape = [int(header.number("<Q")) for _ in range(dimensions)]
    number, offset = header.number("<I"), header.number("<Q")
    block, _ = gguf.GGML_QUANT_SIZES.get(number, (0, 0))
    if not block or prod(shape) == 0 or shape[0] % block or offset % alignment:
        raise _Damaged(f"{name} has type {number}, shape {shape} and offset {offset}")
    return name, (Type(number), shape, int(offset))


_NORM = "norm.weight"


class GgufWeights:
    """The weights that a file holds, as fp32 by the model's text-only names; `names`: (in the file, module)."""

    def __init__(self, file: GgufFile, names: Sequence[tuple[str, str]]) -> None:
        self._held = {module: file.tensors[name] for name, module in names}

    def weight(self, name: str) -> Tensor:
        """A tensor [O, I], or [D] without the 1 that a file's norms have in them."""
        tensor = self._held[name.removesuffix(".weight")]
        values = tensor.values(0, tensor.count)
        return values.view(-1) - 1.0 if name.endswith(_NORM) else values

    @property
    def embedding(self) -> GgufWords:
        return GgufWords(self._held["model.embed_tokens"])


@dataclass(frozen=True)
class GgufWords:
    """The embedding of a file, as `ship.streamed.Words`."""

    tensor: GgufTensor

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.count, self.tensor.columns

    def rows(self, which: Sequence[int]) -> Tensor:
        return torch.cat([self.row_range(row, row + 1) for row in which])

    def row_range(self, first: int, last: int) -> Tensor:
        return self.tensor.values(first, last)
