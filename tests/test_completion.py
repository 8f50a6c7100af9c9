"""Completion, asked for by real shells: what the script that `--show-completion` prints offers for a begun line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from dozan.cli import complete
from dozan.judge.presets import PRESETS
from dozan.recipe import Runtime, recipe_names
from dozan.rows.purposes import PURPOSES

BIN = Path(sys.executable).parent
# Bash runs the function that is registered for `dozan` with the words of the line, as it does when Tab is pressed.
BASH = """
eval "$SCRIPT"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
name=$(complete -p dozan | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
"$name" dozan
printf '%s\\n' "${COMPREPLY[@]}"
"""
# Zsh: the same, with the two functions of its completion system that the script calls.
ZSH = """
compdef() { handler=$1 }
_arguments() { for each in "${@[@]}"; do print -r -- "$each"; done }
_describe() { print -rl -- ${(P)4} }
eval "$SCRIPT"
words=("$@"); CURRENT=$#
$handler
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("output/first", "output/more/second", "elsewhere/third"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    (tmp_path / "output" / "gguf").mkdir()
    (tmp_path / "output" / "gguf" / "first-q8_0.gguf").write_bytes(b"")
    (tmp_path / "own.yaml").write_text("name: own\n")
    return tmp_path


ENVIRONMENT = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}


@cache
def shown(shell: str) -> str:
    """The script for a shell, as `dozan --show-completion` prints it there."""
    environment = {**ENVIRONMENT, "_DOZAN_COMPLETE": f"source_{shell}"}
    return subprocess.run(["dozan"], env=environment, capture_output=True, text=True, check=True).stdout


def offered(folder: Path, *words: str, shell: str = "bash", script: str = BASH) -> list[str]:
    """What the shell offers for the last of these words."""
    environment = {**ENVIRONMENT, "SCRIPT": shown(shell)}
    ran = subprocess.run([shell, "-c", script, shell, "dozan", *words], cwd=folder, env=environment,
                         capture_output=True, text=True, timeout=60)  # fmt: skip
    assert ran.returncode == 0 and not ran.stderr, ran.stderr
    return [line for line in ran.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rend"], ["render-diff"]),
        (["data", "ch"], ["check"]),
        (["train", "--recipe", "own"], ["own.yaml"]),
        (["train", "--target", "l"], ["llama.cpp", "litert-lm"]),
        (["resume", ""], ["output/first", "output/more/second"]),
        (["export", "elsewhere/"], ["elsewhere/third"]),
        (["export", "output/first", "--gguf", "f16,q8"], ["f16,q8_0"]),
        (["run", "--model", "output/gguf/"], ["output/gguf/first-q8_0.gguf"]),
        (["eval", "--purpose", "c"], ["code", "conversation", "creative"]),
        (["plan", "--gpu", "a100"], ["a100-40", "a100-80"]),
        (["init", "--purpose", "function"], ["function-calls"]),
    ],
)
def test_bash_offers(folder: Path, words: list[str], expected: list[str]) -> None:
    assert sorted(offered(folder, *words)) == sorted(expected)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_offers_the_same(folder: Path) -> None:
    found = offered(folder, "train", "--recipe", "gem", shell="zsh", script=ZSH)
    assert any("gemma3-12b-trinity" in line for line in found)


def test_where_nothing_can_be_read_nothing_is_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert complete.runs("") == complete.runs("file/x") == complete.runs("none/") == []


def test_the_names_are_those_that_exist() -> None:
    from dozan.ship.quants import KINDS
    from dozan.train.cards import CARDS

    assert set(complete.PURPOSES) == set(PURPOSES) and set(complete.PRESETS) == set(PRESETS)
    assert set(complete.TARGETS) == set(get_args(Runtime)) and set(complete.GGUF_TYPES) == set(KINDS)
    assert set(complete.CARDS) == set(CARDS) and set(complete.recipes("")) >= set(recipe_names())


def test_a_list_offers_what_is_not_in_it_yet() -> None:
    assert complete.several_of("f16", "f32", "q8_0")("f16,f") == ["f16,f32"]


def test_installing_writes_to_the_shells_own_files(tmp_path: Path) -> None:
    environment = {**ENVIRONMENT, "HOME": str(tmp_path)}
    line = ["bash", "-c", "dozan --install-completion && dozan --show-completion; exit $?"]
    ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=True)
    written = (tmp_path / ".bash_completions" / "dozan.sh").read_text()
    assert "complete -o default -F" in written and written.strip() in ran.stdout
    assert ".bash_completions/dozan.sh" in (tmp_path / ".bashrc").read_text()


def test_an_answer_comes_while_one_types(folder: Path) -> None:
    code = (
        "import os, sys\n"
        "os.environ.update(_DOZAN_COMPLETE='complete_bash', COMP_WORDS='dozan resume ', COMP_CWORD='2')\n"
        "from dozan.cli import main\ntry:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'yaml', 'rich'} & set(sys.modules)))"
    )
    started = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["output/first", "output/more/second", "[]"]
    assert time.monotonic() - started < 3.0
