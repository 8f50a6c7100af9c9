"""The notebooks run from top to bottom on the embedded base; those in the repository are what their sources say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib import util
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from scripts.notebooks import FOLDER, NAMES, build, client_of, machine_paths, tags_of, tidy, with_parameters

QUICK: Mapping[str, Mapping[str, object]] = {
    "functiongemma_arabic": {"ROWS": 12, "STEPS": 2, "TEST": 2},
    "gemma3_12b_trinity_t4": {"MODEL": "dozan:embedded", "STEPS": 2, "TEST": 1, "NEW_TOKENS": 4, "GGUF": "q8_0"},
    "bring_your_own_data": {"ROWS": 30, "STEPS": 2, "TEST": 2},
}
SAID = {
    "functiongemma_arabic": {
        "train": "done: 2 steps", "score": "strict: tuned wins", "familiar": r"\S", "export": "same first choice",
        "again": "brought back from the mirror(.|\n)*nothing to do",
    },
    "gemma3_12b_trinity_t4": {
        "plan": "fits: recompute 44 of 48 layers", "train": "recipe gemma3-12b-trinity", "score": "tuned",
        "export": "first-q8_0.gguf", "familiar": "train_loss",
    },
    "bring_your_own_data": {
        "check": "DZ208(.|\n)*errors", "prepare": "repaired +DZ208(.|\n)*set aside(.|\n)*rows to train on",
        "project": "learning_rate: 0.002", "show": "trained", "train": "done: 2 steps", "score": "strict: tuned wins",
        "export": "same first choice",
    },
}  # fmt: skip
"""What cells with these tags must say, as patterns."""
SHORT_ANSWERS = "from dozan.ship import parity_export\nparity_export.ANSWER_TOKENS = 24"
"""Run before a notebook: a model after two steps ends few answers of a certificate."""
RIGHT_TO_LEFT = re.compile(r'<div dir="rtl">\n(.*?)\n</div>', re.DOTALL)
ARABIC = re.compile(r"[\u0621-\u064a]")
each = pytest.mark.parametrize("name", NAMES)


def said(cell: NotebookNode) -> str:
    """All that a cell has shown, as text."""
    shown = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", ())]
    return re.sub(r"\x1b\[[0-9;]*m", "", "".join(shown))


@each
def test_it_runs_from_top_to_bottom(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    notebook = with_parameters(build(name), QUICK[name])
    tagged = {tag: cell for cell in notebook.cells for tag in tags_of(cell)}
    if "again" in SAID[name]:  # as after a disconnect: the machine's disk is gone, the drive is not
        again = f"shutil.rmtree(RUN)\n{tagged['train'].source}"
        tagged["again"] = nbformat.v4.new_code_cell(again)
        notebook.cells.append(tagged["again"])
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SHORT_ANSWERS))
    client_of(notebook, tmp_path, timeout=250).execute()
    for tag, pattern in SAID[name].items():
        assert re.search(pattern, said(tagged[tag])), f"{tag}: {said(tagged[tag])}"
    assert list((tmp_path / "drive").glob("*.gguf")) and list((tmp_path / "output" / "gguf").glob("certificate.html"))
    assert list((tmp_path / "drive").glob("*/checkpoints/step-*"))
    assert machine_paths(notebook) == []


def test_a_cell_that_fails_ends_the_run(tmp_path: Path) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="division by zero"):
        client_of(broken, tmp_path, timeout=60).execute()


@each
def test_the_notebook_is_what_its_source_says(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    kept, built = nbformat.read(path, as_version=4), build(name)
    nbformat.validate(kept)
    assert [(cell.id, cell.cell_type, cell.source, tags_of(cell)) for cell in kept.cells] == [
        (cell.id, cell.cell_type, cell.source, tags_of(cell)) for cell in built.cells
    ], "write it anew: python -m scripts.notebooks"
    assert path.stat().st_size < 200_000 and machine_paths(kept) == []
    kinds = [output.output_type for cell in kept.cells for output in cell.get("outputs", ())]
    assert "error" not in kinds and len(kinds) >= 8
    assert all(said(cell) for cell in kept.cells if set(tags_of(cell)) & {"train", "score", "export", "plan", "check"})


@each
def test_both_languages_and_what_colab_needs(name: str) -> None:
    notebook = build(name)
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for text in texts:
        arabic = "\n".join(RIGHT_TO_LEFT.findall(text))
        english = RIGHT_TO_LEFT.sub("", text)
        assert ARABIC.search(arabic) and not ARABIC.search(english) and english.strip(), text
        assert len(re.findall("^#+ ", english, re.MULTILINE)) == len(re.findall(r"<h\d>", arabic)), text
        assert "`" not in arabic and "\n\n" not in arabic, text
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "drive.mount" in code and "train.mirror" in code and "dozan.export" in code
    tags = [tag for cell in notebook.cells for tag in tags_of(cell)]
    assert {"install", "parameters", "train", "score", "export"} <= set(tags)


def test_installing_leaves_torch_and_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cell's own command, but that pip only tells what it would do."""
    install = next(cell.source for cell in build(NAMES[0]).cells if "install" in tags_of(cell))
    commands: list[list[str]] = []
    find = util.find_spec
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "dozan" else find(name))
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(compile(install, "install", "exec"), {})
    assert commands[0][-1] == "keep.txt" and commands[0][1:4] == ["-m", "pip", "install"]
    kept = (tmp_path / "keep.txt").read_text().splitlines()
    assert kept == [f"torch=={version('torch')}", f"numpy=={version('numpy')}"]


def test_other_values_are_those_of_the_notebook() -> None:
    with pytest.raises(ValueError, match="STEP is no parameter"):
        with_parameters(build(NAMES[0]), {"STEP": 1})
    changed = with_parameters(build(NAMES[0]), {"STEPS": 7})
    at = next(i for i, cell in enumerate(changed.cells) if "parameters" in tags_of(cell))
    assert changed.cells[at + 1].source == "STEPS = 7" and len(changed.cells) == len(build(NAMES[0]).cells) + 1


def test_outputs_that_name_the_machine_are_seen() -> None:
    outputs = [nbformat.v4.new_output("stream", text=text) for text in ("kept in /home/someone/runs\n", "more\n")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])
    assert machine_paths(notebook) == ["/home/someone/runs"]
    assert [output.text for output in tidy(notebook).cells[0].outputs] == ["kept in /home/someone/runs\nmore\n"]
