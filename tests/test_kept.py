"""The rows and the adapter that a run keeps: each bit is looked at before they are used, and they are written anew."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import conversation, leave, write_rows
from torture.trials import damage

from dozan.errors import InputError
from dozan.model import sealed
from dozan.model.bundle import open_model
from dozan.rows import files, kept
from dozan.rows.readers import read_rows
from dozan.rows.shapes import chat
from dozan.ship.phone import shared_tools
from dozan.train import kept_rows, loop
from dozan.train.disk import DiskFull
from dozan.train.live import Event
from dozan.train.loop import train
from dozan.train.run import locked, sealed_data

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


def test_files_of_the_user_are_neither_damage_nor_removed(run: Path, made: Made) -> None:
    record = (run / "run.json").read_bytes()
    shutil.rmtree(run / "checkpoints")
    (run / "adapter" / ".DS_Store").write_text("x")
    assert "damaged" not in made.again(run) and (run / "adapter" / ".DS_Store").is_file()
    assert (run / "run.json").read_bytes() == record and not (run / "checkpoints").exists()


def test_what_the_run_did_not_write_is_not_sealed(run: Path, made: Made) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "data" / "mine.txt").write_text("x")
    assert set(sealed_data(run)) == {f"data/{name}" for name in NAMES}
    record["sealed"]["data/mine.txt"] = kept.seal_of(b"of an earlier version")
    (run / "run.json").write_text(json.dumps({**record, "sha256": kept.digest(record)}))
    assert "written anew" not in made.again(run)
    damage(run / "data" / "train.jsonl", "flip", 9)
    assert "written anew" in made.again(run) and "written anew" not in made.again(run)
    assert "data/mine.txt" not in json.loads((run / "run.json").read_text())["sealed"]


def test_a_recipe_with_another_digit_is_not_gone_on_with(
    run: Path, made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "recipe.yaml"
    whole = path.read_text()
    assert "max_new_tokens: 256" in whole
    path.write_text(whole.replace("max_new_tokens: 256", "max_new_tokens: 356"))
    assert leave(["resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert "recipe.yaml is damaged" in said and "give the command of the run again, with --set" in said
    assert "recipe.yaml is damaged" in made.again(run) and path.read_text() == whole
    assert leave(["resume", str(run)]) == 0


def test_a_base_that_moved_is_followed(run: Path, made: Made, tmp_path: Path) -> None:
    away = made.base.rename(tmp_path / "away")
    try:
        for path in (run, run / "adapter"):
            with pytest.raises(InputError, match=rf"its base .* is not there.*--model FOLDER --out {run}"):
                open_model(path)
        events: list[Event] = []
        train(made.rows, away, run, overrides=SHORT, on_event=events.append)
        assert any(f"is {away} now" in event.get("text", "") for event in events)
        record = json.loads((run / "run.json").read_text())
        assert record["base"] == record["given"]["model"] == str(away) and record["state"] == "done"
        assert json.loads((run / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(away)
        for path in (run, run / "adapter", *(run / "checkpoints").iterdir()):
            assert open_model(path).base_folder == away
        events.clear()
        train(made.rows, away, run, overrides=SHORT, on_event=events.append)
        assert not any("now" in event.get("text", "") for event in events)
        damage(run / "adapter" / "manifest.json", "flip", 9)
        with pytest.raises(InputError, match="damaged"):
            open_model(run)
    finally:
        away.rename(made.base)


def test_a_model_s_place_is_kept_absolute(made: Made, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.base.parent)
    record = json.loads((run / "run.json").read_text())
    record |= {"state": "running", "final": None}
    (run / "run.json").write_text(json.dumps({**record, "sha256": kept.digest(record)}))
    train(made.rows, "base", run, overrides=SHORT, on_event=lambda event: None)
    assert json.loads((run / "run.json").read_text())["given"]["model"] == str(made.base)


def test_a_full_disk_while_rows_are_mended_is_gone_on_from(
    run: Path, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage(run / "data" / "train.jsonl", "flip", 9)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(kept_rows, "write_split", full)
        with pytest.raises(DiskFull):
            made.again(run)
    with locked(run), pytest.raises(InputError, match="in use"):
        made.again(run)


def test_a_run_killed_as_it_goes_on_keeps_its_seals(run: Path, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    record = json.loads((run / "run.json").read_text())
    record |= {"state": "running", "final": None}
    (run / "run.json").write_text(json.dumps({**record, "sha256": kept.digest(record)}))

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "keep_rows", killed)
        made.again(run)
    sealed = json.loads((run / "run.json").read_text())["sealed"]
    assert {name for name in sealed if name.startswith("data/")} == {f"data/{name}" for name in NAMES}
