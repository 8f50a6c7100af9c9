"""The demo on a small random base and few rows: every stage, what a second call does again, what it refuses."""

from __future__ import annotations

import gzip
import json
from importlib import import_module
from pathlib import Path

import pytest
from ship_models import make_folder

import dozan
from dozan.cli import main
from dozan.errors import InputError
from dozan.judge.evaluate import read_scores
from dozan.rows.readers import read_rows

pytestmark = pytest.mark.usefixtures("short_answers")
demo = import_module("dozan.demo")
ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar"
TOOLS = {"open_wifi_settings", "set_alarm", "make_call", "get_weather"}
Captured = pytest.CaptureFixture[str]


def called(line: str) -> set[str]:
    """The tools that a row calls."""
    calls = json.loads(line)["messages"][-1].get("tool_calls", [])
    return {call["function"]["name"] for call in calls}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets of a random base, eight training and four test rows with four of the tools; where the demo writes."""
    assets = tmp_path / "assets"
    make_folder(assets / "base", max_position_embeddings=4096)
    (assets / "rows").mkdir()
    tools = [tool for tool in json.loads((ROWS / "tools.json").read_bytes()) if tool["function"]["name"] in TOOLS]
    (assets / "rows" / "tools.json").write_text(json.dumps(tools), encoding="utf-8")
    whole = {"train": gzip.decompress(demo.TRAIN.read_bytes()), "test": demo.TEST.read_bytes()}
    for name, count in (("train", 8), ("test", 4)):
        lines = [line for line in whole[name].decode().splitlines(keepends=True) if called(line) <= TOOLS]
        (assets / "rows" / f"{name}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
        monkeypatch.setattr(demo, name.upper(), assets / "rows" / f"{name}.jsonl")
    monkeypatch.setattr(demo, "ROWS", assets / "rows")
    monkeypatch.setattr(demo, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(dozan, "EMBEDDED_BASE", str(assets / "base"))
    return tmp_path / "demo"


def test_the_whole_way_and_again(small: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--out", str(small)])
    assert not stopped.value.code
    first = capsys.readouterr().out
    figures = {name: json.loads((small / f"{name}.json").read_text()) for name in ("base", "tuned", "gguf")}
    assert {found["n"] for found in figures.values()} == {4}
    assert (small / "merged" / "model.safetensors").is_file() and demo.gguf_file(small / "gguf").is_file()
    report = (small / "report.html").read_text(encoding="utf-8")
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")
    for word in ("failures", "tool name", "strict", "normalised", "copied", "computed", "absent", "report.html"):
        assert word in first
    sample = demo.pick_samples(read_scores(small / "tuned.json").rows)[0]
    assert f"\u2068{sample.query}\u2069" in first

    kept = {path: path.stat().st_mtime_ns for path in small.rglob("*.safetensors")}
    dozan.demo(small)
    again = capsys.readouterr().out
    assert again.count("done earlier") == 7 and "--fresh" in again and "failures" in again
    assert kept == {path: path.stat().st_mtime_ns for path in small.rglob("*.safetensors")}


def test_a_demo_of_other_rows_is_refused_until_fresh(small: Path) -> None:
    stages = demo.open_stages(small, fresh=False)
    stages.run("check", "Checking", lambda: None)
    assert set(demo.open_stages(small, fresh=False).seconds) == {"check"}
    with demo.TRAIN.open("a", encoding="utf-8") as file:
        file.write("\n")
    with pytest.raises(InputError, match="another base, rows or recipe.*--fresh"):
        demo.open_stages(small, fresh=False)
    assert demo.open_stages(small, fresh=True).seconds == {}


def test_a_stage_that_fails_is_done_again(small: Path) -> None:
    stages = demo.open_stages(small, fresh=False)

    def fail() -> None:
        raise InputError("no")

    with pytest.raises(InputError):
        stages.run("check", "Checking", fail)
    assert demo.open_stages(small, fresh=False).seconds == {}


def test_an_interrupted_merge_is_done_again(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = small / "merged"
    merged.mkdir(parents=True)
    (merged / "model.safetensors").write_text("half")
    monkeypatch.setattr(dozan, "merge", lambda run, out: out.mkdir(), raising=False)
    demo.merge(small / "run", merged)
    assert not any(merged.iterdir())


def test_near_duplicates_stop_the_demo(small: Path) -> None:
    rows = read_rows(demo.TRAIN)
    with pytest.raises(InputError, match="near-duplicates"):
        demo.check(rows, rows[:1])
