"""Sentence patterns, leak-free splits, and near-duplicates against a brute-force search."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dozan.errors import InputError
from dozan.rows.arabic import fold
from dozan.rows.example import Example
from dozan.rows.splits import near_duplicates, sentence_pattern, split_rows


def row(text: str, name: str = "1", **arguments: Any) -> Example:
    call = {"function": {"name": "f", "arguments": arguments}}
    return Example(name, (), ({"role": "user", "content": text}, {"role": "assistant", "tool_calls": [call]}))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (row("شغّل النور في المطبخ", area="المطبخ"), row("شغل النور في الصاله", area="الصالة")),
        (row("شغل النور بالمطبخ", area="المطبخ"), row("شغل النور للصالة.", area="الصالة")),
        (row("افتح نافذة غرفة المعيشة", area="غرفة المعيشة"), row("افتح نافذة المكتب", area="المكتب")),
        (row("مؤقت ٥ دقائق"), row("مؤقت خمسة وعشرين دقائق")),
        (row("حوّل 1,500 ريال"), row("حول ٣٫٥ ريال")),
        (row("Turn on the kitchen light", name_="Kitchen"), row("turn on the office light!", name_="office")),
        (row("أرسل لأحمد علي رسالة", to="أحمد علي", x="علي"), row("أرسل لسارة رسالة", to="سارة")),
        (row("قارن مصر", c=["مصر"]), row("قارن قطر", c={"in": "قطر"})),
    ],
)
def test_one_pattern_for_sentences_that_differ_in_values(left: Example, right: Example) -> None:
    assert sentence_pattern(left) == sentence_pattern(right)


def test_patterns_differ_when_the_sentence_does() -> None:
    assert sentence_pattern(row("شغل النور في المطبخ", area="المطبخ")) == "شغل النور في V"
    assert sentence_pattern(row("اطفئ النور في المطبخ", area="المطبخ")) == "اطفئ النور في V"
    assert sentence_pattern(row("مطبخي كبير", area="المطبخ")) == "مطبخي كبير"


def test_a_group_never_stands_on_both_sides() -> None:
    rooms = ["المطبخ", "الصالة", "المكتب", "الحمام"]
    rows = [row(f"جملة {chr(0x628 + i)} في {room}", f"{i}-{room}", area=room) for i in range(20) for room in rooms]
    random.Random(3).shuffle(rows)
    train, held = split_rows(rows, 0.25, seed=1)
    assert (len(train), len(held)) == (60, 20)
    assert not {sentence_pattern(r) for r in train} & {sentence_pattern(r) for r in held}
    assert [r for r in rows if r in held] == held
    assert split_rows(rows, 0.25, seed=1) == (train, held)
    assert split_rows(rows, 0.25, seed=2)[1] != held


def test_split_edges() -> None:
    rows = [row("أ", "1"), row("ب", "2"), row("ب", "3")]
    assert split_rows(rows, 0, seed=0) == (rows, [])
    train, held = split_rows(rows, 0.01, seed=0)
    assert train and len(held) == 1
    assert all(split_rows(rows, 0.99, seed=seed)[0] for seed in range(5))
    with pytest.raises(InputError, match="give 0"):
        split_rows(rows, 1.0, seed=0)
    with pytest.raises(InputError, match="one sentence pattern"):
        split_rows(rows[1:], 0.5, seed=0)


def brute(train: list[Example], test: list[Example], threshold: float) -> set[tuple[int, int]]:
    def grams(example: Example) -> set[str]:
        text = (
            "  "
            + " ".join("".join(c if c.isalnum() else " " for c in fold(example.messages[0]["content"])).split())
            + "  "
        )
        return {text[i : i + 3] for i in range(len(text) - 2)}

    left, right = [grams(r) for r in train], [grams(r) for r in test]
    return {
        (i, j) for i, a in enumerate(left) for j, b in enumerate(right) if len(a & b) >= threshold * len(a | b)
    }  # fmt: skip


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_near_duplicates_equal_brute_force(threshold: float) -> None:
    draw = random.Random(0)
    words = ["شغل", "اطفئ", "النور", "المروحة", "في", "المطبخ", "الصالة", "المكتب", "الآن", "من", "فضلك"]
    rows = [row(" ".join(draw.choices(words, k=draw.randint(1, 6)))) for _ in range(300)]
    found = near_duplicates(rows[:240], rows[240:], threshold)
    assert {(i, j) for i, j, _ in found} == brute(rows[:240], rows[240:], threshold)
    assert found and [s for _, _, s in found] == sorted((s for _, _, s in found), reverse=True)


def test_spelling_variants_are_duplicates() -> None:
    assert near_duplicates([row("شغّل الإضاءة!")], [row("شغل الاضاءه")]) == [(0, 0, 1.0)]
