"""A run that trains every weight through the verbs: train, eval, run, merge, export, push."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import conversation, leave, write_rows

from dozan.errors import InputError
from dozan.ship.export import export
from dozan.ship.push import prepare as prepare_push

SHORT = ("--set", "train.max_steps=2", "--set", "train.batch_size=2", "--set", "train.learning_rate=5e-5")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
    numbered = [{"id": str(i), "dialect": "msa", **conversation(said=text)} for i, text in enumerate(said)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *numbered)


@pytest.fixture(scope="module")
def run(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    base = make_folder(root / "base")
    arguments = ["train", "--full", "--model", base, "--data", rows, "--out", root / "run",
                 "--set", "data.holdout=0.3", "--set", "score.rows=2", "--set", "score.max_new_tokens=4",
                 "--set", "data.tool_order=canonical", *SHORT]  # fmt: skip
    assert leave([str(each) for each in arguments]) == 0
    return root / "run"


def test_the_run_is_a_model(run: Path, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["state"] == "done" and record["recipe"]["train"]["weights"] == "full"
    assert not (run / "adapter").exists() and (run / "best").is_dir()
    arranged = json.loads((run / "model" / "dozan.json").read_text())
    assert arranged["tool_order"] == "canonical"
    scores = [tmp_path / f"{name}.json" for name in ("run", "model")]
    for model, path in zip((run, run / "model"), scores, strict=True):
        assert leave(["eval", "--model", str(model), "--data", str(rows), "--json", str(path), "--limit", "2",
                      "--max-new-tokens", "4"]) == 0  # fmt: skip
    found = [json.loads(path.read_text()) for path in scores]
    assert [row["prediction"] for row in found[0]["rows"]] == [row["prediction"] for row in found[1]["rows"]]
    again = ["train", "--model", str(run), "--data", str(rows), "--out", str(tmp_path / "next")]
    assert leave(again) == 2 and str(run / "model") in capsys.readouterr().err


def test_its_files_are_certified_and_pushed_from_the_merged_folder(run: Path, tmp_path: Path) -> None:
    export(run, "q8_0", tmp_path / "gguf")
    parity = json.loads((tmp_path / "gguf" / "parity.json").read_text())
    assert parity["base"] == "base" and parity["adapter_sha256"] is None and len(parity["weights_sha256"]) == 64
    with pytest.raises(InputError, match="dozan merge"):
        prepare_push(run, "some/one")
    assert leave(["merge", str(run), "--out", str(tmp_path / "merged")]) == 0
    parcel = prepare_push(tmp_path / "merged", "some/one", gguf=tmp_path / "gguf")
    names = {item.name for item in parcel.items}
    assert {"model.safetensors", "dozan.json", "dozan-manifest.json", "run-q8_0.gguf", "README.md"} <= names
