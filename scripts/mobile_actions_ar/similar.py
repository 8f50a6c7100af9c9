"""Near-duplicate search: folded character trigrams compared by Jaccard similarity."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter, defaultdict

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

    def has_near(self, text: str, threshold: float) -> bool:
        """Whether the similarity of the text to some added text is at least the threshold.

        Sets so alike share one of the rarest grams of either, so only the holders of those are compared.
        """
        grams = trigrams(text)
        rarest = sorted(grams, key=lambda gram: len(self.holders.get(gram, ())))
        kept = rarest[: len(grams) - math.ceil(threshold * len(grams)) + 1]
        candidates = {index for gram in kept for index in self.holders.get(gram, ())}
        return any(_similarity(grams, self.sets[index]) >= threshold for index in candidates)


def _similarity(left: frozenset[str], right: frozenset[str]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)
