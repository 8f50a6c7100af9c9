"""Figures of a set: counts that a hand count confirms, and what sharing would give when rows are rearranged."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console
from test_show import TOKENIZER, TOOL, row

from dozan.chat import FUNCTIONGEMMA
from dozan.chat.encode import encode_example
from dozan.check.stats import Spread, Stats, measure_rows, size_verdict
from dozan.check.stats_text import print_stats
from dozan.rows.example import Example

OTHER: dict[str, Any] = {**TOOL, "function": {**TOOL["function"], "name": "forecast"}}
DATE = "Current date and time given in YYYY-MM-DDTHH:MM:SS format: 2024-10-20T14:27:48\nDay of week is Sunday\nYou can"


def measured(*examples: Example, **more: Any) -> Stats:
    return measure_rows(examples, FUNCTIONGEMMA, TOKENIZER, **more)


def test_counts() -> None:
    text = {"role": "assistant", "content": "لا أعرف"}
    none = Example("3", (TOOL,), ({"role": "user", "content": "كم الساعة"}, text), {"dialect": "gulf"}, "r:3")
    bad = Example("4", (), ({"role": "user", "content": "x"}, {"role": "tool", "content": "x"}), place="r:4")
    rows = [replace(row("1"), meta={"dialect": "msa"}), replace(row("2", tools=(OTHER, TOOL)), meta={"dialect": "msa"})]
    found = measured(*rows, none, bad)
    assert (found.rows, found.refused, dict(found.calls)) == (4, 1, {0: 2, 1: 2})
    assert (found.called, found.dialects) == ({"get_weather": 2}, {"msa": 2, "gulf": 1})
    assert found.declared == {"get_weather": 3, "forecast": 1}
    tokens = [encode_example(each, FUNCTIONGEMMA, TOKENIZER, 4096) for each in (*rows, none)]
    assert found.tokens.total == sum(len(each.ids) for each in tokens)
    assert found.trained.total == sum(weight > 0 for each in tokens for weight in each.weights)
    assert found.to_dict()["tokens"]["max"] == max(len(each.ids) for each in tokens)


def test_spread() -> None:
    spread = Spread({10: 5, 20: 4, 100: 1})
    assert (spread.rows, spread.total, spread.mean) == (10, 230, 23.0)
    assert [spread.quantile(share) for share in (0, 0.5, 0.51, 0.9, 0.99, 1)] == [10, 10, 20, 20, 100, 100]
    classes = spread.histogram(7)
    assert classes[0] == (10, 22, 9) and classes[-1] == (88, 100, 1) and sum(rows for _, _, rows in classes) == 10
    assert (Spread({}).quantile(0.5), Spread({}).histogram()) == (0, [])


def test_size_verdict() -> None:
    said = {49: "heart", 50: "overfit", 499: "overfit", 500: "generalise", 4_999: "generalise", 5_000: "professional"}
    assert all(words in size_verdict(rows).split(";")[0] for rows, words in said.items())


def test_one_order_of_tools_lets_beginnings_meet() -> None:
    rows = [row(str(i), tools=(TOOL, OTHER) if i % 2 else (OTHER, TOOL)) for i in range(1, 9)]
    found = measured(*rows, batch_rows=8).sharing
    assert found["tools in one order"].computed_shuffled < found["as they are"].computed_shuffled


def test_the_date_after_the_tools_lets_beginnings_meet() -> None:
    rows = [
        replace(each, messages=({"role": "developer", "content": DATE.replace("20T14", f"{i}T11")}, *each.messages[1:]))
        for i in range(11, 19)
        for each in [row(str(i))]
    ]
    found = measured(*rows, batch_rows=8).sharing
    assert found["date after the tools"].computed_shuffled < 0.7 * found["as they are"].computed_shuffled


def test_a_sample_stands_for_many_rows() -> None:
    found = measured(*(row(str(i)) for i in range(1, 30)), sample=5)
    assert (found.rows, found.sampled, found.sharing["as they are"].tokens) == (29, 5, found.tokens.total * 5 // 29)


def test_printed_figures() -> None:
    file = io.StringIO()
    print_stats(measured(*(row(str(i)) for i in range(1, 9))), Console(file=file, width=80))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "8 rows: learnt by heart" in text and "get_weather" in text and "date after the tools" in text
    print_stats(measured(), Console(file=file, width=80))
