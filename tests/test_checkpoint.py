"""Checkpoints: a kill at any moment loses nothing, and a damaged byte is found."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dozan.errors import InputError
from dozan.train import checkpoint
from dozan.train.checkpoint import checkpoints, newest_valid, save_checkpoint, verify, write_text


def fill(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "state.json").write_text('{"step": 1}')


def saved(root: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        save_checkpoint(root, step, fill, keep)


def test_newest_wins_and_old_ones_go(tmp_path: Path) -> None:
    saved(tmp_path, 5, 10, 1_000_000, keep=2)
    assert [step for step, _ in checkpoints(tmp_path)] == [1_000_000, 10]
    found = newest_valid(tmp_path)
    assert (found.step, found.skipped) == (1_000_000, ()) and found.folder == tmp_path / "step-1000000"


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert newest_valid(tmp_path / "checkpoints").folder is None


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_any_flipped_byte_is_found_and_the_one_before_taken(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    path = tmp_path / "step-000002" / name
    original = path.read_bytes()
    blank = {i for i, byte in enumerate(original) if name == "manifest.json" and chr(byte).isspace()}
    for offset in sorted(set(range(0, len(original), max(1, len(original) // 20))) - blank):
        path.write_bytes(original[:offset] + bytes([original[offset] ^ 1]) + original[offset + 1 :])
        found = newest_valid(tmp_path)
        assert found.step == 1 and "step-000002 is damaged" in found.skipped[0], offset
    path.write_bytes(original)
    assert newest_valid(tmp_path).step == 2


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "manifest.json"])
def test_missing_truncated_or_added_files_are_found(name: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    path = tmp_path / "step-000001" / name
    path.write_bytes(path.read_bytes()[:-1])
    assert verify(path.parent)
    path.unlink()
    assert f"{name} is missing" in verify(path.parent)
    saved(tmp_path, 2)
    (tmp_path / "step-000002" / "extra").touch()
    assert verify(tmp_path / "step-000002") == ["extra is not in the manifest"]


def die(*arguments: Any, **options: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["mkdir", "write", "seal", "rename"])
def test_killed_while_saving_keeps_the_previous_one(moment: str, tmp_path: Path) -> None:
    saved(tmp_path, 1)
    child = os.fork()
    if child == 0:
        try:
            places = {"mkdir": (Path, "mkdir"), "write": (Path, "write_bytes"), "seal": (checkpoint, "seal")}
            setattr(*places.get(moment, (checkpoint.os, "rename")), die)
            save_checkpoint(tmp_path, 2, fill, 9)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert newest_valid(tmp_path).step == 1
    saved(tmp_path, 2)
    assert newest_valid(tmp_path).step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_a_full_disk_leaves_the_previous_one_and_no_debris(tmp_path: Path) -> None:
    saved(tmp_path, 1)

    def full(folder: Path) -> None:
        fill(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="step-000002.*No space left.*intact"):
        save_checkpoint(tmp_path, 2, full, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"] and newest_valid(tmp_path).step == 1


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    saved(tmp_path, 1, 2)
    (tmp_path / "step-000002" / "state.json").write_text("")
    saved(tmp_path, 2)
    assert newest_valid(tmp_path).step == 2


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "run.json", "old")
    write_text(tmp_path / "run.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"] and (tmp_path / "run.json").read_text() == "new"
