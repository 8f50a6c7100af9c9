"""Sentences that are no commands, with slots for the people and places in them."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

from tiny_corpus import values
from tiny_corpus.values import Words, people

FOLDER = Path(__file__).parent / "glossary"
SLOT = re.compile(r"{(name|man|woman|place)}")
MEN, WOMEN = "توم|سامي|فاضل|بوب|جيم|جون|جاك", "ماري|ليلى|جين|دانية|إيميلي"
NAMED = re.compile(rf"(?<!\w)[وفبلك]{{0,2}}(?:{MEN}|{WOMEN}|طوم|مايك|كين|بيتي|يومي|كارول|هيلين|توني|بيل)(?!\w)")


@functools.cache
def written() -> tuple[tuple[str, str], ...]:
    """(English, Arabic) sentences of five varieties, written by hand; people and places are slots."""
    lines = (line for file in sorted(FOLDER.glob("sentences_*.tsv")) for line in _lines(file))
    return tuple((english, arabic) for english, arabic in (line.split("\t") for line in lines))


def _lines(file: Path) -> list[str]:
    return [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def slotted(lines: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of (English, Arabic) lines those that name one person, with the name as a slot in the Arabic."""
    alone = re.compile(rf"(?<!\w)(?:({MEN})|({WOMEN}))(?!\w)")
    found = []
    for english, arabic in lines:
        names = list(alone.finditer(arabic))
        if len(names) == 1 and len(NAMED.findall(arabic)) == 1:
            found.append((english, alone.sub("{man}" if names[0].group(1) else "{woman}", arabic)))
    return tuple(found)


def nameless(lines: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Of (English, Arabic) lines those that name nobody known."""
    return tuple((english, arabic) for english, arabic in lines if not NAMED.search(arabic))


def filled(rng: random.Random, words: Words, english: str, arabic: str) -> tuple[str, str, str]:
    """The pair with its slot filled, and what filled it in the Arabic ("" when it has none)."""
    slot = SLOT.search(arabic)
    if slot is None:
        return english, arabic, ""
    if slot.group(1) == "place":
        value = latin = values.arabic(rng, words, 2)
    else:
        value, latin = _person(rng, words, slot.group(1))
    if slot.start() and arabic[slot.start() - 1].isalpha():  # a clitic, which would melt with an article
        value = value.removeprefix("ال")
    return SLOT.sub(latin, english), SLOT.sub(value, arabic), value


def _person(rng: random.Random, words: Words, kind: str) -> tuple[str, str]:
    """A person in Arabic, and in Latin letters or still in Arabic; one time in eight in words that are no name."""
    if rng.random() < 0.12:
        unknown = " ".join(values.arabic_word(rng, words) for _ in range(rng.choice((1, 2))))
        return unknown, unknown
    first, latin = rng.choice(people()[kind if kind != "name" else rng.choice(("man", "woman"))])
    if rng.random() < 0.5:
        return first, latin if rng.random() < 0.5 else first
    whole = f"{first} {rng.choice(people()['family'])[0]}"
    return whole, whole


def plain(rng: random.Random, words: Words) -> str:
    """A sentence that asks for nothing, in Arabic or English."""
    if rng.random() < 0.6 and written():
        _, text, _ = filled(rng, words, "", rng.choice(written())[1])
        return text
    return rng.choice(rng.choice(words.nameless))
