"""Repairs to read: a unified diff of each changed row, with the codes; a tool that many rows share is shown once."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

from dozan.check.catalog import RULES
from dozan.check.fixes.repair import Repair
from dozan.check.visible import visible
from dozan.rows.example import Example, Json

_CONTEXT = 1
_MOST_CODES = 12


class Differ:
    """Writes the diffs of rows one after another; invisible characters are spelt out (`[U+202E]`)."""

    def __init__(self) -> None:
        self._shown: set[int] = set()

    def diff(self, before: Example, after: Example, repairs: tuple[Repair, ...]) -> str:
        """What changed in a row, or "" when its only changes, those of its tools, were shown for an earlier row."""
        parts = list(self._parts(before, after))
        if not parts:
            return ""
        said = [f"# {repair.code} {RULES[repair.code].name}: {repair.path}" for repair in repairs[:_MOST_CODES]]
        if len(repairs) > _MOST_CODES:
            said.append(f"# ... and {len(repairs) - _MOST_CODES} more")
        return visible("\n".join([*said, *parts]) + "\n")

    def _parts(self, before: Example, after: Example) -> Iterator[str]:
        for i, (old, new) in enumerate(zip(before.tools, after.tools, strict=True)):
            if old is not new:
                key = hash((json.dumps(old), json.dumps(new)))
                if key not in self._shown:
                    self._shown.add(key)
                    yield from _unified(old, new, f"{before.place} tools[{i}]")
        if list(before.messages) != list(after.messages):
            yield from _unified(list(before.messages), list(after.messages), f"{before.place} messages")
        if before.id != after.id:
            yield from _unified(before.id, after.id, f"{before.place} id")


def _unified(old: Json, new: Json, name: str) -> Iterator[str]:
    before, after = (json.dumps(value, ensure_ascii=False, indent=1).split("\n") for value in (old, new))
    yield from difflib.unified_diff(before, after, name, f"{name} (repaired)", n=_CONTEXT, lineterm="")
