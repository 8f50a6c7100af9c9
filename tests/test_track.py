"""Trackers hold what metrics.jsonl holds, once, through stops and failures; each is read back by its own reader."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from models import tiny_model, tree_rows

pytest.importorskip("wandb")
pytest.importorskip("tensorboard")
pytest.importorskip("trackio")

import numpy as np
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trackio import sqlite_storage

from dozan.errors import InputError
from dozan.html.charts import Line, line_chart
from dozan.model.adapter import attach
from dozan.recipe import TrackRecipe, parse_recipe
from dozan.track import tracked as tracked_module
from dozan.track.raster import png
from dozan.track.to_wandb import mode_of
from dozan.track.tracked import require_trackers, tracked
from dozan.track.wandb_files import DamagedFile, history, records
from dozan.train.loop import fit
from dozan.train.plan import make_plan
from dozan.train.prepare import Base

ALL = ("tensorboard", "trackio", "wandb")
STEPS = 7
CLOCKED = ("seconds", "tokens_per_second", "memory_bytes")
"""Figures that are others when a step is computed again."""
SECRET = "hf_" + "aB3dE5gH7jK9mN1p"
BASE = Base("tiny", "0" * 64, "functiongemma")
Figures = dict[tuple[str, int], float]


class Killed(BaseException):
    """As a kill: nothing of the run catches it."""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """trackio's folder, and no user's settings."""
    home = tmp_path / "trackio"
    for module in [module for name, module in sys.modules.items() if name.startswith("trackio.")]:
        for name, folder in (("TRACKIO_DIR", home), ("MEDIA_DIR", home / "media")):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, folder)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here may reach another machine; W&B's own process is asked over a local socket."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest: pytest.fail(f"{host} was looked up"))


def run(out: Path, names: tuple[str, ...], on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
    """Seven steps of the tiny model, held-out loss every third, a checkpoint every fourth."""
    recipe = parse_recipe({
        "adapter": {"rank": 2}, "track": {"to": list(names)},
        "train": {"max_steps": STEPS, "batch_size": 2, "eval_steps": 3, "save_steps": 4, "dtype": "float32",
                  "mirror": str(out.parent / SECRET)},
    })  # fmt: skip
    rows = tree_rows()
    plan = make_plan(recipe, rows, rows[:2])
    model = tiny_model()
    attach(model, recipe.adapter, 0)
    with tracked(on_event, recipe.track, out) as report:
        result = fit(model, plan, out, BASE, report, given={"track_id": "0a1b2c3d"})
        report({"event": "done", "steps": result.steps})


def told(out: Path) -> Figures:
    """Every figure of metrics.jsonl."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {(key, line["step"]): value for line in lines for key, value in line.items() if "/" in key}


def in_tensorboard(out: Path) -> list[tuple[str, int, float]]:
    events = EventAccumulator(str(out / "tensorboard"), {"scalars": 0}, purge_orphaned_data=False).Reload()
    return [(tag, one.step, one.value) for tag in events.Tags()["scalars"] for one in events.Scalars(tag)
            if tag != "epoch"]  # fmt: skip


def in_trackio(out: Path) -> list[tuple[str, int, float]]:
    logs = sqlite_storage.SQLiteStorage.get_logs("dozan", run_id="0a1b2c3d")
    return [(key, log["step"], value) for log in logs for key, value in log.items()
            if "/" in key and not key.startswith("report")]  # fmt: skip


def in_wandb(out: Path) -> list[tuple[str, int, float]]:
    rows = [row for path in sorted(out.glob("wandb/*run-*/*.wandb")) for row in history(path)]
    return [(key, row["step"], value) for row in rows for key, value in row.items()
            if "/" in key and not key.startswith("report")]  # fmt: skip


READERS = {"tensorboard": in_tensorboard, "trackio": in_trackio, "wandb": in_wandb}


def assert_same(name: str, out: Path) -> None:
    """The tracker has each figure of metrics.jsonl, under its name, once."""
    found, expected = READERS[name](out), told(out)
    assert sorted((key, step) for key, step, _ in found) == sorted(expected), name
    for key, step, value in found:
        if not key.endswith(CLOCKED):
            assert value == pytest.approx(expected[key, step], rel=1e-6), (name, key, step)


@pytest.fixture
def killed(tmp_path: Path) -> Iterator[tuple[Path, list[str]]]:
    """A run that ended after step 6, whose last checkpoint is that of step 4, and what all processes said of it."""
    out, said = tmp_path / "run", list[str]()

    def kill_after_six(event: dict[str, Any]) -> None:
        said.append(str(event.get("text")))
        if event["event"] == "eval" and event["step"] == 6:
            raise Killed

    with pytest.raises(Killed):
        run(out, ALL, kill_after_six)
    yield out, said


def test_a_killed_run_goes_on_in_every_tracker_without_gaps_or_repeats(killed: tuple[Path, list[str]]) -> None:
    out, said = killed
    events = next((out / "tensorboard").iterdir())
    os.truncate(events, events.stat().st_size * 3 // 5)  # steps before the checkpoint are lost too
    run(out, ALL, lambda event: said.append(str(event.get("text"))))
    for name in ALL:
        assert_same(name, out)
    assert sum("tracked by wandb: offline; to send it: wandb sync" in text for text in said) == 2
    assert [path.name.rpartition("-")[2] for path in out.glob("wandb/offline-run-*")] == ["0a1b2c3d"] * 2

    found = EventAccumulator(str(out / "tensorboard"), {"images": 0, "tensors": 0}).Reload()
    assert found.Tags()["images"] == ["report/loss", "report/learning_rate", "report/grad_norm"]
    assert len(found.Images("report/loss")) == 1
    page = next(out.glob("wandb/*/files/media/html/report/*.html")).read_text()
    assert page == (out / "training.html").read_text() and "Gradient norm" in page
    (last,) = [log for log in sqlite_storage.SQLiteStorage.get_logs("dozan", run_id="0a1b2c3d") if "report/page" in log]
    assert last["report/page"]["_type"] == "trackio.html" and last["report/loss"]["_type"] == "trackio.image"
    run(out, ALL)
    assert len(list(out.glob("wandb/offline-run-*"))) == 2, "a finished run is told nothing"

    config = sqlite_storage.SQLiteStorage.get_run_config("dozan", run_id="0a1b2c3d") or {}
    assert config["recipe"]["adapter"]["rank"] == 2 and config["base_sha256"] == "0" * 64 and config["rows_sha256"]
    file = next(out.glob("wandb/offline-run-*/*.wandb"))
    (kept,) = [record.run for record in records(file) if record.WhichOneof("record_type") == "run"]
    assert {"recipe", "base_sha256", "rows_sha256"} <= {update.key for update in kept.config.update}
    for path in (file for name in ("run", "trackio") for file in (out.parent / name).rglob("*") if file.is_file()):
        assert SECRET.encode() not in path.read_bytes(), path


def test_a_tracker_that_fails_is_named_once_and_the_run_goes_on(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", list[str]()
    out.mkdir()
    database = sqlite_storage.SQLiteStorage.get_project_db_path("dozan")

    def damage(event: dict[str, Any]) -> None:
        if event["event"] == "note":
            notes.append(event["text"])
        if event["event"] == "eval" and event["step"] == 3:
            database.parent.mkdir()
            database.write_bytes(b"no database" * 1000)

    run(out, ("trackio", "tensorboard"), damage)
    failing = [note for note in notes if " fails (" in note]
    assert len(failing) == 1 and failing[0].startswith("trackio fails (file is not a database)")
    assert_same("tensorboard", out)
    assert json.loads((out / "run.json").read_text())["state"] == "done" and ("train/loss", STEPS) in told(out)


def test_one_that_cannot_be_opened_is_named_too(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", list[str]()

    def in_the_way(event: dict[str, Any]) -> None:
        notes.append(str(event.get("text")))
        (out / "tensorboard").write_text("") if event["event"] == "plan" else None

    run(out, ("tensorboard",), in_the_way)
    assert sum(note.startswith("tensorboard fails") for note in notes) == 1 and len(told(out)) > STEPS


def test_the_package_of_a_tracker_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    require_trackers(ALL)
    monkeypatch.setattr(tracked_module, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(InputError, match=r"track\.to: wandb is not installed: pip install 'dozan\[wandb\]'"):
        require_trackers(ALL)


@pytest.mark.parametrize(
    ("content", "said"),
    [("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
     ("raise TypeError('Descriptors cannot be created directly.\\nmore')", "Descriptors cannot be created directly.")],
)  # fmt: skip
def test_a_package_that_cannot_be_imported_is_said_before_the_run(
    content: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb" or name == "dozan.track.to_wandb"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError) as caught:
        require_trackers(("wandb",))
    assert str(caught.value).startswith(f"track.to: wandb is installed, but cannot be imported ({said}): reinstall")


def test_a_wandb_file_that_is_damaged_is_named_and_the_run_goes_on(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", list[str]()
    folder = out / "wandb" / "offline-run-20260101_000000-0a1b2c3d"

    def damage(event: dict[str, Any]) -> None:
        notes.append(str(event.get("text")))
        if event["event"] == "plan":
            folder.mkdir(parents=True)
            (folder / "run-0a1b2c3d.wandb").write_bytes(b"\0" * 100)

    run(out, ("wandb",), damage)
    (failing,) = [note for note in notes if " fails (" in note]
    assert failing.startswith(f"wandb fails ({folder / 'run-0a1b2c3d.wandb'} is damaged; move it away)")
    assert json.loads((out / "run.json").read_text())["state"] == "done"
    assert (folder / "run-0a1b2c3d.wandb").read_bytes() == b"\0" * 100

    file, header = tmp_path / "one.wandb", b":W&B\xe1\xbe\0"
    for content in (b"", b":W&", header, header + b"\0\0\0\0\x09\0\x01\xff"):
        file.write_bytes(content)
        assert history(file) == [], "a process was killed while it wrote this"
    file.write_bytes(header + b"\0\0\0\0\x03\0\x01\xff\xff\xff")
    with pytest.raises(DamagedFile):
        history(file)


def test_a_training_page_that_cannot_be_written_leaves_the_run_done(tmp_path: Path) -> None:
    out, notes = tmp_path / "run", list[str]()

    def in_the_way(event: dict[str, Any]) -> None:
        notes.append(str(event.get("text")))
        (out / "training.html").mkdir() if event["event"] == "plan" else None

    run(out, ("tensorboard",), in_the_way)
    assert sum(note.startswith("the training page cannot be written (") for note in notes) == 1
    assert json.loads((out / "run.json").read_text())["state"] == "done" and not list(out.glob(".training*"))
    assert_same("tensorboard", out)


def test_what_a_recipe_may_say() -> None:
    assert parse_recipe({}).track == TrackRecipe(to=(), project=None, name=None)
    for value in (["mlflow"], ["wandb", "wandb"]):
        with pytest.raises(InputError, match="track.to"):
            parse_recipe({"track": {"to": value}})


@pytest.mark.parametrize(
    ("environment", "mode"),
    [({}, "offline"), ({"WANDB_API_KEY": "k"}, "online"), ({"WANDB_MODE": "Offline", "WANDB_API_KEY": "k"}, "offline"),
     ({"WANDB_MODE": "online"}, "online"), ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, "disabled")],
)  # fmt: skip
def test_nothing_is_sent_unless_the_user_is_online(environment: dict[str, str], mode: str) -> None:
    assert mode_of(environment) == mode


def test_a_chart_becomes_pixels() -> None:
    """A level line at 5 of 10, dots and a band around it."""
    level = Line("level", ((0, 5), (10, 5)), 1, dots=True, band=((0, 2, 8), (10, 2, 8)))
    drawn = np.asarray(Image.open(io.BytesIO(png(line_chart([level], "t")))).convert("RGB")).astype(int)
    assert drawn.shape == (330, 960, 3)

    def far(pixel: np.ndarray, colour: tuple[int, int, int]) -> int:
        return int(np.abs(pixel - colour).max())

    teal, paper, column = (0x0B, 0x6E, 0x6E), (0xFF, 0xFE, 0xFB), 500
    (row,) = {int(np.median(np.nonzero([far(pixel, teal) < 20 for pixel in drawn[:, column]])))}
    assert abs(row - (285 + 15) / 2) < 40, "5 of 10 is half way up"
    assert far(drawn[row + 30, column], paper) > 20 < far(drawn[row + 30, column], teal), "the band is tinted"
    assert far(drawn[row + 115, column], paper) < 4, "under the band is paper"
