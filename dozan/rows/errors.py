"""Errors of many rows for one message: the first are shown and the others counted, however many there are."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 20


class Errors:
    """Errors in the order in which they were met, of which the first SHOWN are kept."""

    def __init__(self, errors: Iterable[str] = ()) -> None:
        self.count = 0
        self._first: list[str] = []
        for error in errors:
            self.add(error)

    def add(self, error: str) -> None:
        self.count += 1
        if self.count <= SHOWN:
            self._first.append(error)

    def and_then(self, later: Errors) -> Errors:
        """These errors and later ones."""
        both = Errors((*self._first, *later._first))
        both.count = self.count + later.count
        return both

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        more = [f"... and {self.count - SHOWN} more"] if self.count > SHOWN else []
        return "\n".join([*self._first, *more])
