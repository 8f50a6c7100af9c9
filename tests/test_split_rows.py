"""`data split`: whole groups on one side, nothing changed and nothing lost, the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_bad_input import conversation, leave, write_rows

import dozan.data
from dozan.errors import InputError
from dozan.rows.readers import read_rows
from dozan.rows.splits import sentence_pattern

ROWS = Path(__file__).parents[1] / "examples" / "home_assistant_ar" / "commands.jsonl"


def test_rows_are_divided_by_groups_and_keep_their_bytes(tmp_path: Path) -> None:
    done = dozan.data.split(ROWS, tmp_path / "out", holdout=0.2, seed=3)
    train, held = (tmp_path / "out" / name for name in ("train.jsonl", "eval.jsonl"))
    lines = ROWS.read_bytes().splitlines()
    assert sorted(train.read_bytes().splitlines() + held.read_bytes().splitlines()) == sorted(lines)
    assert done.train_rows + done.eval_rows == len(lines) and done.eval_rows == pytest.approx(80, abs=8)
    patterns = [{sentence_pattern(row) for row in read_rows(file)} for file in (train, held)]
    assert patterns[0].isdisjoint(patterns[1]) and len(patterns[1]) > 20
    report = dozan.data.check(train, eval_data=[held], only=["DZ605", "DZ606"])
    assert report.counts == {}
    dialects = [
        {key: n for key, n in done.shares[side].items() if key.startswith("dialect")} for side in ("train", "eval")
    ]
    assert dialects[0].keys() == dialects[1].keys()


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        dozan.data.split(ROWS, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name / "eval.jsonl").read_bytes() for name in "abc")
    assert first == again != other


def test_what_cannot_be_divided_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    broken = write_rows(tmp_path / "broken.jsonl", conversation(), "{broken")
    with pytest.raises(InputError, match=r"broken\.jsonl:2"):
        dozan.data.split(broken, tmp_path / "out")
    alike = write_rows(tmp_path / "alike.jsonl", *({"id": str(i), **conversation()} for i in range(5)))
    with pytest.raises(InputError, match="all 5 rows are alike"):
        dozan.data.split(alike, tmp_path / "out")
    with pytest.raises(InputError, match="no share of rows"):
        dozan.data.split(ROWS, tmp_path / "out", holdout=1.0)
    assert not (tmp_path / "out").exists()
    dozan.data.split(ROWS, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        dozan.data.split(ROWS, tmp_path / "out")


def test_both_verbs_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[1]
    tools, lexicon = root / "dozan/assets/mobile_actions_ar/tools.json", root / "examples/lexicon_phone_ar.yaml"
    out = tmp_path / "rows.jsonl"
    asked = ["--tools", str(tools), "--lexicon", str(lexicon), "--out", str(out), "--rows", "90"]
    assert leave(["data", "generate", *asked, "--dialects", "msa,gulf"]) == 0
    page = capsys.readouterr()
    assert (
        "msa 45, gulf 45" in page.out.replace("gulf 45, msa 45", "msa 45, gulf 45") and "90 rows, no error" in page.out
    )
    assert "DZ618" in page.err
    assert leave(["data", "split", str(out), "--out", str(tmp_path / "sides"), "--holdout", "0.2"]) == 0
    assert "rows to train on" in capsys.readouterr().out
    assert leave(["data", "generate", *asked[:4], "--out", str(out), "--rows", "90"]) == 2
    assert "exists already" in capsys.readouterr().err
