"""The grammar of calls: it takes what the format writes, refuses what breaks a schema, and names what cannot be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from chat_fixtures import tokenizer
from grammar_calls import EVENT, LIGHT, ORDER, TOOLS, Drawing, broken, ids, spelt, tool, written

import dozan
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.gemma3 import GEMMA3
from dozan.chat.grammar import Grammar, answer_grammar, row_grammars
from dozan.chat.grammar_patterns import written_form
from dozan.chat.grammar_text import to_gbnf, to_lark
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import END_CALL, ESCAPE, START_CALL
from dozan.errors import InputError
from dozan.judge.guide import Guides
from dozan.rows.example import Example
from dozan.rows.generate.rows import generate_rows

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "dozan" / "assets" / "mobile_actions_ar"


def guides(grammar: Grammar, small: Tokenizer | None = None) -> Guides:
    used = small or tokenizer()
    return Guides(used, {used.id(token) for token in FUNCTIONGEMMA.stop_tokens}, [grammar])


@pytest.fixture(scope="module")
def rich() -> Guides:
    return guides(answer_grammar(TOOLS, FUNCTIONGEMMA))


def takes(held: Guides, text: str) -> bool:
    return held.accepts(0, ids(tokenizer(), text))


def test_every_call_that_the_schemas_allow_is_taken(rich: Guides) -> None:
    drawing = Drawing(1)
    for _ in range(600):
        call = drawing.call()
        assert takes(rich, written(*call)), call


def test_parallel_calls_and_text_are_taken(rich: Guides) -> None:
    both = written(*EVENT) + written(*LIGHT) + written(*EVENT)
    for text in (both, "حسنًا " + both, "تمام", " a < b\n", "<start_function_cal>", "call:event{}", "😀 中文 ئۇيغۇر"):
        assert takes(rich, text), text
    calling = guides(answer_grammar(TOOLS, FUNCTIONGEMMA, must_call=True))
    assert takes(calling, both) and not takes(calling, "تمام") and not takes(calling, "a" + both)


def test_calls_of_generated_rows_are_taken() -> None:
    tools = json.loads((ASSETS / "tools.json").read_text(encoding="utf-8"))
    base = Tokenizer.load(dozan.EMBEDDED_BASE)
    held = guides(answer_grammar(tools, FUNCTIONGEMMA), base)
    rows = generate_rows(ASSETS / "tools.json", ROOT / "examples" / "lexicon_phone_ar.yaml", 400)[0]
    kinds = set()
    for row in rows:
        rendered = FUNCTIONGEMMA.render(row["messages"], tools)
        encoded, spans = base.encode_rendered(rendered)
        (start, end) = rendered.trained[-1]
        answer = [i for i, (a, _) in zip(encoded, spans, strict=True) if start <= a < end][:-1]
        assert held.accepts(0, answer), rendered.text[start:end]
        kinds.add(row["kind"])
    assert len(kinds) > 1


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in broken().items()])
def test_what_breaks_a_schema_is_refused(rich: Guides, text: str) -> None:
    assert not takes(rich, text)
    assert not takes(rich, "تمام " + text) if text and not text.startswith("a") else True


def test_what_is_broken_was_whole() -> None:
    held = guides(answer_grammar(TOOLS, FUNCTIONGEMMA))
    assert all(takes(held, written(*call)) for call in (EVENT, LIGHT, ORDER))


@pytest.mark.parametrize("token", spelt())
def test_a_control_token_spelt_in_a_string_is_refused(rich: Guides, token: str) -> None:
    plain = tokenizer()
    for text in spelt()[token]:
        before, after = (ids(plain, part) for part in written("event", {**EVENT[1], "title": "@"}).split("@"))
        assert rich.accepts(0, [*before, *plain.encode(text.replace(token, token[:-1])), *after])
        assert not rich.accepts(0, [*before, *plain.encode(text), *after]), text
        assert not rich.accepts(0, plain.encode(text)), text


def test_text_cannot_be_a_token_of_the_grammar(rich: Guides) -> None:
    assert takes(rich, written(*LIGHT))
    assert not rich.accepts(0, tokenizer().encode(written(*LIGHT)))


def one(schema: dict[str, Any], required: bool = True) -> Guides:
    return guides(answer_grammar([tool("f", {"x": schema}, ["x"] if required else [])], FUNCTIONGEMMA))


def value(text: str) -> str:
    return f"{START_CALL}call:f{{x:{text}}}{END_CALL}"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "string", "format": "date-time"}, ["2026-01-02T03:04:05Z", "2026-01-02T03:04:05.25+03:00"], ["2026-01-02", "now"]),  # noqa: E501
        ({"type": "string", "format": "time"}, ["03:04:05"], ["3:04:05", "24:00:00"]),
        ({"type": "string", "description": "HH:MM"}, ["23:59"], ["23:60", "23:59:00"]),
        ({"type": "string", "description": "the day (YYYY-MM-DD)"}, ["2400-02-29"], ["2100-02-29", "بكرة"]),
        ({"type": "string", "description": "YYYY-MM-DD HH:MM"}, ["2026-01-02 03:04"], ["2026-01-02T03:04"]),
        ({"type": "string", "description": "YYYY-MM-DD or a weekday"}, ["2026-01-02", "الجمعة"], []),
        ({"type": "string", "const": "a"}, ["a"], ["b", ""]),
        ({"enum": ["a", "b"]}, ["a"], ["c"]),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, ["a"], ["b"]),
    ],
)  # fmt: skip
def test_forms_of_strings(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    held = one(schema)
    assert [text for text in good if not takes(held, value(f"{ESCAPE}{text}{ESCAPE}"))] == []
    assert [text for text in bad if takes(held, value(f"{ESCAPE}{text}{ESCAPE}"))] == []


def test_dates_are_those_of_the_calendar() -> None:
    from datetime import date

    held = one({"type": "string", "format": "date"})
    years = (1000, 1900, 2000, 2023, 2024, 2100, 2400, 9996)
    for year, month, day in itertools.product(years, range(14), (0, 1, 28, 29, 30, 31, 32)):
        try:
            real = bool(date(year, month, day))
        except ValueError:
            real = False
        assert takes(held, value(f"{ESCAPE}{year}-{month:02d}-{day:02d}{ESCAPE}")) == real


def test_what_may_be_null_may_be_left_out() -> None:
    empty = f"{START_CALL}call:f{{}}{END_CALL}"
    for schema in ({"type": ["integer", "null"]}, {"anyOf": [{"type": "integer"}, {"type": "null"}]},
                   {"type": "integer", "nullable": True}):  # fmt: skip
        assert takes(one(schema), empty) and takes(one(schema), value("3")) and not takes(one(schema), value("null"))
    assert not takes(one({"type": "integer"}), empty) and takes(one({"type": "integer"}, required=False), empty)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "enum": []}, "enum: .*no value of the type STRING"),
        ({"type": "integer", "enum": ["a"]}, r'enum: \["a"\] holds no value of the type INTEGER'),
        ({"type": "array", "minItems": 3, "maxItems": 2}, "minItems 3 is more than maxItems 2"),
        ({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}, "names 'b', which is no property"),  # noqa: E501
        ({"$ref": "#/x"}, "references have no form"),
    ],
)  # fmt: skip
def test_what_no_call_satisfies_is_named(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=r"tools\[0\].function.parameters.properties.x.*" + words):
        one(schema)


def test_what_has_no_grammar_is_named() -> None:
    with pytest.raises(InputError, match="gemma3 has no calls"):
        answer_grammar(TOOLS, GEMMA3)
    with pytest.raises(InputError, match="none to call"):
        answer_grammar([], FUNCTIONGEMMA, must_call=True)
    bad = Example("r", (tool("f", {}, ["y"]),), (), place="rows.jsonl:7")
    with pytest.raises(InputError, match="rows.jsonl:7: .*required: names 'y'"):
        row_grammars([Example("q", tuple(TOOLS), ()), bad], FUNCTIONGEMMA)
    assert takes(guides(answer_grammar([], FUNCTIONGEMMA)), "a") and not takes(
        guides(answer_grammar([], FUNCTIONGEMMA)), ""
    )


def test_what_llguidance_refuses_is_an_error() -> None:
    with pytest.raises(InputError, match="cannot be used.*missing"):
        from dozan.chat.grammar_rules import Rule

        guides(Grammar("answer", {"answer": Rule("missing")}, {}))


def test_a_description_tells_a_form_only_when_it_leaves_no_choice() -> None:
    told = {"on YYYY-MM-DDTHH:MM:SS": "day_t_second", "YYYY-MM-DD": "date", "HH:MM:SS": "second", "": None,
            "YYYY-MM-DD, HH:MM": None, "YYYY-MM-DD or today": None, "e.g. YYYY-MM-DD": None, "XYYYY-MM-DD": None,
            "YYYY-MM-DDTHH:MM:SSZ": None, "YYYY-MM-DD أو بكرة": None}  # fmt: skip
    assert {text: written_form({"description": text}) for text in told} == told


def test_tools_alike_in_name_do_not_share_rules() -> None:
    names = ["a_b", "a-b", "a.b", "text", "call", "any_0"]
    tools = [tool(name, {"x y": {"type": "integer"}, "x_y": {"type": "string"}}, ["x_y"]) for name in names]
    grammar = answer_grammar(tools, FUNCTIONGEMMA)
    held = guides(grammar)
    for name in names:
        assert takes(held, f"{START_CALL}call:{name}{{x y:1,x_y:{ESCAPE}a{ESCAPE}}}{END_CALL}")
    assert "_" not in "".join(line.split(" ::= ")[0] for line in to_gbnf(grammar).splitlines())
    assert to_lark(grammar).count("\n") == to_gbnf(grammar).count("\n")


def test_a_grammar_is_made_once_for_a_tool_list() -> None:
    first, second = row_grammars([Example(name, tuple(TOOLS), ()) for name in "ab"], FUNCTIONGEMMA)
    assert first is second
