"""Near-duplicate search while rows are made: texts as sets of grams, compared by Jaccard similarity."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable


class Neighbours:
    """A set of texts that can tell the highest similarity of a new text to any of them."""

    def __init__(self, grams: Callable[[str], frozenset[str]]) -> None:
        self.grams = grams
        self.sets: list[frozenset[str]] = []
        self.holders: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Adds a text."""
        grams = self.grams(text)
        for gram in grams:
            self.holders[gram].append(len(self.sets))
        self.sets.append(grams)

    def nearest(self, text: str) -> float:
        """The highest Jaccard similarity of the text to any added text; 0 when there is none."""
        grams = self.grams(text)
        shared = Counter(index for gram in grams for index in self.holders.get(gram, ()))
        return max((n / (len(grams) + len(self.sets[i]) - n) for i, n in shared.items()), default=0.0)

    def has_near(self, text: str, threshold: float) -> bool:
        """Whether the similarity of the text to some added text is at least the threshold.

        Sets so alike share one of the rarest grams of either, so only the holders of those are compared.
        """
        grams = self.grams(text)
        rarest = sorted(grams, key=lambda gram: len(self.holders.get(gram, ())))
        kept = rarest[: len(grams) - math.ceil(threshold * len(grams)) + 1]
        candidates = {index for gram in kept for index in self.holders.get(gram, ())}
        return any(_similarity(grams, self.sets[index]) >= threshold for index in candidates)


def _similarity(left: frozenset[str], right: frozenset[str]) -> float:
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)
