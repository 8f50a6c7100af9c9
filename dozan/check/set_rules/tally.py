"""Counts in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Tally(Generic[_Key]):
    """Counts of keys with the first place of each; exact up to `most` different keys.

    Beyond that the rarest half is forgotten (`is_exact` is then False): what is frequent stays and is undercounted by
    few, never overcounted, and `total` stays exact.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._counts: dict[_Key, int] = {}
        self._places: dict[_Key, str] = {}
        self.total = 0
        self.is_exact = True

    def add(self, key: _Key, place: str = "") -> None:
        self.total += 1
        if key in self._counts:
            self._counts[key] += 1
            return
        if len(self._counts) >= self._most:
            self._forget()
        self._counts[key] = 1
        self._places[key] = place

    def __len__(self) -> int:
        return len(self._counts)

    def __getitem__(self, key: _Key) -> int:
        return self._counts.get(key, 0)

    def place(self, key: _Key) -> str:
        return self._places.get(key, "")

    def top(self, many: int | None = None) -> list[tuple[_Key, int]]:
        """The keys with the highest counts, those of one count in the order in which they came."""
        return Counter(self._counts).most_common(many)

    @property
    def effective(self) -> float:
        """How many equally frequent keys would be as varied: exp of the entropy of the counts."""
        total = sum(self._counts.values())
        shares = (count / total for count in self._counts.values())
        return math.exp(-math.fsum(share * math.log(share) for share in shares)) if total else 0.0

    def _forget(self) -> None:
        kept = sorted(self._counts, key=lambda key: -self._counts[key])[: self._most // 2]
        self._counts = {key: self._counts[key] for key in kept}
        self._places = {key: self._places[key] for key in kept}
        self.is_exact = False
