"""The loop at the terminal and on the page: a call, its tool's answer, the sentence; and what answers begin as."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from serve_fixtures import ROOT

import dozan
from dozan import terminal
from dozan.chat import FUNCTIONGEMMA, GEMMA3, Tokenizer
from dozan.chat.format import Call
from dozan.chat.tokens import END_CALL, ESCAPE, START_CALL
from dozan.errors import InputError
from dozan.rows.readers import read_rows
from dozan.ship.serve_given import DEFAULT_ROWS, answered, commands, given_for, read_answers, sample, stub
from dozan.ship.served import Served

TOKENIZER = Tokenizer.load(dozan.EMBEDDED_BASE)
CALL = ("get_weather", "city", "بيروت")


def ids(*parts: tuple[str, str, str] | str) -> list[int]:
    """An answer: calls as (name, key, value), and words."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, str):
            found += TOKENIZER.encode(part)
        else:
            name, key, value = part
            call = [TOKENIZER.id(START_CALL), *TOKENIZER.encode(f"call:{name}{{{key}:"), TOKENIZER.id(ESCAPE)]
            found += [*call, *TOKENIZER.encode(value), TOKENIZER.id(ESCAPE), *TOKENIZER.encode("}")]
            found.append(TOKENIZER.id(END_CALL))
    return found


class Model:
    """Says what it is told to, one answer after the other, and keeps the prompts."""

    def __init__(self, *answers: list[int]) -> None:
        self.answers, self.heard = list(answers), list[str]()

    def __call__(self, prompts: Sequence[Sequence[int]], *_: object, **__: object) -> list[list[int]]:
        self.heard.append(TOKENIZER.decode(prompts[0]))
        return [self.answers.pop(0)]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def talk(model: Model, prompt: str | None, answers: Any = None, lines: Sequence[str] = ()) -> str:
        monkeypatch.setattr(terminal, "serve", lambda name: Served(TOKENIZER, FUNCTIONGEMMA, model))
        said = iter(lines)
        monkeypatch.setattr("builtins.input", lambda shown="": print(shown) or next(said))
        monkeypatch.setattr("sys.stdin.isatty", lambda: bool(lines), raising=False)
        file = None
        if answers is not None:
            file = tmp_path / "answers.json"
            file.write_text(json.dumps(answers, ensure_ascii=False), encoding="utf-8")
        terminal.chat("any", prompt, None, 50, answers=file)
        return capsys.readouterr().out

    return talk


def test_a_prompt_alone_ends_at_the_call(chat: Any) -> None:
    model = Model(ids(CALL))
    shown = chat(model, "كيف الطقس في بيروت")
    assert 'get_weather {"city": "بيروت"}' in shown and len(model.heard) == 1


def test_answers_of_a_file_go_on_to_the_sentence(chat: Any) -> None:
    model = Model(ids(CALL), ids("الطقس مشمس"))
    shown = chat(model, "كيف الطقس في بيروت", {"get_weather": {"sky": "مشمس"}})
    assert "get_weather answers" in shown and shown.rstrip().endswith("الطقس مشمس\u2069")
    assert model.heard[1].endswith("response:get_weather{sky:<escape>مشمس<escape>}<end_function_response>")
    assert model.heard[1].startswith(model.heard[0])


def test_a_call_that_the_file_does_not_know_ends_it(chat: Any) -> None:
    model = Model(ids(CALL, ("show_map", "query", "بيروت")))
    assert "answers" not in chat(model, "x", {"get_weather": 1}) and len(model.heard) == 1


def test_calls_may_follow_calls_but_not_for_ever(chat: Any) -> None:
    model = Model(ids(CALL), ids(CALL), ids("تم"))
    assert "تم" in chat(model, "x", {"get_weather": 1}) and len(model.heard) == 3
    endless = Model(*[ids(CALL)] * 99)
    chat(endless, "x", {"get_weather": 1})
    assert len(endless.heard) == terminal.CALLS_IN_A_ROW


def test_a_terminal_asks_for_the_answer_and_the_conversation_goes_on(chat: Any) -> None:
    model = Model(ids(CALL), ids("الحرارة 21"), ids("عفوا"), ids(CALL), ids("نعم"))
    lines = ["كيف الطقس", '{"temperature": 21}', "شكرا", "والآن", "", "مرحبا", ""]
    shown = chat(model, None, None, lines)
    assert 'get_weather answers (such as {"status": "ok"}): ' in shown
    assert "temperature:21" in model.heard[1]
    assert "الحرارة 21" in model.heard[2] and "شكرا" in model.heard[2]
    assert "شكرا" not in model.heard[4], "a call that nobody answered ends the conversation"


def test_plain_words_are_an_answer_too() -> None:
    assert [terminal.read_answer(line) for line in ("21", '{"a": 1}', "غائم", "{")] == [21, {"a": 1}, "غائم", "{"]


def test_the_verb_takes_answers(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[1]")
    command = [sys.executable, "-m", "dozan", "run", "x", "--answers", str(tmp_path / "bad.json")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 2 and "bad.json: expected a JSON object" in ran.stderr
    with pytest.raises(InputError, match="no such file; --answers"):
        read_answers(tmp_path / "none.json")


def test_a_stub_is_of_the_schema_that_a_tool_returns() -> None:
    properties = {
        "temperature": {"type": "number"}, "sky": {"type": "string", "enum": ["clear", "rain"]}, "x": {},
        "wet": {"type": "BOOLEAN"}, "hours": {"type": "array", "items": {"type": ["null", "integer"]}},
        "at": {"default": "noon"},
    }  # fmt: skip
    returns = {"type": "object", "properties": properties}
    tool = {"type": "function", "function": {"name": "f", "response": returns}}
    assert stub(tool) == {"temperature": 0, "sky": "clear", "wet": True, "hours": [0], "at": "noon", "x": ""}
    assert stub({"name": "f"}) == {"status": "ok"}
    nested: dict[str, Any] = {"type": "object"}
    nested["properties"] = {"again": nested}
    assert json.dumps(sample(nested)), "a schema that holds itself ends"
    assert sample({"type": "array"}) is not sample({"type": "array"}), "no value is shared"


def test_answers_are_rendered_for_every_call() -> None:
    calls = [Call("get_weather", {"city": "صور"}), Call("show_map", {"query": "صور"})]
    turns = [{"role": "user", "content": "x"}, *answered(calls, [{"t": 1}, "تم"])]
    text = FUNCTIONGEMMA.render(turns, (), generate=True).text
    assert "response:get_weather{t:1}" in text and "response:show_map{value:<escape>تم<escape>}" in text


def test_what_a_page_begins_with(tmp_path: Path) -> None:
    found = given_for("x.gguf", None, FUNCTIONGEMMA)
    assert len(found.tools) == 12 and len(found.opening) == 2 and found.opening[1].startswith("Now is ")
    assert 4 <= len(found.examples) <= 8 and found.examples == commands(read_rows(DEFAULT_ROWS)[:400])
    assert given_for("x.gguf", None, GEMMA3).tools == ()
    tools = [{"type": "function", "function": {"name": "f"}}]
    row = {"tools": tools, "messages": [{"role": "system", "content": "أنت مساعد"}, {"role": "user", "content": "هات"},
                                        {"role": "assistant", "content": "لا"}]}  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "heldout.jsonl").write_text(json.dumps(row), encoding="utf-8")
    own = given_for(tmp_path, None, FUNCTIONGEMMA)
    assert [tool["function"]["name"] for tool in own.tools] == ["f"]
    assert own.examples == ("هات",) and own.opening == ("أنت مساعد",)
