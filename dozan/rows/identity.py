"""A small memory of what was made from an object, for the tool lists that thousands of rows share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

_Made = TypeVar("_Made")
_MOST = 64


class MadeOnce(Generic[_Made]):
    """Makes a value from a tuple of objects once, as long as the very same objects come again.

    Objects are told apart by identity and kept alive, so an id cannot come to mean another object. They must not be
    changed after they were first seen; rows as read never are.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], tuple[tuple[object, ...], _Made]] = {}

    def get(self, objects: tuple[object, ...], make: Callable[[], _Made]) -> _Made:
        """The value made from these objects, by `make` the first time."""
        key = tuple(map(id, objects))
        found = self._made.get(key)
        if found is None:
            if len(self._made) >= _MOST:
                self._made.clear()
            found = self._made[key] = (objects, make())
        return found[1]
