"""The rules for rows: each finds its defect, says where, and leaves sound rows alone."""

from __future__ import annotations

from typing import Any

import pytest

from dozan.chat import FUNCTIONGEMMA, GEMMA3
from dozan.check.finding import Finding
from dozan.check.rules import check_rows, count_rules, refuse_errors
from dozan.errors import InputError
from dozan.rows.example import Example

PARAMETERS = {
    "type": "object",
    "required": ["city"],
    "properties": {
        "city": {"type": "string", "description": "City."},
        "days": {"type": "integer", "description": "How many."},
        "unit": {"type": "string", "description": "Of the temperature.", "enum": ["celsius", "kelvin"]},
        "metal": {"type": "string", "description": "نوع (Supported values: gold, silver)"},
        "sold": {"type": "string", "description": "القيم المسموحة: ذهب، فضة أو نحاس"},
        "stops": {"type": "array", "description": "Airports.", "items": {"type": "string", "enum": ["RUH", "DXB"]}},
        "at": {
            "type": "object",
            "description": "When.",
            "properties": {"hour": {"type": "integer", "description": "Of the day."}},
            "required": ["hour"],
        },
        "ratio": {"type": "number", "description": "Of the two."},
        "sure": {"type": "boolean", "description": "Whether."},
    },
}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}}
TRIGGER = {
    "role": "developer",
    "content": "You are a model that can do function calling with the following functions",
}
USER = {"role": "user", "content": "ما الطقس في الرياض؟"}


def row(arguments: Any, name: str = "get_weather", user: Any = USER, tools: Any = (TOOL,)) -> Example:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}
    return Example("1", tuple(tools), (TRIGGER, user, call), place="rows.jsonl:1")


def loud(findings: list[Finding]) -> list[Finding]:
    """Without the notes."""
    return [finding for finding in findings if finding.severity != "note"]


def test_a_sound_row_has_no_findings() -> None:
    arguments = {"city": "الرياض", "days": 3, "unit": "kelvin", "metal": "gold", "sold": "نحاس", "stops": ["RUH"],
                 "at": {"hour": 5}, "ratio": 1, "sure": True}  # fmt: skip
    user = {"role": "user", "content": "ما الطقس في الرياض؟ kelvin gold نحاس RUH"}
    assert check_rows([row(arguments, user=user)], FUNCTIONGEMMA) == []


@pytest.mark.parametrize(
    ("arguments", "field", "rule", "severity", "message"),
    [
        ({}, "city", "missing-argument", "error", "required by the schema"),
        ({"city": 5}, "city", "text-as-number", "error", "5 is no string"),
        ({"city": "الرياض", "days": True}, "days", "wrong-type", "error", "True is no integer"),
        ({"city": "الرياض", "days": 2.5}, "days", "wrong-type", "error", "2.5 is no integer"),
        ({"city": "الرياض", "ratio": "كثير"}, "ratio", "wrong-type", "error", "'كثير' is no number"),
        ({"city": "الرياض", "ratio": "3.5"}, "ratio", "number-as-text", "error", "give the number 3.5"),
        ({"city": "الرياض", "unit": "kelvins"}, "unit", "outside-enum", "error", "did you mean 'kelvin'?"),
        ({"city": "الرياض", "metal": "ذهب"}, "metal", "outside-supported", "warning", "use one of gold, silver"),
        ({"city": "الرياض", "sold": "حديد"}, "sold", "outside-supported", "warning", "use one of ذهب, فضة, نحاس"),
        ({"city": "الرياض", "stops": ["RUH", "X"]}, "stops[1]", "outside-enum", "error", "none of the schema's values"),
        ({"city": "الرياض", "at": {}}, "at.hour", "missing-argument", "error", "required"),
        ({"city": "الرياض", "cty": "الرياض"}, "cty", "unknown-argument", "error", "did you mean 'city'?"),
    ],
)
def test_values_against_the_schema(arguments: Any, field: str, rule: str, severity: str, message: str) -> None:
    (finding,) = loud(check_rows([row(arguments)], FUNCTIONGEMMA))
    assert (finding.rule.name, finding.severity, finding.place) == (rule, severity, "rows.jsonl:1")
    assert finding.path == f"messages[2].tool_calls[0].function.arguments.{field}"
    assert message in finding.message


def test_warnings_pass() -> None:
    findings = check_rows([row({"city": "الرياض", "metal": "ذهب"})], FUNCTIONGEMMA)
    assert count_rules(findings) == {"outside-supported": 1}
    refuse_errors(findings)


DAMAGED = "".join(bytes([b]).decode("cp1256") for b in "أرسل رسالة".encode())


@pytest.mark.parametrize(
    ("example", "rule", "message"),
    [
        (row({"city": "الرياض"}, name="get_wether"), "unknown-tool", "did you mean 'get_weather'?"),
        (row({}, name="f", tools=()), "unknown-tool", "the row has no tools"),
        (row({"city": "a<escape>b"}), "control-token-trained", "control token <escape>"),
        (row({"city": DAMAGED}), "mojibake-cp1256", "it was 'أرسل رسالة'"),
        (
            row({"city": "الرياض"}, user={"role": "user", "content": "الرياض أر\u202eسل"}),
            "bidi-override",
            "hides text",
        ),
        (Example("1", (TOOL,), (USER,), place="rows.jsonl:1"), "nothing-trained", "add the answer"),
    ],
)
def test_errors_refuse_training(example: Example, rule: str, message: str) -> None:
    findings = check_rows([example], FUNCTIONGEMMA)
    (finding,) = [finding for finding in findings if finding.severity == "error"]
    assert finding.rule.name == rule and message in finding.message
    with pytest.raises(InputError, match=r"rows.jsonl:1: .*\["):
        refuse_errors(findings)


def test_repairs_and_invisible_characters_are_counted() -> None:
    rows = [row('{"city": "الرياض"}'), row({"city": "الرياض\u200f"}), row({"city": "الرياض", "unit": None})]
    assert count_rules(check_rows(rows, FUNCTIONGEMMA)) == {"arguments-as-text": 1, "bidi-control": 1, "null-value": 1}


def test_tools_in_a_format_without_them_are_errors() -> None:
    found = loud(check_rows([row({"city": "الرياض"})], GEMMA3))
    assert {finding.rule.name for finding in found} == {"format-without-tools"}


def test_many_errors_are_cut_at_twenty() -> None:
    findings = check_rows([row({"city": "الرياض"}, name="x")] * 23, FUNCTIONGEMMA)
    with pytest.raises(InputError, match=r"\.\.\. and 3 more"):
        refuse_errors(findings)


def test_a_few_disagreements_with_schemas_are_trained_and_many_are_not() -> None:
    sound, missing = row({"city": "الرياض"}), row({})
    few = check_rows([*[sound] * 19, missing], FUNCTIONGEMMA)
    assert count_rules(few, "error") == {"missing-argument": 1}
    refuse_errors(few, rows=20)
    with pytest.raises(InputError, match="missing-argument"):
        refuse_errors(few, rows=19)
    unknown = check_rows([*[sound] * 99, row({"city": "الرياض"}, name="get_wether")], FUNCTIONGEMMA)
    with pytest.raises(InputError, match="get_wether"):
        refuse_errors(unknown, rows=100)
