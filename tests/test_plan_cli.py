"""`dozan plan`: what it prints, writes and answers, from sizes, folders and rows, on a machine without a GPU."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import dozan
from dozan.cli import main
from dozan.errors import InputError
from dozan.model.weights import read_config
from dozan.train.shapes import SIZES, shape_of

ROWS = Path(__file__).parents[1] / "examples" / "home_assistant_ar" / "commands.jsonl"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and what was written."""
    with pytest.raises(SystemExit) as left:
        main(["plan", *arguments])
    written = capsys.readouterr()
    return int(left.value.code or 0), written.out + written.err


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_twelve_billion_on_a_t4(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, html = tmp_path / "plan.json", tmp_path / "deep" / "plan.html"
    asked = ("--model", "12b", "--gpu", "t4", "--quantise", "nf4")
    code, text = run(capsys, *asked, "--json", str(out), "--html", str(html))
    found = json.loads(out.read_text(encoding="utf-8"))
    assert code == 0 and found["fits"] and found["total"] <= found["budget"] < found["card"]["bytes"]
    assert sum(found["parts"].values()) == found["allocated"]
    assert found["allocated"] + found["apart"] + found["context"] == found["total"]
    assert f"{found['total']:,}" in text and "frozen linears" in text and "longest row" in text
    table = [line for line in text.splitlines() if line.startswith((" ", "█"))]
    assert len(table) > 12
    assert max(map(len, table)) <= 80
    assert f"{found['total']:,}" in html.read_text(encoding="utf-8")


def test_what_does_not_fit_says_what_would(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    asked = ("--model", "27b", "--gpu", "16", "--quantise", "nf4")
    code, text = run(capsys, *asked)
    assert code == 2 and "changes the training: --adapt" in text and "--set adapter.rank=32" in text.replace("\n", " ")
    code, text = run(capsys, *asked, "--adapt", "--json", str(tmp_path / "plan.json"))
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert code == 0 and "to train so: --set 'train.recompute=" in text
    assert [step["name"] for step in found["protocol"] if step["taken"] and step["changes_training"]]
    assert run(capsys, *asked[:3], "8", "--adapt")[0] == 2


def test_rows_give_steps_and_hours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, text = run(capsys, str(ROWS), "--gpu", "t4", "--json", str(tmp_path / "plan.json"))
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert code == 0 and found["rows"]["rows"] + 40 >= len(ROWS.read_text(encoding="utf-8").splitlines())
    assert 0 < found["hours"] < 1 and found["tokens_per_second"] > 0
    assert f"{found['rows']['steps']:,} steps" in text.replace("\n", " ")


def test_a_folder_without_weights_is_enough(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for path in Path(dozan.EMBEDDED_BASE).iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path)
    assert dozan.plan(model=tmp_path, gpu="t4").fit.table == dozan.plan(gpu="t4").fit.table
    assert run(capsys, "--model", str(tmp_path), "--gpu", "t4")[0] == 0


def test_without_a_card_the_host_is_planned_for(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys)
    assert code == 0 and "this machine's memory" in text and "on a CPU" in text


def test_settings_change_the_plan() -> None:
    plain, wide = (dozan.plan(model="1b", gpu="h100", overrides=[f"adapter.rank={rank}"]) for rank in (8, 128))
    assert wide.fit.table.parts["adapters"] > 10 * plain.fit.table.parts["adapters"]
    fixed = dozan.plan(model="1b", gpu="h100", overrides=["train.recompute=layers"])
    assert fixed.fit.setup.recompute == 26


def test_sizes_are_the_published_ones() -> None:
    """Numbers of the linears as speed.md has them, and of a checkpoint that we hold."""
    numbers = {"270m": 100.3e6, "12b": 10.76e9}
    for size in SIZES:
        config = shape_of(size)
        assert config is not None and config.num_hidden_layers == len(config.layer_types)
        expected = numbers.get(size)
        if expected is not None:
            assert dozan.plan(model=size, gpu="h200").fit.setup.linear_weights == pytest.approx(expected, rel=2e-3)
    assert shape_of("3b") is None
    assert read_config(Path(dozan.EMBEDDED_BASE)) == dozan.plan(gpu="t4").fit.setup.config


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpu", "h10o"), "did you mean 'h100'"),
        (("--model", "3b"), "no such folder"),
        ((str(ROWS), "--model", "12b"), "without a tokenizer"),
        (("--quantise", "int4"), "none or nf4"),
        (("--set", "train.recompute=some"), "auto"),
    ],
)
def test_what_cannot_be_used(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str) -> None:
    code, text = run(capsys, *arguments)
    assert code == 2 and said in text and "Traceback" not in text


def test_gpus_are_at_least_one() -> None:
    with pytest.raises(InputError, match="at least 1"):
        dozan.plan(gpu="t4", gpus=0)
