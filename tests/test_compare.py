"""Models told apart on the same rows: paired differences by hand, gates, lists, and the verb with its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_bad_input import leave
from test_evaluate import pair
from test_score import PAY, row, score

import dozan
from dozan.demo import TEST
from dozan.errors import InputError
from dozan.judge.compare import compare, print_versus, to_json
from dozan.judge.evaluate import write_scores
from dozan.judge.gates import check_gates, read_gate
from dozan.judge.paired import mean_interval
from dozan.judge.summary import Scores
from dozan.rows.readers import read_rows

ROWS = read_rows(TEST)[:10]


def many(right: int, of: int, dialect: str = "gulf") -> Scores:
    """So many rows of which the first are right."""
    rows = []
    for i in range(of):
        asked = row(f"r{i}", "حوّل 50 لسارة", PAY, dialect=dialect)
        rows.append(score(asked, PAY if i < right else ("light", {})))
    return Scores(tuple(rows))


def test_differences_equal_the_hand_count_and_their_intervals_hold_them() -> None:
    found = compare(pair()).versus["tuned"]
    assert found.differences["strict"].value == pytest.approx(2 / 6)
    for difference in found.differences.values():
        assert difference.value is not None and difference.low is not None and difference.high is not None
        assert difference.low <= difference.value <= difference.high
    assert (found.by_dialect["egyptian"].n, found.by_dialect["egyptian"].paired.regressions) == (1, ("a",))
    none = compare({"a": many(3, 6), "b": many(3, 6)}).versus["b"]
    assert none.differences["strict"].value == 0 and none.strict.wins == none.strict.regressions == ()
    low, high = none.differences["strict"].low, none.differences["strict"].high
    assert low is not None and high is not None and low < 0 < high, "six equal rows prove no equality"


def test_every_model_is_held_against_the_first() -> None:
    runs = {"base": many(2, 8), "one": many(5, 8), "two": many(1, 8)}
    found = compare(runs)
    assert found.versus["one"].strict.wins == ("r2", "r3", "r4") and found.versus["two"].strict.regressions == ("r1",)
    assert found.strict == found.versus["one"].strict
    assert to_json(found)["versus"]["two"]["strict"]["regressions"] == ("r1",)
    assert json.loads(json.dumps(to_json(found)))["n"] == 8


def test_regressions_are_shown_first_and_no_more_than_asked_for() -> None:
    console = Console(record=True, width=120)
    runs = {"base": Scores(many(4, 8).rows), "new": Scores(many(8, 8).rows)}
    worse = Scores((score(row("r0", "حوّل 50 لسارة", PAY, dialect="gulf"), ("light", {})), *runs["new"].rows[1:]))
    runs["new"] = worse
    print_versus(compare(runs), runs, 1, console)
    text = console.export_text()
    assert text.index("new loses against base: 1 rows") < text.index("new wins over base: 4 rows, 1 of them")
    assert text.count("expected:") == 2 and "light" in text and "gulf" in text


def test_other_rows_questions_and_tools_are_named() -> None:
    base = many(2, 3)
    with pytest.raises(InputError, match=r"other rows than a \(2 and 3 rows\)"):
        compare({"a": base, "b": Scores(base.rows[:2])})
    with pytest.raises(InputError, match="x of b are not among the rows of a"):
        compare({"a": base, "b": Scores((*base.rows[:2], replace(base.rows[2], id="x")))})
    with pytest.raises(InputError, match="row r2 asks for something else in b"):
        compare({"a": base, "b": Scores((*base.rows[:2], replace(base.rows[2], query="?")))})
    if base.rows[2].tools:
        with pytest.raises(InputError, match="row r2 has other tools in b"):
            compare({"a": base, "b": Scores((*base.rows[:2], replace(base.rows[2], tools="other")))})


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("strict>=0.75", True), ("strict >= 75%", True), ("strict>0.75", False), ("normalised<=0.7", False),
        ("strict>=base", True), ("strict>=base+0.25", True), ("strict>=base+0.26", False),
        ("strict >= base - 1%", True), ("regressions<=0", True), ("wins>=2", True), ("wins>=3", False),
        ("strict.low>=0.4", True),
        ("strict.low>=0.75", False), ("strict.high<=1", True), ("calls.strict>=0.7", True),
        ("by_dialect.gulf.strict>=0.7", True), ("by_dialect.gulf.strict.low>=0.7", False),
        ("by_argument.transfer.amount.strict>=0.7", True), ("graded_f1>=0.7", True), ("graded.precision>=0.99", False),
    ],
)  # fmt: skip
def test_gates(text: str, met: bool) -> None:
    runs = {"base": many(4, 8), "tuned": many(6, 8)}
    (verdict,) = check_gates([read_gate(text)], runs)
    assert (verdict.model, verdict.met) == ("tuned", met)
    assert str(verdict).startswith("met" if met else "MISSED")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strict", "no comparison"), ("strict>=", "no number"), ("strict>=much", "no number"),
        ("strict=0.9", "no comparison"), ("strict>=base 0.1", "need a \\+ or -"), ("wins>=base", "give a number"),
        ("stirct>=0.9", "stirct is not known"), ("by_dialect.x.strict>=0.9", "there is gulf"),
        ("calls>=0.9", "is no figure"), ("no_calls.strict>=0.9", "no row tells"),
    ],
)  # fmt: skip
def test_gates_that_cannot_be_read_or_measured(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_gates([read_gate(text)], {"base": many(4, 8), "tuned": many(6, 8)})


def test_a_mean_s_interval_covers_it() -> None:
    value, low, high = mean_interval([(2.0, 1.0), (4.0, 1.0), (9.0, 3.0)])
    assert value == 3.0 and 2.0 <= low < 3.0 < high <= 4.0
    assert mean_interval([(2.0, 4.0)]) == (0.5, 0.5, 0.5)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    for name, right in (("base", 4), ("tuned", 6)):
        write_scores(tmp_path / f"{name}.json", many(right, 8), name)
    return tmp_path / "base.json", tmp_path / "tuned.json"


def test_the_verb_reads_score_files_and_ends_by_its_gates(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["compare", *map(str, files)]
    out, html = tmp_path / "out" / "c.json", tmp_path / "out" / "c.html"
    assert leave([*call, "--json", str(out), "--html", str(html), "--require", "strict>=0.7"]) == 0
    said = capsys.readouterr().out
    assert "tuned wins 2 rows over base and loses 0" in said and "met: strict>=0.7" in said
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["versus"]["tuned"]["strict"]["wins"] == ["r4", "r5"] and found["gates"][0]["met"] is True
    assert html.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert leave([*call, "--require", "strict>=0.7", "--require", "normalised>=0.9"]) == 1
    assert "MISSED: normalised>=0.9" in capsys.readouterr().out
    recipe = tmp_path / "gates.yaml"
    recipe.write_text("score:\n  require: ['strict>=0.9']\n", encoding="utf-8")
    assert leave([*call, "--recipe", str(recipe)]) == 1


def test_a_run_alone_is_held_against_its_base_on_a_page_of_its_own(tmp_path: Path) -> None:
    run, html = tmp_path / "run", tmp_path / "c.html"
    dozan.train(ROWS[:8], None, run, overrides=["train.max_steps=1", "data.holdout=0", "adapter.rank=2"])
    data = tmp_path / "rows.jsonl"
    row = {"id": "a", "tools": list(ROWS[9].tools), "messages": list(ROWS[9].messages)}
    data.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    call = ["compare", str(run), "--data", str(data), "--max-new-tokens", "8", "--html", str(html)]
    assert leave(call) == 0
    text = html.read_text(encoding="utf-8")
    assert "run against base" in text and 'id="training"' in text and 'id="made"' in text
    (run / "metrics.jsonl").unlink()
    assert leave(call) == 0
    text = html.read_text(encoding="utf-8")
    assert "run against base" in text and 'id="training"' not in text and 'id="made"' in text
    assert leave(["eval", "--data", str(data), "--limit", "1", "--max-new-tokens", "8", "--html", str(html)]) == 0
    assert "base on rows.jsonl" in html.read_text(encoding="utf-8")


def test_the_verb_refuses_what_it_cannot_compare(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, tuned = map(str, files)
    for call, said in (
        ([base], "give two models"), ([base, base], "given twice"), ([base, str(tmp_path / "none")], "--data"),
        ([base, tuned, "--require", "strict"], "no comparison"), ([base, str(tmp_path / "no.json")], "cannot be read"),
    ):  # fmt: skip
        assert leave(["compare", *call]) == 2
        assert said in capsys.readouterr().err
