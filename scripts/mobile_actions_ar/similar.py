"""Near-duplicate search: folded character trigrams compared by Jaccard similarity."""

from __future__ import annotations

import functools
import re
import unicodedata

from dozan.rows.generate import alike

MARKS = re.compile("[\u0640\u064b-\u0652\u0670]")
FOLDS = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ة": "ه", "ؤ": "و", "ئ": "ي"})
ASCII_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩", "0123456789")


@functools.lru_cache(maxsize=8)
def folded(text: str) -> str:
    """The text without marks, punctuation and spelling variants, in lower case with ASCII digits."""
    text = MARKS.sub("", unicodedata.normalize("NFC", text)).translate(FOLDS).translate(ASCII_DIGITS).lower()
    return " ".join(re.sub(r"[^\w@.+:]", " ", text).split())


@functools.lru_cache(maxsize=8)
def trigrams(text: str) -> frozenset[str]:
    """The character trigrams of the folded text with a space at each end."""
    padded = f" {folded(text)} "
    return frozenset(padded[index : index + 3] for index in range(len(padded) - 2))


class Neighbours(alike.Neighbours):
    """A set of texts, compared by their folded trigrams."""

    def __init__(self) -> None:
        super().__init__(trigrams)
