"""FunctionGemma's format against golden renderings, its repairs and refusals, its spans, and its parser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dozan.chat import FUNCTIONGEMMA
from dozan.chat.template import template_difference
from dozan.chat.template_limits import ChatTemplate, TemplateFailed, functiongemma_template
from dozan.chat.tokens import find_control
from dozan.errors import InputError
from dozan.rows.example import Example

GOLDENS = json.loads((Path(__file__).parent / "golden" / "functiongemma_renderings.json").read_text(encoding="utf-8"))
BY_NUMBER = {int(case["title"].split()[0]): case for case in GOLDENS}
TRAPS = {3, 4, 5, 8, 10, 13, 14, 17, 18, 19, 20, 22, 23, 24, 27}
WELL_FORMED = sorted(set(BY_NUMBER) - TRAPS)
USER = {"role": "user", "content": "q"}


def render(number: int) -> Any:
    given_input = BY_NUMBER[number]["input"]
    return FUNCTIONGEMMA.render(
        given_input["messages"], given_input.get("tools") or (), given_input.get("agp", False), "rows.jsonl:7"
    )


def calling(arguments: Any, name: str = "f", **more: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}], **more}]


def tool(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, **more}
    return {"type": "function", "function": {"name": "f", "description": "d", "parameters": parameters}}


def trained(rendered: Any) -> list[str]:
    return [rendered.text[start:end] for start, end in rendered.trained]


@pytest.mark.parametrize("number", WELL_FORMED)
def test_well_formed_input_renders_as_the_official_template(number: int) -> None:
    rendered = render(number)
    assert rendered.text == BY_NUMBER[number]["rendered"]
    assert rendered.repairs == ()


def by_template(messages: Any, tools: Any, generate: bool) -> str:
    return ChatTemplate(functiongemma_template(), "ours").render(messages, tools, generate)


@pytest.mark.parametrize("number", WELL_FORMED)
def test_our_template_gives_the_same_bytes(number: int) -> None:
    case = BY_NUMBER[number]["input"]
    text = by_template(case["messages"], case.get("tools") or (), case.get("agp", False))
    assert text == BY_NUMBER[number]["rendered"]


def without_traps(number: int) -> dict[str, Any]:
    """A trap's input without what the official template loses or damages."""
    case = json.loads(json.dumps(BY_NUMBER[number]["input"]))
    if number == 3:
        properties = case["tools"][0]["function"]["parameters"]["properties"]
        for name, key in (("seats", "enum"), ("seats", "minimum"), ("price", "nullable"), ("price", "default")):
            del properties[name][key]
        del properties["type"], properties["description"]
        case["tools"][0]["function"]["parameters"]["required"] = ["name"]
    if number == 27:
        del case["tools"][0]["function"]["parameters"]["properties"]["b"]["enum"]
    return case


@pytest.mark.parametrize("number", [3, 27])
def test_traps_without_the_lost_parts_equal_the_golden(number: int) -> None:
    case = without_traps(number)
    expected = BY_NUMBER[number]["rendered"].replace(",<escape>type<escape>]", "]")
    assert FUNCTIONGEMMA.render(case["messages"], case["tools"], True).text == expected
    assert by_template(case["messages"], case["tools"], True) == expected


@pytest.mark.parametrize(
    ("number", "lost", "put", "repair"),
    [
        (4, "e:None,", "", "arguments.e: null dropped"),
        (5, '{                    {"a":1}}', "{a:1}", "arguments: parsed from a JSON string"),
        (8, "n:None,", "", "content.n: null dropped"),
        (17, "},}<end_function", "},type:<escape>OBJECT<escape>}}<end_function", "type: missing: written as OBJECT"),
        (18, "['STRING', 'NULL']", "STRING", "a.type: ['string', 'null'] written as its first type"),
        (19, "type:<escape><escape>", "type:<escape>STRING<escape>", "b.anyOf: merged"),
        (23, "email:{description:<escape><escape>,type:<escape><escape>},", "", "properties.email: null dropped"),
        (24, "email:None,", "", "arguments.email: null dropped"),
        (27, "B<escape>", "B (enum: 1, 2)<escape>", "b.enum: moved into the description"),
    ],
)  # fmt: skip
def test_repairs_change_only_the_trap_and_are_named(number: int, lost: str, put: str, repair: str) -> None:
    expected = BY_NUMBER[number]["rendered"].replace(lost, put).replace(",title:None", "")
    if number == 23:
        expected = expected.replace(",title:{description:<escape><escape>,type:<escape><escape>}", "")
    rendered = render(number)
    assert lost in BY_NUMBER[number]["rendered"] and rendered.text == expected
    assert any(repair in found for found in rendered.repairs)


def test_lost_constraints_are_described_and_lost_names_renamed() -> None:
    rendered = render(3)
    string = "<escape>,type:<escape>STRING<escape>}"
    for part in (
        "seats:{description:<escape>Seats (enum: 1, 2, 3; minimum: 1)<escape>,type:<escape>INTEGER<escape>}",
        "price:{description:<escape>Max price (default: 10)<escape>,type:<escape>NUMBER<escape>}",
        f",type_:{{description:<escape>A PARAM NAMED type{string}",
        f",description_:{{description:<escape>A PARAM NAMED description{string}",
        "required:[<escape>name<escape>,<escape>type_<escape>]",
    ):
        assert part in rendered.text
    assert sum("renamed to" in repair for repair in rendered.repairs) == 2


def test_a_flat_tool_is_wrapped_and_a_nameless_response_named() -> None:
    flat, nameless = render(20), render(10)
    assert "declaration:f{description:<escape>d<escape>,parameters:{type:<escape>OBJECT<escape>}}" in flat.text
    assert flat.repairs == ('tools[0]: wrapped as {"type": "function", "function": {...}}',)
    assert nameless.text.endswith(
        "<start_function_response>response:f{value:<escape>sunny<escape>}<end_function_response>"
    )
    assert nameless.repairs == ("messages[2].name: 'f' taken from the call it answers",)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (13, r"rows.jsonl:7: messages\[2\]: a user message after a call without a response"),
        (14, r"rows.jsonl:7: messages\[3\]: a user message right after a tool response"),
        (22, r"rows.jsonl:7: messages\[1\].*arguments.a: holds the control token <escape>"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_its_place(number: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        render(number)


@pytest.mark.parametrize(
    ("messages", "tools", "message"),
    [
        (calling({"a": "<end_of_turn>"}), [], "control token <end_of_turn>"),
        (calling({"a": [1, None]}), [], "null inside a list"),
        (calling({"a": float("inf")}), [], "no JSON number"),
        (calling("{not json"), [], "a string that is no JSON"),
        (calling([1]), [], "expected an object of arguments"),
        (calling({"a:b": 1}), [], "cannot be read back"),
        (calling({}, name="a{b"), [], "cannot be read back"),
        ([USER, {"role": "assistant", "content": "x<start_function_call>"}], [], "control token <start_function_call>"),
        ([USER, {"role": "assistant", "content": " "}], [], "without text and calls"),
        ([USER, {"role": "tool", "name": "f", "content": "x"}], [], "a tool response without a call before it"),
        ([{"role": "bot", "content": "x"}], [], "unknown role 'bot'"),
        (
            [USER],
            [tool({"a": {"type": "string", "description": "<escape>"}})],
            "properties.a.description: holds the co",
        ),
        ([USER], [tool({"a": {"type": "text"}})], "unknown type 'text'; use one of array"),
        ([USER], [tool({"a": {"$ref": "#/$defs/A"}})], "write the schema out"),
        ([USER], [tool({}), tool({})], "a second tool named 'f'"),
        ([], [], "empty; give at least a user message"),
    ],
)
def test_refusals(messages: list[Any], tools: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FUNCTIONGEMMA.render(messages, tools)


def test_all_errors_of_a_row_come_at_once() -> None:
    with pytest.raises(InputError) as caught:
        FUNCTIONGEMMA.render(calling({"a": "<bos>", "b": [None]}), [tool({"x": {"type": "text"}})], place="r:1")
    assert len(str(caught.value).split("\n")) == 3


def test_control_words_in_user_text_stay_text() -> None:
    rendered = FUNCTIONGEMMA.render([{"role": "user", "content": "x <end_of_turn> y"}], [])
    at = rendered.text.index("<end_of_turn> y")
    assert all(start != at for start, _ in rendered.controls)
    assert rendered.text.count("<end_of_turn>") == 2


@pytest.mark.parametrize("number", WELL_FORMED)
def test_controls_cover_every_control_token_and_bos_is_first_and_alone(number: int) -> None:
    rendered = render(number)
    outside = list(rendered.text)
    for start, end in rendered.controls:
        assert find_control(rendered.text[start:end]) == rendered.text[start:end]
        outside[start:end] = " " * (end - start)
    assert find_control("".join(outside)) is None
    assert rendered.text.startswith("<bos>") and rendered.text.count("<bos>") == 1


def test_trained_is_the_answer_with_its_stop_and_never_a_tool_response() -> None:
    loop = render(6)
    assert trained(loop) == [
        "<start_function_call>call:get_weather{city:<escape>الرياض<escape>}<end_function_call><start_function_response>",
        "الطقس مشمس ودرجة الحرارة ٤١.<end_of_turn>",
    ]
    assert not any("response:" in part for part in trained(loop))
    assert trained(render(11)) == ["عذرا، لا أستطيع ذلك بالأدوات المتاحة.<end_of_turn>"]
    assert trained(render(2))[0].count("<start_function_call>") == 2
    assert trained(render(1)) == []


def test_every_assistant_turn_is_trained() -> None:
    turns = [USER, {"role": "assistant", "content": "a"}, USER, {"role": "assistant", "content": "b"}]
    assert trained(FUNCTIONGEMMA.render(turns, [])) == ["a<end_of_turn>", "b<end_of_turn>"]


def test_a_second_call_after_a_response_stays_in_the_turn() -> None:
    answer = {"role": "tool", "name": "f", "content": {"ok": True}}
    rendered = FUNCTIONGEMMA.render([*calling({}), answer, calling({"a": 1}, content="ثم")[1]], [])
    assert rendered.text.count("<start_of_turn>model") == 1
    assert trained(rendered)[1] == "ثم<start_function_call>call:f{a:1}<end_function_call><start_function_response>"


def test_text_parts_are_joined_and_unknown_keys_said() -> None:
    parts = [{"type": "text", "text": " أ "}, {"type": "text", "text": "ب"}]
    rendered = FUNCTIONGEMMA.render([{"role": "user", "content": parts, "weight": 1}], [])
    assert "user\nأ\nب<end_of_turn>" in rendered.text
    assert rendered.repairs == (
        "messages[0].weight: left out: the chat format has no place for it",
        "messages[0].content: text parts joined",
    )
    with pytest.raises(InputError, match="expected text, found list"):
        FUNCTIONGEMMA.render([{"role": "user", "content": [{"type": "image"}]}], [])


def test_renamed_arguments_come_back() -> None:
    schema = tool({"type": {"type": "string"}, "type_": {"type": "string"}, "of": {
        "type": "object", "properties": {"required": {"type": "integer"}}}})  # fmt: skip
    arguments = {"type": "a", "type_": "b", "of": {"required": 1, "nullable": 2}}
    rendered = FUNCTIONGEMMA.render(calling(arguments), [schema])
    assert "call:f{of:{nullable:2,required_:1},type_:<escape>a<escape>,type__:<escape>b<escape>}" in rendered.text
    assert FUNCTIONGEMMA.parse(trained(rendered)[0]).calls[0].arguments == arguments


NAMES = st.one_of(
    st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters="_"), min_size=1, max_size=8),
    st.sampled_from(["first name", "type", "type_", "description", "properties__", "مدينة", "B", "b"]),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(
        ["الرياض", 'قال "نعم"', "line1\nline2", "{a:1},[b]", "a:b,c", "", " x ", "<b>", "٤٥", "\r\n", "call:f{}"]
    ),
).filter(lambda text: find_control(text) is None)
SCALARS = st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans())
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(NAMES, v, max_size=3), max_leaves=8)
CALLS = st.lists(
    st.tuples(NAMES.filter(lambda name: " " not in name), st.dictionaries(NAMES, VALUES, max_size=5)),
    min_size=1,
    max_size=3,
)


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from 1.0 and from True."""
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


@given(CALLS, TEXTS)
@settings(deadline=None)
def test_parse_gives_back_what_render_wrote(calls: list[tuple[str, dict[str, Any]]], text: str) -> None:
    named = [{"function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    rendered = FUNCTIONGEMMA.render([USER, {"role": "assistant", "content": text, "tool_calls": named}], [])
    parsed = FUNCTIONGEMMA.parse(trained(rendered)[0])
    assert parsed.problems == () and parsed.text == text.strip()
    assert [call.name for call in parsed.calls] == [name for name, _ in calls]
    assert all(same(call.arguments, arguments) for call, (_, arguments) in zip(parsed.calls, calls, strict=True))


START, END = "<start_function_call>", "<end_function_call>"


@pytest.mark.parametrize(
    ("text", "problem", "calls"),
    [
        (f"{START}call:f{{a:<escape>x}}{END}", "at 30: the string is not closed", 0),
        (f"{START}call:f{{a:1}}", f"at 32: {END} is missing", 1),
        (f"{START}call:f{{a:٤٥}}{END}", "at 30: bare Arabic digit in '٤٥'", 1),
        (f"{START}call:f{{a:2026-11-20}}{END}", "at 30: unknown literal '2026-11-20'", 1),
        (f"{START}call:f{{a:None}}{END}", "at 30: None has no form", 1),
        (f"{START}call:f{{a:1,a:2}}{END}", "at 32: the key 'a' twice", 1),
        (f"{START}call:f{{a:1e999}}{END}", "out of range", 1),
        (f"{START}call:f{{a:{'9' * 5000}}}{END}", "out of range", 1),
        (f"{START}call:f{{a:}}{END}", "at 30: a value is missing", 0),
        (f"{START}call:f{{a:1 b:2}}{END}", "unknown literal '1 b:2'", 1),
        (f"{START}call:f{{a:[1]b:2}}{END}", "expected , or }", 0),
        (f"{START}call:f{{a: 1}}{END}", "at 30: a space between arguments", 1),
        (f"{START}call:f{{a:{'[' * 5000}", "nested more than 64 deep", 0),
        (f"{START}f{{}}{END}", "at 21: expected call:", 0),
        (f"{START}call:{{}}{END}", "expected a function name", 0),
        (f"{START}call:f{{}}{END}ثم", "text after a call", 1),
        (f"call:f{{}}{END}", f"{END} outside a call", 0),
        ("نعم<end_of_turn>\nuser", "text after the stop token <end_of_turn>", 0),
    ],
)
def test_malformed_calls_are_named(text: str, problem: str, calls: int) -> None:
    parsed = FUNCTIONGEMMA.parse(text)
    assert any(problem in found for found in parsed.problems), parsed
    assert len(parsed.calls) == calls


def test_a_malformed_call_does_not_hide_the_next() -> None:
    parsed = FUNCTIONGEMMA.parse(f"{START}call:f{{a:<escape>x}}{END}{START}call:g{{b:<escape>y<escape>}}{END}")
    assert [call.name for call in parsed.calls] == ["g"] and len(parsed.problems) == 1


def test_text_before_calls_and_stop_tokens_are_no_problem() -> None:
    parsed = FUNCTIONGEMMA.parse(f"سأفعل\n{START}call:f{{n:-1.5e-7}}{END}<start_function_response>")
    assert (parsed.text, parsed.problems) == ("سأفعل", ())
    assert parsed.calls[0].arguments == {"n": -1.5e-7}
    assert FUNCTIONGEMMA.parse("نعم<end_of_turn>\n").text == "نعم"


PIECES = st.sampled_from(
    [START, END, "<escape>", "call:", "f", "{", "}", "[", "]", ":", ",", "1", "٤", "true", " ", "\n"]
)


@given(st.lists(PIECES, max_size=40).map("".join))
@settings(deadline=None)
def test_parse_never_raises(text: str) -> None:
    parsed = FUNCTIONGEMMA.parse(text)
    assert parsed.calls or parsed.problems or START not in text


def test_template_difference() -> None:
    rows = [Example("1", tuple(c["input"].get("tools") or ()), tuple(c["input"]["messages"]), place="r:1")
            for c in GOLDENS]  # fmt: skip
    ours = functiongemma_template()
    assert template_difference(ours, FUNCTIONGEMMA, rows, "base") is None
    late = ours.replace("parameters:{", "parameters: {")
    assert "parameters: {" in (template_difference(late, FUNCTIONGEMMA, rows, "base") or "")
    assert "a plain conversation whole, character 0" in (template_difference("x", FUNCTIONGEMMA, rows, "base") or "")
    assert "template fails" in (template_difference("{% for %}", FUNCTIONGEMMA, rows, "base") or "")
    unsafe = "{{ ''.__class__.__mro__ }}"
    assert "SecurityError" in (template_difference(unsafe, FUNCTIONGEMMA, [], "base") or "")
    with pytest.raises(InputError, match="base: the chat template has 2,097,152 bytes, over 1,048,576"):
        template_difference("x" * (1 << 21), FUNCTIONGEMMA, rows, "base")


def test_our_template_refuses_an_unanswered_call() -> None:
    with pytest.raises(TemplateFailed, match="needs a tool response"):
        by_template(BY_NUMBER[13]["input"]["messages"], [], True)
