"""Answers made elsewhere, scored: what a file of them may be, and what is refused with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_bad_input import Refused, leave, refused, write_rows
from test_score import PAY, TOOLS, row, tool

from dozan.errors import InputError
from dozan.judge.evaluate import read_scores, score_predictions
from dozan.judge.predictions import read_predictions
from dozan.judge.score import score_rows, tool_set
from dozan.rows.example import Example

__all__ = ["refused"]

E = "<escape>"
RIGHT = f"<start_function_call>call:transfer{{amount:50,to:{E}سارة{E}}}<end_function_call>"
ROWS = [
    row("a", "حوّل 50 لسارة", PAY, dialect="gulf"), row("b", "شغّل الكشاف", ("light", {})),
    row("c", "شكرا", answer="عفوا"),
]  # fmt: skip


def write(path: Path, *lines: Any) -> Path:
    return write_rows(path / "predictions.jsonl", *lines)


def answer(path: Path, *texts: str) -> Path:
    return write(path, *({"id": e.id, "prediction": text} for e, text in zip(ROWS, texts, strict=True)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_rows(
        tmp_path / "rows.jsonl",
        *({"id": e.id, "tools": list(e.tools), "messages": list(e.messages), **e.meta} for e in ROWS),
    )


def test_text_and_lists_of_calls_are_read(tmp_path: Path) -> None:
    transfer = {"name": "transfer", "arguments": {"to": "سارة", "amount": 50, "note": "{x: [1, <b>"}}
    file = write(
        tmp_path, {"id": "a", "prediction": RIGHT}, {"id": "b", "prediction": [{"name": "light"}]},
        {"id": 7, "prediction": [], "more": 1}, {"id": "d", "prediction": [transfer, {"name": "x.y", "arguments": {}}]},
    )  # fmt: skip
    found = read_predictions(file, ROWS)
    assert found["a"] == RIGHT and found["7"] == ""
    scored = score_rows(ROWS[:2], {"a": found["a"], "b": found["b"]})
    assert [r.strict for r in scored.rows] == [True, True]
    calls = score_rows([row("d", "x", PAY)], {"d": found["d"]}).rows[0].calls
    assert [(call.name, call.arguments) for call in calls] == [("transfer", transfer["arguments"]), ("x.y", {})]


def test_the_json_of_an_evaluation_is_read_and_scores_the_same(data: Path, tmp_path: Path) -> None:
    file = answer(tmp_path, RIGHT, "لا", "x")
    first = score_predictions(file, data, tmp_path / "first.json")
    again = score_predictions(tmp_path / "first.json", data, tmp_path / "again.json")
    assert first == again == read_scores(tmp_path / "again.json")
    assert [r.strict for r in first.rows] == [True, False, True] and first.rows[0].tools == tool_set(ROWS[0])


def test_a_limit_passes_over_predictions_for_the_rows_left_out(data: Path, tmp_path: Path) -> None:
    file = write(tmp_path, *({"id": e.id, "prediction": RIGHT} for e in ROWS))
    assert [r.id for r in score_predictions(file, data, limit=2).rows] == ["a", "b"]
    short = write(tmp_path, {"id": "a", "prediction": RIGHT})
    assert [r.id for r in score_predictions(short, data, limit=1).rows] == ["a"]
    other = write(tmp_path, {"id": "a", "prediction": RIGHT}, {"id": "z", "prediction": RIGHT})
    with pytest.raises(InputError, match=r"0 rows have none \(\), 1 are for other rows \(z\)"):
        score_predictions(other, data, limit=1)
    with pytest.raises(InputError, match="limit is 0"):
        score_predictions(file, data, limit=0)


def test_all_that_is_broken_is_named_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path, {"id": "a"}, {"id": True, "prediction": "x"}, {"id": "a", "prediction": 5},
        {"id": "a", "prediction": [{"arguments": {}}]}, {"id": "a", "prediction": [{"name": "f", "arguments": "{}"}]},
        "{broken", {"id": "b", "prediction": "x"}, {"id": "b", "prediction": "y"}, ["a", "x"],
        {"id": "c", "prediction": [{"name": "f", "arguments": {"x": "<escape>"}}]},
    )  # fmt: skip
    with pytest.raises(InputError) as raised:
        read_predictions(file, ROWS)
    lines = str(raised.value).splitlines()
    said = [
        'jsonl:1: expected {"id"', "jsonl:2: id: expected text", "jsonl:3: prediction: expected the generated text",
        "jsonl:4: prediction[0]", "jsonl:5: prediction[0]", "jsonl:6:", "jsonl:8: id: 'b' comes twice",
        'jsonl:9: expected {"id"', "jsonl:10:",
    ]  # fmt: skip
    assert len(lines) == len(said) and all(part in line for part, line in zip(said, lines, strict=True))


def test_another_tool_set_or_question_is_refused(tmp_path: Path) -> None:
    same = {"id": "a", "prediction": RIGHT, "tools": list(TOOLS[::-1]), "query": "حوّل 50 لسارة"}
    assert read_predictions(write(tmp_path, same), ROWS) == {"a": RIGHT}
    assert read_predictions(write(tmp_path, {**same, "tools": ""}), ROWS) == {"a": RIGHT}
    fewer = tool("transfer", ["to"], to={"type": "string"}, amount={"type": "number"}, note={"type": "string"})
    for tools in ([fewer, *TOOLS[1:]], list(TOOLS[1:]), "0123456789ab"):
        with pytest.raises(InputError, match=r"jsonl:1: the tool set of row a \(rows.jsonl:a\) is not the one"):
            read_predictions(write(tmp_path, {**same, "tools": tools}), ROWS)
    with pytest.raises(InputError, match=r"row a \(rows.jsonl:a\) asks 'حوّل 50 لسارة', the prediction answers 'شكرا'"):
        read_predictions(write(tmp_path, {**same, "query": "شكرا"}), ROWS)


def test_the_tool_set_is_told_by_its_declarations_alone() -> None:
    def told(*tools: Any) -> str:
        return tool_set(Example("x", tools, ()))

    bare = [each["function"] for each in TOOLS]
    assert told(*TOOLS) == told(*TOOLS[::-1]) == told(*bare) and len(told()) == 12
    assert len({told(), told(TOOLS[0]), told(TOOLS[1]), told(*TOOLS[:2]), told({**bare[0], "description": "x"})}) == 5


def test_eval_scores_predictions_with_a_preset(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dozan.terminal.console.width", 140)
    file = answer(tmp_path, RIGHT.replace("سارة", "منى"), "لا", "x")
    out = tmp_path / "scores.json"
    assert leave(["eval", "--data", str(data), "--predictions", str(file), "--preset", "aisa", "--json", str(out)]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["n"] == 3 and found["strict"] == 1 / 3 and found["model"] == str(file)
    assert found["preset"]["name"] == "aisa" and found["preset"]["figures"]["FnAcc"]["value"] == 2 / 3
    assert found["faults"]["ungrounded"]["rows"] == 1 and [r.id for r in read_scores(out).rows] == ["a", "b", "c"]
    printed = capsys.readouterr().out
    for part in ("rows with a call", "dialect", "1 to 5 words", "missed call", "ungrounded", "track A, honest"):
        assert part in printed


def test_eval_names_what_cannot_be_scored(data: Path, tmp_path: Path, refused: Refused) -> None:
    file = write(tmp_path, {"id": "a", "prediction": RIGHT})
    assert "2 rows have none (b, c)" in refused("eval", "--data", data, "--predictions", file)
    other = write_rows(tmp_path / "other.jsonl", {"id": "z", "prediction": "x"})
    assert "1 are for other rows (z)" in refused("eval", "--data", data, "--predictions", other)
    changed = write_rows(tmp_path / "changed.jsonl", {"id": "a", "prediction": RIGHT, "tools": [TOOLS[0]]})
    assert "the tool set of row a" in refused("eval", "--data", data, "--predictions", changed)
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    assert "no rows" in refused("eval", "--data", tmp_path / "empty.jsonl", "--predictions", file)
    assert "no predictions" in refused("eval", "--data", data, "--predictions", tmp_path / "empty.jsonl")
    assert "absent.jsonl" in refused("eval", "--data", data, "--predictions", tmp_path / "absent.jsonl")
    assert "did you mean 'aisa'" in refused("eval", "--data", data, "--predictions", file, "--preset", "aysa")
    assert "give one" in refused("eval", "--data", data, "--predictions", file, "--model", tmp_path)
