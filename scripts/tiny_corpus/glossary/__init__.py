"""Everyday words of five varieties of Arabic with their English: written by hand for dozan, Apache-2.0. No commands."""

from __future__ import annotations

import functools
from pathlib import Path


@functools.cache
def entries() -> tuple[tuple[str, str], ...]:
    """Every (English, Arabic) pair of the five lists."""
    files = sorted(file for file in Path(__file__).parent.glob("*.tsv") if not file.name.startswith("sentences_"))
    rows = (
        line.split("\t") for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    )
    return tuple((english.strip(), arabic.strip()) for english, arabic in rows)


@functools.cache
def arabic_of() -> dict[str, tuple[str, ...]]:
    """What each English word or phrase, in lower case, is called in Arabic."""
    found: dict[str, list[str]] = {}
    for english, arabic in entries():
        found.setdefault(english.lower().strip(".?!"), []).append(arabic)
    return {english: tuple(words) for english, words in found.items()}
