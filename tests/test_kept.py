"""The rows and the adapter that a run keeps: each bit is looked at before they are used, and they are written anew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import conversation, write_rows
from torture.trials import damage

from dozan.errors import InputError
from dozan.model import sealed
from dozan.model.bundle import open_model
from dozan.rows import files, kept
from dozan.rows.readers import read_rows
from dozan.rows.shapes import chat
from dozan.ship.phone import shared_tools
from dozan.train.live import Event
from dozan.train.loop import train

SHORT = ["train.max_steps=2", "adapter.rank=2", "train.batch_size=3", "data.holdout=0.3"]
SAID = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
NAMES = ("train.jsonl", "heldout.jsonl", "tools.json")


class Made:
    """A finished run, and the command that made it."""

    def __init__(self, root: Path) -> None:
        self.base = make_folder(root / "base")
        numbered = ({"id": f"r{i}", **conversation(said=text)} for i, text in enumerate(SAID))
        self.rows = write_rows(root / "rows.jsonl", *numbered)
        self.run = root / "run"
        self.again(self.run)

    def again(self, out: Path) -> str:
        events: list[Event] = []
        train(self.rows, self.base, out, overrides=SHORT, on_event=events.append)
        return "\n".join(event["text"] for event in events if event["event"] == "note")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def run(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.run, tmp_path / "run"))


@pytest.mark.parametrize("name", NAMES)
def test_every_damage_of_the_rows_is_found(name: str, run: Path) -> None:
    path = run / "data" / name
    whole, read = path.read_bytes(), {"tools.json": shared_tools}.get(name, lambda run: read_rows(path))
    assert read(run)
    for i in range(20):
        for kind in ("flip", "cut"):
            damage(path, kind, len(whole) * i // 20)
            with pytest.raises(InputError, match=rf"{name} is damaged: it has .* dozan resume {run}"):
                read(run)
            path.write_bytes(whole)
    assert read(run)


@pytest.mark.parametrize("kind", ["flip", "cut", "removed"])
@pytest.mark.parametrize("name", NAMES)
def test_damaged_rows_are_written_anew(name: str, kind: str, run: Path, made: Made) -> None:
    path = run / "data" / name
    whole, record = path.read_bytes(), (run / "run.json").read_bytes()
    damage(path, kind, len(whole) // 2)
    said = made.again(run)
    assert f"{path} is " in said and "written anew" in said and "nothing to do" in said
    assert path.read_bytes() == whole and (run / "run.json").read_bytes() == record


def test_an_unfinished_run_writes_them_anew_too(run: Path, made: Made) -> None:
    record = json.loads((run / "run.json").read_text())
    record |= {"state": "running", "final": None}
    (run / "run.json").write_text(json.dumps({**record, "sha256": kept.digest(record)}))
    path = run / "data" / "train.jsonl"
    whole = path.read_bytes()
    damage(path, "flip", 9)
    assert f"{path} is damaged: it has other bytes than were written: written anew" in made.again(run)
    assert path.read_bytes() == whole
    assert json.loads((run / "run.json").read_text())["state"] == "done"


def test_the_record_itself_is_looked_at(run: Path) -> None:
    for offset in range(400, 4000, 450):
        content = (run / "run.json").read_bytes()
        damage(run / "run.json", "flip", offset)
        with pytest.raises(InputError, match=r"run\.json"):
            read_rows(run / "data" / "heldout.jsonl")
        with pytest.raises(InputError, match=r"run\.json|no such folder|not"):
            open_model(run)
        (run / "run.json").write_bytes(content)
    open_model(run)


def test_what_no_record_speaks_of_is_read(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "data" / "train.jsonl", run / "data" / "mine.jsonl")
    assert read_rows(run / "data" / "mine.jsonl")
    (tmp_path / "run.json").write_text('{"base": "of another program"}')
    (tmp_path / "rows").mkdir()
    shutil.copy(run / "data" / "tools.json", tmp_path / "rows")
    shutil.copy(run / "data" / "train.jsonl", tmp_path / "rows")
    assert read_rows(tmp_path / "rows" / "train.jsonl")
    record = json.loads((run / "run.json").read_text())
    record.pop("sealed")  # of a version that sealed nothing
    (run / "run.json").write_text(json.dumps({**record, "sha256": kept.digest(record)}))
    damage(run / "data" / "train.jsonl", "cut", 0)
    (run / "adapter" / "manifest.json").unlink()
    open_model(run)


def nothing(*args: object) -> None:
    """A guard that is gone."""


GUARDS: dict[str, tuple[object, str, Callable[[Path], object], str]] = {
    "rows": (files, "require_kept", lambda run: read_rows(run / "data" / "train.jsonl"), "data/train.jsonl"),
    "tools": (chat, "require_kept", lambda run: read_rows(run / "data" / "train.jsonl"), "data/tools.json"),
    "manifest": (sealed, "require_kept", open_model, "adapter/manifest.json"),
    "record": (kept, "digest", lambda run: read_rows(run / "data" / "train.jsonl"), "run.json"),
}


@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_is_missed(name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, guard, use, file = GUARDS[name]
    path = run / file
    text = path.read_text()
    changed = {"run.json": text.replace('"steps": 2', '"steps": 3'), "data/tools.json": text.replace("5", "6"),
               "data/train.jsonl": text.replace("r1", "q1")}.get(file)  # fmt: skip
    if changed is None:
        path.unlink()
    else:
        if changed == text:
            changed = text.replace("set", "get")
        assert changed != text
        path.write_text(changed)
    with pytest.raises(InputError):
        use(run)
    record = json.loads((run / "run.json").read_text()).get("sha256")
    monkeypatch.setattr(module, guard, nothing if guard != "digest" else lambda told: record)
    use(run)
