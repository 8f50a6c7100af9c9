"""parity.json of an export: merge and every file against the adapter, the scores of each, what earlier calls wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ship_models import make_folder, make_run
from test_report import parse

from dozan.judge.report_certificate import certificate_section
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.rows.example import Example
from dozan.ship import parity_export
from dozan.ship.export import export
from dozan.ship.parity import ExportFailed
from dozan.ship.parity_export import choose_rows, spread
from dozan.ship.source import open_source
from dozan.train.run import hash_base

pytestmark = pytest.mark.usefixtures("short_answers")
TURNS = ({"role": "user", "content": "كم الساعة الآن؟"}, {"role": "assistant", "content": "الثالثة"})
ROWS = [Example(id=str(i), tools=(), messages=TURNS) for i in range(4)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    return make_run(root / "run", make_folder(root / "base"), rslora=True, dora=True)


def read(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "parity.json").read_text(encoding="utf-8")))


def test_it_holds_the_merge_every_file_and_their_scores(run: Path, tmp_path: Path) -> None:
    files = export(run, "f32,q4_0", tmp_path, ROWS)
    found = read(tmp_path)
    assert found["base_sha256"] == hash_base(run.parent / "base") and len(found["adapter_sha256"]) == 64
    assert found["rows"] == 4 and found["probe_rows"] == 4 + 7 and found["reference"].startswith("the adapter beside")
    assert 0 < found["merged"]["difference"]["max_abs"] < 1e-4
    assert list(found["files"]) == ["run-f32.gguf", "run-q4_0.gguf"]
    for file in files:
        said = found["files"][file.path.name]
        assert said["sha256"] == file.certificate.sha256 and said["failures"] == []
        assert file.scores is not None and len(file.scores.rows) == 4
        assert said["scores"]["strict"]["n"] == found["scores"]["model"]["strict"]["n"] == 4
    apart = {name: said["difference"]["mean_kl"] for name, said in found["files"].items()}
    through = {name: said["forward"]["mean_kl"] for name, said in found["files"].items()}
    assert apart["run-f32.gguf"] < 1e-5 < through["run-q4_0.gguf"] < apart["run-q4_0.gguf"] / 5


def test_files_add_up_and_others_go(run: Path, tmp_path: Path) -> None:
    export(run, "q8_0", tmp_path, ROWS)
    export(run, "q4_0", tmp_path, ROWS)
    assert list(read(tmp_path)["files"]) == ["run-q8_0.gguf", "run-q4_0.gguf"]
    (tmp_path / "run-q8_0.gguf").write_bytes(b"GGUF")
    export(run, "q5_k_m", tmp_path, ROWS)
    assert list(read(tmp_path)["files"]) == ["run-q4_0.gguf", "run-q5_k_m.gguf"]
    export(run, "f32", tmp_path, ROWS[:2])
    assert list(read(tmp_path)["files"]) == ["run-f32.gguf"], "measured on other rows"


def test_a_plain_checkpoint_has_no_merge(run: Path, tmp_path: Path) -> None:
    export(run.parent / "base", "f32", tmp_path)
    found = read(tmp_path)
    assert found["merged"] is None and found["adapter_sha256"] is None
    assert found["scores"] == {"rows": 0, "why": "there are no rows with an expected answer", "model": None}


def test_a_file_that_answers_worse_fails(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is right on every row, the files, which answer at random, on none."""
    right = parity_export.evaluate

    def scored(model: Any, rows: Sequence[Example], max_new_tokens: int) -> Scores:
        if isinstance(model, Path):
            return right(model, rows, max_new_tokens=max_new_tokens)
        return score_rows(rows, ["الثالثة"] * len(rows))

    monkeypatch.setattr(parity_export, "evaluate", scored)
    with pytest.raises(ExportFailed, match=r"0 of 4 rows are strictly right, 4 with the model \(at most 1 fewer"):
        export(run, "f32", tmp_path, ROWS)
    assert sorted(path.name for path in tmp_path.glob("*.gguf*")) == ["run-f32.gguf.FAILED"]
    (name,) = read(tmp_path)["files"]
    assert name == "run-f32.gguf.FAILED" and "strictly right" in read(tmp_path)["files"][name]["failures"][0]


def test_a_file_that_misses_its_gate_is_in_the_certificate(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(run, "q8_0", tmp_path, ROWS)
    from dozan.ship import parity

    monkeypatch.setitem(parity.GATES, "q4_0", parity.Gate(1e-9, 1e-9, 1.0))
    with pytest.raises(ExportFailed, match="run-q4_0.gguf.FAILED"):
        export(run, "q4_0", tmp_path, ROWS)
    files = read(tmp_path)["files"]
    assert list(files) == ["run-q8_0.gguf", "run-q4_0.gguf.FAILED"]
    assert "logits differ" in files["run-q4_0.gguf.FAILED"]["failures"][0]
    page = (tmp_path / "certificate.html").read_text(encoding="utf-8")
    assert "1 file computes what was trained" in page and "logits differ by" in page
    parse(page)


@pytest.mark.parametrize("most", [0, 5, 10, 12, 30, 100])
def test_rows_are_taken_evenly_up_to_a_budget(most: int) -> None:
    lengths = [3, 9, 1, 7, 2, 8]
    kept = spread(lengths, most)
    assert sum(lengths[i] for i in kept) <= most and len(set(kept)) == len(kept)
    assert kept == list(range(6)) if most >= 30 else len(kept) < 6
    assert not kept or kept[0] == 0


def test_a_large_model_is_measured_on_less(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(run)
    ids = [[2, *range(300, 300 + 50 * n)] for n in (4, 2, 3, 1)]
    whole = choose_rows(source, ROWS, ids)
    assert whole.ids == ids and len(whole.scored) == 4 and whole.unscored == ""
    monkeypatch.setattr(parity_export, "PROBE_OPERATIONS", 1.0)
    monkeypatch.setattr(parity_export, "SCORED_OPERATIONS", 1.0)
    few = choose_rows(source, ROWS, ids)
    assert few.ids == [ids[3]], "one row in any case, the shortest"
    assert few.scored == [] and "answer too slowly here" in few.unscored


def test_the_section_says_what_the_certificate_holds(run: Path, tmp_path: Path) -> None:
    export(run, "q8_0", tmp_path, ROWS)
    found = read(tmp_path)
    section = certificate_section(found)
    assert 'id="certificate"' in section and "Every file computes what was trained" in section
    said = found["files"]["run-q8_0.gguf"]
    for words in (said["sha256"], "0 of 4", f"{said['difference']['mean_kl']:.4f}", "merged, fp32", "3 stop tokens"):
        assert words in section, words
    assert section in (tmp_path / "certificate.html").read_text(encoding="utf-8")
    parse(section)


def test_a_certificate_that_cannot_be_read_is_written_anew(run: Path, tmp_path: Path) -> None:
    for text in ("{", "[]", '{"files": {}}'):
        (tmp_path / "parity.json").write_text(text)
        export(run, "q8_0", tmp_path, ROWS[:1])
        assert list(read(tmp_path)["files"]) == ["run-q8_0.gguf"]
