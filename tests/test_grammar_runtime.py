"""Generation held to a grammar, in torch and in llama.cpp: every answer is whole, both agree, what was right stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grammar_calls import EVENT, LIGHT, ORDER, TOOLS, Drawing, broken, ids, tool, written
from ship_models import make_folder

import dozan
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.grammar import Grammar, answer_grammar, row_grammars
from dozan.chat.grammar_text import to_gbnf
from dozan.cli import main
from dozan.errors import InputError
from dozan.judge import evaluate, guide
from dozan.judge import generate as module
from dozan.judge.generate import generate
from dozan.judge.guide import Guides
from dozan.model.bundle import Bundle, open_model
from dozan.rows.readers import read_rows
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.served import answer, gguf_grammars, serve_gguf

TEST_ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "test.jsonl"
ROOM = 280


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_model(make_folder(tmp_path_factory.mktemp("models") / "plain"))


@pytest.fixture(scope="module")
def gguf(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(bundle, tmp_path_factory.mktemp("gguf") / "plain-f32.gguf", "f32")


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    return [[2, *range(300, 310 + i), 400 + 7 * i] for i in range(6)]


def stops(bundle: Bundle) -> set[int]:
    return {bundle.tokenizer.id(token) for token in bundle.chat.stop_tokens}


@pytest.fixture(params=[False, True], ids=["rows leave", "static"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decodes_statically", lambda device: request.param)


@pytest.fixture(scope="module")
def calling() -> Grammar:
    return answer_grammar(TOOLS, FUNCTIONGEMMA, must_call=True)


def test_a_model_of_noise_gives_whole_calls(
    bundle: Bundle, prompts: list[list[int]], calling: Grammar, way: None
) -> None:
    other = answer_grammar([tool("f", {"x": {"type": "integer"}}, ["x"])], FUNCTIONGEMMA, must_call=True)
    grammars = [calling, other, calling] * 2
    free = generate(bundle, prompts, ROOM)
    answers = generate(bundle, prompts, ROOM, batch_rows=4, grammars=grammars)
    for found, grammar in zip(answers, grammars, strict=True):
        parsed = FUNCTIONGEMMA.parse(bundle.tokenizer.decode(found))
        assert parsed.calls and not parsed.problems and not parsed.text
        assert {call.name for call in parsed.calls} <= (
            {"f"} if grammar is other else {"turn_on", "event", "light", "order"}
        )
    assert all(FUNCTIONGEMMA.parse(bundle.tokenizer.decode(found)).calls == () for found in free)
    assert len({tuple(found) for found in answers}) > 2


def test_both_ways_to_decode_give_the_same(
    bundle: Bundle, prompts: list[list[int]], calling: Grammar, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(bundle, prompts, ROOM, grammars=[calling] * 6)
    monkeypatch.setattr(module, "decodes_statically", lambda device: True)
    assert generate(bundle, prompts, ROOM, grammars=[calling] * 6) == expected
    assert generate(bundle, prompts, ROOM, batch_rows=2, grammars=[calling] * 6) == expected


def test_each_token_is_the_best_allowed(bundle: Bundle, prompts: list[list[int]], calling: Grammar) -> None:
    """Against masks alone, computed without a cache."""
    guides = Guides(bundle.tokenizer, stops(bundle), [calling])
    reserve = guides.different()[2][0]
    (found,) = generate(bundle, prompts[:1], ROOM, grammars=[calling])
    place, text = guides.begin(0), list(prompts[0])
    for at, token in enumerate(found[: ROOM - reserve - 1]):
        with torch.inference_mode():
            logits = last_logits(bundle, text)
        mask = torch.from_numpy(place.allowed(ROOM - at, len(logits)))
        assert int(logits.masked_fill(~mask, -torch.inf).argmax()) == token
        place.force(token)
        text.append(token)
        if at == 40:
            break


def last_logits(bundle: Bundle, text: list[int]) -> torch.Tensor:
    """Of the last position, [V]."""
    from test_generate import dense_logits

    return dense_logits(bundle.model, text)


def test_an_answer_that_was_whole_stays_as_it_was(way: None) -> None:
    rows = read_rows(TEST_ROWS)[:12]
    base = open_model(dozan.EMBEDDED_BASE)
    asked = [prompt_of(row, base) for row in rows]
    free = generate(base, asked, 100)
    held = generate(base, asked, 100, grammars=row_grammars(rows, base.chat))
    texts = [base.tokenizer.decode(found) for found in free]
    guides = Guides(base.tokenizer, stops(base), row_grammars(rows, base.chat))
    whole = [i for i, found in enumerate(free) if guides.accepts(i, found) and len(found) < 30]
    assert len(whole) > 4 and any(FUNCTIONGEMMA.parse(texts[i]).calls for i in whole)
    assert all(held[i] == free[i] for i in whole)
    assert all(not base.chat.parse(base.tokenizer.decode(found)).problems for found in held)


def prompt_of(row: Any, bundle: Bundle) -> list[int]:
    from dozan.chat.encode import encode_prompt

    return encode_prompt(row, bundle.chat, bundle.tokenizer)


def test_too_few_tokens_and_unfinished_answers_are_named(
    bundle: Bundle, prompts: list[list[int]], calling: Grammar, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="6 rows have too few tokens.*row 0: 12 of .*; give at least"):
        generate(bundle, prompts, 12, grammars=[calling] * 6)
    monkeypatch.setattr(guide, "ending_tokens", lambda grammar, tokenizer: 0)
    with pytest.raises(InputError, match="answers are not what their grammar asks.*did not end in time"):
        generate(bundle, prompts, 12, grammars=[calling] * 6)


def test_tokens_beyond_the_embedding_and_unknown_ones_are_not_allowed(bundle: Bundle, calling: Grammar) -> None:
    place = Guides(bundle.tokenizer, stops(bundle), [calling]).begin(0)
    for size in (bundle.tokenizer.size - 5, bundle.tokenizer.size + 100):
        mask = place.allowed(ROOM, size)
        assert mask.shape == (size,) and not mask[bundle.tokenizer.size :].any() and mask.sum() == 1


def gguf_accepts(gguf: Path, bundle: Bundle, grammar: Grammar, answers: list[list[int]]) -> list[bool]:
    guides = Guides(bundle.tokenizer, stops(bundle), [grammar] * len(answers))
    return llamacpp.accepts(gguf, answers, sorted(stops(bundle)), gguf_grammars(guides))


def test_both_notations_say_the_same(gguf: Path, bundle: Bundle) -> None:
    drawing, plain = Drawing(2), bundle.tokenizer
    good = [written(*drawing.call()) for _ in range(250)]
    good += [*(written(*call) for call in (EVENT, LIGHT, ORDER)), "تمام", "a < b", "تمام" + good[0] + good[1]]
    bad = [*broken().values(), "\0", "<end_of_turn>", "a<unused12>", "<escape>"]
    answers = [ids(plain, text) for text in (*good, *broken().values())]
    answers += [plain.encode(text) for text in bad[len(broken()) :]]
    held = Guides(plain, stops(bundle), [answer_grammar(TOOLS, FUNCTIONGEMMA)])
    ours = [held.accepts(0, found) for found in answers]
    assert ours == [True] * len(good) + [False] * len(bad)
    assert gguf_accepts(gguf, bundle, answer_grammar(TOOLS, FUNCTIONGEMMA), answers) == ours


def test_llama_cpp_gives_whole_calls_and_those_of_torch(
    gguf: Path, bundle: Bundle, prompts: list[list[int]], calling: Grammar
) -> None:
    served = serve_gguf(gguf)
    found = served.complete(prompts, ROOM, grammars=[calling] * 6)
    expected = generate(bundle, prompts, ROOM, grammars=[calling] * 6)
    assert [row[:16] for row in found] == [row[:16] for row in expected]
    assert all(FUNCTIONGEMMA.parse(served.tokenizer.decode(row)).calls for row in found)


def test_a_grammar_that_llama_cpp_cannot_read_is_an_error(gguf: Path) -> None:
    wrong = llamacpp.GgufGrammars(["root ::= (", 'root ::= "a"'], [0, 1], [0, 0], [])
    with pytest.raises(InputError, match="cannot read grammar 0"):
        llamacpp.complete(gguf, [[2, 300], [2, 301]], 4, [1, 106, 50], grammars=wrong)


def test_a_stop_that_llama_cpp_does_not_know_ends_where_the_grammar_does(gguf: Path, bundle: Bundle) -> None:
    """107 is an ordinary token, here a stop: allowed exactly where the end of a turn is."""
    grammar = llamacpp.GgufGrammars(['root ::= "a" | "ab"'], [0, 0], [0, 0], [107])
    a, b = (bundle.tokenizer.encode(text)[0] for text in "ab")
    texts = [[a], [a, b], [b]]
    found = llamacpp.accepts(gguf, texts, [106, 107], replace(grammar, which=[0] * 3))
    assert found == [True, True, False]
    for answers in llamacpp.complete(gguf, [[2, 300]], 4, [106, 107], grammars=replace(grammar, reserves=[9])):
        assert answers == [a]


def test_rows_are_scored_with_the_grammar(tmp_path: Path) -> None:
    rows = read_rows(TEST_ROWS)[:12]
    scores = evaluate.evaluate(dozan.EMBEDDED_BASE, rows, max_new_tokens=80, grammar=True)
    assert scores.summary()["parse_failures"] == 0


def test_answers_of_a_gguf_are_held_to_the_rows_tools(gguf: Path) -> None:
    rows = read_rows(TEST_ROWS)[:3]
    served = serve_gguf(gguf)
    texts = answer(served, rows, 128, grammar=True)
    assert [served.chat.parse(text).problems for text in texts] == [()] * 3


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    out = capsys.readouterr()
    return int(left.value.code or 0), out.out, out.err


def test_the_verbs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS), encoding="utf-8")
    assert run(capsys, "grammar", "--tools", str(tools)) == (0, to_gbnf(answer_grammar(TOOLS, FUNCTIONGEMMA)), "")
    code, text, _ = run(capsys, "grammar", "--tools", str(tools), "--lark", "--must-call")
    assert code == 0 and text.startswith("start: answer\n") and "answer: call+\n" in text
    code, text, _ = run(capsys, "run", "شغل الكشاف", "--grammar", "--max-new-tokens", "80")
    assert code == 0 and "malformed" not in text
    code, _, error = run(capsys, "run", "شغل الكشاف", "--grammar", "--max-new-tokens", "5")
    assert code == 2 and "give at least" in error
    tools.write_text(json.dumps([tool("f", {"x": {"type": "string", "enum": []}}, ["x"])]), encoding="utf-8")
    code, _, error = run(capsys, "grammar", "--tools", str(tools))
    assert code == 2 and "tools[0].function.parameters.properties.x.enum" in error
