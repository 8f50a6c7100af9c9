"""Near-duplicate search: folded character trigrams compared by Jaccard similarity."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict

MARKS = re.compile("[\u0640\u064b-\u0652\u0670]")
FOLDS = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ى": "ي", "ة": "ه", "ؤ": "و", "ئ": "ي"})
ASCII_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩", "0123456789")


def folded(text: str) -> str:
    """The text without marks, punctuation and spelling variants, in lower case with ASCII digits."""
    text = MARKS.sub("", unicodedata.normalize("NFC", text)).translate(FOLDS).translate(ASCII_DIGITS).lower()
    return " ".join(re.sub(r"[^\w@.+:]", " ", text).split())


def trigrams(text: str) -> frozenset[str]:
    """The character trigrams of the folded text with a space at each end."""
    padded = f" {folded(text)} "
    return frozenset(padded[index : index + 3] for index in range(len(padded) - 2))


class Neighbours:
    """A set of texts that can tell the highest similarity of a new text to any of them."""

    def __init__(self) -> None:
        self.sets: list[frozenset[str]] = []
        self.holders: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Adds a text."""
        grams = trigrams(text)
        for gram in grams:
            self.holders[gram].append(len(self.sets))
        self.sets.append(grams)

    def nearest(self, text: str) -> float:
        """The highest Jaccard similarity of the text to any added text; 0 when there is none."""
        grams = trigrams(text)
        shared = Counter(index for gram in grams for index in self.holders.get(gram, ()))
        return max((n / (len(grams) + len(self.sets[i]) - n) for i, n in shared.items()), default=0.0)
