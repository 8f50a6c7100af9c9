"""A memory by content, for what is made of one tool: equal tools in thousands of different lists are read once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from dozan.rows.example import Json

_Made = TypeVar("_Made")
_MOST = 4096
_LONGEST = 100_000


class MadeByContent(Generic[_Made]):
    """Makes a value from a JSON object once; objects too long to keep are made anew each time."""

    def __init__(self) -> None:
        self._made: dict[str, _Made] = {}

    def get(self, value: Mapping[str, Json], make: Callable[[], _Made]) -> _Made:
        """The value made from an object equal to this one, by `make` the first time."""
        key = json.dumps(value)
        found = self._made.get(key)
        if found is None:
            found = make()
            if len(self._made) >= _MOST:
                self._made.clear()
            if len(key) <= _LONGEST:
                self._made[key] = found
        return found
