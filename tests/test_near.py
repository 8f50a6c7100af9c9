"""The near-duplicate index against the exact search of `rows.splits`, and what a row of it costs."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dozan.check.near import BANDS, Keys, NearIndex, repeats, similarity, sketch
from dozan.rows.example import Example
from dozan.rows.groups import hash_text
from dozan.rows.splits import near_duplicates

SENTENCE = "شغل النور في المطبخ الصالة غرفة النوم الآن بكرة الساعة تسعة ذكرني أرسل رسالة إلى محمد سارة موعد طبيب"
WORDS = SENTENCE.split()


def request(text: str) -> Example:
    return Example(text, (), ({"role": "user", "content": text},))


def filled(texts: list[str], sides: list[int] | None = None) -> NearIndex:
    index = NearIndex()
    for i, found in enumerate(sketch(texts)):
        keys = Keys(hash_text(found.text), 0, 0, i)
        index.add(found, keys, f"rows.jsonl:{i + 1}", sides[i] if sides else 0)
    return index


def sentences(count: int, seed: int) -> list[str]:
    """Sentences of 8 to 14 words, a third of them an earlier one with one word changed."""
    draw = random.Random(seed)
    made: list[str] = []
    for _ in range(count):
        if made and draw.random() < 0.34:
            words = draw.choice(made).split()
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        else:
            words = [draw.choice(WORDS) + str(draw.randrange(300)) for _ in range(draw.randint(8, 14))]
        made.append(" ".join(words))
    return made


def test_finds_what_an_exact_search_finds() -> None:
    texts = sentences(600, 1)
    rows = [request(text) for text in texts]
    exact = {max(i, j) for i, j, _ in near_duplicates(rows, rows) if i != j}
    pairs = list(filled(texts).pairs())
    assert len(exact) > 100
    assert {pair.second for pair in pairs} <= exact, "each pair was compared on its texts"
    assert len({pair.second for pair in pairs}) >= 0.99 * len(exact)
    assert all(pair.first < pair.second for pair in pairs)


def test_a_pair_has_the_similarity_of_its_texts() -> None:
    texts = sentences(200, 2)
    rows = [request(text) for text in texts]
    exact = {(min(i, j), max(i, j)): alike for i, j, alike in near_duplicates(rows, rows) if i != j}
    for first, second, alike in filled(texts).pairs():
        assert alike == pytest.approx(exact[first, second])


def test_leaks_join_evaluation_rows_to_training_rows_only() -> None:
    texts = sentences(300, 3)
    sides = [i % 3 == 0 for i in range(len(texts))]
    train, held = ([request(t) for t, side in zip(texts, sides, strict=True) if side is kind] for kind in (False, True))
    exact = {j for _, j, _ in near_duplicates(train, held)}
    index = filled(texts, [int(side) for side in sides])
    numbers = {row: i for i, row in enumerate(i for i, side in enumerate(sides) if side)}
    found = list(index.leaks())
    assert len(exact) > 10 and {numbers[pair.second] for pair in found} == exact
    assert all(not sides[pair.first] and sides[pair.second] for pair in found)


def test_a_crowd_of_one_bucket_is_linked_without_comparing_all() -> None:
    texts = ["افتح الواي فاي من فضلك الآن"] * 5_000
    index = filled(texts)
    assert len(list(index.pairs())) == 4_999
    assert set(index.groups().tolist()) == {0}


def test_groups_join_a_chain() -> None:
    """The last row is like the second and the third, which are not alike: one group, not two."""
    words = SENTENCE.split()
    one, two = " ".join(words[:-2]), " ".join(words[2:])
    index = filled(["شيء آخر تماما لا يشبه ما سبق", one, two, SENTENCE])
    assert index._alike(1, 2) < 0.8 <= min(index._alike(1, 3), index._alike(2, 3))
    assert index.groups().tolist() == [0, 1, 1, 1]
    assert [pair[:2] for pair in index.pairs()] in ([(1, 3)], [(2, 3)])


def test_folding_makes_spellings_one() -> None:
    first, second = sketch(["شَغِّل إضاءة المطبخ ٣ ساعات!", "شغل اضاءه المطبخ 3 ساعات"])
    assert first == second and similarity(first.text, second.text) == 1.0


def test_long_texts_are_cut_in_the_middle() -> None:
    start, end = "بداية " * 2_000, "نهاية " * 2_000
    (found,) = sketch([f"{start}{'وسط ' * 9_000}{end}"])
    assert len(found.text) == 4_001 and "وسط" not in found.text
    assert found.text.startswith("بدايه") and found.text.endswith("نهايه")


def test_bytes_a_row_are_those_on_disk() -> None:
    texts = sentences(3_000, 5)
    index = filled(texts)
    index.column("side")
    on_disk = index._records.seek(0, 2) + index._texts.seek(0, 2)
    assert index.bytes_a_row * index.rows == pytest.approx(on_disk)
    text_bytes = sum(len(found.text.encode()) for found in sketch(texts)) / len(texts)
    assert 255 + text_bytes < index.bytes_a_row < 255 + text_bytes + 20


def test_places_and_columns_come_back() -> None:
    index = filled(sentences(5_000, 6))
    assert index.place(0) == "rows.jsonl:1" and index.place(4_999) == "rows.jsonl:5000"
    assert index.column("id").tolist() == list(range(5_000))
    assert index.column("bands", BANDS - 1).shape == (5_000,)


def test_repeats_by_one_and_by_two_columns() -> None:
    one, two = np.array([5, 1, 5, 7, 5, 1]), np.array([0, 0, 1, 0, 0, 0])
    assert [(first, rows.tolist()) for first, rows in repeats(one)] == [(0, [2, 4]), (1, [5])]
    assert [(first, rows.tolist()) for first, rows in repeats(one, two)] == [(0, [4]), (1, [5])]
    assert list(repeats(np.array([], dtype=int))) == []
