"""Tensors cut by rows over the files of several ranks, and what puts them together again at any number of ranks.

Rank r of n writes `KIND-0000r-of-0000n.safetensors` with its rows of each tensor; `KIND.safetensors.index.json` says
each tensor's shape and which rows lie in which file. One rank alone writes `KIND.safetensors`. Either is read by rows:
nobody reads more than is asked for, and a reader need not know who wrote. No pickle is read or written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dozan.errors import InputError
from dozan.model.adapter import compare_shapes
from dozan.model.files import inside, opened, read_json
from dozan.model.sealed import sha256, sync

Shape = tuple[int, ...]
Seals = dict[str, dict[str, Any]]
"""Of files that were written: bytes and sha256 by name, as a manifest has them."""


@dataclass(frozen=True)
class Cut:
    """How a tensor is cut. shape: of the whole; edges: rank r has rows edges[r] to edges[r + 1]. A tensor without rows,
    shape (), is the first rank's."""

    shape: Shape
    edges: Shape

    @staticmethod
    def of(shape: Shape, ranks: int) -> Cut:
        """As torch.chunk and FSDP2 cut: all ranks have as many rows, the last ones fewer or none."""
        if not shape:
            return Cut((), (0,) * (ranks + 1))
        rows = -(-shape[0] // ranks)
        return Cut(shape, tuple(min(rank * rows, shape[0]) for rank in range(ranks + 1)))

    def keeps(self, block: int) -> bool:
        """Whether no block of so many of the tensor's numbers is cut."""
        row = math.prod(self.shape[1:])
        return all(edge * row % block == 0 for edge in self.edges if edge != self.shape[0])

    def flat(self, block: int = 1) -> Cut:
        """Of one number for each `block` of the tensor's."""
        assert self.keeps(block), "a block that is cut"
        row = math.prod(self.shape[1:])
        return Cut((-(-self.shape[0] * row // block),), tuple(-(-edge * row // block) for edge in self.edges))

    def rows(self, rank: int) -> tuple[int, int]:
        """The rows of a rank, from and up to."""
        return self.edges[rank], self.edges[rank + 1]

    def part(self, rank: int) -> Shape:
        """The shape of a rank's rows; of a tensor without rows its own."""
        first, last = self.rows(rank)
        return (last - first, *self.shape[1:]) if self.shape else ()


@torch.no_grad()
def write_shards(folder: Path, kind: str, held: Mapping[str, Tensor], cuts: Mapping[str, Cut], rank: int) -> Seals:
    """Write the rows of a rank, on whatever device, durably; the first rank writes the index too. What was written.

    Each rank gives the same names, and its own rows by its tensors' `cuts`; memory on the host: once the rows.
    """
    ranks = _ranks(cuts)
    assert {name: cuts[name].part(rank) for name in held} == {name: tuple(t.shape) for name, t in held.items()}
    mine = {name: tensor.cpu().contiguous() for name, tensor in held.items() if rank == 0 or cuts[name].shape}
    path = folder / _file(kind, rank, ranks)
    save_file(mine, path, {"format": "pt"})
    sync(path)
    written = [path]
    if rank == 0:
        entries = {name: _entry(kind, cuts[name], str(tensor.dtype), ranks) for name, tensor in held.items()}
        written.append(folder / index_name(kind))
        text = json.dumps({"metadata": {"ranks": ranks}, "tensors": entries}, indent=1)
        written[-1].write_text(text, encoding="utf-8")
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for path in written}


def _ranks(cuts: Mapping[str, Cut]) -> int:
    (ranks,) = {len(cut.edges) - 1 for cut in cuts.values()}
    return ranks


def _file(kind: str, rank: int, ranks: int) -> str:
    return f"{kind}-{rank + 1:05d}-of-{ranks:05d}.safetensors"


def _entry(kind: str, cut: Cut, dtype: str, ranks: int) -> dict[str, Any]:
    parts = [[_file(kind, rank, ranks), *cut.rows(rank)] for rank in range(ranks) if cut.part(rank)[:1] != (0,)]
    return {"shape": list(cut.shape), "dtype": dtype.removeprefix("torch."), "rows": parts if cut.shape else parts[:1]}


def index_name(kind: str) -> str:
    """The file that says which rows of a kind lie where."""
    return f"{kind}.safetensors.index.json"


def holds(folder: Path, kind: str) -> bool:
    """Whether a folder has tensors of a kind, in one file or in shards."""
    return (folder / f"{kind}.safetensors").is_file() or (folder / index_name(kind)).is_file()


class Shards:
    """Tensors in open files. shapes: of the whole tensors, by name."""

    def __init__(self, path: Path, shapes: Mapping[str, Shape], parts: Mapping[str, list[_Part]]) -> None:
        self.path, self.shapes, self._parts = path, shapes, parts

    def read(self, name: str, first: int = 0, last: int | None = None) -> Tensor:
        """The rows of a tensor from `first` up to `last`, or all of it, on the CPU; only these are read."""
        shape = self.shapes[name]
        if not shape:
            return self._parts[name][0].file.get_tensor(name)
        last = shape[0] if last is None else last
        found = [
            part.file.get_slice(name)[max(first, part.first) - part.first : min(last, part.last) - part.first]
            for part in self._parts[name]
            if part.first < last and first < part.last
        ]
        if not found:  # no rows: the dtype is that of any
            return self._parts[name][0].file.get_slice(name)[:0]
        return found[0] if len(found) == 1 else torch.cat(found)

    def whole(self) -> dict[str, Tensor]:
        """All tensors, on the CPU."""
        return {name: self.read(name) for name in self.shapes}

    def own(self, cuts: Mapping[str, Cut], rank: int) -> dict[str, Tensor]:
        """A rank's rows of each tensor, on the CPU. Raises InputError that lists every tensor that is missing,
        unexpected or of another shape."""
        self.require({name: cut.shape for name, cut in cuts.items()})
        return {name: self.read(name, *cut.rows(rank)) for name, cut in cuts.items()}

    def require(self, wanted: Mapping[str, Shape]) -> None:
        """Raises InputError that lists every tensor that is missing, unexpected or of another shape."""
        problems = compare_shapes(wanted, self.shapes)
        if problems:
            raise InputError(f"{self.path}: does not fit this model:\n  " + "\n  ".join(problems))


@dataclass(frozen=True)
class _Part:
    """Rows of a tensor, from and up to, in an open file."""

    file: Any
    first: int
    last: int


@contextmanager
def opened_rows(folder: Path, kind: str) -> Iterator[Shards]:
    """The tensors of a kind in a folder, whoever wrote them. Raises InputError when files are missing or damaged, or do
    not hold what the index says."""
    single, index = folder / f"{kind}.safetensors", folder / index_name(kind)
    with ExitStack() as stack:
        if single.is_file():
            file = stack.enter_context(opened(single))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield Shards(single, shapes, {name: [_Part(file, 0, (*shape, 0)[0])] for name, shape in shapes.items()})
            return
        entries = _entries(index)
        names = dict.fromkeys(str(part[0]) for _, parts in entries.values() for part in parts)
        files = {name: stack.enter_context(opened(inside(folder, name))) for name in names}
        parts = {name: [_Part(files[file], first, last) for file, first, last in rows]
                 for name, (_, rows) in entries.items()}  # fmt: skip
        shapes = {name: shape for name, (shape, _) in entries.items()}
        wrong = [name for name, shape in shapes.items() if not _covers(name, shape, parts[name])]
        if wrong:
            raise InputError(f"{index}: the files do not hold what it says of {', '.join(wrong[:3])}; copy the folder "
                             "again, or take another checkpoint")  # fmt: skip
        yield Shards(index, shapes, parts)


_Entries = dict[str, tuple[Shape, list[tuple[str, int, int]]]]


def _entries(index: Path) -> _Entries:
    """Shape and parts (file, rows from and up to) of each tensor of an index."""
    given = read_json(index)
    try:
        return {
            str(name): (tuple(map(int, each["shape"])), [(str(f), int(a), int(b)) for f, a, b in each["rows"]])
            for name, each in given["tensors"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{index}: is not an index of shards ({error!r}); copy the folder again, or take another "
                         "checkpoint") from error  # fmt: skip


def _covers(name: str, shape: Shape, parts: Sequence[_Part]) -> bool:
    """Whether the parts are there, and are all rows of the tensor, each once and in order."""

    def is_there(part: _Part) -> bool:
        wanted = (part.last - part.first, *shape[1:]) if shape else ()
        return name in part.file.keys() and tuple(part.file.get_slice(name).get_shape()) == wanted  # noqa: SIM118

    edges = [(0, 0), *((part.first, part.last) for part in parts), ((*shape, 0)[0],) * 2]
    return bool(parts) and all(map(is_there, parts)) and all(a[1] == b[0] for a, b in pairwise(edges))


def whole(folder: Path, kind: str) -> dict[str, Tensor]:
    """The full tensors of a kind in a folder, on the CPU. Raises InputError as `opened_rows`."""
    with opened_rows(folder, kind) as rows:
        return rows.whole()
