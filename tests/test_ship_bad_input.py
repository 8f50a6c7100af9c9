"""What `merge`, `export` and `eval` cannot use is named, exits with 2 and leaves nothing behind."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from ship_models import make_folder, make_run

from dozan.cli import main
from dozan.ship import gguf as writer
from dozan.ship.gguf import write_gguf
from dozan.ship.source import open_source


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    return make_run(root / "run", make_folder(root / "base"), rslora=True)


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What is said by a command that exits with 2."""
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    assert done.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("dozan: ") and "Traceback" not in said
    return said


@pytest.mark.parametrize("verb", ["merge", "export", "adapter"])
def test_a_full_disk_is_said_first(
    verb: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1234))
    out = tmp_path / "deep" / "out"
    options = {"merge": ["merge", run], "export": ["export", run, "--gguf", "q8_0,f32"],
               "adapter": ["export", run, "--adapter-gguf"]}[verb]  # fmt: skip
    assert "1,234" in refused(capsys, *options, "--out", out)
    assert list(tmp_path.iterdir()) == []


def test_all_files_of_an_export_must_fit(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, writer.METADATA_BYTES * 3 // 2))
    assert "and the disk has" in refused(capsys, "export", run, "--gguf", "q8_0,f32", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, written = writer.gguf.GGUFWriter.write_tensor_data, []

    def full(self: Any, data: Any) -> None:
        written.append(data)
        if len(written) == 20:
            raise OSError(errno.ENOSPC, "No space left on device", "m.gguf")
        right(self, data)

    monkeypatch.setattr(writer.gguf.GGUFWriter, "write_tensor_data", full)
    assert "no space left" in refused(capsys, "export", run, "--gguf", "f32", "--out", tmp_path / "out")
    assert len(written) == 20 and [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_an_unknown_type(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "export", run, "--gguf", "q8_0,nf4", "--out", tmp_path / "out")
    assert "['nf4']" in said and "iq4_xs" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_half_written_gguf(share: float, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = open_source(run)
    path = write_gguf(source.bundle, tmp_path / "half.gguf", "q8_0", pieces=source.pieces)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    said = refused(capsys, "eval", "--model", path, "--data", rows)
    assert "half.gguf: not a readable GGUF file (ends" in said and "export the model again" in said
