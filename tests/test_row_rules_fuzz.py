"""Whatever JSON stands in a row's tools, messages and keys, the view and the rules report; they never raise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.chat.format import ChatFormat
from dozan.check.row_rules import check_row
from dozan.check.view import view_row
from dozan.rows.example import Example

WORDS = [
    "string",
    "object",
    "array",
    "a",
    "٣",
    "2025-02-30",
    "بكرة",
    "properties",
    "f",
    "{",
    '{"a":1}',
    "(a+)+",
    "integer",
]
KEYS = [
    "type", "properties", "required", "enum", "items", "description", "pattern", "minimum", "maxLength", "default", "a",
    "anyOf", "allOf", "nullable", "additionalProperties", "$ref", "format", "const", "not", "if", "prefixItems", "name",
    "minItems", "multipleOf", "patternProperties", "dependentRequired", "uniqueItems",
]  # fmt: skip
text = st.one_of(st.text(max_size=8), st.sampled_from(WORDS))
keys = st.sampled_from(KEYS)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(keys, text), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
schemas = st.one_of(
    values,
    st.dictionaries(keys, values, max_size=4),
    st.fixed_dictionaries({
        "type": st.just("object"),
        "properties": st.dictionaries(text, st.dictionaries(keys, values, max_size=4), max_size=3),
    }),
)  # fmt: skip
tools = st.one_of(
    st.dictionaries(text, values, max_size=3),
    st.fixed_dictionaries({"function": values}),
    st.fixed_dictionaries({"name": st.just("f"), "parameters": schemas}),
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "parameters": schemas})}),
)
calls = st.one_of(
    values,
    st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": values})}),
    st.fixed_dictionaries({"id": values, "name": st.just("f"), "arguments": values}),
)
messages = st.fixed_dictionaries(
    {"role": st.one_of(st.sampled_from(["user", "assistant", "tool", "developer", "system"]), values)},
    optional={
        "content": values,
        "tool_calls": st.one_of(values, st.lists(calls, max_size=3)),
        "name": values,
        "tool_call_id": values,
        "function_call": values,
    },
)


def test_a_line_break_in_a_name_starts_no_problem_of_its_own() -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"\n": 1, "a:b": 2}}}]}
    view = view_row(Example("1", (), (call,), {}, "rows.jsonl:1"), FUNCTIONGEMMA)
    assert len(view.errors) == 2
    assert all(message.strip() for _, message in view.errors)


@pytest.mark.parametrize("chat", [FUNCTIONGEMMA, GEMMA3], ids=["functiongemma", "gemma3"])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(tools, max_size=2), st.lists(messages, max_size=4), st.dictionaries(st.just("dialect"), values))
def test_any_row_is_judged(
    chat: ChatFormat, given_tools: list[Any], given_messages: list[Any], meta: dict[str, Any]
) -> None:
    view = view_row(Example("1", tuple(given_tools), tuple(given_messages), meta, "rows.jsonl:1"), chat)
    assert (view.rendered is None) == bool(view.errors or view.deep)
    for finding in check_row(view):
        assert finding.place == "rows.jsonl:1" and finding.message
