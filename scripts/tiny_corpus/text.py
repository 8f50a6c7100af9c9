"""The licensed text behind the embedded base: Tatoeba's Arabic-English sentence pairs and a bilingual word list from
CLDR.

A corpus folder holds `ara.txt` (Tatoeba, CC BY 2.0 FR: English, Arabic, attribution, by tabs) and `lexicon.tsv`
(English, Arabic, code; names of days, languages, currencies, countries and cities from Unicode CLDR, made by
`write_lexicon`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from tiny_corpus import sentences
from tiny_corpus.values import Words

ARABIC = re.compile(r"[ء-ي]+")
LATIN = re.compile(r"[A-Za-z]{2,}")
MARKS = re.compile("[ً-ْٰـ]")


def pairs(corpus: Path) -> list[tuple[str, str]]:
    """(English, Arabic) sentences, without vowel marks."""
    lines = (corpus / "ara.txt").read_text(encoding="utf-8").splitlines()
    return [(english, MARKS.sub("", arabic)) for english, arabic, *_ in (line.split("\t") for line in lines)]


def lexicon(corpus: Path) -> list[tuple[str, str, str]]:
    """(English, Arabic, code or nothing)."""
    lines = (corpus / "lexicon.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(MARKS.sub("", part) for part in line.split("\t")) for line in lines]  # type: ignore[misc]


def words(corpus: Path) -> Words:
    both = pairs(corpus)
    english = sorted({word.lower() for line, _ in both for word in LATIN.findall(line)})
    arabic = sorted({word for _, line in both for word in ARABIC.findall(line) if len(word) > 1})
    lines = tuple(line for line, _ in both), tuple(line for _, line in both)
    return Words(tuple(english), tuple(arabic), *lines, sentences.slotted(both), sentences.nameless(both))


def write_lexicon(path: Path, annotations: Path) -> None:
    """Write the word list from CLDR, through Babel (`pip install babel`) and from `annotations`, the unpacked folder
    of that name in the npm package cldr-annotations-full."""
    from babel import Locale

    english, arabic = Locale("en"), Locale("ar")
    rows = []
    for table in ("languages", "territories", "currencies"):
        names = getattr(arabic, table)
        rows += [(name, names[code], code) for code, name in getattr(english, table).items() if code in names]
    for table in (lambda locale: locale.days["format"]["wide"], lambda locale: locale.months["format"]["wide"]):
        rows += [(name, table(arabic)[key], "") for key, name in table(english).items()]
    rows += _annotations(annotations)
    rows += [
        ("today", "اليوم", ""),
        ("tomorrow", "غدا", ""),
        ("the day after tomorrow", "بعد غد", ""),
        ("yesterday", "أمس", ""),
    ]
    rows += [
        ("am", "صباحا", ""),
        ("pm", "مساء", ""),
        ("noon", "ظهرا", ""),
        ("hour", "ساعة", ""),
        ("minute", "دقيقة", ""),
    ]
    path.write_text("\n".join("\t".join(row) for row in rows), encoding="utf-8")


def _annotations(folder: Path) -> list[tuple[str, str, str]]:
    """What CLDR calls each pictograph, with its Arabic keywords for the English name."""
    english, arabic = (
        json.loads((folder / language / "annotations.json").read_text(encoding="utf-8"))["annotations"]["annotations"]
        for language in ("en", "ar")
    )
    shared = [key for key in arabic if key in english and "tts" in arabic[key] and "tts" in english[key]]
    names = [
        (english[key]["tts"][0], word, "")
        for key in shared
        for word in (arabic[key]["tts"][0], *arabic[key].get("default", ()))
    ]
    return list(dict.fromkeys(names))
