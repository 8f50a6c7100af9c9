"""LiteRT-LM: what is said where it is not installed, and the real conversion and run where it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from ship_models import make_folder

import dozan
from dozan.chat.encode import encode_prompt
from dozan.cli import main
from dozan.errors import InputError
from dozan.judge.generate import generate
from dozan.model.bundle import open_model, open_shell
from dozan.rows.readers import read_rows
from dozan.ship import litert

ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "dev.jsonl"
there = pytest.mark.skipif(
    not os.environ.get(litert.PYTHON), reason=f"{litert.PYTHON} names no Python that has litert-torch and litert-lm-api"
)


def test_without_litert_torch_it_is_said_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(litert.PYTHON, sys.executable)
    with pytest.raises(SystemExit) as left:
        main(["export", str(make_folder(tmp_path / "base")), "--litert", str(tmp_path / "m.litertlm")])
    said = capsys.readouterr().err
    assert left.value.code == 2 and "not run" in said and "no litert_torch" in said and litert.PYTHON in said
    assert not (tmp_path / "m.litertlm").exists()


def test_a_conversion_that_fails_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "litert_torch" / "generative"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("")
    (package / "export_hf.py").write_text("raise SystemExit('no such recipe')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv(litert.PYTHON, sys.executable)
    with pytest.raises(InputError, match="could not convert it: no such recipe"):
        litert.export_litert(make_folder(tmp_path / "base"), tmp_path / "m.litertlm")
    (package / "export_hf.py").write_text("")
    with pytest.raises(InputError, match="without writing a model"):
        litert.export_litert(tmp_path / "base", tmp_path / "m.litertlm")
    assert not list(tmp_path.glob("m.litertlm*"))


@there
def test_a_converted_model_answers_in_litert_lm_as_in_torch(tmp_path: Path) -> None:
    rows = read_rows(ROWS)[:4]
    made = litert.export_litert(dozan.EMBEDDED_BASE, tmp_path / "m.litertlm", rows)
    assert made.rows == 4 and made.scores is not None and not made.unrun and "run by LiteRT-LM on 4 rows" in made.text
    bundle = open_model(dozan.EMBEDDED_BASE)
    prompts = [encode_prompt(row, bundle.chat, bundle.tokenizer) for row in rows]
    ours = [bundle.tokenizer.decode(ids) for ids in generate(bundle, prompts, litert.NEW_TOKENS)]
    theirs = litert.ask(made.path, open_shell(dozan.EMBEDDED_BASE)[0], rows, 4096)
    assert [text[:24] for text in ours] == [text[:24] for text in theirs], "8-bit weights part ways later than that"
