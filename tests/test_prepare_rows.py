"""Training and evaluation rows from files: the same bytes each time, no leak, a manifest that holds."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from broken_rows import sound

from dozan.check.near import similarity, sketch
from dozan.check.prepare import Prepared, prepare, read_manifest
from dozan.errors import InputError
from dozan.rows.readers import read_rows
from dozan.rows.splits import last_user_text, sentence_pattern

SAID = "سجل اكتب ضع أضف جهز رتب حدد افتح أنشئ خطط موعد لقاء زيارة رحلة حفل درس تمرين عشاء صباح مساء ليلة قريب بعيد"
WORDS = SAID.split()
Row = dict[str, Any]


def rows(count: int, seed: int = 0) -> list[Row]:
    random = Random(seed)
    made = []
    for number in range(count):
        row = sound(random, number)
        said = (
            " ".join(random.choices(WORDS, k=6))
            if number % 3
            else made[-1]["messages"][1]["content"]
            if made
            else "سجل"
        )
        row["messages"][1]["content"] = said + " الآن" * (number % 3 == 0)
        row["dialect"] = ("msa", "gulf", "egyptian")[number % 7 % 3]
        if number % 5 == 0:
            row["messages"][2] = {"role": "assistant", "content": "لا أستطيع."}
        made.append(row)
    return made


def write(path: Path, made: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = rows(300)
    made[7]["messages"][1]["content"] += "\u200f"
    made[9]["messages"][1]["content"] += "\ufffd"
    return write(tmp_path / "rows.jsonl", made)


def contents(prepared: Prepared) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in prepared.files}


def test_the_same_rows_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    first, second = (prepare([data], tmp_path / name) for name in ("a", "b"))
    assert contents(first) == contents(second)
    assert sorted(path.name for path in first.folder.iterdir()) == sorted(contents(first))
    assert contents(prepare([data], tmp_path / "c", seed=1))["eval.jsonl"] != contents(first)["eval.jsonl"]
    assert str(tmp_path).encode() not in contents(first)["manifest.json"]


def test_no_pattern_and_no_near_duplicate_is_on_both_sides(data: Path, tmp_path: Path) -> None:
    done = prepare([data], tmp_path / "out", holdout=0.2)
    train, held = (read_rows(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "eval"))
    assert (done.train_rows, done.eval_rows) == (len(train), len(held)) and sum((len(train), len(held))) == 299
    assert abs(len(held) - 60) <= 5
    assert not {sentence_pattern(row) for row in train} & {sentence_pattern(row) for row in held}
    left, right = ([found.text for found in sketch([last_user_text(row) for row in side])] for side in (train, held))
    assert max(similarity(a, b) for a in left for b in right) < 0.8
    everything = left + right
    assert sum(similarity(a, b) >= 0.8 for i, a in enumerate(everything) for b in everything[:i]) > 25
    for dialect in ("msa", "gulf", "egyptian"):
        share = sum(row.meta["dialect"] == dialect for row in held) / sum(
            row.meta["dialect"] == dialect for row in (*train, *held)
        )
        assert share == pytest.approx(0.2, abs=0.03)


def test_the_manifest_says_what_was_done(data: Path, tmp_path: Path) -> None:
    done = prepare([data], tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert manifest == done.manifest
    assert manifest["rows"] == {"read": 300, "clean": 298, "repaired": 1, "converted": 0, "quarantined": 1}
    assert (manifest["repairs"], manifest["quarantine"]) == ({"DZ511": 1}, {"DZ505": 1})
    assert manifest["split"]["train"]["rows"] == done.train_rows and manifest["split"]["eval"]["rows"] == done.eval_rows
    assert manifest["split"]["groups"] < manifest["split"]["patterns"]
    assert manifest["inputs"][0]["bytes"] == data.stat().st_size and manifest["settings"]["seed"] == 0
    file = tmp_path / "out" / "train.jsonl"
    file.write_bytes(file.read_bytes() + b"\n")
    with pytest.raises(InputError, match=r"train.jsonl: not as .*manifest.json says; prepare the rows again"):
        read_manifest(tmp_path / "out")
    with pytest.raises(InputError, match="not there"):
        read_manifest(tmp_path)


def test_rows_to_evaluate_on_may_be_given(data: Path, tmp_path: Path) -> None:
    held = write(tmp_path / "held.jsonl", rows(10, seed=5))
    done = prepare([data], tmp_path / "out", [held])
    assert (done.train_rows, done.eval_rows) == (299, 10)
    assert (tmp_path / "out" / "eval.jsonl").read_bytes() == held.read_bytes()
    assert [entry["side"] for entry in done.manifest["inputs"]] == ["train", "eval"]


def test_nothing_may_be_held_out(data: Path, tmp_path: Path) -> None:
    done = prepare([data], tmp_path / "out", holdout=0)
    assert done.eval_rows == 0 and not (tmp_path / "out" / "eval.jsonl").exists()
    assert len(read_rows(tmp_path / "out" / "train.jsonl")) == 299


def test_one_file_may_hold_both_sides(data: Path, tmp_path: Path) -> None:
    two = prepare([data], tmp_path / "two")
    prepare([data], tmp_path / "one", dataset=True)
    values = json.loads((tmp_path / "one" / "dataset.json").read_text("utf-8"))
    sides = [value.pop("metadata") for value in values]
    assert (sides.count("train"), sides.count("eval")) == (two.train_rows, two.eval_rows)
    for side in ("train", "eval"):
        lines = (tmp_path / "two" / f"{side}.jsonl").read_text("utf-8").split("\n")[:-1]
        assert [json.loads(line) for line in lines] == [v for v, s in zip(values, sides, strict=True) if s == side]
    assert len(read_rows(tmp_path / "one" / "dataset.json")) == 299


def test_what_cannot_be_prepared_leaves_no_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    with pytest.raises(InputError, match="holds something already; empty it, or give another folder"):
        prepare([data], tmp_path / "full")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{\n{\n")
    with pytest.raises(InputError, match="no row can be used; what is wrong: {'DZ111': 2}"):
        prepare([bad], tmp_path / "out")
    with pytest.raises(InputError, match="all 1 rows are alike"):
        prepare([write(tmp_path / "one.jsonl", rows(1))], tmp_path / "out")
    with pytest.raises(InputError, match="holdout: 1.5 is no share of rows"):
        prepare([data], tmp_path / "out", holdout=1.5)
    assert not list((tmp_path / "out").iterdir())
