"""Sentence patterns, leak-free splits, and near-duplicates against a brute-force search."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from dozan.errors import InputError
from dozan.rows import splits
from dozan.rows.arabic import fold
from dozan.rows.example import Example
from dozan.rows.splits import choose_heldout, joined_groups, near_duplicates, row_labels, sentence_pattern, split_rows


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


def masked(text: str, values: list[str]) -> str:
    """The text with V for each value in turn, found by a pattern that is made for it."""
    for value in values:
        words = re.findall(r"\w+", value)
        stems = [word[2:] if word.startswith("ال") and len(word) > 3 else word for word in words]
        parts = r"\W+".join("[وفبلك]{0,2}(?:ال|لل)?" + re.escape(stem) for stem in stems)
        text = re.sub(rf"(?<!\w){parts}(?!\w)", "V", text) if words else text
    return text


def test_values_are_found_as_a_pattern_made_for_each_finds_them() -> None:
    draw = random.Random(0)
    words = ["و", "ال", "لل", "كتاب", "الكتاب", "بالكتاب", "ولكتاب", "كتابي", "V", "_", "a"]

    def some(most: int) -> str:
        between = [" ", ". ", "، ", "-", ""]
        return "".join(draw.choice(words) + draw.choice(between) for _ in range(draw.randrange(most)))

    for _ in range(3000):
        text, values = some(9), [some(3) for _ in range(draw.randrange(4))]
        pieces = splits._WORDS.split(text)
        for value in values:
            splits._mask_value(pieces, value)
        assert "".join(pieces) == masked(text, values), (text, values)


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


def test_groups_are_joined_through_each_other() -> None:
    assert joined_groups("aabcd", [1, 2, 2, 3, 4]) == [0, 0, 0, 3, 4]
    assert joined_groups("abcd") == [0, 1, 2, 3]
    draw = random.Random(1)
    columns = [[draw.randrange(12) for _ in range(60)] for _ in range(2)]
    found = joined_groups(*columns)
    assert found == joined_groups(*reversed(columns)) and all(found[i] == i for i in set(found))
    assert all(found[i] == found[j] for c in columns for i in range(60) for j in range(60) if c[i] == c[j])


def test_labels_name_tool_dialect_and_kind() -> None:
    called = Example("1", (), row("a", x="b").messages, {"dialect": "gulf"})
    assert row_labels(called) == ("tool f", "dialect gulf", "kind one call")
    text = Example("1", (), ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}))
    assert row_labels(text) == ("tool none", "dialect none", "kind no call")
    several = Example("1", (), (*called.messages, *called.messages))
    assert row_labels(several)[2] == "kind several calls"
    assert row_labels(Example("1", (), (*called.messages, {"role": "tool"})))[2] == "kind with results"


@pytest.mark.parametrize("seed", range(4))
def test_heldout_rows_have_the_shares_of_all(seed: int) -> None:
    draw = random.Random(seed)
    groups = [draw.randrange(300) for _ in range(1000)]
    labels = [(f"tool {min(group % 11, 7)}", f"dialect {group % 5}") for group in groups]
    held = choose_heldout(groups, labels, 0.2, seed)
    assert abs(sum(held) - 200) <= 4 and held == choose_heldout(groups, labels, 0.2, seed)
    assert held != choose_heldout(groups, labels, 0.2, seed + 1)
    assert not {g for g, h in zip(groups, held, strict=True) if h} & {
        g for g, h in zip(groups, held, strict=True) if not h
    }
    for label in {label for row_of in labels for label in row_of}:
        mine = [h for h, names in zip(held, labels, strict=True) if label in names]
        assert sum(mine) / len(mine) == pytest.approx(0.2, abs=0.03)


def test_heldout_edges() -> None:
    assert choose_heldout([1, 2, 2], [("a",)] * 3, 0.01, 0) == [True, False, False]
    big = [0] * 50 + list(range(1, 51))
    assert not any(choose_heldout(big, [("a",)] * 100, 0.5, 0)[:50])
    for share in (0, 1, 1.5):
        with pytest.raises(InputError, match="give more than 0 and less than 1"):
            choose_heldout([1, 2], [(), ()], share, 0)
    with pytest.raises(InputError, match="all 2 rows are alike"):
        choose_heldout([1, 1], [(), ()], 0.5, 0)
