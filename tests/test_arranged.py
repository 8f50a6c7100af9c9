"""Tools by name and the date after them: alike in training, evaluation and whatever is shipped; as given by default."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import tokenizer
from ship_models import make_folder
from test_bad_input import TRIGGER, write_rows
from test_functiongemma import BY_NUMBER, WELL_FORMED

import dozan
from dozan import terminal
from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.chat.arranged import AS_GIVEN, Arrangement, arranged, arrangement_of, read_arrangement
from dozan.chat.encode import encode_example, encode_prompt
from dozan.chat.template_limits import ChatTemplate, functiongemma_template
from dozan.errors import InputError
from dozan.judge.evaluate import evaluate
from dozan.model.bundle import open_model
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.served import serve, serve_gguf
from dozan.train.loop import train
from dozan.train.prepare import prepare

CANONICAL, AFTER = Arrangement("canonical"), Arrangement(now="after_tools")
BOTH = Arrangement("canonical", "after_tools")
ALL = [AS_GIVEN, CANONICAL, AFTER, BOTH]
NAMES = ("set_timer", "Open_wifi", "ask_weather")
TOOLS = tuple(
    {"type": "function", "function": {"name": name, "description": f"Does {name}", "parameters": {
        "type": "OBJECT", "properties": {"minutes": {"type": "INTEGER", "description": "How many"}}}}}
    for name in NAMES
)  # fmt: skip
SAID = ("مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5")


def dated(day: int) -> str:
    return (f"Current date and time given in YYYY-MM-DDTHH:MM:SS format: 2024-10-{day}T14:27:48\n"
            f"Day of week is {'Sunday' if day % 2 else 'Monday'}\n{TRIGGER}\n")  # fmt: skip


def conversation(i: int, tools: Sequence[Any] = TOOLS) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "set_timer", "arguments": {"minutes": 5}}}
    return {"id": f"r{i}", "tools": list(tools), "messages": [
        {"role": "developer", "content": dated(10 + i)}, {"role": "user", "content": SAID[i % len(SAID)]},
        {"role": "assistant", "tool_calls": [call]}]}  # fmt: skip


def example(i: int = 0, tools: Sequence[Any] = TOOLS) -> Example:
    row = conversation(i, tools)
    return Example(row["id"], tuple(tools), tuple(row["messages"]), place=f"rows.jsonl:{i + 1}")


def text(row: Example, arrangement: Arrangement) -> str:
    return arranged(FUNCTIONGEMMA, arrangement).render(row.messages, row.tools).text


@pytest.mark.parametrize("number", WELL_FORMED)
def test_as_given_changes_nothing(number: int) -> None:
    case = BY_NUMBER[number]["input"]
    chat = arranged(FUNCTIONGEMMA, read_arrangement({}, "nowhere"))
    assert chat is FUNCTIONGEMMA and arrangement_of(chat) == AS_GIVEN
    rendered = chat.render(case["messages"], case.get("tools") or (), case.get("agp", False))
    assert rendered.text == BY_NUMBER[number]["rendered"]


def test_canonical_is_one_order_whatever_is_given() -> None:
    texts = {text(example(0, tools), CANONICAL) for tools in permutations(TOOLS)}
    (only,) = texts
    assert only == text(example(0, (TOOLS[1], TOOLS[2], TOOLS[0])), AS_GIVEN), "capitals first, as code points sort"
    assert len({text(example(0, tools), AS_GIVEN) for tools in permutations(TOOLS)}) == 6
    twice = (TOOLS[0], {"function": {**TOOLS[0]["function"], "description": "again"}})
    assert CANONICAL.tools(twice) == twice and CANONICAL.tools(twice[::-1]) == twice[::-1]


def test_after_tools_gives_rows_of_other_dates_one_beginning() -> None:
    rows = [example(i) for i in range(4)]
    for row in rows:
        moved = text(row, AFTER)
        assert moved.startswith(f"<bos><start_of_turn>developer\n{TRIGGER}<start_function_declaration>")
        head, _, rest = moved.partition("<end_of_turn>\n<start_of_turn>developer\n")
        assert head.endswith("<end_function_declaration>") and "2024" not in head and "Day of week" not in head
        assert rest.startswith(dated(10 + int(row.id[1:])).removesuffix(f"\n{TRIGGER}\n") + "<end_of_turn>\n")
    beginnings = []
    for way in (AS_GIVEN, AFTER):
        ids = [encode_example(row, arranged(FUNCTIONGEMMA, way), tokenizer(), 4096).ids for row in rows]
        beginnings.append(tokenizer().decode(os.path.commonprefix(ids)))
    assert "<start_function_declaration>" not in beginnings[0]
    assert beginnings[1].count("<end_function_declaration>") == 3 and beginnings[1].endswith("2024-10-1")


def test_arabic_dates_and_text_in_parts_move_too() -> None:
    lines = "التاريخ الحالي: ٢٠٢٤-٠٦-٢٢T١٧:١٤\nاليوم هو السَّبت\nأنت نموذج يستدعي الوظائف"
    for content in (lines, [{"type": "text", "text": line} for line in lines.split("\n")]):
        moved = AFTER.messages(({"role": "system", "content": content}, {"role": "user", "content": "q"}), TOOLS)
        assert [message["content"] for message in moved] == [
            "أنت نموذج يستدعي الوظائف", "\n".join(lines.split("\n")[:2]), "q"]  # fmt: skip
        assert [message["role"] for message in moved] == ["system", "developer", "user"]


@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        (example().messages, ()),
        (({"role": "developer", "content": TRIGGER}, {"role": "developer", "content": "Now is 2024-10-20"}), TOOLS),
        (({"role": "user", "content": "What is on 2024-10-20?"},), TOOLS),
        (({"role": "developer", "content": "Sunday is a rule of " + "many " * 40},), TOOLS),
        ((), TOOLS),
    ],
    ids=["no tools", "after them already", "the user's date", "a paragraph", "nothing"],
)
def test_what_is_no_date_before_the_tools_stays(messages: Any, tools: Any) -> None:
    assert AFTER.messages(messages, tools) == messages


def test_an_application_gets_the_same_bytes_from_the_shipped_template() -> None:
    """The chat template is the base's own: a prompt is laid out before it."""
    row = example()
    tools, messages = BOTH.tools(row.tools), BOTH.messages(row.messages, row.tools)
    assert ChatTemplate(functiongemma_template(), "ours").render(messages, tools) == text(row, BOTH)
    assert [len(way.prompt()) for way in ALL] == [0, 1, 1, 2]


def test_errors_name_the_fields_as_the_row_has_them() -> None:
    bad = {"type": "function", "function": {"name": "a b", "description": ""}}
    row = example(0, (*TOOLS, bad))
    with pytest.raises(InputError, match=r"rows.jsonl:1: tools\[3\]"):
        arranged(FUNCTIONGEMMA, CANONICAL).render(row.messages, row.tools, place=row.place)
    messages = ({"role": "developer", "content": dated(10)}, {"role": "tool", "content": "x"})
    with pytest.raises(InputError, match=r"messages\[1\]") as caught:
        arranged(FUNCTIONGEMMA, AFTER).render(messages, TOOLS)
    assert "messages[2]" not in str(caught.value)


def test_a_format_without_tools_has_no_arrangement() -> None:
    assert arranged(GEMMA3, BOTH) is GEMMA3 and arrangement_of(GEMMA3) == AS_GIVEN


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    orders = list(permutations(TOOLS))
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *[conversation(i, orders[i]) for i in range(6)])


def settings(way: Arrangement) -> list[str]:
    changes = [f"data.{option}={value}" for option, value in way.values().items()]
    return [*changes, "train.max_steps=1", "adapter.rank=4", "data.holdout=0"]


@pytest.mark.parametrize("way", ALL, ids=str)
def test_every_stage_asks_as_was_trained(
    way: Arrangement, base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(data, base, tmp_path / "run", overrides=settings(way), on_event=lambda event: None).out
    merged = dozan.merge(run, tmp_path / "merged")
    gguf = write_gguf(open_model(run), tmp_path / "m.gguf", "f32")
    asked: dict[str, list[list[int]]] = {}

    def answer(name: str, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        asked[name] = [list(prompt) for prompt in prompts]
        return [[] for _ in prompts]

    for folder in (run, run / "adapter", merged):
        evaluate(folder, data, complete=lambda prompts, name=folder.name: answer(name, prompts))  # type: ignore[misc]
    monkeypatch.setattr(llamacpp, "complete", lambda path, prompts, *more: answer(Path(path).name, prompts))
    dozan.evaluate(gguf, data)
    rows = read_rows(data)
    trained = {row.row: list(row.ids) for row in prepare(data, base, None, settings(way), None).plan.rows}
    expected = [encode_prompt(row, arranged(FUNCTIONGEMMA, way), open_model(base).tokenizer) for row in rows]
    assert list(asked) == ["run", "adapter", "merged", "m.gguf"] and all(found == expected for found in asked.values())
    assert all(trained[row.id][: len(prompt)] == prompt for row, prompt in zip(rows, expected, strict=True))
    assert arrangement_of(serve_gguf(gguf).chat) == arrangement_of(serve(merged).chat) == way
    assert (merged / "chat_template.jinja").read_bytes() == (base / "chat_template.jinja").read_bytes()
    assert (merged / "dozan.json").exists() == (way != AS_GIVEN)
    if way != AS_GIVEN:
        written = json.loads((merged / "dozan.json").read_text(encoding="utf-8"))
        assert written == {**way.values(), "prompt": way.prompt()}


def test_one_prompt_is_asked_as_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "tuned")
    (folder / "dozan.json").write_text('{"tool_order": "canonical"}')
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(TOOLS))
    asked: list[str] = []
    bundle = open_model(folder)

    def answer(_: object, prompts: Sequence[Sequence[int]], *more: object, **options: object) -> list[list[int]]:
        asked.append(bundle.tokenizer.decode(list(prompts[0])))
        return [[]]

    monkeypatch.setattr("dozan.judge.generate.generate", answer)
    terminal.chat(str(folder), "مؤقت", tools, 5)
    found = [part.split("{")[0] for part in asked[0].split("declaration:")[1:]]
    assert found == sorted(NAMES) != list(NAMES)


def test_options_that_are_not_known_are_refused(base: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tuned")
    (folder / "dozan.json").write_text('{"tool_order": "by_size", "now": 3}')
    with pytest.raises(InputError, match=r"dozan.json: tool_order = 'by_size'; use as_given or canonical; now = 3"):
        open_model(folder)
    (folder / "dozan.json").write_text("{")
    with pytest.raises(InputError, match="dozan.json:1:2: broken JSON"):
        open_model(folder)
    with pytest.raises(InputError, match=r"data.tool_order = 'sorted'.*a value that works: as_given"):
        prepare([example()], base, None, ["data.tool_order=sorted"], None)


def test_training_says_what_it_moves(base: Path, data: Path, tmp_path: Path) -> None:
    notes = prepare(data, base, None, settings(BOTH), None).notes
    assert any("data.tool_order = canonical: the tools of 5 of 6 rows change places" in note for note in notes)
    assert any("data.now = after_tools: the date of 6 of 6 rows moves behind" in note for note in notes)
    assert not any("data." in note for note in prepare(data, base, None, settings(AS_GIVEN), None).notes)
    first = train(data, base, tmp_path / "first", overrides=settings(BOTH), on_event=lambda event: None).out
    merged = dozan.merge(first, tmp_path / "merged")
    notes = prepare(data, merged, None, settings(AS_GIVEN), None).notes
    before = "the base was trained with data.tool_order = canonical, data.now = after_tools"
    assert any(before in note for note in notes)
    second = train(data, merged, tmp_path / "second", overrides=settings(AS_GIVEN), on_event=lambda event: None).out
    assert open_model(second).chat is FUNCTIONGEMMA
    again = dozan.merge(second, tmp_path / "again")
    assert open_model(again).chat is FUNCTIONGEMMA and json.loads((again / "dozan.json").read_text())["prompt"] == []
