"""Values that a command mentions and a call repeats: words, names, numbers, addresses, in English and in Arabic
letters."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from pathlib import Path

from tiny_corpus.dates import ARABIC_DIGITS

LETTERS = "ابتثجحخدذرزسشصضطظعغفقكلمنهويةىأإآءئؤ"
FREQUENT = "الينمترسبدعوهفكحقأجشطصخة"


def _names(block: str) -> tuple[str, ...]:
    return tuple(block.split())


SYLLABLES = _names(
    """
    ba ka mi ro ta len dor shi na vel so ri mu ja ko san el tho pi gar
    """
)
FIRST = _names(
    """
    Sara Omar Layla John Emma Ali Maria David Noor Adam Lina Peter Huda Sam Rami Anna Karim Julia Tariq Nadia
    Mona Ben Yusuf Grace Ivan Olga Zaid Ruth Hana Leo
    """
)
LAST = _names(
    """
    Smith Haddad Mansour Brown Garcia Khalil Nasser Jones Saleh Miller Aziz Davis Farouk Silva Novak Kim Lopez
    Hassan Meyer Rossi
    """
)
ENDINGS = ("com", "net", "org", "edu", "co", "sa", "ma", "eg", "jo", "ae", "io", "info")
DOMAINS = ("mail.com", "example.com", "post.net", "work.org", "company.co", "inbox.sa", "uni.edu", "home.ma")


@dataclass(frozen=True)
class Words:
    """Vocabularies from the licensed text: English and Arabic words, and short sentences of each."""

    english: tuple[str, ...]
    arabic: tuple[str, ...]
    english_lines: tuple[str, ...]
    arabic_lines: tuple[str, ...]
    naming: tuple[tuple[str, str], ...]
    """(English, Arabic) sentences about one person, who is a slot in the Arabic."""
    nameless: tuple[tuple[str, str], ...]
    """(English, Arabic) sentences that name nobody known."""


@functools.cache
def people() -> dict[str, tuple[tuple[str, str], ...]]:
    """(Arabic, Latin) names by kind: man, woman, family. None of them is in a test row of the embedded set."""
    path = Path(__file__).parent / "glossary" / "people" / "names.tsv"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {kind: tuple((a, b) for a, b, k in rows if k == kind) for kind in ("man", "woman", "family")}


def arabic_person(rng: random.Random) -> str:
    """A first name, or a first and a family name."""
    first = rng.choice(people()[rng.choice(("man", "woman"))])[0]
    return first if rng.random() < 0.5 else f"{first} {rng.choice(people()['family'])[0]}"


def arabic_word(rng: random.Random, words: Words) -> str:
    """A word of the language, or a random string of its letters, at times with the article."""
    if rng.random() < 0.5:
        return rng.choice(words.arabic)
    letters = "".join(rng.choice(FREQUENT if rng.random() < 0.75 else LETTERS) for _ in range(rng.randrange(2, 8)))
    return "ال" + letters if rng.random() < 0.25 else letters


def arabic(rng: random.Random, words: Words, most: int = 5) -> str:
    """One to `most` Arabic words: random strings, or a piece of a sentence."""
    if rng.random() < 0.3:
        return piece(rng, rng.choice(words.arabic_lines), most)
    return " ".join(arabic_word(rng, words) for _ in range(rng.choice((1, 1, 2, 2, 3, rng.randrange(1, most + 1)))))


def english(rng: random.Random, words: Words, most: int = 5) -> str:
    if rng.random() < 0.3:
        return piece(rng, rng.choice(words.english_lines), most)
    return " ".join(rng.choice(words.english) for _ in range(rng.randrange(1, most + 1)))


def piece(rng: random.Random, line: str, most: int) -> str:
    parts = line.strip('.?!؟،,"').split()
    start = rng.randrange(max(1, len(parts) - most + 1))
    return " ".join(parts[start : start + rng.randrange(1, most + 1)])


def text(rng: random.Random, words: Words, most: int = 5) -> str:
    """Free text, two times in three in Arabic letters."""
    return arabic(rng, words, most) if rng.random() < 0.66 else english(rng, words, most)


def pseudo(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randrange(2, 4))).capitalize()


def name(rng: random.Random, words: Words) -> str:
    if rng.random() < 0.35:
        return arabic_person(rng)
    if rng.random() < 0.6:
        return " ".join(arabic_word(rng, words) for _ in range(rng.choice((1, 1, 2))))
    first = rng.choice(FIRST) if rng.random() < 0.5 else pseudo(rng)
    return first if rng.random() < 0.6 else f"{first} {rng.choice(LAST) if rng.random() < 0.5 else pseudo(rng)}"


def single_name(rng: random.Random, words: Words) -> str:
    if rng.random() < 0.35:
        return rng.choice(people()[rng.choice(("man", "woman", "family"))])[0]
    return (
        arabic_word(rng, words)
        if rng.random() < 0.6
        else rng.choice((rng.choice(FIRST), rng.choice(LAST), pseudo(rng)))
    )


def phone(rng: random.Random, words: Words) -> tuple[str, str]:
    """A phone number as written and in ASCII digits."""
    number = rng.choice(("05", "01", "07", "06", "+966", "+20", "00")) + "".join(
        rng.choice("0123456789") for _ in range(rng.randrange(6, 10))
    )
    return (number.translate(ARABIC_DIGITS) if rng.random() < 0.45 else number), number


def email(rng: random.Random, words: Words) -> str:
    """An address of names, words, random letters and digits."""
    parts = [_user_part(rng, words) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    user = rng.choice(("", "", ".", "_", "-")).join(parts)
    if rng.random() < 0.35:
        user += str(rng.randrange(1000))
    domain = rng.choice(DOMAINS) if rng.random() < 0.5 else f"{_user_part(rng, words)}.{rng.choice(ENDINGS)}"
    return f"{user}@{domain}"


def _user_part(rng: random.Random, words: Words) -> str:
    draw = rng.random()
    if draw < 0.3:
        return rng.choice((rng.choice(FIRST), rng.choice(LAST), pseudo(rng))).lower()
    if draw < 0.5:
        return rng.choice(words.english)
    return "".join(rng.choice("aaaabcdeeefghiiijklmmnnooprrsstuuvwxyz") for _ in range(rng.randrange(2, 9)))


def integer(rng: random.Random, low: int = 1, high: int = 120) -> tuple[str, int]:
    number = rng.randrange(low, high)
    return (str(number).translate(ARABIC_DIGITS) if rng.random() < 0.45 else str(number)), number


def amount(rng: random.Random) -> tuple[str, int]:
    number = rng.choice(
        (rng.randrange(10, 100), rng.randrange(1, 100) * 50, rng.randrange(1, 100) * 100, rng.randrange(100, 100000))
    )
    return (str(number).translate(ARABIC_DIGITS) if rng.random() < 0.45 else str(number)), number


def identifier(rng: random.Random) -> tuple[str, str]:
    number = "".join(rng.choice("0123456789") for _ in range(rng.randrange(4, 12)))
    return (number.translate(ARABIC_DIGITS) if rng.random() < 0.45 else number), number
