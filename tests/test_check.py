"""The rules for rows: each finds its defect, says where, and leaves sound rows alone."""

from __future__ import annotations

from typing import Any

import pytest

from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.check.rules import check_rows, count_rules, refuse_errors
from dozan.errors import InputError
from dozan.rows.example import Example

PARAMETERS = {
    "type": "object",
    "required": ["city"],
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
        "metal": {"type": "string", "description": "نوع (Supported values: gold, silver)"},
        "stops": {"type": "array", "items": {"type": "string", "enum": ["RUH", "DXB"]}},
        "at": {"type": "object", "properties": {"hour": {"type": "integer"}}, "required": ["hour"]},
        "ratio": {"type": "number"},
        "sure": {"type": "boolean"},
    },
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}
USER = {"role": "user", "content": "ما الطقس في الرياض؟"}


def row(arguments: Any, name: str = "get_weather", user: Any = USER, tools: Any = (TOOL,)) -> Example:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    return Example("1", tuple(tools), (user, call), place="rows.jsonl:1")


def test_a_sound_row_has_no_findings() -> None:
    arguments = {"city": "الرياض", "days": 3, "unit": "kelvin", "metal": "gold", "stops": ["RUH"], "at": {"hour": 5},
                 "ratio": 1, "sure": True}  # fmt: skip
    assert check_rows([row(arguments)], FUNCTIONGEMMA) == []


@pytest.mark.parametrize(
    ("arguments", "field", "rule", "message"),
    [
        ({}, "city", "missing-argument", "required by the schema"),
        ({"city": 5}, "city", "wrong-type", "5 is no string"),
        ({"city": "أ", "days": True}, "days", "wrong-type", "True is no integer"),
        ({"city": "أ", "days": 2.5}, "days", "wrong-type", "2.5 is no integer"),
        ({"city": "أ", "ratio": "٣"}, "ratio", "wrong-type", "'٣' is no number"),
        ({"city": "أ", "unit": "kelvins"}, "unit", "outside-enum", "did you mean 'kelvin'?"),
        ({"city": "أ", "metal": "ذهب"}, "metal", "outside-enum", "use one of gold, silver"),
        ({"city": "أ", "stops": ["RUH", "X"]}, "stops[1]", "outside-enum", "none of the schema's values"),
        ({"city": "أ", "at": {}}, "at.hour", "missing-argument", "required"),
        ({"city": "أ", "cty": "ب"}, "cty", "unknown-argument", "did you mean 'city'?"),
    ],
)
def test_values_against_the_schema_are_warnings(arguments: Any, field: str, rule: str, message: str) -> None:
    (finding,) = check_rows([row(arguments)], FUNCTIONGEMMA)
    assert (finding.rule, finding.severity, finding.place) == (rule, "warning", "rows.jsonl:1")
    assert finding.field == f"messages[1].tool_calls[0].function.arguments.{field}"
    assert message in finding.message
    refuse_errors([finding])


DAMAGED = "".join(bytes([b]).decode("cp1256") for b in "أرسل رسالة".encode())


@pytest.mark.parametrize(
    ("example", "rule", "message"),
    [
        (row({"city": "أ"}, name="get_wether"), "unknown-tool", "did you mean 'get_weather'?"),
        (row({}, name="f", tools=()), "unknown-tool", "the row has no tools"),
        (row({"city": "a<escape>b"}), "unrenderable", "control token <escape>"),
        (row({"city": DAMAGED}), "encoding", "UTF-8 read as cp1256"),
        (row({"city": "أ"}, user={"role": "user", "content": "أر\u202eسل"}), "bidi-override", "hides text"),
        (Example("1", (TOOL,), (USER,), place="rows.jsonl:1"), "no-answer", "add the answer"),
    ],
)
def test_errors_refuse_training(example: Example, rule: str, message: str) -> None:
    findings = check_rows([example], FUNCTIONGEMMA)
    (finding,) = [finding for finding in findings if finding.severity == "error"]
    assert finding.rule == rule and message in finding.message
    with pytest.raises(InputError, match=r"rows.jsonl:1: .*\["):
        refuse_errors(findings)


def test_repairs_and_invisible_characters_are_counted() -> None:
    rows = [row('{"city": "أ"}'), row({"city": "أ\u200f"}), row({"city": "أ", "unit": None})]
    assert count_rules(check_rows(rows, FUNCTIONGEMMA)) == {"repaired": 2, "invisible": 1}


def test_tools_in_a_format_without_them_are_errors() -> None:
    assert {finding.rule for finding in check_rows([row({"city": "أ"})], GEMMA3)} == {"unrenderable"}


def test_many_errors_are_cut_at_twenty() -> None:
    findings = check_rows([row({"city": "أ"}, name="x")] * 23, FUNCTIONGEMMA)
    with pytest.raises(InputError, match=r"\.\.\. and 3 more"):
        refuse_errors(findings)
