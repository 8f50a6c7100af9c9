"""The rules that look at a whole set: accumulators that rows pass through once, in memory that does not grow with them.

The one thing that grows is the disk-backed index of `check/near.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from dozan.check.finding import Catalog, Finding
from dozan.check.reading_rules import READING
from dozan.check.set_rules import balance, position, repeats, tools, values
from dozan.check.set_rules.facts import RowFacts
from dozan.check.set_rules.found import SetFound
from dozan.rows.tool_lists import Tools

RULES = Catalog(rule for module in (repeats, balance, position, tools, values) for rule in module.RULES)


class SetRules:
    """All set rules over one set; add the training rows in order, then the evaluation rows, then ask for findings.

    place: how the set is called in findings (the training files). with_near: whether near-duplicates are searched for.
    """

    def __init__(self, place: str, with_near: bool = True) -> None:
        self.place = place
        self.repeats = repeats.Repeats(with_near)
        self.balance = balance.Balance()
        self._others = (position.Position(), tools.Tools(), values.Values())

    def add(self, facts: RowFacts, tools: Tools) -> None:
        """A training row and its tools; equal lists are one object, or they are looked at anew."""
        for rule in (self.repeats, self.balance, *self._others):
            rule.add(facts, tools)

    def add_eval(self, facts: RowFacts) -> None:
        """An evaluation row, which training rows must not leak into."""
        self.repeats.add_eval(facts)

    def findings(self) -> list[Finding]:
        """Everything found: rows with an id that an earlier row has, then what is true of the set, by code."""
        found = sorted(self._found(), key=lambda item: item.rule.code)
        same = READING["DZ140"]
        ids = [Finding(same, place, "id", f"the id of {first} too") for place, first in self.repeats.same_ids()]
        return ids + [
            Finding(item.rule, self.place, item.path, item.message, count=item.count, places=item.places)
            for item in found
        ]

    def _found(self) -> Iterator[SetFound]:
        if not self.balance.rows:
            return
        yield from self.repeats.findings()
        yield from self.balance.findings()
        yield from self.balance.size(self.repeats.near_rows)
        for rule in self._others:
            yield from rule.findings()
