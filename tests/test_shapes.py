"""Shapes of rows: each published form is told by its fields and read to the canonical row; a wrong guess is said."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dozan.errors import InputError
from dozan.rows.example import Example
from dozan.rows.readers import detect_file, read_examples, read_rows
from dozan.rows.records import Broken
from dozan.rows.shapes import SHAPES, Options, detect_shape

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Weather", "parameters": PARAMETERS}
TOOL = {"type": "function", "function": FUNCTION}
ASK = {"role": "user", "content": "طقس دبي؟"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "دبي"}}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder: Path, *rows: Any, shape: str | None = None) -> Example:
    """The first row of a file of these."""
    return read_rows(write(folder / "rows.jsonl", *rows), shape)[0]


def said(user: str, answer: str, *before: dict[str, str]) -> tuple[dict[str, str], ...]:
    return (*before, {"role": "user", "content": user}, {"role": "assistant", "content": answer})


PUBLISHED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "iamtarun/python_code_instructions_18k_alpaca": (
        "alpaca",
        {"instruction": "Sum a list.", "input": "[1, 2]", "output": "sum([1, 2])", "prompt": "Below is ..."},
        "Sum a list.\n\n[1, 2]",
        "sum([1, 2])",
    ),
    "yahma/alpaca-cleaned": (
        "alpaca",
        {"output": "1. Eat well.", "input": "", "instruction": "Give a tip."},
        "Give a tip.",
        "1. Eat well.",
    ),
    "medalpaca/medical_meadow_mediqa": (
        "alpaca",
        {"instruction": "Answer.", "input": "What is noonan?\nA: ...", "output": "A disorder."},
        "Answer.\n\nWhat is noonan?\nA: ...",
        "A disorder.",
    ),
    "roneneldan/TinyStories": ("text", {"text": "One day, a girl."}, "", "One day, a girl."),
    "euclaise/writingprompts": (
        "prompt-story",
        {"prompt": "[WP] Rain.", "story": "It fell."},
        "[WP] Rain.",
        "It fell.",
    ),
    "TIGER-Lab/MathInstruct": (
        "alpaca",
        {"source": "data/CoT/aqua.json", "output": "12", "instruction": "3 x 4?"},
        "3 x 4?",
        "12",
    ),
    "bigcode/starcoderdata": (
        "content",
        {
            "max_stars_repo_path": "a.py",
            "max_stars_repo_name": "o/n",
            "max_stars_count": 3,
            "id": "7",
            "content": "x=1",
        },
        "",
        "x=1",
    ),
    "m-a-p/CodeFeedback-Filtered-Instruction": (
        "query-answer",
        {"query": "Sort it.", "answer": "sorted(x)", "resource": "evol", "lang": "python"},
        "Sort it.",
        "sorted(x)",
    ),
    "pile-of-law/pile-of-law": (
        "text",
        {"text": "The court", "created_timestamp": "2009", "downloaded_timestamp": "2022", "url": "u"},
        "",
        "The court",
    ),
    "gbharti/finance-alpaca": (
        "alpaca",
        {"text": "", "instruction": "What is a bond?", "input": "", "output": "A loan."},
        "What is a bond?",
        "A loan.",
    ),
    "HuggingFaceTB/cosmopedia": (
        "prompt-text",
        {
            "text_token_length": 3,
            "text": "A book.",
            "seed_data": "x",
            "format": "f",
            "audience": "a",
            "prompt": "Write.",
        },
        "Write.",
        "A book.",
    ),
    "AGBonnet/augmented-clinical-notes": (
        "conversation-note",
        {"idx": "1", "note": "A woman, 20.", "full_note": "A ...", "conversation": "Doctor: Hi", "summary": "{}"},
        "Doctor: Hi",
        "A woman, 20.",
    ),
    "camel-ai/physics": (
        "message1-message2",
        {
            "role_1": "Physicist",
            "topic;": "Optics",
            "sub_topic": "x",
            "message_1": "Why blue?",
            "message_2": "Rayleigh.",
        },
        "Why blue?",
        "Rayleigh.",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_pairs_and_texts(tmp_path: Path, name: str) -> None:
    shape, row, user, answer = PUBLISHED[name]
    lines: list[str] = []
    file = write(tmp_path / "rows.jsonl", row, row | {"id": "second"})
    first, _ = read_rows(file, say=lines.append)
    wanted = said(user, answer) if user else said(user, answer)[1:]
    assert first.messages == wanted and first.tools == ()
    assert lines[0].startswith(f"{file}: read as {shape}: 2 of the first 2 rows have ")
    used = set(row) - set(first.meta) - {"id"}
    assert all(first.meta[key] == row[key] for key in first.meta) and 1 <= len(used) <= 3


def test_wizardlm_and_oasst(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    row = read(tmp_path, {"idx": "x1", "conversations": turns})
    assert row.messages == said("a", "b") and dict(row.meta) == {"idx": "x1"}
    flat = [
        oasst("r", None, "prompter", "س"),
        oasst("a1", "r", "assistant", "سيئ", rank=1),
        oasst("a0", "r", "assistant", "جيد", rank=0),
        oasst("p", "a0", "prompter", "شكرا"),
        oasst("gone", "r", "assistant", "محذوف", rank=-1, deleted=True),
        oasst("r2", None, "prompter", "سؤال آخر"),
        oasst("b", "r2", "assistant", "جواب"),
        oasst("lost", "nowhere", "assistant", "تائه", message_tree_id="r2"),
        oasst("late", "r", "assistant", "متأخر", message_tree_id="r"),
    ]
    found: list[Broken] = []
    rows = list(read_examples(write(tmp_path / "o.jsonl", *flat), problems=found.append))
    assert [row.messages for row in rows] == [said("س", "جيد"), said("سؤال آخر", "جواب")]
    assert [row.id for row in rows] == ["r", "r2"] and rows[0].meta["messages_in_tree"] == 5
    assert [(item.code_name, item.line) for item in found] == [("lost-parent", 8), ("lost-parent", 9)]


def oasst(name: str, parent: str | None, role: str, text: str, **more: Any) -> dict[str, Any]:
    tree = "r2" if "r2" in (name, parent) else "r"
    row = {"message_id": name, "parent_id": parent, "user_id": "u", "created_date": "d", "text": text, "role": role}
    return {**row, "lang": "ar", "deleted": False, "rank": None, "message_tree_id": tree, **more}


def test_whole_oasst_trees(tmp_path: Path) -> None:
    reply = {"text": "b", "role": "assistant", "replies": []}
    row = read(tmp_path, {"message_tree_id": "t", "prompt": {"text": "a", "role": "prompter", "replies": [reply]}})
    assert row.messages == said("a", "b") and row.id == "t"


def test_openai_rows(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "دبي"}'}}
    answer = {"role": "tool", "tool_call_id": "c1", "content": '{"t": 41}'}
    messages = [ASK, {"role": "assistant", "content": None, "tool_calls": [call]}, answer]
    row = read(tmp_path, {"messages": messages, "tools": [TOOL], "parallel_tool_calls": False})
    assert row.tools == (TOOL,) and row.messages[1]["tool_calls"] == [{"id": "c1", **CALL}]
    assert row.messages[2] == {**answer, "name": "weather"}
    old = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "دبي"}'}}
    row = read(tmp_path, {"messages": [ASK, old, {"role": "function", "name": "weather", "content": "41"}],
                          "functions": [FUNCTION]})  # fmt: skip
    assert row.tools == (TOOL,) and row.messages[1]["tool_calls"] == [CALL] and row.messages[2]["role"] == "tool"


def test_a_canonical_file_with_one_call_in_text_stays_canonical(tmp_path: Path) -> None:
    text = {**CALLED, "tool_calls": [{"function": {"name": "weather", "arguments": "{}"}}]}
    rows = [{"messages": [ASK, CALLED]}, {"messages": [ASK, CALLED]}, {"messages": [ASK, text]}]
    assert detect_shape(rows).name == "mobile-actions"  # type: ignore[union-attr]
    assert read_rows(write(tmp_path / "a.jsonl", *rows))[2].messages[1] == text


def test_sharegpt_with_tools(tmp_path: Path) -> None:
    turns = [
        {"from": "human", "value": "طقس دبي؟"},
        {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "دبي"}}'},
        {"from": "observation", "value": '{"t": 41}'},
        {"from": "gpt", "value": "حار"},
    ]
    row = read(tmp_path, {"conversations": turns, "tools": json.dumps([FUNCTION]), "system": "كن موجزا"})
    assert row.tools == (TOOL,) and row.meta == {}
    assert row.messages == (
        {"role": "system", "content": "كن موجزا"},
        ASK,
        CALLED,
        {"role": "tool", "name": "weather", "content": {"t": 41}},
        {"role": "assistant", "content": "حار"},
    )
    assert read(tmp_path, {"conversations": [ASK, {"role": "assistant", "content": "b"}]}).messages[0] == ASK


@pytest.mark.parametrize("body", ['{"name": "weather", "arguments": {"city": "دبي"}}',
                                  "{'arguments': {'city': 'دبي'}, 'name': 'weather'}"])  # fmt: skip
def test_hermes(tmp_path: Path, body: str) -> None:
    system = f"You are a function calling AI model. <tools> {json.dumps([TOOL])} </tools> Use <tool_call>."
    turns = [
        {"from": "system", "value": system},
        {"from": "human", "value": "طقس دبي؟"},
        {"from": "gpt", "value": f"<tool_call>\n{body}\n</tool_call>\n<tool_call>\n{body}\n</tool_call>"},
        {"from": "tool", "value": '<tool_response>\n{"name": "weather", "content": {"t": 41}}\n</tool_response>'},
    ]
    row = read(tmp_path, {"id": "h", "conversations": turns, "category": "x"})
    assert row.tools == (TOOL,) and row.messages[0] == ASK and row.messages[1] == {**CALLED, "tool_calls": [CALL, CALL]}
    assert row.messages[2] == {"role": "tool", "name": "weather", "content": {"t": 41}}
    assert row.meta == {"category": "x", "system_text": system}


def test_glaive(tmp_path: Path) -> None:
    system = f"SYSTEM: You are a helpful assistant with access to the following functions. -\n{json.dumps(FUNCTION)}\n"
    chat = (
        'USER: طقس دبي؟\n\n\nASSISTANT: <functioncall> {"name": "weather", "arguments": \'{"city": "دبي"}\'} '
        '<|endoftext|>\n\n\nFUNCTION RESPONSE: {"t": 41}\n\n\nASSISTANT: حار <|endoftext|>\n\n\n'
    )
    row = read(tmp_path, {"system": system, "chat": chat})
    assert row.tools == (TOOL,)
    assert row.messages == (
        ASK,
        CALLED,
        {"role": "tool", "name": "weather", "content": {"t": 41}},
        {"role": "assistant", "content": "حار"},
    )
    plain = read(tmp_path, {"system": "SYSTEM: Be brief.", "chat": "USER: a\n\n\nASSISTANT: b <|endoftext|>"})
    assert plain.messages == said("a", "b", {"role": "system", "content": "Be brief."})


def test_xlam(tmp_path: Path) -> None:
    arguments = {
        "city": {"description": "City", "type": "str"},
        "days": {"description": "Days", "type": "List[int], optional", "default": ""},
    }
    tools = [{"name": "weather", "description": "Weather", "parameters": arguments}]
    answers = [{"name": "weather", "arguments": {"city": "دبي"}}]
    row = read(tmp_path, {"id": 3, "query": "طقس دبي؟", "tools": json.dumps(tools), "answers": json.dumps(answers)})
    assert row.id == "3" and row.messages == (ASK, CALLED)
    assert row.tools[0]["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "city": {"description": "City", "type": "string"},
            "days": {"description": "Days", "type": "array", "default": "", "items": {"type": "integer"}},
        },
        "required": ["city"],
    }


def test_bfcl_takes_answers_from_the_row_or_from_the_file_beside_it(tmp_path: Path) -> None:
    function = {**FUNCTION, "parameters": {"type": "dict", "properties": {"p": {"type": "float"}}, "required": []}}
    question = {"id": "q1", "question": [[ASK]], "function": [function]}
    truth = [{"weather": {"city": ["دبي", "Dubai"], "unit": ["", "c"], "at": [{"lat": [25.2], "alt": ["", 1]}]}}]
    given = read(tmp_path, {**question, "ground_truth": truth})
    arguments = {"city": "دبي", "at": {"lat": 25.2}}
    assert given.messages[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert given.tools[0]["function"]["parameters"]["type"] == "object"
    assert given.tools[0]["function"]["parameters"]["properties"]["p"]["type"] == "number"
    file = write(tmp_path / "BFCL_v4_simple.json", question, {**question, "id": "q2"})
    lines: list[str] = []
    assert len(read_rows(file, say=lines.append)) == 2 and "rows without ground_truth get no call" in lines[1]
    (tmp_path / "possible_answer").mkdir()
    write(tmp_path / "possible_answer" / file.name, {"id": "q1", "ground_truth": truth})
    with pytest.raises(InputError, match=r"json:2: id: 'q2' has no possible answer in .*possible_answer"):
        read_rows(file)
    write(tmp_path / "possible_answer" / file.name, *({"id": name, "ground_truth": truth} for name in ("q1", "q2")))
    assert [row.meta["possible_answers"] for row in read_rows(file)] == [truth, truth]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "a", "completion": "b"}, said("a", "b")),
        ({"prompt": [ASK], "completion": [CALLED]}, (ASK, CALLED)),
        ({"question": "a", "answer": "b", "system_prompt": "s"}, said("a", "b", {"role": "system", "content": "s"})),
        ({"problem": "a", "solution": "b", "level": 5}, said("a", "b")),
        ({"query": "a", "response": "b"}, said("a", "b")),
        ({"instruction": "a", "context": "c", "response": "b"}, said("a\n\nc", "b")),
        ({"text": "a", "code": "b", "test_list": []}, said("a", "b")),
    ],
)
def test_other_pairs(tmp_path: Path, row: dict[str, Any], messages: tuple[Any, ...]) -> None:
    assert read(tmp_path, row).messages == messages


def test_tables_carry_conversations_as_json_text(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["messages", "tools", "n"])
        writer.writerow([json.dumps([ASK, CALLED]), json.dumps([TOOL]), "007"])
        writer.writerow([str([ASK]), "", "1"])
    found: list[Broken] = []
    (row,) = read_examples(tmp_path / "a.csv", problems=found.append)
    assert row.messages == (ASK, CALLED) and row.tools == (TOOL,) and row.meta == {"n": "007"}
    assert [(item.code_name, item.line, item.path) for item in found] == [("text-not-json", 3, "messages")]


def test_rows_that_do_not_fit_are_each_named_and_say_what_they_look_like(tmp_path: Path) -> None:
    good = {"instruction": "a", "output": "b"}
    file = write(
        tmp_path / "rows.jsonl", good, good, good, {"prompt": "a", "completion": "b"}, {"a": 1}, good | {"output": " "}
    )
    found: list[Broken] = []
    assert len(list(read_examples(file, problems=found.append))) == 3
    named = [(item.line, item.code_name, item.path) for item in found]
    assert named == [
        (4, "other-shape", "instruction"),
        (4, "bad-field", "output"),
        (5, "bad-field", "instruction"),
        (5, "bad-field", "output"),
        (6, "empty-field", "output"),
    ]
    assert "looks like prompt-completion" in found[0].message
    assert "alpaca: 4 of the first 6 rows have" in str(detect_file(file))
    with pytest.raises(InputError) as caught:
        list(read_examples(file))
    assert len(str(caught.value).split("\n")) == 5
    with pytest.raises(InputError, match="rows.jsonl:1: messages: expected a list"):
        read_rows(file, shape="mobile-actions")


def test_a_file_of_no_known_shape_and_a_shape_of_no_known_name(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"frage": "a", "antwort": "b"})
    assert detect_file(file) is None
    with pytest.raises(InputError, match=r"rows.jsonl:1: of no known shape: its fields are frage, antwort"):
        read_rows(file)
    with pytest.raises(InputError, match="did you mean 'alpaca'"):
        read_rows(file, shape="alpacca")


def test_options_give_a_system_text_and_a_question(tmp_path: Path) -> None:
    options = Options(system="Be brief.", ask="Tell a story.")
    (row,) = read_rows(write(tmp_path / "a.jsonl", {"text": "Once."}), options=options)
    assert row.messages == said("Tell a story.", "Once.", {"role": "system", "content": "Be brief."})


@pytest.mark.parametrize("in_text", [False, True])
def test_equal_tools_are_one_object_through_every_shape(tmp_path: Path, in_text: bool) -> None:
    tools: Any = json.dumps([FUNCTION]) if in_text else [TOOL]
    rows = [
        {"messages": [ASK], "tools": [TOOL, {**TOOL, "n": 1}]},
        {"messages": [ASK], "tools": [{**TOOL, "n": 1}, TOOL]},
    ]
    if in_text:
        turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
        rows = [{"conversations": turns, "tools": tools}] * 2
    first, second = read_rows(write(tmp_path / "a.jsonl", *rows))
    assert all(any(tool is other for other in second.tools) for tool in first.tools)
    again = read_rows(write(tmp_path / "b.jsonl", rows[0], rows[0]))
    assert again[0].tools is again[1].tools


def test_the_hub_without_datasets_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"hf:a/b: reading from the hub needs datasets: pip install 'dozan\[hub\]'"):
        read_rows("hf:a/b")


def test_a_set_through_datasets_keeps_its_objects_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    other = {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}}
    rows = [{"id": "1", "messages": [ASK, CALLED], "tools": [TOOL]}, {"id": "2", "messages": [ASK], "tools": [other]}]
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", *rows)
    found = read_rows(f"hf:{tmp_path / 'set'}")
    assert [row.tools for row in found] == [(TOOL,), (other,)] and found[0].place == "train.jsonl:1"
    with pytest.raises(InputError, match="has no split 'dev'; it has train"):
        read_rows(f"hf:{tmp_path / 'set'}:dev")


def test_every_shape_has_a_name_and_fields() -> None:
    assert all(name == shape.name and shape.fields for name, shape in SHAPES.items()) and len(SHAPES) >= 25


GOLDEN = Path(__file__).parent / "golden" / "shapes"


@pytest.mark.parametrize(
    ("name", "shape", "rows", "calls"),
    [
        ("mbpp.jsonl", "text-code", 5, 0),
        ("gsm8k.jsonl", "alpaca", 5, 0),
        ("aisa.jsonl", "mobile-actions", 2, 2),
        ("home_assistant.jsonl", "mobile-actions", 2, 2),
        ("BFCL_v4_multiple.json", "bfcl", 3, 3),
        ("BFCL_v4_parallel.json", "bfcl", 3, 6),
        ("BFCL_v4_irrelevance.json", "bfcl", 3, 0),
    ],
)
def test_real_rows(name: str, shape: str, rows: int, calls: int) -> None:
    lines: list[str] = []
    found = read_rows(GOLDEN / name, say=lines.append)
    assert detect_file(GOLDEN / name).name == shape and len(found) == rows  # type: ignore[union-attr]
    assert sum(len(message.get("tool_calls", ())) for row in found for message in row.messages) == calls
    assert len(lines) == (shape != "mobile-actions")
