"""The five purposes: rows of real sets read, rendered in Gemma's format, and measured against their own answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dozan.chat import chat_format
from dozan.errors import InputError
from dozan.rows.purposes import PURPOSES, final_number, measure, python_parses, read_for, word_f1
from dozan.rows.shapes import SHAPES

ROWS: dict[str, list[dict[str, Any]]] = {
    "code": [
        {"text": "Sum two numbers.", "code": "def add(a, b):\r\n    return a + b", "task_id": 1, "test_list": []},
        {"text": "Square a number.", "code": "def square(a):\n    return a * a", "task_id": 2, "test_list": []},
    ],
    "conversation": [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b c"}]}],
    "domain": [{"instruction": "What is a bond?", "input": "", "output": "A loan to a state.", "text": ""}],
    "creative": [{"text": "One day a girl went out and saw the sea."}],
    "reasoning": [{"question": "How many in all?", "answer": "48/2 = <<48/2=24>>24 in May.\n#### 72"}],
}


@pytest.mark.parametrize("name", PURPOSES)
def test_rows_are_read_with_the_purpose_s_texts_and_measure_full_marks_against_themselves(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, ROWS[name])), encoding="utf-8")
    rows = read_for(name, file)
    assert [row.messages[0] for row in rows] == [{"role": "system", "content": PURPOSES[name].system}] * len(rows)
    answers = [row.messages[-1]["content"] for row in rows]
    for row, answer in zip(rows, answers, strict=True):
        text = chat_format("gemma3").render(row.messages, row.tools).text
        assert PURPOSES[name].system in text and answer.strip() in text
    assert measure(name, answers, answers) == dict.fromkeys(PURPOSES[name].measures, 1.0)
    assert set(PURPOSES[name].shapes) <= set(SHAPES)


def test_measures_tell_wrong_answers() -> None:
    assert measure("code", ["def f(:"], ["def f(): pass"])["parses"] == 0
    assert python_parses("Here:\n```python\nx = 1\n```\nDone, it works.", "") == 1 and python_parses("", "") == 0
    assert measure("code", ["def g(): pass"], ["def f(): pass"])["definitions"] == 0
    assert final_number("إذن ٧٢", "so 72.0") == 1 and final_number("1,200", "1200") == 1
    assert final_number("71", "72") == 0 and final_number("none", "72") == 0
    assert word_f1("الكُرة حمراء", "الكره زرقاء") == pytest.approx(0.5) and word_f1("", "a") == 0
    assert measure("creative", ["go on " * 20], ["x"])["without_repeats"] < 0.1


def test_unknown_purposes_and_uneven_answers() -> None:
    with pytest.raises(InputError, match="did you mean 'reasoning'"):
        measure("reasonin", ["a"], ["a"])
    with pytest.raises(InputError, match="2 answers for 1 references"):
        measure("code", ["a", "b"], ["a"])
