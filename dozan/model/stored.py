"""The tensors of a Hugging Face folder: where each lies, by its text-only name, and how to read it piece by piece.

Nothing is mapped into memory: a piece of a tensor is read when it is asked for, so a checkpoint of any size is read in
a few megabytes beyond the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.model.files import inside, opened, read_header, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The dtypes in which a checkpoint may hold a weight."""

_BYTES = {"U8": torch.uint8}
_SPELLINGS = (
    ("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_head.", "lm_head."),
)  # fmt: skip
_VISION_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_PIECE_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint: its file and name there, its shape and dtype (as safetensors spells it), the byte of
    the file where it begins, and how many it takes."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    begin: int
    nbytes: int

    def raw(self) -> Iterator[Tensor]:
        """Its bytes from the first to the last, uint8 [at most 16 MiB] at a time. InputError when they cannot be
        read."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.begin)
                for done in range(0, self.nbytes, _PIECE_BYTES):
                    piece = torch.empty(min(_PIECE_BYTES, self.nbytes - done), dtype=torch.uint8)
                    if file.readinto(piece.numpy().data) != len(piece):
                        raise InputError(f"{self.file}: ends within {self.name}; download or copy it again")
                    yield piece
        except OSError as error:
            raise InputError(f"{self.file}: cannot be read ({error}); download or copy it again") from error

    def pieces(self) -> Iterator[Tensor]:
        """Its numbers from the first to the last, some millions at a time, in the dtype they are stored in."""
        dtype = (DTYPES | _BYTES)[self.dtype]
        return (piece.view(dtype) for piece in self.raw())

    def read(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Tensor:
        """The whole tensor on a device, in `dtype` or that of the file."""
        out = torch.empty(self.shape, dtype=dtype or (DTYPES | _BYTES)[self.dtype], device=device)
        flat, done = out.view(-1), 0
        for piece in self.pieces():
            flat[done : done + len(piece)] = piece.to(device)
            done += len(piece)
        return out

    def row_range(self, first: int, last: int) -> Tensor:
        """[last - first, …] in the dtype they are stored in: rows from `first` up to `last`."""
        size = self.nbytes // self.shape[0]
        shape = (last - first, *self.shape[1:])
        part = dataclasses.replace(self, shape=shape, begin=self.begin + first * size, nbytes=(last - first) * size)
        return part.read()

    def rows(self, which: Sequence[int]) -> Tensor:
        """[len(which), …] in the dtype they are stored in: some rows, read one by one."""
        return torch.cat([self.row_range(row, row + 1) for row in which])

    def same_values(self, other: Stored) -> bool:
        """Whether two tensors of one shape are equal, number by number."""
        if self.dtype != other.dtype:
            return torch.equal(self.read(torch.float32), other.read(torch.float32))
        return all(torch.equal(a, b) for a, b in zip(self.pieces(), other.pieces(), strict=True))


def text_name(stored: str) -> str | None:
    """The text-only name of a stored tensor, None for a part of the vision tower."""
    if stored.startswith(_VISION_PARTS):
        return None
    for prefix, plain in _SPELLINGS:
        if stored.startswith(prefix):
            return plain + stored.removeprefix(prefix)
    return stored


def weight_files(folder: Path) -> tuple[list[Path], Mapping[str, str] | None]:
    """The safetensors files of a checkpoint, and what its index says (None without an index)."""
    if (folder / SINGLE).is_file():
        return [inside(folder, SINGLE)], None
    if (folder / INDEX).is_file():
        listed = read_json(inside(folder, INDEX)).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise InputError(f"{folder / INDEX}: weight_map must name a file for each tensor")
        names = sorted(set(map(str, listed.values())))
        files = [inside(folder, name) for name in names]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: files that the index names are missing: {', '.join(missing)}; copy them here")
        return files, listed
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    hint = f" ({pickles[0]} is a pickle, which is never read: convert it to safetensors)" if pickles else ""
    raise InputError(f"{folder}: no {SINGLE} and no {INDEX}{hint}")


def inventory(folder: Path, vision: bool) -> tuple[dict[str, Stored], list[str]]:
    """Every text tensor of a checkpoint by its text-only name, and what is wrong with the folder."""
    files, index = weight_files(folder)
    found: dict[str, Stored] = {}
    problems: list[str] = []
    present: dict[str, str] = {}
    for path in files:
        for stored in tensors_of(path):
            text = text_name(stored.name)
            present[stored.name] = path.name
            if text is None and vision:
                continue
            if text in found:
                problems.append(f"twice: {stored.name} and {found[text].name} are the same tensor")
            found[text or stored.name] = stored
    if index is not None:
        absent = sorted(name for name, file in index.items() if present.get(name) != file)
        problems += [f"missing: {name} is not in {index[name]}, where the index says it is" for name in absent]
        problems += [f"unexpected: {name} is not in the index" for name in present if name not in index]
    return found, problems


def tensors_of(path: Path) -> list[Stored]:
    """What a safetensors file holds, in the order of its bytes; InputError when it is damaged."""
    with opened(path):
        start, header = read_header(path)
    header.pop("__metadata__", None)
    held = []
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        held.append(Stored(path, name, tuple(entry["shape"]), entry["dtype"], start + begin, end - begin))
    return sorted(held, key=lambda stored: stored.begin)
