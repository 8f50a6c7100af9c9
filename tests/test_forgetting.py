"""The purposes scored, each row's loss against the model's own probabilities, and what tuning cost by hand."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_fixtures import tokenizer
from models import tiny_model
from rich.console import Console
from ship_models import make_folder, make_run
from test_bad_input import leave
from test_report import Page

from dozan.chat import GEMMA3
from dozan.chat.encode import encode_rows, gold
from dozan.cli.purposes import evaluate_for
from dozan.errors import InputError
from dozan.html.charts import radar
from dozan.judge import purposes_loss
from dozan.judge.forgetting import Change, Forgetting, forgetting, html, table, to_json, verdict
from dozan.judge.purposes import PurposeRow, PurposeScores, guard_note, program, read_purpose, score_purpose
from dozan.judge.purposes_loss import row_losses
from dozan.judge.purposes_page import html as purpose_html
from dozan.judge.sandbox import Limits
from dozan.model.bundle import Bundle
from dozan.pack import pack_rows
from dozan.rows.example import Example
from dozan.train.loop import evaluation_loss

MBPP = [
    {"text": "Add one.", "code": "def one(a):\r\n    return a + 1", "task_id": 1, "test_setup_code": "import math",
     "test_list": ["assert one(1) == 2", "assert one(math.floor(2.5)) == 3"]},
    {"text": "Twice.", "code": "def twice(a):\n    return a * 2", "task_id": 2, "test_setup_code": "",
     "test_list": ["assert twice(2) == 4"]},
]  # fmt: skip
HUMANEVAL = {
    "task_id": "HumanEval/0", "entry_point": "half", "canonical_solution": "    return Fraction(a, 2)\n",
    "prompt": 'from fractions import Fraction\n\n\ndef half(a):\n    """Half of a."""\n',
    "test": "def check(candidate):\n    assert candidate(3) == Fraction(3, 2)\n",
}  # fmt: skip
TALK = [
    {"instruction": "كيف الحال", "output": "بخير والحمد لله"}, {"instruction": "قل شيئا", "output": "الطقس جميل اليوم"}
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def answered(example: Example) -> str:
    """The reference as a model would generate it."""
    return gold(example).text + "<end_of_turn>"


def test_code_is_run_by_its_tests(tmp_path: Path) -> None:
    rows = read_purpose("code", write(tmp_path / "mbpp.jsonl", MBPP))
    asked = rows[0].messages[-2]["content"]
    assert asked.endswith("pass these tests:\nassert one(1) == 2\nassert one(math.floor(2.5)) == 3")
    right = score_purpose("code", rows, [answered(row) for row in rows], None, GEMMA3, workers=1)
    assert [row.right for row in right.rows] == [True, True] and right.summary()["share"] == 1.0
    fenced = "Here it is:\n```python\ndef one(a):\n    return a + 2\n```"
    wrong = score_purpose("code", rows, [fenced, "while True: pass"], None, GEMMA3, Limits(seconds=2.0), workers=1)
    assert [row.right for row in wrong.rows] == [False, False] and wrong.summary()["right"] == 0
    assert wrong.summary()["reasons"] == {"failed test": 1, "time": 1}
    assert "limits" in wrong.guards
    assert guard_note(replace(wrong, guards=("audit", "limits"))).startswith("code ran without seccomp and landlock")
    assert guard_note(replace(wrong, guards=("audit", "landlock", "limits", "seccomp"))) == ""


def test_rows_like_humaneval_s(tmp_path: Path) -> None:
    (row,) = read_purpose("code", write(tmp_path / "human.jsonl", [HUMANEVAL]))
    answers = {
        gold(row).text: True, "    return Fraction(a, 2)\n": True, "b = Fraction(a)\n    return b / 2": True,
        "b = Fraction(a)\nreturn b / 2": True, "```python\ndef half(a):\n    return Fraction(a) / 2\n```": True,
        "    return a // 2\n": False, "```python\ndef third(a):\n    return a\n```": False, "": False,
    }  # fmt: skip
    found = score_purpose("code", [row] * len(answers), list(answers), None, GEMMA3, workers=2)
    assert [scored.right for scored in found.rows] == list(answers.values())
    code, tests = program(row, "    return 1\n")
    assert code.endswith('"""Half of a."""\n    return 1\n') and tests[0].rstrip().endswith("check(half)")


def test_rows_without_tests_and_broken_files_are_refused(tmp_path: Path) -> None:
    bare = [{"text": "Add one.", "code": "def one(a): return a + 1"}]
    with pytest.raises(InputError, match=r"rows.jsonl:1: test_list is missing"):
        read_purpose("code", write(tmp_path / "rows.jsonl", bare))
    with pytest.raises(InputError, match=r"human.jsonl:2: test: missing"):
        read_purpose("code", write(tmp_path / "human.jsonl", [HUMANEVAL, {**HUMANEVAL, "test": ""}]))
    with pytest.raises(InputError, match="did you mean 'code'"):
        read_purpose("coed", tmp_path / "rows.jsonl")
    rows = read_purpose("code", write(tmp_path / "mbpp.jsonl", MBPP), limit=1)
    with pytest.raises(InputError, match="2 answers for 1 rows"):
        score_purpose("code", rows, ["", ""], None, GEMMA3)


def test_reasoning_is_right_by_the_final_answer(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": "48/2 = 24, 48+24 = 72.\n#### 72"}] * 3
    examples = read_purpose("reasoning", write(tmp_path / "maths.jsonl", rows))
    found = score_purpose("reasoning", examples, ["الجواب هو ٧٢", "24 + 48 = 71", ""], None, GEMMA3)
    assert [row.right for row in found.rows] == [True, False, False]
    assert found.summary()["reasons"] == {"another answer": 2} and found.summary()["share"] == pytest.approx(1 / 3)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    words = tokenizer()
    model = tiny_model(vocab_size=words.size, max_position_embeddings=4096)
    return Bundle(model, model.config, words, GEMMA3, Path("base"), None)


def test_row_losses_are_the_model_s_own(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = read_purpose("conversation", write(tmp_path / "talk.jsonl", [*TALK, *TALK[:1]]))
    rows = encode_rows(examples, bundle.chat, bundle.tokenizer, 4096)
    for pack_tokens in (4096, 1):
        monkeypatch.setattr(purposes_loss, "_PACK_TOKENS", pack_tokens)
        found = row_losses(bundle, examples)
        for row, loss in zip(rows, found, strict=True):
            (batch,) = pack_rows([row], "none", 1)
            whole = evaluation_loss(bundle.model, [batch])
            assert loss.tokens == len(row.supervised[0]) and loss.loss == pytest.approx(whole, rel=1e-5)
    total = evaluation_loss(bundle.model, pack_rows(rows, "paths", 4096))
    tokens = sum(row.tokens for row in found)
    assert sum(row.loss * row.tokens for row in found) / tokens == pytest.approx(total, rel=1e-5)
    assert found[0].loss == pytest.approx(found[2].loss, rel=1e-5), "rows of a pack do not see each other"
    assert not torch.is_grad_enabled() or all(p.grad is None for p in bundle.model.parameters())


def scores(purpose: str, losses: list[float], right: list[bool] | None = None, tokens: int = 10) -> PurposeScores:
    judged = right or [None] * len(losses)
    return PurposeScores(purpose, tuple(
        PurposeRow(str(i), f"rows:{i}", f"سؤال {i}", "جواب", "<b>", told, "", loss, tokens, {})
        for i, (loss, told) in enumerate(zip(losses, judged, strict=True))
    ))  # fmt: skip


def scored() -> dict[str, dict[str, PurposeScores]]:
    base = {"code": scores("code", [1.0] * 6, [True] * 6), "domain": scores("domain", [2.0, 2.1, 1.9, 2.0]),
            "creative": scores("creative", [3.0] * 4)}  # fmt: skip
    tuned = {"code": scores("code", [2.0] * 6, [False] * 6), "domain": scores("domain", [2.1, 2.0, 2.0, 1.9]),
             "creative": scores("creative", [2.0] * 4)}  # fmt: skip
    replay = {**tuned, "code": scores("code", [1.25] * 6, [True] * 4 + [False] * 2)}
    return {"base": base, "tuned": tuned, "replay": replay}


def test_forgetting_equals_the_hand_count() -> None:
    found = forgetting(scored())
    code, domain, creative = found.changes["tuned"]
    assert [change.verdict for change in (code, domain, creative)] == ["forgotten", "kept", "gained"]
    assert (code.difference, code.loss, code.retained) == (1.0, 2.0, pytest.approx(math.exp(-1)))
    assert (code.base_share, code.share, code.p) == (1.0, 0.0, 2 / 64) and domain.p is None
    assert found.back == {"code": 0.75}
    assert "code (37 %) forgotten; domain (100 %) kept; creative (272 %) gained" in verdict(found)
    assert "bring back 75 % of code" in verdict(found)
    longer = {name: {"code": scores("code", [1.0] * 3, tokens=n)} for name, n in (("base", 10), ("tuned", 20))}
    assert forgetting(longer).changes["tuned"][0].difference == 1.0, "another tokenizer: over the text, not a token"
    assert json.loads(json.dumps(to_json(found)))["changes"]["tuned"][0]["verdict"] == "forgotten"
    assert table(found).row_count == 9 and isinstance(found, Forgetting)


def test_the_table_fits_eighty_columns() -> None:
    wide = Change("conversation", 1000, 15.35, 3.85, -11.5, -12.0, -10.94, 98715.8, None, None, None)
    lost = replace(wide, low=0.04, high=0.25)
    console = Console(width=80, file=io.StringIO())
    console.print(table(Forgetting("base", {"tuned": (lost,), "replayed": (wide,)}, {"conversation": 0.41})))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "-12.00 to -10.94" in text and "> 999 %" in text and "41 %" in text and "  back" in text


def test_the_forgetting_page_stands_alone() -> None:
    runs = scored()
    text = html(forgetting(runs), runs)
    reader = Page()
    reader.feed(text)
    assert reader.open == [] and "<b>" not in text.replace("<b>base", "") and "&lt;b&gt;" in text
    assert text.count('class="line stroke') == 3 and "75 %" in text and 'dir="rtl"' in text
    assert not {tag for tag, _ in reader.seen} & {"script", "iframe", "img", "link"} and "http:" not in text
    one = purpose_html({"base": runs["base"]["code"]}, most=2)
    assert one.count('class="case"') == 2 and "and 4 more rows" in one


def test_one_purpose_of_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_folder(tmp_path / "base")
    rows, out, page = write(tmp_path / "mbpp.jsonl", MBPP), tmp_path / "out" / "p.json", tmp_path / "out" / "p.html"
    evaluate_for("code", str(base), rows, out, page, max_new_tokens=4)
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["purpose"], found["judged"], len(found["rows"])) == ("code", 2, 2) and found["loss"] > 0
    assert "code: 2 rows" in capsys.readouterr().out and "Side by side" in page.read_text(encoding="utf-8")


def test_models_on_other_rows_or_without_losses_are_refused() -> None:
    runs = scored()
    with pytest.raises(InputError, match="tuned was scored on code"):
        forgetting({"base": runs["base"], "tuned": {"code": runs["tuned"]["code"]}})
    other = {**runs["tuned"], "domain": scores("domain", [1.0])}
    with pytest.raises(InputError, match="domain was scored on other rows"):
        forgetting({"base": runs["base"], "tuned": other})
    mute = replace(runs["tuned"]["code"], rows=tuple(replace(row, loss=None) for row in runs["tuned"]["code"].rows))
    with pytest.raises(InputError, match="code has no losses; a GGUF"):
        forgetting({"base": runs["base"], "tuned": {**runs["tuned"], "code": mute}})


def test_the_radar_puts_each_value_on_its_axis() -> None:
    drawn = radar(["a", "b", "c", "d"], [[1, 1, 1, 1], [0.5, 0, 9, 1]], "t", ["x", "<y>"])
    first, second = (part.split('d="M')[1].split('Z"')[0].split("L") for part in drawn.split('class="line ')[1:])
    middle, rim = 320.0, 160 - 34
    assert [tuple(map(float, point.split())) for point in first] == [
        (middle, pytest.approx(160 - rim / 1.5, abs=0.1)), (pytest.approx(middle + rim / 1.5, abs=0.1), 160.0),
        (middle, pytest.approx(160 + rim / 1.5, abs=0.1)), (pytest.approx(middle - rim / 1.5, abs=0.1), 160.0),
    ]  # fmt: skip
    assert second[1] == "320.0 160.0" and float(second[2].split()[1]) == pytest.approx(160 + rim, abs=0.1)
    assert "&lt;y&gt;: a 0.50" in drawn and "c 9.00" in drawn and radar(["a", "b"], [[1, 1]], "t", ["x"]) == ""


def test_the_verb_on_two_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = make_folder(tmp_path / "base")
    tuned = make_run(tmp_path / "tuned", base)
    maths = [{"question": "كم ٢ و ٣", "answer": "٥\n#### 5"}, {"question": "كم ١ و ١", "answer": "٢\n#### 2"}]
    files = [f"conversation={write(tmp_path / 'talk.jsonl', TALK)}", f"reasoning={write(tmp_path / 'm.jsonl', maths)}",
             f"code={write(tmp_path / 'mbpp.jsonl', MBPP)}"]  # fmt: skip
    rows = [part for file in files for part in ("--rows", file)]
    out, page = tmp_path / "f.json", tmp_path / "f.html"
    call = ["forget", str(base), str(tuned), *rows, "--json", str(out), "--html", str(page)]
    assert leave([*call, "--answers", "--max-new-tokens", "4"]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [change["purpose"] for change in found["changes"]["tuned"]] == ["conversation", "reasoning", "code"]
    assert found["changes"]["tuned"][1]["share"] is not None and found["changes"]["tuned"][0]["difference"] != 0
    assert page.read_text(encoding="utf-8").count('class="line stroke') == 2
    twice = (rows[:2] * 2, "given twice")
    for wrong, said in ((["--rows", "talk"], "PURPOSE=FILE"), ([], "name held-out rows"), twice):
        assert leave(["forget", str(base), str(tuned), *wrong]) == 2
        assert said in capsys.readouterr().err


