"""What a rule says: a code of the catalogue, where it was broken, and the particulars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
Scope = Literal["file", "row", "set", "tokenizer"]


@dataclass(frozen=True)
class Rule:
    """One entry of the catalogue (`dozan data rules`).

    An error stops training, a warning deserves a look, a note is a fact. `why` says what goes wrong when it is ignored,
    `remedy` what to do; `fixable` whether `dozan data fix` repairs it.
    """

    code: str
    name: str
    severity: Severity
    scope: Scope
    title: str
    why: str
    remedy: str
    fixable: bool = False


@dataclass(frozen=True)
class Finding:
    """A rule broken at one place.

    place: file and line (`rows.jsonl:12`), or the file alone for what is true of the whole set. path: where in the row,
    as a JSON path (`messages[2].tool_calls[0].function.arguments.city`), or "". row: the row's id, or "".
    places: for set-level findings, the rows behind it (at most a hundred). count: how many there are.
    """

    rule: Rule
    place: str
    path: str
    message: str
    row: str = ""
    count: int = 1
    places: tuple[str, ...] = ()

    @property
    def code(self) -> str:
        return self.rule.code

    @property
    def severity(self) -> Severity:
        return self.rule.severity

    def __str__(self) -> str:
        where = f"{self.place}: {self.path}" if self.path else self.place
        return f"{where}: {self.message} [{self.code} {self.rule.name}]"


class Catalog:
    """Rules by code, in order; a module of rules has one, and `catalog.RULES` joins them."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules: dict[str, Rule] = {}
        for rule in rules:
            self.add(rule)

    def add(self, rule: Rule) -> Rule:
        assert rule.code not in self._rules, f"{rule.code} is given twice"
        assert rule.name not in {other.name for other in self._rules.values()}, f"{rule.name} is given twice"
        self._rules[rule.code] = rule
        return rule

    def __getitem__(self, code: str) -> Rule:
        return self._rules[code]

    def __contains__(self, code: object) -> bool:
        return code in self._rules

    def __iter__(self) -> Iterator[Rule]:
        return iter(sorted(self._rules.values(), key=lambda rule: rule.code))
