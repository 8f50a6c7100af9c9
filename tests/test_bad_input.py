"""What cannot be used is refused through the command line: named, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ship_models import make_folder

from dozan.cli import main

TRIGGER = "You are a model that can do function calling with the following functions"
TOOL = {
    "type": "function",
    "function": {
        "name": "set_timer",
        "description": "Timer",
        "parameters": {"type": "OBJECT", "properties": {"minutes": {"type": "INTEGER", "description": ""}}},
    },
}
Refused = Callable[..., str]


def conversation(call: str = "set_timer", said: str = "مؤقت 5 دقائق") -> dict[str, Any]:
    """A row that asks for one call."""
    made = {"type": "function", "function": {"name": call, "arguments": {"minutes": 5}}}
    return {
        "tools": [TOOL],
        "messages": [
            {"role": "developer", "content": TRIGGER},
            {"role": "user", "content": said},
            {"role": "assistant", "tool_calls": [made]},
        ],
    }


def write_rows(path: Path, *rows: Any) -> Path:
    """A JSONL file; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one step."""
    folder = tmp_path_factory.mktemp("run")
    rows = write_rows(folder / "rows.jsonl", conversation(), conversation(said="مؤقت 5 دقائق للشاي"))
    settings = ["--set", "train.max_steps=1", "--set", "data.holdout=0"]
    leave(["train", "--model", str(base), "--data", str(rows), "--out", str(folder / "run"), *settings])
    return folder / "run"


def leave(arguments: list[str]) -> int:
    """The exit code of a command in this process."""
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    def check(*arguments: object) -> str:
        assert leave([str(argument) for argument in arguments]) == 2
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err + printed.out
        return printed.err

    return check


def train(base: Path, rows: Path, out: Path, *more: str) -> list[object]:
    return ["train", "--model", base, "--data", rows, "--out", out, "--set", "data.holdout=0", *more]


def test_a_missing_file(refused: Refused, base: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused(*train(base, tmp_path / "row.jsonl", tmp_path / "out"))
    assert "row.jsonl: no such file" in message and "has rows.jsonl" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_option_and_a_missing_model(refused: Refused, tmp_path: Path) -> None:
    assert "--data" in refused("train", "--out", tmp_path / "out")
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    assert "no/such/model" in refused(*train(Path("no/such/model"), rows, tmp_path / "out"))
    assert "no-such.gguf" in refused("eval", "--model", tmp_path / "no-such.gguf", "--data", rows)
    assert not (tmp_path / "out").exists()


def test_broken_json_names_line_and_column(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation(), '{"messages": [}', conversation(), '{"a" 1}')
    message = refused(*train(base, rows, tmp_path / "out"))
    assert "rows.jsonl:2:15" in message and "rows.jsonl:4:6" in message
    assert not (tmp_path / "out").exists()


def test_a_call_to_an_unknown_tool(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation(), conversation(call="set_timre"))
    message = refused(*train(base, rows, tmp_path / "out"))
    assert "rows.jsonl:2" in message and "set_timre" in message and "set_timer" in message
    assert "rows.jsonl:1" not in message
    assert not (tmp_path / "out").exists()


def test_no_supervised_token(refused: Refused, base: Path, tmp_path: Path) -> None:
    question = conversation()
    del question["messages"][-1]
    rows = write_rows(tmp_path / "rows.jsonl", conversation(), question)
    message = refused(*train(base, rows, tmp_path / "out"))
    assert "rows.jsonl:2" in message and "no assistant message" in message
    assert not (tmp_path / "out").exists()


def test_a_row_longer_than_the_context(refused: Refused, base: Path, tmp_path: Path) -> None:
    long = conversation(said="طويل جدا " * 2000)
    rows = write_rows(tmp_path / "rows.jsonl", conversation(), long)
    message = refused(*train(base, rows, tmp_path / "out"))
    length = next(int(word) for word in message.split() if word.isdigit() and int(word) > 2048)
    assert "rows.jsonl:2" in message and f"{length} tokens" in message and "2048" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrong", [{"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
                                   {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]}])  # fmt: skip
def test_a_checkpoint_of_another_architecture(
    refused: Refused, base: Path, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    other = shutil.copytree(base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, **wrong}))
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused(*train(other, rows, tmp_path / "out"))
    assert str(other) in message and (wrong["model_type"] in message or wrong["architectures"][0] in message)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_tensors_missing(refused: Refused, base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(base, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    del weights["model.layers.3.mlp.up_proj.weight"], weights["model.norm.weight"]
    save_file(weights, other / "model.safetensors")
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused("eval", "--model", other, "--data", rows)
    assert "model.layers.3.mlp.up_proj.weight" in message and "model.norm.weight" in message


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000))


@pytest.mark.usefixtures("full_disk")
def test_a_disk_without_space_for_a_run(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused(*train(base, rows, tmp_path / "out", "--set", "train.max_steps=1"))
    assert str(tmp_path / "out") in message and "free" in message
    assert written(tmp_path / "out") == []


def test_a_disk_without_space_for_exports(
    refused: Refused, run: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("full_disk")
    assert "free" in refused("export", run, "--gguf", "f16", "--out", tmp_path / "gguf")
    assert "free" in refused("merge", run, "--out", tmp_path / "merged")
    assert written(tmp_path / "gguf") == [] and written(tmp_path / "merged") == []


def written(folder: Path) -> list[str]:
    """Every file in a folder; a lock is no output."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_an_unknown_recipe_key(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused(*train(base, rows, tmp_path / "out", "--set", "adapter.rnak=8"))
    assert "adapter.rnak" in message and "rank" in message and "did you mean" in message
    assert "functiongemma-ar" in refused("train", "--recipe", "functiongema-ar", "--print-config")
    assert not (tmp_path / "out").exists()


def test_an_unknown_gguf_type(refused: Refused, run: Path, tmp_path: Path) -> None:
    message = refused("export", run, "--gguf", "f16,q9_9", "--out", tmp_path / "gguf")
    assert "q9_9" in message and "q8_0" in message
    assert not (tmp_path / "gguf").exists()


def test_a_damaged_gguf(refused: Refused, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(100))
    assert "model.gguf" in refused("eval", "--model", tmp_path / "model.gguf", "--data", rows)
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 not a model")
    assert "model.gguf" in refused("eval", "--model", tmp_path / "model.gguf", "--data", rows)


def test_a_folder_with_something_else(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("mine")
    assert "out" in refused(*train(base, rows, tmp_path / "out", "--set", "train.max_steps=1"))
    assert "out" in refused("demo", "--out", tmp_path / "out", "--fresh")
    assert written(tmp_path / "out") == ["thesis.docx"]


def test_broken_tools(refused: Refused, base: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text('[{"type": "function",\n "function" {}}]')
    assert "tools.json:2:13" in refused("run", "--model", base, "--tools", tmp_path / "tools.json", "مرحبا")
    (tmp_path / "tools.json").write_bytes("[\"أهلا\"]".encode("cp1256"))
    assert "UTF-8" in refused("run", "--model", base, "--tools", tmp_path / "tools.json", "مرحبا")


def test_what_python_cannot_read(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation(), f'{{"id": {"9" * 5000}}}', "[" * 200_000)
    message = refused(*train(base, rows, tmp_path / "out"))
    assert "rows.jsonl:2:1" in message and "rows.jsonl:3:1" in message
    arabic = "أهلا".encode("cp1256")
    (tmp_path / "tools.json").write_bytes(arabic)
    rows = write_rows(tmp_path / "rows.jsonl", {**conversation(), "tools": "tools.json"})
    assert "tools.json: not JSON in UTF-8" in refused(*train(base, rows, tmp_path / "out"))
    (tmp_path / "recipe.yaml").write_bytes(b"name: " + arabic)
    recipe = tmp_path / "recipe.yaml"
    assert "recipe.yaml: not UTF-8" in refused(*train(base, rows, tmp_path / "out", "--recipe", str(recipe)))
    assert "a folder; name a JSONL file" in refused(*train(base, tmp_path, tmp_path / "out"))


def test_one_pattern_cannot_be_held_out(refused: Refused, base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation())
    message = refused("train", "--model", base, "--data", rows, "--out", tmp_path / "out")
    assert "--eval-data" in message and "--set data.holdout=0" in message


def test_a_folder_that_is_a_file(refused: Refused, run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    assert "taken" in refused("export", run, "--out", tmp_path / "taken")
