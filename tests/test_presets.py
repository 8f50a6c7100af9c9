"""Other people's scores against hand counts: Mobile Actions, AISA-ArabicFC, BFCL's AST, metga97."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_score import PAY, row

from dozan.chat.format import Call
from dozan.errors import InputError
from dozan.judge.measured import PresetScores
from dozan.judge.predictions import read_predictions
from dozan.judge.preset_aisa import thought
from dozan.judge.preset_aisa_values import same_arguments, same_value
from dozan.judge.preset_bfcl import call_fits
from dozan.judge.preset_mobile import seen_calls
from dozan.judge.presets import PRESETS, apply_preset, print_preset, rows_for
from dozan.judge.score import score_rows
from dozan.rows.example import Example
from dozan.rows.readers import read_rows

GOLDEN = Path(__file__).parent / "golden" / "shapes"


def said(*calls: str) -> str:
    return "".join(f"<start_function_call>call:{call}<end_function_call>" for call in calls)


def judge(preset: str, examples: list[Example], *predictions: str) -> PresetScores:
    rows = rows_for(preset, examples)
    return apply_preset(preset, score_rows(rows, list(predictions)), rows)


E = "<escape>"
MAIL = f"send_email{{subject:{E}غداء{E},to:{E}a@b.c{E}}}"
MAIL_CALL = ("send_email", {"to": "a@b.c", "subject": "غداء"})


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (said(MAIL), [MAIL_CALL]),
        (f"text {said(MAIL)}<start_function_response>", [MAIL_CALL]),
        (said("light{}", MAIL), [("light", {}), MAIL_CALL]),
        (said(f"pay{{to:{E}منى{E},amount:50,now:true}}"), [("pay", {"to": "منى"})]),
        (said("pay{amount:50}"), [("pay", {})]),
        (said(f"add{{tags:[{E}a{E},{E}b{E}]}}"), [("add", {})]),
        (said(f"note{{text:{E}a, b: {{c}}\nd{E}}}"), [("note", {"text": "a, b: {c}\nd"})]),
        (said("light"), []),
        (said(f"note{{text:{E}open"), [("note", {})]),
        (f"<start_function_call>call:{MAIL}", []),
        (f"<start_function_call>{MAIL}<end_function_call>", []),
        (said(f"note{{a:{E}1{E},a:{E}2{E}}}"), [("note", {"a": "2"})]),
        ("مساء الخير", []),
    ],
)  # fmt: skip
def test_google_sees_only_strings_between_escapes(text: str, calls: list[tuple[str, Any]]) -> None:
    assert seen_calls(text) == [Call(*call) for call in calls]


def test_mobile_actions_equals_the_hand_count() -> None:
    light = ("light", {})
    two = row("two", "نور وبريد", light, MAIL_CALL)
    examples = [
        row("same", "بريد", MAIL_CALL), two, row("swapped", "نور", light, MAIL_CALL), row("number", "حوّل", PAY),
        row("talk", "شكرا", answer="عفوا"), row("called", "شكرا", answer="عفوا"), row("folded", "بريد", MAIL_CALL),
        row("name", "بريد", MAIL_CALL), row("broken", "شكرا", answer="عفوا"),
    ]  # fmt: skip
    found = judge(
        "mobile-actions", examples, said(MAIL), said("light{}", MAIL), said(MAIL, "light{}"),
        said(f"transfer{{amount:50,to:{E}سارة{E}}}"), "أي كلام", said("light{}"), said(MAIL.replace("غداء", "غدا")),
        said(MAIL.replace("send_email", "send_mail")), "<start_function_call>call:light",
    )  # fmt: skip
    # "number" is strictly right, and wrong here: 50 stands between no escapes. "broken" makes no call that is seen.
    assert [name for name, right in found.right.items() if right] == ["same", "two", "talk", "broken"]
    figures = {name: (figure.value, figure.n) for name, figure in found.figures.items()}
    assert figures == {
        "ordered exact match": (4 / 9, 9), "correct names": (6 / 9, 9), "correct arguments": (5 / 9, 9)
    }  # fmt: skip
    figure = found.figures["ordered exact match"]
    assert figure.low is not None and figure.high is not None and figure.low < 4 / 9 < figure.high


@pytest.mark.parametrize(
    ("made", "gold", "name", "same"),
    [
        ("٥٠٠٠", 5000, "amount", True),
        (5000.0, "5,000", "amount", True),
        ("خمسة", 5, "days", True),
        ("٠٠٧", "007", "id_number", True),
        ("7", "007", "id_number", False),
        ("7", "007", "days", True),
        ("مَدْرَسَة", "مدرسه", "text", True),
        ("مسؤول", "مسوول", "text", True),
        ("مدرسة", "مدرس", "text", False),
        ("الأردن", "Jordan", "country", True),
        ("Kuwait, UAE", "الإمارات والكويت", "country", True),
        ("الكويت", "الإمارات والكويت", "country", False),
        ("Amman", "عمان", "country", True),
        ("Oman", "عمان", "country", False),
        ("Amman", "عمّان", "departure_city", False),
        ("ريال سعودي", "SAR", "currency", True),
        ("دينار", "KWD", "currency", False),
        ("SAR", "ريال سعودي", "text", False),
        ("الإنجليزية", "en", "target_language", True),
        ("بيبسي و برجر", "برجر, بيبسي", "items", True),
        ("بيبسي", "برجر, بيبسي", "items", False),
        ("الذهب", "gold", "type", True),
        ("هاتف آيفون ١٣", "iPhone 13", "product_name", True),
        ("iPhone 14", "آيفون 13", "product_name", False),
        ("طبيب أطفال", "pediatrics", "specialty", True),
        ("لاب توب", "laptop", "category", True),
        ("ساعة", "smartwatch", "category", False),
        ("يوم الخميس القادم", "Thursday", "date", True),
        ("بكرة", "tomorrow", "check_in", True),
        ("next_week", "الأسبوع الجاي", "date", True),
        ("5 March", "٥ مارس", "date", True),
        ("2023-11-10", "2024-11-10", "date", False),
        ("Fatima Hussein", "فاطمة حسين", "recipient_name", True),
        ("my friend", "صديقي", "recipient_name", True),
        (True, "true", "urgent", True),
    ],
)  # fmt: skip
def test_aisa_takes_spellings_of_one_answer_to_be_the_same(made: Any, gold: Any, name: str, same: bool) -> None:
    assert same_value(made, gold, name) is same and same_value(gold, made, name) is same


def test_aisa_arguments_that_do_not_count() -> None:
    gold = {"text": "مرحبا", "target_language": "en"}
    assert same_arguments({**gold, "source_language": "ar"}, gold, "translate_text")
    assert not same_arguments({**gold, "source_language": "ar"}, gold, "other_tool")
    assert same_arguments({**gold, "note": "", "more": None, "blank": " "}, gold, "translate_text")
    assert not same_arguments({"text": "مرحبا"}, gold, "translate_text")
    assert same_arguments({"type": "gold"}, {"type": "ذهب", "weight_unit": "g"}, "calculate_zakat")


def test_aisa_equals_the_hand_count() -> None:
    pay = said(f"transfer{{amount:50,to:{E}سارة{E}}}")
    examples = [
        row("a", "حوّل", PAY, dialect="Gulf"), row("b", "حوّل", PAY, dialect="gulf"),
        row("c", "حوّل", PAY, dialect="msa"), row("d", "شكرا", answer="لا", dialect="msa"),
        row("e", "شكرا", answer="لا"), row("f", "حوّل", PAY, dialect="msa"),
    ]  # fmt: skip
    found = judge(
        "aisa", examples, f"<think>تحويل مبلغ</think>{pay}", pay.replace("transfer", "pay"), f"أفكر في {pay}",
        "لا أداة", said("light{}"), "<think>لا</think>",
    )  # fmt: skip
    # names: a, c, d of 6; arguments: a, b, c of 4, under the right name a, c; thinking: a, c ("لا" is too short)
    values = {name: figure.value for name, figure in found.figures.items()}
    assert values["FnAcc"] == 3 / 6 and values["ArgEM"] == 3 / 4 and values["ArgEM, honest"] == 2 / 4
    assert values["ThinkRate"] == 2 / 6
    assert values["track A"] == pytest.approx(0.4 * 3 / 6 + 0.6 * 3 / 4)
    assert values["track A, honest"] == pytest.approx(0.4 * 3 / 6 + 0.6 * 2 / 4)
    assert values["track B"] == pytest.approx(0.3 * 3 / 6 + 0.5 * 3 / 4 + 0.2 * 2 / 6)
    assert values["track B, honest"] == pytest.approx(0.3 * 3 / 6 + 0.5 * 2 / 4 + 0.2 * 2 / 6)
    parts = ("FnAcc", "ArgEM")
    groups = {name: [(group[key].value, group[key].n) for key in parts] for name, group in found.groups.items()}
    assert groups == {"gulf": [(1 / 2, 2), (1.0, 2)], "msa": [(2 / 3, 3), (1 / 2, 2)]}
    assert values["gap in FnAcc"] == pytest.approx(1 / 6) and values["gap in ArgEM"] == 1 / 2
    assert [name for name, right in found.right.items() if right] == ["a", "c", "d"]
    track = found.figures["track A"]
    assert track.n == 6 and track.low is not None and track.high is not None and track.low < track.value < track.high
    talk = judge("aisa", examples[3:4], "لا أداة").figures
    assert (talk["track A"].value, talk["ArgEM"].value, talk["ArgEM"].n) == (None, None, 0)


def test_thought_is_in_its_marks_or_before_a_call() -> None:
    assert thought("<think> أفكر </think>x") == "أفكر" and thought("<think>بلا نهاية") == "بلا نهاية"
    assert thought(f"لأنه {said('light{}')}") == "لأنه" and thought("جواب طويل بلا نداء") == ""


SCHEMA = {
    "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "load": {"type": "number"}, "on": {"type": "boolean"},
        "names": {"type": "array", "items": {"type": "string"}},
        "sizes": {"type": "array", "items": {"type": "number"}},
        "who": {"type": "object"}, "all": {"type": "array", "items": {"type": "object"}}, "any": {"type": "any"},
    },
    "required": ["city"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("possible", "made", "fits"),
    [
        ({}, {}, True),
        ({"city": ["New York, NY"]}, {"city": "new-york NY"}, True),
        ({"city": ["O'Hare"]}, {"city": 'o"hare'}, True),
        ({"city": ["New York"]}, {"city": "Boston"}, False),
        ({"city": ["a", "b"]}, {"city": "B"}, True),
        ({"days": [5]}, {}, False),
        ({"days": [5, ""]}, {}, True),
        ({"days": [5]}, {"days": 5}, True),
        ({"days": [5]}, {"days": 5.0}, False),
        ({"days": [5]}, {"days": "5"}, False),
        ({"days": [1]}, {"days": True}, False),
        ({"days": ["n"]}, {"days": "n"}, True),
        ({"days": ["n"]}, {"days": "N"}, False),
        ({"load": [5.0]}, {"load": 5}, True),
        ({"load": [5]}, {"load": 5.0}, True),
        ({"load": [0.5]}, {"load": 0.50001}, False),
        ({"on": [True, ""]}, {"on": False}, False),
        ({"on": [True]}, {"on": "true"}, False),
        ({"names": [["Ali", "Mona"]]}, {"names": ["ali", "mona"]}, True),
        ({"names": [["Ali", "Mona"]]}, {"names": ["mona", "ali"]}, False),
        ({"names": [["Ali"], ["Mona"]]}, {"names": ["mona"]}, True),
        ({"names": [["Ali"], ""]}, {"names": []}, True),
        ({"names": [["Ali"]]}, {"names": "ali"}, False),
        ({"names": [["Ali"]]}, {"names": [5]}, False),
        ({"sizes": [[1, 2]]}, {"sizes": [1, 2]}, True),
        ({"sizes": [[1.0, 2.0]]}, {"sizes": [1, 2]}, False),
        ({"who": [{"name": ["Ali", "Aly"], "age": [5, ""]}]}, {"who": {"name": "ALY"}}, True),
        ({"who": [{"name": ["Ali"], "age": [5]}]}, {"who": {"name": "ali"}}, False),
        ({"who": [{"name": ["Ali"]}]}, {"who": {"name": "ali", "age": 5}}, False),
        ({"who": [{"name": ["Ali"]}]}, {"who": {"name": "mona"}}, False),
        ({"all": [[{"n": [1]}, {"n": [2, 3]}]]}, {"all": [{"n": 1}, {"n": 3}]}, True),
        ({"all": [[{"n": [1]}, {"n": [2]}]]}, {"all": [{"n": 2}, {"n": 1}]}, False),
        ({"all": [[{"n": [1]}]]}, {"all": [{"n": 1}, {"n": 1}]}, False),
        ({"any": ["x"]}, {"any": "X"}, True),
        ({"any": [5]}, {"any": 5}, True),
        ({}, {"days": 5}, False),
        ({"tip": [1]}, {"tip": 1}, False),
    ],
)  # fmt: skip
def test_bfcl_values(possible: dict[str, Any], made: dict[str, Any], fits: bool) -> None:
    city = {} if "city" in possible else {"city": "x"}
    answers = {"city": ["x"], **possible}
    assert call_fits(Call("go", {**city, **made}), "go", answers, SCHEMA) is fits
    assert not call_fits(Call("Go", {**city, **made}), "go", answers, SCHEMA)
    del (left := {**city, **made})["city"]
    for cities in (answers["city"], [*answers["city"], ""]):
        assert not call_fits(Call("go", left), "go", {**answers, "city": cities}, SCHEMA)


def bfcl_row(name: str, *answers: Any) -> Example:
    function = {"name": "go", "parameters": SCHEMA}
    meta = {"possible_answers": list(answers)} if answers else {}
    made = [{"function": {"name": key, "arguments": {}}} for answer in answers for key in answer]
    reply = ({"role": "assistant", "tool_calls": made},) if made else ()
    return Example(name, ({"function": function},), ({"role": "user", "content": "?"}, *reply), meta, f"b.json:{name}")


def go(*cities: str) -> str:
    return said(*(f"go{{city:{E}{city}{E}}}" for city in cities))


def test_bfcl_equals_the_hand_count() -> None:
    one, two = {"go": {"city": ["a"]}}, {"go": {"city": ["b", "c"]}}
    examples = [
        bfcl_row("simple_python_0", one), bfcl_row("simple_python_1", one), bfcl_row("simple_python_2", one),
        bfcl_row("parallel_0", one, two), bfcl_row("parallel_1", one, two), bfcl_row("parallel_2", one, one),
        bfcl_row("irrelevance_0"), bfcl_row("irrelevance_1"), bfcl_row("irrelevance_2"),
    ]  # fmt: skip
    found = judge(
        "bfcl", examples, go("A"), go("A", "A"), go("A") + "x", go("C", "a"), go("a", "a"), go("a", "a"),
        "no", go("a"), go("a") + "x",
    )  # fmt: skip
    right = [name for name, right in found.right.items() if right]
    assert right == ["simple_python_0", "parallel_0", "parallel_2", "irrelevance_0", "irrelevance_2"]
    accuracy = {name: (group["accuracy"].value, group["accuracy"].n) for name, group in found.groups.items()}
    assert accuracy == {"irrelevance": (2 / 3, 3), "parallel": (2 / 3, 3), "simple_python": (1 / 3, 3)}
    mean = found.figures["AST, mean of categories"]
    assert mean.value == pytest.approx(1 / 2) and mean.n == 6 and found.figures["all rows"].value == 5 / 9
    assert mean.low is not None and mean.high is not None and mean.low < 0.5 < mean.high


def test_bfcl_matches_greedily_as_the_leaderboard_does() -> None:
    wide, narrow = {"go": {"city": ["a", "b"]}}, {"go": {"city": ["a"]}}
    example = bfcl_row("parallel_9", wide, narrow)
    assert judge("bfcl", [example], go("a", "b")).right == {"parallel_9": False}
    assert judge("bfcl", [example], go("b", "a")).right == {"parallel_9": True}


def test_bfcl_without_possible_answers_takes_the_rows_own_call() -> None:
    example = row("r", "حوّل", PAY)
    assert judge("bfcl", [example], said(f"transfer{{amount:50,to:{E}سارة{E}}}")).right == {"r": True}
    assert judge("bfcl", [example], said(f"transfer{{amount:51,to:{E}سارة{E}}}")).right == {"r": False}
    lost = bfcl_row("simple_0", {"gone": {"city": ["a"]}})
    with pytest.raises(InputError, match=r"b.json:simple_0: the possible answer calls gone"):
        judge("bfcl", [lost], go("a"))


def test_bfcl_files_end_to_end(tmp_path: Path) -> None:
    """The published rows: predictions made from the last possible values are right, one with a value changed is not."""
    for category, wrong in (("multiple", 1), ("parallel", 1), ("irrelevance", 0)):
        examples = rows_for("bfcl", read_rows(GOLDEN / f"BFCL_v4_{category}.json"))
        lines = []
        for example in examples:
            answers = [(n, a) for answer in example.meta.get("possible_answers", ()) for n, a in answer.items()]
            chosen = [(n, {key: values[-1] for key, values in a.items() if values[-1] != ""}) for n, a in answers]
            calls = [{"name": name, "arguments": arguments} for name, arguments in chosen[::-1]]
            lines.append({"id": example.id, "prediction": calls})
        if wrong:
            arguments = lines[0]["prediction"][0]["arguments"]
            del arguments[next(iter(arguments))]
        file = tmp_path / f"{category}.jsonl"
        file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
        found = apply_preset("bfcl", score_rows(examples, read_predictions(file, examples)), examples)
        assert found.groups[category]["accuracy"].value == (3 - wrong) / 3 and found.groups[category]["accuracy"].n == 3


def test_metga97_equals_the_hand_count() -> None:
    examples = [
        row("a", "حوّل", PAY, dialect="gulf"), row("b", "حوّل", PAY, dialect="gulf"), row("c", "حوّل", PAY),
        row("d", "حوّل", PAY), row("e", "شكرا", answer="لا"), row("f", "شكرا", answer="لا"),
    ]  # fmt: skip
    pay = f"transfer{{amount:50,to:{E}سارة{E}}}"
    found = judge(
        "metga97", examples, said(pay), said(pay.replace("50", "5")), "لا", said(pay) + "x", "لا", said("light{}")
    )
    # keys in common: a 2, b 2, c 0, d 2; predicted 6, gold 8
    assert {name: (f.value, f.n) for name, f in found.figures.items()} == {
        "strict exact match": (1 / 4, 4), "tool name": (3 / 4, 4), "key F1": (12 / 14, 4), "parsed": (3 / 6, 6),
        "missed calls": (1 / 4, 4), "false calls": (1 / 2, 2),
    }  # fmt: skip
    assert found.groups["gulf"]["strict exact match"].value == 1 / 2


def test_presets_of_no_name_and_for_other_rows_are_refused() -> None:
    example = row("a", "حوّل", PAY)
    scores = score_rows([example], ["x"])
    with pytest.raises(InputError, match=r"preset 'bfc': did you mean 'bfcl'\? known are mobile-actions, aisa, bfcl"):
        apply_preset("bfc", scores, [example])
    with pytest.raises(InputError, match="the scores are of other rows"):
        apply_preset("aisa", scores, [row("b", "حوّل", PAY)])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_printed_and_are_json(name: str) -> None:
    found = judge(name, [row("a", "حوّل", PAY, dialect="[b]gulf")], said(f"transfer{{amount:50,to:{E}سارة{E}}}"))
    printed_to = io.StringIO()
    print_preset(found, Console(width=120, file=printed_to))
    printed = printed_to.getvalue()
    assert all(title in printed for title in found.figures) and all(group in printed for group in found.groups)
    again = json.loads(json.dumps(found.to_json()))
    assert again["name"] == name and set(again["figures"]) == set(found.figures) and again["right"].keys() == {"a"}
