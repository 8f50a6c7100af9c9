"""What a repair is, which ones are made by default, and where a row's repairs are gathered."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from dozan.check.catalog import RULES
from dozan.errors import InputError
from dozan.rows.example import Json

SAFE = frozenset(
    f"DZ{number}"
    for number in (
        *(109, 140, 208, 209, 220, 226, 301, 303, 304, 306, 311, 313, 404, 405, 406, 408, 409, 426),
        *(427, 429, 501, 502, 503, 504, 510, 511, 512, 513, 514, 515, 516),
    )
)
"""Codes that are repaired unless they are left out."""

ASKED = frozenset(f"DZ{number}" for number in (235, 236, 321, 403, 424, 428, 430))
"""Codes that are repaired only when they are named: a person must have looked."""


@dataclass(frozen=True)
class Repair:
    """One change: its code, the path in the row, and the value there before and after (None: nothing)."""

    code: str
    path: str
    before: Json
    after: Json


@dataclass(frozen=True)
class Chosen:
    """The codes that are looked at; without `only` all of them, and the repairs that are safe."""

    only: frozenset[str] = frozenset()
    without: frozenset[str] = frozenset()

    def repairs(self, code: str) -> bool:
        """Whether findings of that code are repaired."""
        return code not in self.without and (code in self.only if self.only else code in SAFE)

    def judges(self, code: str) -> bool:
        """Whether an error of that code keeps a row out."""
        return code not in self.without and (not self.only or code in self.only)


def choose(only: Collection[str] = (), without: Collection[str] = ()) -> Chosen:
    """The choice by codes such as DZ511. Raises InputError for a code that is unknown, or has no repair in `only`."""
    repaired = ", ".join(sorted(SAFE | ASKED))
    kept, left = ({word: _codes(word) for word in words} for words in (only, without))
    problems = [f"--only {word}: nothing is repaired under that code; repaired are {repaired}"
                for word, codes in kept.items() if not codes & (SAFE | ASKED)]  # fmt: skip
    problems += [f"--except {word}: no rule of that code or name; dozan data rules lists them"
                 for word, codes in left.items() if not codes]  # fmt: skip
    if problems:
        raise InputError("\n".join(problems))
    return Chosen(frozenset().union(*kept.values()), frozenset().union(*left.values()))


def _codes(word: str) -> frozenset[str]:
    """The codes that a code, the beginning of one, or a rule's name stands for."""
    return frozenset(rule.code for rule in RULES if word and (rule.name == word or rule.code.startswith(word.upper())))


@dataclass
class Log:
    """The repairs of one pass over a row, or over a part of it."""

    chosen: Chosen
    repairs: list[Repair] = field(default_factory=list)

    def wants(self, code: str) -> bool:
        return self.chosen.repairs(code)

    def add(self, code: str, path: str, before: Json, after: Json) -> None:
        self.repairs.append(Repair(code, path, before, after))
