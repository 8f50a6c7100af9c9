"""Tensors that several ranks have written: read by any number of them, sealed by the first, and checked before use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import on_ranks, results
from safetensors.torch import load_file, save_file
from torch import Tensor

from dozan.errors import InputError
from dozan.model import shards
from dozan.model.sealed import MANIFEST, verify
from dozan.model.shards import Cut, Seals, holds, index_name, opened_rows, whole, write_shards
from dozan.train import checkpoint
from dozan.train.checkpoint import checkpoints, newest_valid, save_checkpoint
from dozan.world import World

KIND = "weights"
SHAPES: dict[str, tuple[int, ...]] = {"words": (23, 3), "norm": (8,), "key": (4, 2), "one": (1, 5), "step": ()}


def tensors() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {name: torch.randn(shape, generator=draw) for name, shape in SHAPES.items()}


def cuts(ranks: int) -> dict[str, Cut]:
    return {name: Cut.of(shape, ranks) for name, shape in SHAPES.items()}


def own(ranks: int, rank: int) -> dict[str, Tensor]:
    """A rank's rows, as views into the whole."""
    return {name: tensor if not tensor.dim() else tensor[slice(*cuts(ranks)[name].rows(rank))]
            for name, tensor in tensors().items()}  # fmt: skip


def written(folder: Path, ranks: int) -> Seals:
    folder.mkdir(exist_ok=True)
    found: Seals = {}
    for rank in reversed(range(ranks)):
        found |= write_shards(folder, KIND, own(ranks, rank), cuts(ranks), rank)
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_any_number_reads_what_any_number_wrote(ranks: int, tmp_path: Path) -> None:
    seals = written(tmp_path, ranks)
    expected = tensors()
    for name, tensor in whole(tmp_path, KIND).items():
        assert torch.equal(tensor, expected.pop(name)), name
    assert not expected and holds(tmp_path, KIND) and not holds(tmp_path, "optimizer")
    assert set(seals) == {path.name for path in tmp_path.iterdir()} and len(seals) == ranks + 1
    for readers in (1, 2, 3, 5, 40):
        for rank in range(readers):
            with opened_rows(tmp_path, KIND) as held:
                found = held.own(cuts(readers), rank)
            assert found.keys() == SHAPES.keys()
            for name, tensor in own(readers, rank).items():
                assert found[name].shape == tensor.shape and torch.equal(found[name], tensor), (name, readers, rank)


def test_rows_are_cut_as_torch_cuts_them() -> None:
    for rows in range(1, 30):
        for ranks in (1, 2, 3, 7, 8):
            parts = list(torch.chunk(torch.arange(rows), ranks))
            sizes = [len(part) for part in parts] + [0] * (ranks - len(parts))
            cut = Cut.of((rows, 2), ranks)
            assert [b - a for a, b in map(cut.rows, range(ranks))] == sizes
    assert Cut.of((10, 6), 2).flat() == Cut((60,), (0, 30, 60))
    assert Cut.of((10, 6), 2).flat(15) == Cut((4,), (0, 2, 4)) and Cut.of((7, 1), 1).flat(4) == Cut((2,), (0, 2))
    assert not Cut.of((10, 6), 2).keeps(20)


def test_a_reader_takes_its_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of the files is the rows of one rank, counted in numbers."""
    written(tmp_path, 3)
    read: list[int] = []

    class Counted:
        def __init__(self, part: Any) -> None:
            self.part = part

        def get_shape(self) -> Any:
            return self.part.get_shape()

        def __getitem__(self, rows: slice) -> Tensor:
            found: Tensor = self.part[rows]
            read.append(found.numel())
            return found

    class File:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_slice(self, name: str) -> Counted:
            return Counted(self.file.get_slice(name))

    real = shards._Part
    monkeypatch.setattr(shards, "_Part", lambda file, first, last: real(File(file), first, last))
    with opened_rows(tmp_path, KIND) as held:
        held.own(cuts(2), 1)
    assert sum(read) == sum(tensor.numel() for tensor in own(2, 1).values() if tensor.dim())


def test_one_file_is_read_by_rows_too(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / f"{KIND}.safetensors")
    with opened_rows(tmp_path, KIND) as held:
        for name, tensor in held.own(cuts(3), 1).items():
            assert torch.equal(tensor, own(3, 1)[name])


def change(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def act(folder: Path) -> None:
        index = json.loads((folder / index_name(KIND)).read_text())
        edit(index["tensors"])
        (folder / index_name(KIND)).write_text(json.dumps(index))

    return act


def rewritten(folder: Path) -> None:
    path = folder / f"{KIND}-00002-of-00003.safetensors"
    save_file({**load_file(path), "words": torch.zeros(7, 3)}, path)


@pytest.mark.parametrize(("damage", "said"), [
    (lambda folder: (folder / f"{KIND}-00002-of-00003.safetensors").unlink(), "00002-of-00003.safetensors: damaged"),
    (lambda folder: (folder / index_name(KIND)).unlink(), "no such file"),
    (lambda folder: (folder / index_name(KIND)).write_text("{"), "broken JSON"),
    (lambda folder: (folder / index_name(KIND)).write_text("{}"), "is not an index of shards"),
    (change(lambda found: found["words"]["rows"].pop()), "do not hold what it says of words"),
    (change(lambda found: found["words"]["rows"].pop(0)), "do not hold what it says of words"),
    (change(lambda found: found["words"]["rows"].reverse()), "do not hold what it says of words"),
    (change(lambda found: found["words"].update(shape=[23, 4])), "do not hold what it says of words"),
    (change(lambda found: found["words"].update(shape=[24, 3])), "do not hold what it says of words"),
    (change(lambda found: found["norm"].update(rows=[])), "do not hold what it says of norm"),
    (change(lambda found: found["key"]["rows"][0].__setitem__(0, "../x.safetensors")), "leaves the folder"),
    (change(lambda found: found["key"]["rows"][0].pop()), "is not an index of shards"),
    (rewritten, "do not hold what it says of words"),
    (change(lambda found: found.pop("norm")), "missing: norm"),
    (change(lambda found: found.update(other=found["norm"])), "do not hold what it says of other"),
])  # fmt: skip
def test_what_does_not_fit_is_named(damage: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    written(tmp_path, 3)
    damage(tmp_path)
    with pytest.raises(InputError, match=said), opened_rows(tmp_path, KIND) as held:
        held.own(cuts(2), 0)


def fill(world: World, extra: str = "") -> Callable[[Path], Seals]:
    """A rank's part of a checkpoint; the first writes a file of its own too, which it does not hash."""
    def write(folder: Path) -> Seals:
        seals = write_shards(folder, KIND, own(world.size, world.rank), cuts(world.size), world.rank)
        if world.first:
            (folder / "state.json").write_text(f"{{}}{extra}")
        return seals

    return write


def test_all_ranks_write_and_the_first_seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hashes what it wrote alone; nobody goes on before the folder has its name; the oldest goes."""
    real = checkpoint.seal.__globals__["sha256"]

    def work(world: World) -> Any:
        hashed: list[str] = []

        def noted(path: Path) -> str:
            hashed.append(path.name)
            return str(real(path))

        checkpoint.seal.__globals__["sha256"] = noted
        there = [save_checkpoint(tmp_path, step, fill(world), 2, world=world).is_dir() for step in (1, 2, 3)]
        return hashed, there

    given = results(3, work)
    assert [each[0] for each in given] == [["state.json"] * 3, [], []] and all(all(each[1]) for each in given)
    assert [step for step, _ in checkpoints(tmp_path)] == [3, 2]
    found = newest_valid(tmp_path)
    assert found.folder is not None and not found.skipped and found.step == 3
    manifest = json.loads((found.folder / MANIFEST).read_text())
    assert set(manifest) == {path.name for path in found.folder.iterdir()} - {MANIFEST} and len(manifest) == 5
    with (found.folder / f"{KIND}-00003-of-00003.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    assert verify(found.folder) and newest_valid(tmp_path).step == 2


@pytest.mark.parametrize("failing", [0, 2])
def test_a_rank_without_room_ends_all_and_what_was_there_is_intact(failing: int, tmp_path: Path) -> None:
    def work(world: World) -> None:
        save_checkpoint(tmp_path, 1, fill(world), 2, world=world)

        def write(folder: Path) -> Seals:
            if world.rank == failing:
                raise OSError(28, "No space left on device")
            return fill(world)(folder)

        save_checkpoint(tmp_path, 2, write, 2, world=world)

    ended = on_ranks(3, work)
    assert [each.status for each in ended] == [75] * 3 and "step-000002: could not be written" in ended[failing].result
    found = newest_valid(tmp_path)
    assert found.step == 1 and not found.skipped
    results(2, lambda world: str(save_checkpoint(tmp_path, 2, fill(world), 2, world=world)))
    assert newest_valid(tmp_path).step == 2 and not list(tmp_path.glob(".staging-*"))


def test_a_killed_rank_leaves_no_checkpoint(tmp_path: Path) -> None:
    def work(world: World) -> None:
        def write(folder: Path) -> Seals:
            if world.rank == 1:
                os.kill(os.getpid(), 9)
            return fill(world)(folder)

        save_checkpoint(tmp_path, 1, write, 2, world=world)

    assert on_ranks(2, work)[1].status == -9
    assert newest_valid(tmp_path).folder is None


def test_ranks_that_share_no_folder_are_named(tmp_path: Path) -> None:
    ended = on_ranks(2, lambda world: str(save_checkpoint(tmp_path / str(world.rank), 1, fill(world), 2, world=world)))
    assert [each.status for each in ended] == [2, 2]
    assert "1: rank 1 does not see what rank 0 writes there" in ended[1].result
