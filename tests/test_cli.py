"""The command line: what its help says, and each verb on a small random checkpoint, from rows to a GGUF."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from ship_models import make_folder
from test_bad_input import TOOL, conversation, leave, write_rows

import dozan
from dozan import cli, terminal
from dozan.chat import FUNCTIONGEMMA, GEMMA3, ChatFormat, Tokenizer
from dozan.errors import Interrupted
from dozan.recipe import load_recipe
from dozan.ship.parity import ExportFailed
from dozan.ship.served import Served

ROOT = Path(__file__).parents[1]
VERBS = ("demo", "plan", "train", "eval", "compare", "forget", "merge", "export", "run", "serve", "grammar",
         "data", "resume", "runs", "clean", "doctor", "init")  # fmt: skip
SHORT = ("--set", "train.max_steps=2", "--set", "adapter.rank=4", "--set", "train.batch_size=2")
Captured = pytest.CaptureFixture[str]


def done(*arguments: object) -> None:
    """A command that ends well."""
    assert leave([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
    numbered = [{"id": str(i), "dialect": "msa", **conversation(said=text)} for i, text in enumerate(said)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *numbered)


@pytest.fixture(scope="module")
def run(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    done("train", "--model", base, "--data", rows, "--out", out, "--set", "data.holdout=0.3", *SHORT)
    return out


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_fits_a_terminal(verb: str | None, capsys: Captured) -> None:
    done(*([verb] if verb else []), "--help")
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= 80
    assert page.startswith(f"Usage: dozan {verb or '[OPTIONS]'}")
    assert verb or all(f"  {name} " in page for name in VERBS)


def test_version_and_module(capsys: Captured) -> None:
    done("--version")
    assert capsys.readouterr().out.strip() == "0.1.0"
    ran = subprocess.run([sys.executable, "-m", "dozan", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout.strip()) == (0, "0.1.0")


def test_a_mistyped_verb_is_bad_input(capsys: Captured) -> None:
    assert leave(["trian"]) == 2
    assert "train" in capsys.readouterr().err


def test_print_config_is_the_recipe_with_its_settings(capsys: Captured, tmp_path: Path) -> None:
    done("train", "--recipe", "functiongemma-ar", "--set", "adapter.dora=true", "--print-config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["adapter"]["dora"] is True
    (tmp_path / "own.yaml").write_text(printed, encoding="utf-8")
    assert load_recipe(str(tmp_path / "own.yaml")) == load_recipe("functiongemma-ar", ["adapter.dora=true"])


def test_without_a_recipe_the_model_decides(capsys: Captured, base: Path) -> None:
    done("train", "--print-config")
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "embedded"
    done("train", "--model", base, "--print-config")
    assert yaml.safe_load(capsys.readouterr().out)["name"] == "functiongemma-ar"


def test_the_example_recipe_is_one() -> None:
    recipe = load_recipe(str(ROOT / "examples" / "own_recipe.yaml"))
    assert recipe.adapter.dora and recipe.adapter.rslora


def test_train_leaves_a_run_and_does_nothing_the_second_time(run: Path, base: Path, rows: Path) -> None:
    kept = {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert {Path("run.json"), Path("recipe.yaml"), Path("metrics.jsonl"), Path("data/heldout.jsonl")} <= set(kept)
    done("train", "--model", base, "--dataset", rows, "--out", run, "--set", "data.holdout=0.3", *SHORT)
    assert kept == {path.relative_to(run): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_eval_writes_every_figure(run: Path, rows: Path, tmp_path: Path, capsys: Captured) -> None:
    capsys.readouterr()
    done("eval", "--model", run, "--data", rows, "--json", tmp_path / "scores.json", "--max-new-tokens", 8)
    found = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert found["n"] == 6 and 0 <= found["strict"] <= found["normalised"] <= 1
    assert [row["id"] for row in found["rows"]] == [str(i) for i in range(6)]
    table = capsys.readouterr().out
    assert "6 rows" in table and "failures" in table and "copied" in table


def test_merge_export_and_the_gguf_answers_as_the_run(run: Path, rows: Path, tmp_path: Path, capsys: Captured) -> None:
    done("merge", run, "--out", tmp_path / "merged")
    done("export", run, "--gguf", "f32", "--out", tmp_path / "gguf")
    gguf = next((tmp_path / "gguf").glob("*.gguf"))
    assert str(gguf) in capsys.readouterr().out
    answers = []
    for i, model in enumerate((run, gguf)):
        json_file = tmp_path / f"{i}.json"
        done("eval", "--model", model, "--data", rows, "--json", json_file, "--limit", 3, "--max-new-tokens", 6)
        found = json.loads(json_file.read_text(encoding="utf-8"))
        assert found["n"] == 3
        answers.append([row["prediction"] for row in found["rows"]])
    assert answers[0] == answers[1]


def test_run_answers_one_prompt(run: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    capsys.readouterr()
    done("run", "--model", run, "--tools", tmp_path / "tools.json", "--max-new-tokens", 4, "مؤقت 5 دقائق")
    assert capsys.readouterr().out.strip()


def test_run_reads_a_conversation_from_its_input(run: Path, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    command = [sys.executable, "-m", "dozan", "run", "--model", str(run), "--tools", str(tmp_path / "tools.json")]
    command += ["--max-new-tokens", "4"]
    ran = subprocess.run(command, input="مرحبا\nمؤقت 5\n", capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.strip().splitlines()) >= 2


def test_a_chat_answers_the_latest_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "first" in (heard := chat_of(monkeypatch, FUNCTIONGEMMA, ["first", "second"]))[1]
    assert "second" not in heard[0] and heard[1].index("hello") < heard[1].index("second")
    assert "send_email" in heard[1]


def test_a_chat_with_a_model_that_has_no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = chat_of(monkeypatch, GEMMA3, ["first", "second"])
    assert "send_email" not in heard[1] and heard[1].index("first") < heard[1].index("second")


def chat_of(monkeypatch: pytest.MonkeyPatch, chat: ChatFormat, lines: list[str]) -> list[str]:
    """The prompts, as text, that a model which always says "hello" gets for what is said."""
    tokenizer, heard, said = Tokenizer.load(dozan.EMBEDDED_BASE), list[str](), iter([*lines, None])

    def complete(prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[list[int]]:
        heard.append(tokenizer.decode(prompts[0]))
        return [tokenizer.encode("hello")]

    monkeypatch.setattr(terminal, "serve", lambda model: Served(tokenizer, chat, complete))
    monkeypatch.setattr(terminal, "_read_line", lambda: next(said))
    terminal.chat("any", None, None, 8)
    return heard


def test_a_stopped_run_exits_75_and_goes_on(base: Path, rows: Path, tmp_path: Path) -> None:
    steps = ("--set", "train.max_steps=100000", "--set", "data.holdout=0", "--set", "train.batch_size=2")
    command = [sys.executable, "-m", "dozan", "train", "--model", base, "--data", rows, "--out", tmp_path / "run"]
    command += steps
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True)  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == cli.INTERRUPTED, errors
    assert "goes on from there" in errors and "Traceback" not in errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


def test_interrupted_is_75(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    import dozan

    def stop(*arguments: object, **more: object) -> None:
        raise Interrupted("stopped after step 3")

    monkeypatch.setattr(dozan, "merge", stop, raising=False)
    assert leave(["merge", "run", "--out", "out"]) == 75
    assert "stopped after step 3" in capsys.readouterr().err


def test_the_opening_of_a_prompt_is_that_of_the_embedded_rows() -> None:
    first = json.loads(next((terminal.DEFAULT_TOOLS.parent / "test.jsonl").open(encoding="utf-8")))
    said = first["messages"][1]["content"].split()[2]
    expected = [message["content"] for message in first["messages"][:2]]
    assert list(terminal.opening(True, datetime.fromisoformat(said))) == expected
    assert terminal.read_tools(terminal.DEFAULT_TOOLS)[0]["function"]["name"] == "send_email"


def test_arabic_is_isolated() -> None:
    assert terminal.isolate("مرحبا") == "\u2068مرحبا\u2069"


def test_a_file_that_fails_its_measurement_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def failed(*_: object) -> None:
        raise ExportFailed("x.gguf.FAILED: the file does not compute what the model computes")

    monkeypatch.setattr(dozan, "merge", failed)
    with pytest.raises(SystemExit) as left:
        cli.main(["merge", "run", "--out", "merged"])
    assert left.value.code == 1 and "x.gguf.FAILED" in capsys.readouterr().err
