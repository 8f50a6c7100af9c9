"""`dozan init`: every combination of answers gives a recipe that can be used; a real terminal; refusals."""

from __future__ import annotations

import json
import os
import pty
import shlex
import subprocess
import sys
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest
from test_bad_input import leave

import dozan
from dozan.init import EXAMPLE, HUB, PURPOSES, QUESTIONS, WHERE, Answers, choose, example_rows, lay_out, usual
from dozan.init_text import recipe_text
from dozan.recipe import load_recipe, parse_recipe

FILES = {"recipe.yaml", "README.md", ".gitignore", "data", "output"}
Captured = pytest.CaptureFixture[str]


def combinations() -> list[Answers]:
    every = [Answers(purpose, model, where=where) for purpose, model, where in product(PURPOSES, HUB, WHERE)]
    return [answers for answers in every if not answers.problems("model")]


def test_every_combination_is_a_recipe_with_reasons() -> None:
    import yaml

    found = combinations()
    assert {answers.purpose for answers in found} == set(PURPOSES) and {a.model for a in found} == set(HUB)
    for answers in found:
        recipe, model, _ = choose(answers, "a project: mine")
        text = recipe_text(recipe, "a t4")
        assert parse_recipe(yaml.safe_load(text)) == recipe, answers
        lines = text.splitlines()
        settings = [i for i, line in enumerate(lines) if not line.lstrip().startswith("#") and not line.endswith(":")]
        unexplained = {lines[i].split(":")[0].strip() for i in settings if "#" not in lines[i - 1]}
        assert unexplained <= {"name"}, (answers, unexplained)
        assert all(len(line) <= 110 for line in lines)
        assert model == "dozan:embedded" or model.count("/") == 1


@pytest.mark.parametrize(
    ("answers", "settings"),
    [
        (Answers(model="functiongemma", gpu="t4"), {"chat": "functiongemma", "train.learning_rate": 1e-3}),
        (Answers("code", "12b", gpu="t4"), {"model.quantise": "nf4", "adapter.dora": True, "adapter.rslora": True,
                                            "train.optimizer": "adamw_8bit", "train.learning_rate": 2e-4}),
        (Answers("code", "12b", gpu="h100"), {"model.quantise": "none", "adapter.dora": True}),
        (Answers("domain", "1b", where="colab"), {"train.mirror": "/content/drive/MyDrive/dozan/mine/first",
                                                  "train.save_steps": 50, "adapter.dora": False}),
    ],
)  # fmt: skip
def test_the_answers_decide(answers: Answers, settings: dict[str, object]) -> None:
    recipe = choose(answers, "mine")[0].model_dump()
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        assert (recipe[section][key] if section else recipe[key]) == value


def test_four_bits_are_fetched_where_sixteen_do_not_fit() -> None:
    assert choose(Answers("code", "12b", gpu="t4"), "x")[1] == "unsloth/gemma-3-12b-it-bnb-4bit"
    assert choose(Answers("code", "12b", gpu="h100"), "x")[1] == "google/gemma-3-12b-it"


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_project_of_a_purpose_trains(purpose: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = lay_out(tmp_path / "mine", Answers(purpose))
    assert {path.name for path in project.folder.iterdir()} == FILES
    assert all(path.is_file() for path in project.files) and project.report is None
    monkeypatch.chdir(project.folder)
    report = dozan.data.check("data/rows.jsonl")
    assert report.errors == 0 and sum(report.rows.values()) == len(Path("data/rows.jsonl").read_text().splitlines())
    if purpose == "function-calls":
        short = ["--set", "train.max_steps=1", "--set", "train.batch_size=2", "--set", "score.rows=0"]
        short += ["--set", "data.holdout=0"]
        verb, *words = shlex.split(project.commands[2])
        assert (verb, leave([*words, *short])) == ("dozan", 0)
        assert Path("output/first/adapter").is_dir()


def test_the_commands_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    project = lay_out(tmp_path / "with space", Answers())
    monkeypatch.chdir(project.folder)
    for command in project.commands[:2]:
        assert leave(shlex.split(command)[1:]) == 0
    text = Path("README.md").read_text()
    assert all(command in text for command in project.commands)


def test_rows_that_are_given_are_checked_and_stay_where_they_are(tmp_path: Path, capsys: Captured) -> None:
    rows = tmp_path / "rows.jsonl"
    bad = {"id": "b", "messages": [{"role": "user", "content": "x"}]}
    lines = example_rows("code").read_text(encoding="utf-8").splitlines()
    rows.write_text("\n".join([*lines, json.dumps(bad)]) + "\n", encoding="utf-8")
    assert leave(["init", str(tmp_path / "mine"), "--purpose", "code", "--rows", str(rows), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "9 rows, 1 errors" in said and "rows.jsonl:9" in said and f"dozan data check {rows}" in said
    assert not list((tmp_path / "mine" / "data").iterdir())


def test_nothing_is_written_over(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "README.md").write_text("mine")
    assert leave(["init", str(tmp_path), "--yes"]) == 2
    assert "README.md already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_every_wrong_answer_is_named_at_once(tmp_path: Path, capsys: Captured) -> None:
    wrong = ["--purpose", "cod", "--model", "12c", "--rows", "none.jsonl", "--gpu", "t5", "--where", "moon"]
    assert leave(["init", str(tmp_path / "mine"), *wrong]) == 2
    said = capsys.readouterr().err
    assert "did you mean 'code'" in said and "did you mean '12b'" in said
    assert all(f"--{name}" in said for name in QUESTIONS) and not (tmp_path / "mine").exists()


@pytest.mark.parametrize(("purpose", "model"), [("function-calls", "12b"), ("code", "functiongemma")])
def test_a_model_that_is_not_made_for_it(purpose: str, model: str, tmp_path: Path, capsys: Captured) -> None:
    assert leave(["init", str(tmp_path / "mine"), "--purpose", purpose, "--model", model, "--yes"]) == 2
    assert f"--model {model}" in capsys.readouterr().err


def test_without_a_terminal_it_does_not_ask(tmp_path: Path, capsys: Captured) -> None:
    assert leave(["init", str(tmp_path / "mine"), "--purpose", "code"]) == 2
    assert "--model, --rows, --gpu, --where, or --yes" in capsys.readouterr().err


def test_in_colab_colab_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    assert [usual(name, Answers("code")) for name in ("model", "rows", "where")] == ["1b", EXAMPLE, "here"]
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert usual("where", Answers()) == "colab"


def test_five_questions_at_a_terminal(tmp_path: Path) -> None:
    """A wrong answer is asked again; Return takes what is usual."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dozan", "init", str(tmp_path / "mine"), "--where", "here"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
                               cwd=Path(__file__).parents[1])  # fmt: skip
    os.close(theirs)
    os.write(ours, b"cod\ncode\nembedded\n\nt4\n")
    said = b""
    with suppress(OSError):  # Linux says so when the other side of the terminal is closed
        while found := os.read(ours, 4096):
            said += found
    os.close(ours)
    text = said.decode()
    assert process.wait(timeout=60) == 0, text
    assert "What is the model to learn" in text and "did you mean 'code'" in text and "Next:" in text
    assert "[1b]" in text and "[example]" in text and "Where will it run" not in text
    assert load_recipe(str(tmp_path / "mine" / "recipe.yaml")).chat == "gemma3"
