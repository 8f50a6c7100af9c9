"""Set rules: each finds what is planted, says how many, and is silent on a sound set."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from dozan.chat import FUNCTIONGEMMA
from dozan.check.finding import Finding
from dozan.check.set_rules import RULES, SetRules
from dozan.check.set_rules.chance import (
    binomial_at_least,
    binomial_at_most,
    chi_square,
    normal_two_sided,
    said,
)
from dozan.check.set_rules.facts import facts_of
from dozan.check.set_rules.tally import Tally
from dozan.check.set_rules.values import date_form
from dozan.check.view import view_row
from dozan.rows.example import Example

TRIGGER = "You are a model that can do function calling with the following functions"
NAMES = ("get_weather", "set_alarm", "send_message", "show_map", "play_song", "make_call")
LETTERS = "با بو دا دو را رو سا سو شا شو كا كو لا لو ما مو نا نو حا حو غا غو قا قو"
SYLLABLES = LETTERS.split()


def tool(name: str, required: bool = True, argument: str = "text", **more: Any) -> dict[str, Any]:
    properties = {argument: {"type": "string", "description": f"What {name} needs."}}
    parameters = {"type": "object", "properties": properties, "required": [argument] if required else []}
    return {"function": {"name": name, "description": f"Does {name}.", "parameters": parameters, **more}}


def word(draw: random.Random) -> str:
    return "".join(draw.choice(SYLLABLES) for _ in range(4))


class Set:
    """Rows that are sound but for what a test changes."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.rows: list[Example] = []
        self.tools = [tool(name) for name in NAMES]

    def add(
        self, name: str = "", tools: Sequence[Any] | None = None, now: str = "", answer: str = "", user: str = "",
        arguments: dict[str, Any] | None = None, id: str = "", **meta: Any,
    ) -> None:  # fmt: skip
        value = word(self.draw)
        user = user or f"{word(self.draw)} {word(self.draw)} {value} {word(self.draw)} {word(self.draw)}"
        day = now or f"20{self.draw.randint(24, 26)}-{self.draw.randint(1, 12):02}-{self.draw.randint(1, 28):02}T10:00"
        developer = {"role": "developer", "content": f"Current date: {day}\n{TRIGGER}"}
        called = {"function": {"name": name, "arguments": {"text": value} if arguments is None else arguments}}
        last: dict[str, Any] = {"role": "assistant", "tool_calls": [called]} if name else {"role": "assistant"}
        if not name:
            last["content"] = answer or f"{word(self.draw)} {word(self.draw)}"
        place = f"rows.jsonl:{len(self.rows) + 1}"
        shown = self.tools if tools is None else tools
        self.rows.append(Example(id or place, tuple(shown), (developer, {"role": "user", "content": user}, last), meta,
                                 place))  # fmt: skip

    def sound(self, count: int = 600) -> Set:
        """One row in six without a call; tools and dialects in turn, candidates shuffled."""
        for i in range(count):
            shown = self.draw.sample(self.tools, 4)
            name = self.draw.choice(shown)["function"]["name"] if i % 6 else ""
            self.add(name, tools=shown, dialect=("msa", "gulf")[i % 2])
        return self

    def check(self, held: Sequence[Example] = ()) -> list[Finding]:
        rules = SetRules("rows.jsonl")
        for facts, row in zip(facts_of([view_row(row, FUNCTIONGEMMA) for row in self.rows]), self.rows, strict=True):
            rules.add(facts, row.tools)
        for facts in facts_of([view_row(row, FUNCTIONGEMMA) for row in held]) if held else ():
            rules.add_eval(facts)
        return rules.findings()

    def found(self, name: str, held: Sequence[Example] = ()) -> list[Finding]:
        return [finding for finding in self.check(held) if finding.rule.name == name]


def one(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_sound_set_has_no_warning() -> None:
    findings = Set().sound().check()
    assert [finding.rule.name for finding in findings if finding.severity != "note"] == []
    assert one([finding for finding in findings if finding.rule.name == "set-size"]).message.startswith("600 rows")


def test_an_empty_set_has_nothing_to_say() -> None:
    assert Set().check() == []


def test_duplicates_after_folding_name_the_earlier_row() -> None:
    rows = Set().sound()
    rows.add("set_alarm", user="شَغِّل المنبه ٧ صباحا", arguments={"text": "٧"})
    rows.add("set_alarm", user="شغل  المنبه 7 صباحا", arguments={"text": "7"})
    finding = one(rows.found("duplicate-row"))
    assert (finding.count, finding.places) == (1, ("rows.jsonl:602 = rows.jsonl:601",))
    assert rows.found("conflicting-answers") == []


def test_other_answers_to_one_request_conflict_only_under_the_same_tools_and_text() -> None:
    rows = Set().sound()
    rows.add("set_alarm", user="صحني بكرة", now="2025-01-01")
    rows.add("make_call", user="صحني بكره", now="2025-01-01")
    rows.add("send_message", user="صحني بكره", now="2025-01-02")
    finding = one(rows.found("conflicting-answers"))
    assert (finding.count, finding.places) == (1, ("rows.jsonl:602 / rows.jsonl:601",))
    assert rows.found("duplicate-row") == []


def test_near_duplicates_are_a_note_until_they_are_many() -> None:
    rows = Set().sound(200)
    for i in range(5):
        rows.add("set_alarm", user=f"من فضلك اضبط المنبه على الساعة السابعة صباحا غدا رقم {i}")
    assert one(rows.found("near-duplicate-rows")).count == 4
    for i in range(5, 80):
        rows.add("set_alarm", user=f"من فضلك اضبط المنبه على الساعة السابعة صباحا غدا رقم {i}")
    finding = one(rows.found("many-near-duplicates"))
    assert finding.count == 79 and "79 of 280 rows (28.2 %)" in finding.message
    assert rows.found("near-duplicate-rows") == []


def test_ids_are_named_at_the_row() -> None:
    rows = Set().sound(20)
    rows.add("set_alarm", id="rows.jsonl:3")
    finding = one(rows.found("duplicate-id"))
    assert (finding.place, finding.message) == ("rows.jsonl:21", "the id of rows.jsonl:3 too")


def test_leaks_exact_and_near() -> None:
    rows, held = Set().sound(), Set(1).sound(50)
    assert rows.found("leak", held.rows) == [] == rows.found("near-leak", held.rows)
    held.rows.append(Example("h", rows.rows[4].tools, rows.rows[4].messages, place="held.jsonl:51"))
    near = "احجز لي طاولة في مطعم البيت الكبير يوم الخميس القادم الساعة الثامنة مساء"
    rows.add("make_call", user=near + " لشخصين")
    held.add("make_call", user=near + " لثلاثة")
    assert one(rows.found("leak", held.rows)).places == ("held.jsonl:51 = rows.jsonl:5",)
    assert "1 of 52 evaluation rows" in one(rows.found("leak", held.rows)).message
    finding = one(rows.found("near-leak", held.rows))
    assert finding.count == 1 and finding.places[0].startswith("rows.jsonl:52 ~ rows.jsonl:601 (")


def test_recited_templates_mask_the_values() -> None:
    rows = Set().sound(300)
    for _ in range(120):
        value = word(rows.draw)
        rows.add("set_alarm", user=f"أرجوك ذكرني بموعد {value} قبل النوم", arguments={"text": value})
    finding = one(rows.found("recited-templates"))
    assert finding.count == 120 and "120 of 420 rows" in finding.message and "بموعد" in finding.message


@pytest.mark.parametrize("at", [0, 2, 3])
def test_position_bias_is_found_where_it_is(at: int) -> None:
    rows = Set()
    for i in range(120):
        shown = rows.draw.sample(rows.tools, 4)
        if i % 3:
            others = [t for t in rows.tools if t not in shown[:1]]
            shown = rows.draw.sample(others, 3)[:at] + shown[:1] + rows.draw.sample(others, 3)[at:]
            shown = list({t["function"]["name"]: t for t in shown}.values())
            name = shown[min(at, len(shown) - 1)]["function"]["name"]
        else:
            name = rows.draw.choice(shown)["function"]["name"]
        rows.add(name, tools=shown)
    finding = one(rows.found("position-bias"))
    assert ("first", "second", "third", "fourth")[at] in finding.message and "p = " in finding.message


def _fixed(rows: Set) -> list[dict[str, Any]]:
    return rows.tools


def _sorted(rows: Set) -> list[dict[str, Any]]:
    return sorted(rows.draw.sample(rows.tools, 4), key=lambda t: str(t["function"]["name"]))


def _shuffled(rows: Set) -> list[dict[str, Any]]:
    return rows.draw.sample(rows.tools, 4)


@pytest.mark.parametrize("order", [_fixed, _sorted, _shuffled])
def test_an_order_that_tells_nothing_is_no_bias(order: Callable[[Set], list[dict[str, Any]]]) -> None:
    """Even where one tool is asked for most of the time, and always stands in the same place."""
    for seed in range(5):
        rows = Set(seed)
        for _ in range(300):
            shown = order(rows)
            names = [t["function"]["name"] for t in shown]
            favourite = "get_weather" in names and rows.draw.random() < 0.8
            rows.add("get_weather" if favourite else rows.draw.choice(names), tools=shown)
        assert rows.found("position-bias") == [], seed


def test_tools_that_are_never_wrong_are_compared_with_chance() -> None:
    """Every row has tools of its own, as in xLAM: nothing to compare a tool with but 1 in 3."""
    rows = Set()
    for i in range(60):
        rows.add(f"a{i}", tools=[tool(f"{letter}{i}") for letter in "abc"])
    assert "the first of 3 in 60 of 60 rows (100.0 %; 33.3 % by chance" in one(rows.found("position-bias")).message


def test_constant_refusal_counts_folded_answers() -> None:
    rows = Set().sound()
    assert rows.found("constant-refusal") == []
    for i in range(110):
        rows.add(answer="لا أستطيع ذلك." if i % 2 else "لا استطيع ذلك.")
    assert "110 of 210 rows without a call are answered 'لا" in one(rows.found("constant-refusal")).message


@pytest.mark.parametrize(("no_calls", "is_few"), [(0, True), (4, True), (20, False), (60, False)])
def test_few_no_call_rows_is_a_test_and_no_threshold(no_calls: int, is_few: bool) -> None:
    rows = Set()
    for i in range(300):
        rows.add(NAMES[i % 6] if i >= no_calls else "")
    assert bool(rows.found("few-no-call")) is is_few
    short = Set()
    for i in range(20):
        short.add(NAMES[i % 6])
    assert short.found("few-no-call") == [], "20 rows without one are no proof"


def test_dialects_and_tools_out_of_balance() -> None:
    rows = Set()
    for i in range(200):
        rows.add("set_alarm" if i % 3 else NAMES[i % 6], dialect="msa" if i % 10 else "gulf")
    words = "msa 180, gulf 20 rows; gulf with a quarter of msa or less (p = "
    assert words in one(rows.found("dialect-imbalance")).message
    finding = one(rows.found("tool-imbalance"))
    assert "set_alarm takes 133 of 200 calls (66.5 %), being 16.7 % of the tools offered" in finding.message


def test_uncalled_tools_are_counted() -> None:
    rows = Set()
    for i in range(60):
        rows.add(NAMES[i % 4])
    finding = one(rows.found("uncalled-tools"))
    assert finding.count == 2 and "play_song (offered 60 times), make_call (offered 60 times)" in finding.message


def test_one_now_for_all_rows_matters_where_dates_are_computed() -> None:
    rows = Set()
    for i in range(60):
        rows.add(NAMES[i % 6], now="2025-01-01", arguments={"text": f"2025-01-{i % 28 + 1:02}"})
    assert "now is 2025-01-01 in 60 of 60 rows; 60 rows compute dates" in one(rows.found("constant-now")).message
    plain = Set()
    for i in range(60):
        plain.add(NAMES[i % 6], now="2025-01-01")
    assert plain.found("constant-now") == []


def test_a_date_that_tells_whether_to_call() -> None:
    rows = Set().sound()
    assert rows.found("date-tells-answer") == []
    alike = Set()
    for i in range(200):
        alike.add(NAMES[i % 6] if i >= 30 else "", now="2026-05-01" if i % 5 > 2 and i >= 30 else "2026-04-01")
    assert alike.found("date-tells-answer") == []
    constant = Set()
    for i in range(200):
        constant.add(NAMES[i % 6] if i >= 30 else "", now="2026-04-01")
    assert constant.found("date-tells-answer") == []
    told = Set()
    for i in range(200):
        told.add(NAMES[i % 6] if i >= 30 else "", now="2025-05-05" if i >= 30 else "2026-04-01")
    assert "2026-04-01 in 30 of 30 rows without a call and in 0 of 170" in one(told.found("date-tells-answer")).message


@pytest.mark.parametrize(
    ("count", "name", "words"),
    [(20, "small-set", "learnt by heart"), (60, "small-set", "likely to overfit"), (700, "set-size", "generalise"),
     (5_000, "set-size", "professional set")],
)  # fmt: skip
def test_verdict_on_size(count: int, name: str, words: str) -> None:
    assert words in one(Set().sound(count).found(name)).message


def test_required_empty_everywhere_or_not() -> None:
    rows = Set()
    rows.tools = [tool(name, required=False) for name in NAMES]
    rows.add("set_alarm")
    assert "in all 6 tools" in one(rows.found("required-empty")).message
    rows.tools[0] = tool("get_weather")
    mixed = Set()
    mixed.tools = rows.tools
    mixed.add("set_alarm")
    assert mixed.found("required-empty") == []


def test_twins_have_the_same_parameters_and_words_and_opposites_are_none() -> None:
    rows = Set()
    rows.tools = [
        tool("convert_currency", description="تحويل العملات بسعر الصرف الحالي"),
        tool("currency_conversion", description="تحويل العملات"),
        tool("currency_list", description="قائمة العملات"),
        tool("light_on", description="Turns the light on"),
        tool("light_off", description="Turns the light off"),
        tool("convert_money", description="تحويل العملات", argument="amount"),
    ]
    rows.add("light_on")
    finding = one(rows.found("near-duplicate-tools"))
    assert finding.count == 1 and finding.message.endswith("convert_currency and currency_conversion")


def test_dates_written_in_several_ways() -> None:
    rows = Set()
    for value in ("2025-01-01", "2025-01-02", "05-12-2025", "١٠ نوفمبر"):
        rows.add("set_alarm", arguments={"date": value, "text": "2025-01-01 هو العيد"})
    finding = one(rows.found("mixed-dates"))
    assert (finding.path, finding.count) == ("set_alarm.date", 2)
    assert "YYYY-MM-DD in 2" in finding.message and "month by name in 1" in finding.message
    same = Set()
    for day in range(1, 9):
        same.add("set_alarm", arguments={"date": f"2025-01-0{day}"})
    assert same.found("mixed-dates") == []


@pytest.mark.parametrize(
    ("value", "form"),
    [("2025-01-02", "YYYY-MM-DD"), ("2025-01-02T10:00:00Z", "YYYY-MM-DDTHH:MM"),
     ("2025-01-02 10:00", "YYYY-MM-DD HH:MM"),
     ("٢٠٢٥-٠١-٠٢", "YYYY-MM-DD"), ("2/1/2025", "DD/MM/YYYY"), ("05-12", "DD-MM"), ("10:30 pm", "HH:MM"),
     ("3 March", "month by name"), ("tomorrow", "Latin words"), ("بكرة", "Arabic words"), (" ", "")],
)  # fmt: skip
def test_forms_of_dates(value: str, form: str) -> None:
    assert date_form(value) == form


def test_digits_are_mixed_when_the_request_has_arabic_ones() -> None:
    rows = Set()
    rows.add("set_alarm", user="منبه رقم ٥٥", arguments={"text": "٥٥"})
    rows.add("set_alarm", user="منبه رقم 55 غدا", arguments={"text": "55"})
    assert rows.found("mixed-digits") == [], "each as in its request"
    rows.add("set_alarm", user="منبه رقم ٧٧", arguments={"text": "77"})
    assert "kept in 1 values and written as 0-9 in 1" in one(rows.found("mixed-digits")).message


def test_few_values_count_what_is_copied_and_not_closed() -> None:
    rows = Set()
    for i in range(60):
        name = ("سارة", "محمد")[i % 2]
        rows.add("set_alarm", user=f"{word(rows.draw)} اتصل بـ {name}", arguments={"text": name, "code": "domain"})
    finding = one(rows.found("few-values"))
    assert finding.path == "set_alarm.text" and "2 different values copied in 60 calls" in finding.message
    closed = Set()
    closed.tools = [tool("set_alarm"), tool("make_call")]
    for shown in closed.tools:
        shown["function"]["parameters"]["properties"]["text"]["enum"] = ["سارة", "محمد"]
    for _ in range(60):
        closed.add("set_alarm", user=f"{word(closed.draw)} سارة", arguments={"text": "سارة"})
    assert closed.found("few-values") == []


def test_chances_are_those_of_a_direct_sum() -> None:
    direct = [math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(21)]
    assert binomial_at_most(4, 20, 0.3) == pytest.approx(sum(direct[:5]))
    assert binomial_at_least(9, 20, 0.3) == pytest.approx(sum(direct[9:]))
    assert [binomial_at_least(3, 3, p) for p in (0.0, 1.0)] == [0.0, 1.0] == [binomial_at_most(2, 3, 1.0), 1.0]
    assert normal_two_sided(1.959964) == pytest.approx(0.05, rel=1e-5)
    assert chi_square([30, 10], [20, 20]) == pytest.approx(normal_two_sided(math.sqrt(10)), rel=1e-9)
    statistic = sum((o - 25) ** 2 / 25 for o in (40, 25, 20, 15))
    by_parts = math.erfc(math.sqrt(statistic / 2)) + math.sqrt(2 * statistic / math.pi) * math.exp(-statistic / 2)
    assert chi_square([40, 25, 20, 15], [25] * 4) == pytest.approx(by_parts, rel=1e-9)
    assert chi_square([26, 24, 25, 25], [25] * 4) == pytest.approx(0.99412, abs=1e-5)
    assert (said(0.01234), said(3.2e-12), said(0.0)) == ("p = 0.0123", "p = 3e-12", "p < 1e-300")


def test_a_tally_keeps_what_is_frequent() -> None:
    tally: Tally[int] = Tally(100)
    for i in range(10_000):
        tally.add(i if i % 3 else -1)
    assert len(tally) <= 100 and not tally.is_exact and tally.total == 10_000
    assert tally.top(1)[0] == (-1, 3_334)


AISA = Path(__file__).parents[2] / "shared/data/aisa_arabicfc/dev_300.jsonl"


def test_every_rule_has_what_the_catalogue_needs() -> None:
    assert all(rule.title and rule.why and rule.remedy and rule.code.startswith("DZ6") for rule in RULES)


@pytest.mark.skipif(not AISA.is_file(), reason="needs the data beside the repository")
def test_a_published_set_by_hand_count() -> None:
    """Counts of its file by a few lines that share nothing with the rules."""
    raw = [json.loads(line) for line in AISA.read_text(encoding="utf-8").splitlines()]
    calls = [[c["function"] for m in row["messages"] for c in m.get("tool_calls") or []] for row in raw]
    names = [[t["function"]["name"] for t in row["tools"]] for row in raw]
    first = sum(bool(c) and n[0] == c[0]["name"] for c, n in zip(calls, names, strict=True))
    silent = [row["messages"][-1]["content"] for row, c in zip(raw, calls, strict=True) if not c]
    offered = {name for row in names for name in row}
    idle = offered - {call["name"] for row in calls for call in row}
    stays = [c["arguments"]["check_in"] for row in calls for c in row if "check_in" in c["arguments"]]
    rules = SetRules("dev_300.jsonl")
    rows = [Example(r["id"], tuple(r["tools"]), tuple(r["messages"]), {"dialect": r["dialect"]}, r["id"]) for r in raw]
    for facts, row in zip(facts_of([view_row(row, FUNCTIONGEMMA) for row in rows]), rows, strict=True):
        rules.add(facts, row.tools)
    found = {(finding.rule.name, finding.path): finding for finding in rules.findings()}
    assert found["position-bias", "tools"].count == first == sum(map(bool, calls)) == 274
    assert found["constant-refusal", "messages"].count == len(silent) == 26 and len(set(silent)) == 1
    assert found["required-empty", "tools"].count == len(offered) == 27
    assert not any(t["function"]["parameters"]["required"] for row in raw for t in row["tools"])
    assert found["near-duplicate-tools", "tools"].count == 2
    assert found["uncalled-tools", "tools"].count == len(idle) == 7
    assert found["mixed-dates", "search_hotels.check_in"].count == sum(not v.startswith("2023-") for v in stays) == 5
    assert found["date-tells-answer", "messages[0].content"].count == sum("2026-04-01" in str(r) for r in raw) == 26
    assert found["dialect-imbalance", "dialect"].message.startswith("msa 167, levantine 46, gulf 44, egyptian 40")
