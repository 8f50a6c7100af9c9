"""Scores against hand counts: every error class, both digit systems, dates, and calls in any order."""

from __future__ import annotations

import itertools
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from dozan.chat.format import Call, Parsed
from dozan.errors import InputError
from dozan.judge.faults import problem_kind
from dozan.judge.matching import best_matching
from dozan.judge.score import score_row, score_rows, tool_set
from dozan.judge.summary import FAULTS, Scores, wilson
from dozan.judge.values import is_copied, normally_equal, read_instant, read_number, strictly_equal
from dozan.rows.example import Example


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = (
    tool("transfer", ["to", "amount"], to={"type": "string"}, amount={"type": "number"}, note={"type": "string"}),
    tool("remind", ["text"], text={"type": "STRING"}, at={"type": "STRING"}, phone={"type": "STRING"}),
    tool("light", []),
    tool("convert", ["unit"], unit={"type": "string", "enum": ["km", "mile"]}, count={"type": "integer"}),
)


def row(name: str, query: str, *calls: tuple[str, dict[str, Any]], answer: str = "", **meta: Any) -> Example:
    reply: dict[str, Any] = {"role": "assistant", "content": answer}
    if calls:
        functions = [{"type": "function", "function": {"name": n, "arguments": a}} for n, a in calls]
        reply = {"role": "assistant", "tool_calls": functions}
    return Example(name, TOOLS, ({"role": "user", "content": query}, reply), meta, f"rows.jsonl:{name}")


def score(example: Example, *calls: tuple[str, dict[str, Any]], problems: tuple[str, ...] = ()) -> Any:
    """Score hand-made calls against the row's own."""
    made = example.messages[-1].get("tool_calls") or ()
    gold = Parsed(tuple(Call(c["function"]["name"], c["function"]["arguments"]) for c in made), "")
    return score_row(example, gold, Parsed(tuple(Call(n, a) for n, a in calls), "", problems), "text")


def kinds(scored: Any) -> list[tuple[str, str]]:
    return [(fault.kind, fault.detail) for fault in scored.faults]


PAY = ("transfer", {"to": "سارة", "amount": 50})


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True), (1, "1", False), (True, 1, False), (0, False, False), (True, True, True), (None, None, True),
        (None, 0, False), ("a", "a", True), ("أ", "ا", False), ([1, 2], [1.0, 2], True), ([1, 2], [2, 1], False),
        ([True], [1], False), ({"a": 1, "b": 2}, {"b": 2, "a": 1.0}, True), ({"a": 1}, {"a": 1, "b": None}, False),
        (2**53 + 1, float(2**53), False), ([], {}, False),
    ],
)  # fmt: skip
def test_strict_equality_is_typed_json(left: Any, right: Any, same: bool) -> None:
    assert strictly_equal(left, right) is same and strictly_equal(right, left) is same


STRING, NUMBER, INTEGER = {"type": "STRING"}, {"type": "number"}, {"type": "integer"}


@pytest.mark.parametrize(
    ("gold", "predicted", "schema", "key", "same"),
    [
        (5000, "٥٠٠٠", NUMBER, "amount", True),
        (5000, "5,000", NUMBER, "amount", True),
        (5000, "٥٬٠٠٠", NUMBER, "amount", True),
        (3.5, "٣٫٥", NUMBER, "amount", True),
        (3.5, "۳٫۵", NUMBER, "amount", True),
        (0.1, "0.10", NUMBER, "amount", True),
        (5, 5.0, INTEGER, "count", True),
        (5000, "50,00", NUMBER, "amount", False),
        (5000, "5000 ريال", NUMBER, "amount", False),
        (1, True, NUMBER, "amount", False),
        ("2024-10-20T14:27:00", "2024-10-20 14:27", STRING, "datetime", True),
        ("2024-10-20T14:27:00", "٢٠٢٤-١٠-٢٠T١٤:٢٧:٠٠", STRING, "datetime", True),
        ("2024-10-20T14:00:00+03:00", "2024-10-20T11:00:00Z", STRING, "datetime", True),
        ("2024-10-20T14:00:00+03:00", "2024-10-20T14:00:00", STRING, "datetime", False),
        ("2024-10-20T14:27:00", "2024-10-20T14:28:00", STRING, "datetime", False),
        ("2024-10-20", "2024/10/20", STRING, "date", True),
        ("2024-10-20", "2024-10-20T00:00:00", STRING, "date", False),
        ("14:30", "14:30:00", STRING, "time", True),
        ("+966501234567", "00966 50 123 4567", STRING, "phone_number", True),
        ("0501234567", "٠٥٠-١٢٣-٤٥٦٧", STRING, "phone_number", True),
        ("0501234567", "501234567", STRING, "phone_number", False),
        ("007", "7", STRING, "order_id", False),
        ("Sara@Example.com", "sara@example.com ", STRING, "to", True),
        ("sara@example.com", "sarah@example.com", STRING, "to", False),
        ("km", "KM", {"type": "string", "enum": ["km", "mile"]}, "unit", False),
        ("اجتماعٌ مع أحمد", "اجتماع مع احمد", STRING, "title", True),
        ("مدرسة", "مدرسه", STRING, "title", True),
        ("شقة ٥", "شقة 5", STRING, "title", True),
        ("مدرسة", "مدرس", STRING, "title", False),
        ("5", 5, STRING, "room", True),
        (["أحمد", "منى"], ["احمد", "مني"], {"type": "array", "items": STRING}, "names", True),
        (["أحمد", "منى"], ["منى", "أحمد"], {"type": "array", "items": STRING}, "names", False),
        ({"n": 5}, {"n": "٥"}, {"type": "object", "properties": {"n": NUMBER}}, "o", True),
        ({"n": 5}, {"n": 5, "m": 1}, {"type": "object", "properties": {"n": NUMBER}}, "o", False),
        ("a", None, STRING, "x", False),
        ("a", ["a"], STRING, "x", False),
    ],
)  # fmt: skip
def test_normalised_equality_follows_the_schema(gold: Any, predicted: Any, schema: Any, key: str, same: bool) -> None:
    assert normally_equal(gold, predicted, schema, key) is same


def test_numbers_and_instants_that_are_not_ones() -> None:
    assert [read_number(text) for text in ("", "one", "1e99999", "1,00", "٣ ٤", None, True)] == [None] * 7
    bad = ("2024-13-01", "2024-10-20T25:00", "2024-10-20Z", "14:30Z", "20-10-2024", "2024-10-2014:00", "غدا", "", 2024)
    assert [read_instant(text) for text in bad] == [None] * len(bad)


def test_copied_is_verbatim() -> None:
    text = "حوّل 50 لسارة، أو ٣٠"
    assert is_copied("سارة", text) and is_copied(50, text) and is_copied([50, "سارة"], text) and is_copied(50.0, text)
    assert not any(is_copied(value, text) for value in (5, 30, True, "", [], None, ["سارة", "منى"], "ساره"))


ONE = row("one", "حوّل 50 لسارة", PAY, dialect="egyptian", kind="single")


@pytest.mark.parametrize(
    ("calls", "problems", "error", "faults"),
    [
        ([("transfer", {"to": "سارة", "amount": 50.0})], (), None, []),
        ([PAY], ("at 3: unclosed string",), "parse_failure", [("parse_failure", "unclosed string")]),
        ([], (), "missed_call", [("missed_call", "transfer")]),
        ([PAY, ("light", {})], (), "false_call", [("false_call", "light")]),
        ([("remind", PAY[1])], (), "wrong_name", [("wrong_name", "transfer → remind")]),
        ([("transfer", {**PAY[1], "fee": 1})], (), "off_schema_key", [("off_schema_key", "transfer.fee")]),
        ([("transfer", {"to": "سارة"})], (), "missing_required", [("missing_required", "transfer.amount")]),
        ([("transfer", {"to": "سارة", "amount": "50"})], (), "type_error", [("type_error", "transfer.amount")]),
        ([("transfer", {"to": "منى", "amount": 50})], (), "ungrounded", [("ungrounded", "transfer.to")]),
        ([("transfer", {"to": "Sara", "amount": 50})], (), "wrong_language", [("wrong_language", "transfer.to")]),
        ([("transfer", {"to": "سارة", "amount": 51})], (), "wrong_value", [("wrong_value", "transfer.amount")]),
        ([("transfer", {**PAY[1], "note": "x"})], (), "extra_argument", [("extra_argument", "transfer.note")]),
        ([("transfer", {"to": "ساره", "amount": 50})], (), "surface_form", [("surface_form", "transfer.to")]),
        (
            [("transfer", {"to": "منى", "tip": 1})], (), "off_schema_key",
            [("ungrounded", "transfer.to"), ("missing_required", "transfer.amount"),
             ("off_schema_key", "transfer.tip")],
        ),
    ],
)  # fmt: skip
def test_every_error_class(calls: Any, problems: Any, error: str | None, faults: Any) -> None:
    scored = score(ONE, *calls, problems=problems)
    assert (scored.error, kinds(scored)) == (error, faults)
    assert scored.strict is (error is None)
    assert scored.normalised is (error in (None, "surface_form", "type_error"))


NOV = {"text": "موعد سارة مع منى", "at": "2024-11-20T09:00:00", "phone": "0501234567"}
NOTE = row("n", "ذكرني: موعد سارة مع منى، ورقمها 0501234567", ("remind", NOV))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"at": "2023-11-20T09:00:00"}, "wrong_year"),
        ({"at": "٢٠٢٣-١١-٢٠T٠٩:٠٠:٠٠"}, "wrong_year"),
        ({"at": "2023-11-20"}, "wrong_year"),
        ({"at": "2023-11-21T09:00:00"}, "wrong_value"),
        ({"at": "2024-11-20T10:00:00"}, "wrong_value"),
        ({"at": "٢٠٢٤-١١-٢٠T٠٩:٠٠:٠٠"}, "digits"),
        ({"at": "۲۰۲۴-۱۱-۲۰T۰۹:۰۰:۰۰"}, "digits"),
        ({"at": "٢٠٢٤-١١-٢٠ ٠٩:٠٠"}, "surface_form"),
        ({"phone": "٠٥٠١٢٣٤٥٦٧"}, "digits"),
        ({"phone": "050 123 4567"}, "surface_form"),
        ({"phone": "0509998887"}, "ungrounded"),
        ({"text": "موعد ساره مع مني"}, "surface_form"),
        ({"text": "موعد منى"}, "wrong_value"),
        ({"text": "موعد خالد"}, "ungrounded"),
        ({"text": "appointment"}, "wrong_language"),
        ({"text": "موعد Sara"}, "ungrounded"),
        ({"text": 7}, "type_error"),
    ],
)  # fmt: skip
def test_each_wrong_value_has_one_class(change: dict[str, Any], kind: str) -> None:
    scored = score(NOTE, ("remind", {**NOV, **change}))
    assert kinds(scored) == [(kind, f"remind.{next(iter(change))}")] and scored.error == kind
    assert scored.normalised is (kind in ("digits", "surface_form"))


def test_words_of_the_developer_and_of_results_ground_a_value_and_those_of_the_answer_do_not() -> None:
    said = {"role": "developer", "content": "اليوم الأحد، صديقك خالد"}
    example = replace(NOTE, messages=(said, *NOTE.messages))
    assert kinds(score(example, ("remind", {**NOV, "text": "موعد خالد"}))) == [("wrong_value", "remind.text")]
    reply = {"role": "assistant", "content": "أهلا خالد", "tool_calls": NOTE.messages[-1]["tool_calls"]}
    example = replace(NOTE, messages=(NOTE.messages[0], reply))
    assert kinds(score(example, ("remind", {**NOV, "text": "موعد خالد"}))) == [("ungrounded", "remind.text")]


def test_optional_argument_left_out() -> None:
    scored = score(row("r", "ذكّرني", ("remind", {"text": "دوا", "at": "18:00"})), ("remind", {"text": "دوا"}))
    assert kinds(scored) == [("missing_optional", "remind.at")]


def test_a_row_without_a_call_is_right_only_when_none_is_made() -> None:
    example = row("talk", "ازيك", answer="أهلا")
    assert score(example).strict and score(example).strict_ordered and score(example).normalised
    assert not score(example, problems=("stray token",)).strict
    called = score(example, ("light", {}))
    assert not (called.strict or called.normalised or called.tool_name)
    assert kinds(called) == [("false_call", "light")]


def test_parallel_calls_are_matched_in_any_order() -> None:
    calls = [PAY, ("transfer", {"to": "منى", "amount": 50}), ("light", {}), ("transfer", {"to": "منى", "amount": 7})]
    example = row("many", "حوّل", *calls)
    for order in itertools.permutations(calls):
        scored = score(example, *order)
        assert scored.strict and scored.normalised and scored.graded.common == scored.graded.gold == 7
        assert scored.strict_ordered is scored.normalised_ordered is (list(order) == calls)
        loose = [(name, {**made, "to": made["to"].replace("ة", "ه")} if made else made) for name, made in order]
        scored = score(example, *loose)
        assert scored.normalised and not scored.strict and not scored.strict_ordered
        assert scored.normalised_ordered is (list(order) == calls)
    for first in (score(example, *calls[:3]), score(example, *calls, problems=("at 9: text after a call",))):
        assert not any((first.strict, first.strict_ordered, first.normalised, first.normalised_ordered))
    wrong = score(example, *calls[::-1][:3], ("transfer", {"to": "سارة", "amount": 51}))
    assert kinds(wrong) == [("wrong_value", "transfer.amount")]
    assert [call.strict for call in wrong.call_scores] == [False, True, True, True]


def test_a_repeated_call_is_not_matched_twice() -> None:
    assert kinds(score(row("two", "حوّل", PAY, PAY), PAY)) == [("missed_call", "transfer")]
    assert kinds(score(ONE, PAY, PAY)) == [("false_call", "transfer")]


def test_parameters_in_a_json_string_score_as_their_object() -> None:
    example = row("1", "حول 50 لسارة", PAY)
    function = {**TOOLS[0]["function"], "parameters": json.dumps(TOOLS[0]["function"]["parameters"])}
    light = {"function": {"name": "light", "parameters": "null"}}
    written = Example("1", ({"function": function}, light), example.messages)
    made = ("transfer", {"to": "ساره", "amount": "٥٠"})
    assert score(written, made) == replace(score(example, made), place="", tools=tool_set(written))
    assert tool_set(written) == tool_set(replace(example, tools=(TOOLS[0], {"name": "light", "parameters": {}})))
    assert score(written, made).normalised


def test_matching_is_the_best_one() -> None:
    draw = random.Random(0)
    for _ in range(300):
        rows, columns = draw.randint(1, 4), draw.randint(1, 4)
        gain = [[draw.randint(0, 5) for _ in range(columns)] for _ in range(rows)]
        wide = gain if rows <= columns else [list(column) for column in zip(*gain, strict=True)]
        orders = itertools.permutations(range(len(wide[0])), len(wide))
        best = max(sum(line[at] for line, at in zip(wide, order, strict=True)) for order in orders)
        pairs = best_matching(gain)
        assert sum(gain[i][j] for i, j in pairs) == best and len(pairs) == min(rows, columns)
    assert best_matching([]) == [] == best_matching([[], []])


def hand_made() -> Scores:
    """Six rows whose every figure is counted by hand below."""
    remind = ("remind", {"text": "اجتماع", "at": "2024-10-20T14:00:00"})
    late = ("remind", {**remind[1], "at": "2024-10-20T15:00:00"})
    folded = ("transfer", {"to": "ساره", "amount": "٥٠"})
    rows = [
        score(row("a", "حوّل 50 لسارة", PAY, dialect="egyptian", kind="single"), PAY),
        score(row("b", "حوّل خمسين لسارة", PAY, dialect="gulf", kind="single"), folded),
        score(row("c", "ذكّرني: اجتماع", remind, dialect="gulf"), late),
        score(row("d", "شغّل الكشاف", ("light", {}), dialect="gulf"), problems=("at 4: no closing token",)),
        score(row("e", "شكرا", answer="العفو", dialect="gulf")),
        score(row("f", "ازيك", answer="أهلا"), ("light", {})),
    ]
    return Scores(tuple(rows))


def test_summary_equals_the_hand_count() -> None:
    found = hand_made().summary()
    assert (found["n"], found["calls"]["n"], found["no_calls"]["n"]) == (6, 4, 2)
    assert (found["strict"], found["normalised"]) == (2 / 6, 3 / 6)
    assert (found["calls"]["strict"], found["no_calls"]["strict"]) == (1 / 4, 1 / 2)
    assert (found["parse_failures"], found["tool_name"]) == (1 / 6, 3 / 4)
    assert (found["calls"]["missed_calls"], found["no_calls"]["false_calls"]) == (1 / 4, 1 / 2)
    # in common: a 2, b 2, c 1 of 2, d 0 of 1; f made one call too many
    graded = found["graded"]
    assert (graded["common"], graded["predicted"], graded["gold"]) == (5, 7, 7)
    assert graded["precision"] == graded["recall"] == 5 / 7 and graded["f1"] == 10 / 14
    assert (found["calls"]["graded"]["precision"], found["calls"]["graded"]["recall"]) == (5 / 6, 5 / 7)
    assert found["no_calls"]["graded"]["recall"] is None


def test_groups_equal_the_hand_count() -> None:
    found = hand_made().summary()
    assert {name: (g["n"], g["strict"], g["normalised"]) for name, g in found["by_dialect"].items()} == {
        "egyptian": (1, 1.0, 1.0), "gulf": (4, 0.25, 0.5)
    }  # fmt: skip
    assert {name: (g["n"], g["strict"]) for name, g in found["by_kind"].items()} == {"single": (2, 0.5)}
    assert {name: (g["n"], g["tool_name"], g["strict"], g["normalised"]) for name, g in found["by_tool"].items()} == {
        "light": (1, 0.0, 0.0, 0.0), "remind": (1, 1.0, 0.0, 0.0), "transfer": (2, 1.0, 0.5, 1.0)
    }  # fmt: skip
    # copied: a's two, b's name, c's text; computed: b's amount, c's time; absent: d
    assert {name: (g["n"], g["strict"], g["normalised"]) for name, g in found["by_argument_kind"].items()} == {
        "copied": (4, 3 / 4, 1.0), "computed": (2, 0.0, 0.5), "absent": (1, 0.0, 0.0)
    }  # fmt: skip
    assert found["by_argument"]["transfer.to"]["n"] == 2


def test_a_row_of_each_class_is_counted_once() -> None:
    """16 rows: one right, and one with each class of fault alone. Beside each what it has in common, of 3."""
    late = {"at": "2024-11-20T10:00:00"}
    answers: dict[str | None, list[Any]] = {
        None: [("remind", NOV)],  # 3
        "missed_call": [],  # 0, nothing predicted
        "false_call": [("remind", NOV), ("light", {})],  # 3, of 4 predicted
        "wrong_name": [("transfer", NOV)],  # 0
        "off_schema_key": [("remind", {**NOV, "colour": "أحمر"})],  # 3, of 4 predicted
        "missing_required": [("remind", {key: NOV[key] for key in ("at", "phone")})],  # 2, of 2 predicted
        "missing_optional": [("remind", {key: NOV[key] for key in ("text", "at")})],  # 2, of 2 predicted
        "type_error": [("remind", {**NOV, "at": 9})],  # 2
        "ungrounded": [("remind", {**NOV, "phone": "0509998887"})],  # 2
        "wrong_language": [("remind", {**NOV, "text": "date"})],  # 2
        "wrong_year": [("remind", {**NOV, "at": "2023-11-20T09:00:00"})],  # 2
        "wrong_value": [("remind", {**NOV, **late})],  # 2
        "digits": [("remind", {**NOV, "phone": "٠٥٠١٢٣٤٥٦٧"})],  # 3
        "surface_form": [("remind", {**NOV, "at": "2024-11-20 09:00"})],  # 3
    }
    rows = [score(replace(NOTE, id=str(kind)), *calls) for kind, calls in answers.items()]
    rows.append(score(replace(NOTE, id="parse"), ("remind", NOV), problems=("at 1: bare Arabic digit in '٣'",)))  # 3
    short = row("extra", NOTE.messages[0]["content"], ("remind", {"text": NOV["text"], "at": NOV["at"]}))
    rows.append(score(short, ("remind", NOV)))  # 2, of 2 and 3 predicted
    found = Scores(tuple(rows)).summary()
    assert found["n"] == 16
    assert {kind: part["rows"] for kind, part in found["faults"].items()} == dict.fromkeys(FAULTS, 1)
    assert {(part["rows"], part["count"]) for part in found["errors"].values()} == {(1, 1)}
    assert found["errors"]["parse_failure"]["by"] == {"bare Arabic digit in …": 1}
    assert (found["strict"], found["normalised"], found["tool_name"]) == (1 / 16, 3 / 16, 13 / 16)
    graded = found["graded"]
    assert (graded["common"], graded["predicted"], graded["gold"]) == (34, 45, 47)
    assert (graded["precision"], graded["recall"], graded["f1"]) == (34 / 45, 34 / 47, 68 / 92)
    for name, n in (("precision", 15), ("recall", 16), ("f1", 16)):
        interval = graded["intervals"][name]
        assert interval["n"] == n and interval["low"] < graded[name] < interval["high"]


def test_lengths_are_words_of_the_query_the_shortest_first() -> None:
    words = (1, 5, 6, 10, 11, 20, 21, 40, 41, 99)
    rows = [score(row(str(n), " ".join(["و"] * n), answer="لا"), *([] if n % 2 else [("light", {})])) for n in words]
    found = Scores(tuple(rows)).summary()["by_length"]
    assert [(name, part["n"], part["strict"]) for name, part in found.items()] == [
        ("1 to 5", 2, 1.0), ("6 to 10", 2, 0.0), ("11 to 20", 2, 0.5), ("21 to 40", 2, 0.5), ("over 40", 2, 1.0)
    ]  # fmt: skip


def test_rows_with_each_fault_are_counted_apart_for_call_and_no_call_rows() -> None:
    found = hand_made().summary()
    counted = {kind: part["rows"] for kind, part in found["faults"].items() if part["rows"]}
    assert counted == {
        "parse_failure": 1, "missed_call": 1, "false_call": 1, "type_error": 1, "wrong_value": 1, "surface_form": 1
    }  # fmt: skip
    calls, none = found["calls"]["faults"], found["no_calls"]["faults"]
    assert (calls["false_call"]["rows"], none["false_call"]["rows"], none["type_error"]["rows"]) == (0, 1, 0)
    assert (calls["type_error"]["share"], none["false_call"]["share"]) == (1 / 4, 1 / 2)
    assert (none["false_call"]["low"], none["false_call"]["high"]) == wilson(1, 2)
    twice = score(ONE, ("transfer", {"to": "منى", "amount": 50, "a": 1, "b": 2}))
    part = Scores((twice,)).summary()
    assert part["faults"]["off_schema_key"]["rows"] == 1 and part["errors"]["off_schema_key"]["count"] == 2
    empty = Scores(()).summary()["faults"]["digits"]
    assert (empty["n"], empty["share"], empty["low"]) == (0, None, None)


def test_errors_equal_the_hand_count() -> None:
    errors = hand_made().summary()["errors"]
    assert set(errors) == set(FAULTS)
    assert {kind: (e["rows"], e["count"]) for kind, e in errors.items() if e["count"]} == {
        "parse_failure": (1, 1), "missed_call": (0, 1), "false_call": (1, 1), "type_error": (1, 1),
        "wrong_value": (1, 1), "surface_form": (0, 1),
    }  # fmt: skip
    assert errors["parse_failure"]["by"] == {"no closing token": 1} and errors["wrong_value"]["by"] == {"remind.at": 1}


def test_intervals_stand_beside_each_proportion() -> None:
    found = hand_made().summary()["intervals"]["strict"]
    assert (found["n"], found["right"]) == (6, 2) and 0 < found["low"] < 2 / 6 < found["high"] < 1
    low, high = wilson(81, 263)  # Newcombe 1998, table I: 81/263
    assert math.isclose(low, 0.2553, abs_tol=5e-5) and math.isclose(high, 0.3662, abs_tol=5e-5)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0


def test_argument_kinds_may_be_listed_for_each_call() -> None:
    kinds = ["absent", {"amount": "computed", "to": "copied"}]
    example = row("k", "حوّل 50 لسارة", ("noop", {}), PAY, argument_kinds=kinds)
    assert [unit.kind for unit in score(example).arguments] == ["absent", "copied", "computed"]


def test_argument_kinds_of_the_row_override() -> None:
    example = row("k", "حوّل 50 لسارة", PAY, argument_kinds={"amount": "computed", "transfer.to": "copied"})
    assert [(a.key, a.kind) for a in score(example).arguments] == [("to", "copied"), ("amount", "computed")]
    with pytest.raises(InputError, match=r"rows.jsonl:k: argument_kinds: amount: 'guess'"):
        score(row("k", "حوّل", PAY, argument_kinds={"amount": "guess"}))


def test_scores_survive_json() -> None:
    scores = hand_made()
    again = Scores.from_json(json.loads(json.dumps(scores.to_json())))
    assert again == scores and again.summary() == scores.summary()
    with pytest.raises(InputError, match=r"old.json: not a file of scores"):
        Scores.from_json({"rows": [{"id": 1}]}, "old.json")


def test_scores_of_older_files_are_read() -> None:
    scores = hand_made()
    old = json.loads(json.dumps(scores.to_json()))
    for name in ("faults", "by_length"):
        del old[name]
    for each in old["rows"]:
        del each["normalised_ordered"], each["tools"]
    again = Scores.from_json(old)
    assert [r.tools for r in again.rows] == [""] * 6
    found = again.summary()
    assert found["strict"] == scores.summary()["strict"] and found["normalised_ordered"] is None
    assert found["intervals"]["normalised_ordered"] == {"n": 0, "right": 0, "low": None, "high": None}


def test_problem_kinds_lose_position_and_text() -> None:
    assert problem_kind("at 4: the string is not closed") == "the string is not closed"
    assert problem_kind("at 17: bare Arabic digit in '٣'") == "bare Arabic digit in …"
    assert problem_kind("at 17: the key \"it's\" twice") == "the key … twice"


@pytest.fixture
def answer() -> str:
    """A generated call, as the format writes it."""
    return "<start_function_call>call:transfer{amount:50,to:<escape>سارة<escape>}<end_function_call>"


def test_score_rows_reads_generated_text(answer: str) -> None:
    examples = [ONE, row("two", "ازيك", answer="أهلا")]
    assert [r.strict for r in score_rows(examples, [answer, "أهلا بيك"]).rows] == [True, True]
    swapped = score_rows(examples, {"two": answer, "one": "أهلا"})
    assert [(r.id, r.error) for r in swapped.rows] == [("one", "missed_call"), ("two", "false_call")]
    broken = score_rows([ONE], [answer.replace("<end_function_call>", "")]).rows[0]
    assert broken.error == "parse_failure" and not broken.strict and not broken.normalised


def test_predictions_for_other_rows_are_refused(answer: str) -> None:
    with pytest.raises(InputError, match="2 predictions for 1 rows"):
        score_rows([ONE], [answer, answer])
    with pytest.raises(InputError, match=r"1 rows have none \(one\), 1 are for other rows \(zwei\)"):
        score_rows([ONE], {"zwei": answer})
    with pytest.raises(InputError, match="no rows to score"):
        score_rows([], [])
    with pytest.raises(InputError, match="ids repeat: one"):
        score_rows([ONE, ONE], [answer, answer])
    with pytest.raises(InputError, match="no assistant message"):
        score_rows([Example("q", TOOLS, ({"role": "user", "content": "?"},))], [answer])
