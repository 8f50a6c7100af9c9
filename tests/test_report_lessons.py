"""Each lesson is drawn when the figures say so, with these figures, and not otherwise."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from test_score import PAY, row, score

from dozan.judge.paired import Paired
from dozan.judge.report_lessons import Lesson, lessons, lessons_section
from dozan.judge.summary import RowScore, Scores

OTHER = ("transfer", {"to": "منى", "amount": 50})
MADE_UP = ("transfer", {"to": "زيد", "amount": 50})
LIGHT = ("light", {})


def right(name: str, **meta: Any) -> RowScore:
    return score(row(name, "حوّل 50 لسارة ومنى", PAY, **meta), PAY)  # type: ignore[no-any-return]


def answered(name: str, *calls: tuple[str, dict[str, Any]], **meta: Any) -> RowScore:
    return score(row(name, "حوّل 50 لسارة ومنى", PAY, **meta), *calls)  # type: ignore[no-any-return]


def quiet(name: str, *calls: tuple[str, dict[str, Any]]) -> RowScore:
    return score(row(name, "ازيك", answer="أهلا"), *calls)  # type: ignore[no-any-return]


def good(n: int = 1500) -> list[RowScore]:
    """Rows about which there is nothing to say."""
    one, none = right("r"), quiet("q")
    return [replace(one, id=f"r{i}") for i in range(n)] + [replace(none, id=f"q{i}") for i in range(20)]


def times(n: int, one: RowScore) -> list[RowScore]:
    return [replace(one, id=f"{one.id}{i}") for i in range(n)]


def found(rows: list[RowScore], metrics: Any = (), paired: Paired | None = None) -> dict[str, Lesson]:
    return {words(lesson.title): lesson for lesson in lessons(Scores(tuple(rows)), paired, list(metrics))}


def words(html: str) -> str:
    return re.sub("<[^>]+>", "", html)


def test_nothing_is_said_of_a_good_model() -> None:
    assert found(good()) == {}
    assert "No figure stands out." in lessons_section(Scores(tuple(good(100) * 4)), "tuned", None, [])


@pytest.mark.parametrize(
    ("more", "title", "said"),
    [
        (times(100, answered("w", OTHER)), "Names are right, values are wrong", "transfer.to (100)"),
        (times(20, answered("w", MADE_UP)), "Values are made up", "20 values stand nowhere in the conversation"),
        (times(20, answered("w", LIGHT)), "Tools are taken for one another", "20 calls went to another tool: light"),
        (times(100, answered("w")), "It does not call where it should", "100 of 1,600"),
        (times(3, quiet("w", LIGHT)), "It calls where nothing asks for a call", "3 of 23"),
        (times(30, score(row("w", "حوّل", PAY), PAY, problems=("at 3: no end",))), "Answers are malformed",
         "30 of 1,550"),
        (times(20, answered("w", ("transfer", {"to": "ساره", "amount": 50}))), "Right but for how it is written",
         "20 rows"),
        (times(6, score(row("w", "شغّل", LIGHT), PAY)), "Tools that are never called", "light (6)"),
        (times(40, answered("w", OTHER, dialect="gulf")) + times(40, right("z", dialect="msa")),
         "The dialect gulf lags", "0 of 40"),
    ],
)  # fmt: skip
def test_scores_teach(more: list[RowScore], title: str, said: str) -> None:
    lessons_found = found(good() + more)
    assert title in lessons_found and said in words(lessons_found[title].seen)


def test_a_dialect_that_may_be_chance_is_no_lesson() -> None:
    rows = times(4, answered("w", OTHER, dialect="gulf")) + times(6, right("v", dialect="gulf"))
    assert "The dialect gulf lags" not in found(rows + times(10, right("z", dialect="msa")))


def test_computed_values_that_are_harder_than_copied_ones() -> None:
    late = score(row("w", "بكرة", ("remind", {"text": "بكرة", "at": "2024-10-20T14:00:00"})),
                 ("remind", {"text": "بكرة", "at": "2024-10-21T14:00:00"}))  # fmt: skip
    assert "Computing is harder than copying" in found(times(40, late))
    assert "Copying is harder than computing" in found(times(40, score(
        row("w", "سارة", ("remind", {"text": "سارة", "at": "2024-10-20T14:00:00"})),
        ("remind", {"text": "منى", "at": "2024-10-20T14:00:00"}))))  # fmt: skip


def test_few_rows_and_no_rows_without_a_call_are_told() -> None:
    said = found(times(12, right("r")))
    assert "±12 points" in said["The rows are few"].seen and "Restraint is not measured" in said
    assert "Restraint is not measured" not in found(times(12, right("r")) + [quiet("q")])


def test_what_was_unlearnt_is_told_from_a_twentieth_on() -> None:
    rows = good(100)
    lost = Paired((), tuple(f"l{i}" for i in range(7)), 0.01)
    assert "7 of 127 rows" in found(rows, paired=lost)["Something that worked was unlearnt"].seen
    assert "Something that worked was unlearnt" not in found(rows, paired=Paired((), ("a",), 1.0))


def curve(name: str, *values: float) -> list[dict[str, float]]:
    return [{"step": 10 * (i + 1), name: value} for i, value in enumerate(values)]


@pytest.mark.parametrize(
    ("metrics", "title", "said"),
    [
        (curve("eval/loss", 0.5, 0.3, 0.4), "Rows are learnt by heart", "after step 20 (0.300) and rose to 0.400"),
        (curve("eval/loss", 0.5, 0.3, 0.4) + curve("score/strict", 0.1, 0.2, 0.3), "Rows are learnt by heart",
         "at their best later"),
        (curve("eval/loss", 0.5, 0.4) + curve("train/loss", *[0.1] * 60),
         "Held-out rows are much harder than training rows", "0.400"),
        (curve("score/strict", 0.2, 0.6, 0.5), "Calls were best before the end", "after step 20 and is"),
        (curve("score/strict", 0.2, 0.5, 0.6), "Calls were still getting better", "from 50.0\u202f% to 60.0\u202f%"),
        (curve("train/loss", *[0.001] * 50), "The training rows are known by heart", "0.0010"),
        (curve("train/grad_norm", *[0.5] * 10, *[2.0] * 90), "The gradient stays large", "90 of the last 100"),
        (curve("score/unended", 0.0, 0.3), "Answers never stop", "30.0\u202f%"),
    ],
)  # fmt: skip
def test_curves_teach(metrics: Any, title: str, said: str) -> None:
    assert said in found(good(), metrics)[title].seen


@pytest.mark.parametrize(
    "metrics",
    [
        curve("eval/loss", 0.5, 0.3, 0.305), curve("eval/loss", 0.5, 0.4), curve("score/strict", 0.5),
        curve("score/strict", 0.6, 0.6), curve("train/loss", *[0.001] * 49), curve("train/loss", *[0.01] * 50),
        curve("train/grad_norm", *[2.0] * 99), curve("train/grad_norm", *[0.5] * 11, *[2.0] * 89),
        curve("score/unended", 0.3, 0.0),
        curve("eval/loss", 0.05) + curve("train/loss", *[0.01] * 60),
    ],
)  # fmt: skip
def test_healthy_curves_teach_nothing(metrics: Any) -> None:
    assert found(good(), metrics) == {}


def test_what_concerns_most_rows_comes_first_and_names_are_isolated() -> None:
    rows = good() + times(100, answered("w", OTHER, dialect="خليجي")) + times(20, answered("m", LIGHT))
    rows += times(60, right("z", dialect="msa"))
    order = [lesson.rows for lesson in lessons(Scores(tuple(rows)), None, [])]
    assert order == sorted(order, reverse=True) and len(order) >= 3
    text = lessons_section(Scores(tuple(rows)), "tuned", None, [])
    assert 'The dialect <bdi dir="rtl">خليجي</bdi> lags.' in text and "<i>To try:</i>" in text
