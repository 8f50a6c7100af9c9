"""A model evaluated on rows, what is written about it, and two models compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import tokenizer
from models import tiny_model
from rich.console import Console
from test_score import PAY, hand_made, row, score

from dozan.chat.encode import encode_prompt
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.errors import InputError
from dozan.judge.compare import compare, mcnemar, print_table
from dozan.judge.evaluate import evaluate, read_scores, write_scores
from dozan.judge.generate import generate
from dozan.judge.summary import Scores
from dozan.model.bundle import Bundle
from dozan.rows.example import Example

EXAMPLES = [row("a", "حوّل 50 لسارة", PAY), row("b", "شغّل الكشاف", ("light", {})), row("c", "ازيك", answer="أهلا")]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    words = tokenizer()
    model = tiny_model(vocab_size=words.size, max_position_embeddings=4096)
    return Bundle(model, model.config, words, FUNCTIONGEMMA, Path("base"), None)


def answers(bundle: Bundle) -> list[list[int]]:
    """The ids of the right answers, as the format writes them, the stop token cut off."""
    found = []
    for example in EXAMPLES:
        rendered = FUNCTIONGEMMA.render(example.messages, example.tools)
        ids, spans = bundle.tokenizer.encode_rendered(rendered)
        start = rendered.trained[-1][0]
        found.append([token for token, (at, _) in zip(ids, spans, strict=True) if at >= start][:-1])
    return [[token for token in ids if token != bundle.tokenizer.id("<end_of_turn>")] for ids in found]


def test_right_answers_score_one_and_everything_is_written(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "scores.json"
    asked: list[list[int]] = []

    def complete(prompts: list[list[int]]) -> list[list[int]]:
        asked.extend(prompts)
        return answers(bundle)

    scores = evaluate(bundle, EXAMPLES, json=file, complete=complete)
    assert asked == [encode_prompt(example, FUNCTIONGEMMA, bundle.tokenizer) for example in EXAMPLES]
    assert [r.strict for r in scores.rows] == [True] * 3
    written = json.loads(file.read_text(encoding="utf-8"))
    assert written["strict"] == 1.0 and written["model"] == "base"
    assert [r["id"] for r in written["rows"]] == ["a", "b", "c"]
    assert "سارة" in written["rows"][0]["prediction"] and "سارة" in file.read_text(encoding="utf-8")
    assert read_scores(file) == scores and list(file.parent.iterdir()) == [file]


def test_a_model_generates_its_own_answers(bundle: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    lines = [{"id": e.id, "tools": list(e.tools), "messages": list(e.messages)} for e in EXAMPLES]
    data.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines), encoding="utf-8")
    seen: list[tuple[int, int]] = []
    scores = evaluate(bundle, data, max_new_tokens=5, limit=2, on_progress=lambda *at: seen.append(at))
    prompts = [encode_prompt(example, FUNCTIONGEMMA, bundle.tokenizer) for example in EXAMPLES[:2]]
    expected = [bundle.tokenizer.decode(ids) for ids in generate(bundle, prompts, 5)]
    assert [r.prediction for r in scores.rows] == expected and seen == [(1, 2), (2, 2)]


def test_what_cannot_be_evaluated_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows to score"):
        evaluate(bundle, [])
    with pytest.raises(InputError, match="limit is 0"):
        evaluate(bundle, EXAMPLES, limit=0)
    with pytest.raises(InputError, match=r"model.gguf: a GGUF file runs in llama.cpp"):
        evaluate("model.gguf", EXAMPLES)
    with pytest.raises(InputError, match="1 predictions for 3 rows"):
        evaluate(bundle, EXAMPLES, complete=lambda prompts: [[1]])
    bad: Any = Example("bad", (), ({"role": "oracle", "content": "?"},), place="rows.jsonl:9")
    with pytest.raises(InputError, match=r"1 of 4 rows cannot be scored:\n.*rows.jsonl:9"):
        evaluate(bundle, [*EXAMPLES, bad])
    wordy = {"role": "user", "content": "س" * 9000}
    long = Example("long", (), (wordy, {"role": "assistant", "content": "ج"}), place="rows.jsonl:8")
    mute = Example("mute", (), ({"role": "user", "content": "?"},), place="rows.jsonl:7")
    with pytest.raises(InputError, match=r"2 of 2 rows.*\n.*jsonl:8: \d+ tokens fill.*\n.*jsonl:7.*no assistant"):
        evaluate(bundle, [long, mute], complete=unasked)
    with pytest.raises(InputError, match="cannot be read as scores"):
        read_scores(tmp_path / "absent.json")


def unasked(prompts: list[list[int]]) -> list[list[int]]:
    raise AssertionError("rows that cannot be scored were answered")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "scores.json"
    file.write_text("old", encoding="utf-8")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("dozan.judge.evaluate.json_format.dump", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores(file, hand_made(), "model")
    assert file.read_text(encoding="utf-8") == "old"


def pair() -> dict[str, Scores]:
    """Rows a to f; `tuned` wins b, c, d and loses a."""
    before = hand_made()
    late = row("a", "حوّل 50 لسارة", PAY, dialect="egyptian", kind="single")
    example = row("x", "حوّل 50 لسارة", PAY)
    right = score(example, PAY)
    asked = [dict(id=r.id, query=r.query, gold=r.gold, gold_text=r.gold_text) for r in before.rows]
    rows = [replace(right, **of) if r.id in "bcd" else r for r, of in zip(before.rows, asked, strict=True)]
    rows[0] = score(late, ("transfer", {"to": "منى", "amount": 50}))
    return {"base": before, "tuned": Scores(tuple(rows))}


def test_comparison_equals_the_hand_count() -> None:
    found = compare(pair())
    assert found.strict is not None and found.normalised is not None
    assert (found.strict.wins, found.strict.regressions) == (("b", "c", "d"), ("a",))
    assert (found.normalised.wins, found.normalised.regressions) == (("c", "d"), ("a",))
    assert found.strict.p == 2 * (1 + 4) / 16
    assert found.figures["base"]["strict"].value == 2 / 6 and found.figures["tuned"]["strict"].value == 4 / 6
    assert found.figures["base"]["tool_name"].n == 4 and found.figures["base"]["graded_f1"].value == 10 / 14
    assert compare({"base": hand_made()}).strict is None


def test_mcnemar_is_exact() -> None:
    assert mcnemar(0, 0) == 1.0 and mcnemar(5, 5) == 1.0 and mcnemar(0, 6) == mcnemar(6, 0) == 2 / 64
    assert mcnemar(2, 8) == 2 * (1 + 10 + 45) / 1024


def test_other_rows_are_not_compared() -> None:
    scores = hand_made()
    with pytest.raises(InputError, match=r"tuned was scored on other rows than base \(5 and 6 rows\)"):
        compare({"base": scores, "tuned": Scores(scores.rows[:5])})
    with pytest.raises(InputError, match="nothing to compare"):
        compare({})


def test_table_prints_every_figure() -> None:
    console = Console(width=160, record=True)
    print_table(compare(pair()), console)
    text = console.export_text()
    assert "6 rows" in text and "33.3 % (9.7–70.0)" in text and "71.4 %" in text
    assert "strict: tuned wins 3 rows over base and loses 1 (McNemar p = 0.6250)" in text
