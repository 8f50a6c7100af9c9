"""The row rules over rows in memory, as training asks them: errors refuse, warnings are counted."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable

import numpy as np

from dozan.chat.format import ChatFormat
from dozan.check.finding import Finding, Severity
from dozan.check.row_rules import check_row
from dozan.check.view import view_row
from dozan.errors import InputError
from dozan.rows.errors import Errors
from dozan.rows.example import Example, Json
from dozan.rows.groups import hash_text

DISAGREEMENTS = frozenset(f"DZ{number}" for number in range(402, 420))
"""Errors of a call's arguments against their schema: a few of them are in most published sets."""

TOLERATED = 0.05
"""Training goes on, and says so, while at most this share of the rows disagrees with a schema."""


class Checked:
    """What the rules found in rows, row by row: counts and the first errors, however many rows there are."""

    def __init__(self) -> None:
        self._counts = {"error": Counter[str](), "warning": Counter[str](), "note": Counter[str]()}
        self._errors, self._grave = Errors(), Errors()
        self._disagreeing = array("Q")

    def add(self, findings: Iterable[Finding]) -> None:
        """The findings of some rows, in the order of the rows."""
        for finding in findings:
            self._counts[finding.severity][finding.rule.name] += 1
            if finding.severity != "error":
                continue
            self._errors.add(str(finding))
            if finding.code not in DISAGREEMENTS:
                self._grave.add(str(finding))
                continue
            place = hash_text(finding.place)
            if self._disagreeing[-1:] != array("Q", [place]):
                self._disagreeing.append(place)

    @property
    def is_refused(self) -> bool:
        """Whether `refuse_errors` raises, whatever rows follow."""
        return bool(self._grave)

    def and_then(self, later: Checked) -> Checked:
        """What was found in these rows and in later ones."""
        both = Checked()
        both._counts = {severity: Counter(found) for severity, found in self._counts.items()}
        for severity, found in later._counts.items():
            both._counts[severity].update(found)
        both._errors, both._grave = self._errors.and_then(later._errors), self._grave.and_then(later._grave)
        both._disagreeing = self._disagreeing + later._disagreeing
        return both

    def refuse_errors(self, rows: int = 0) -> None:
        """Raises InputError with the first errors and a count of the others; warnings and notes pass.

        Of `rows` rows, a share of TOLERATED may disagree with the schemas of their tools.
        """
        disagreeing = len(np.unique(np.asarray(self._disagreeing)))
        errors = self._grave if disagreeing <= TOLERATED * rows else self._errors
        if errors:
            raise InputError(str(errors))

    def count_rules(self, severity: Severity = "warning") -> dict[str, int]:
        """How often each rule of that severity was broken, by its name, most often first."""
        return dict(self._counts[severity].most_common())

    def to_dict(self) -> dict[str, Json]:
        """What a report shows of it, in the form of the check's own `Report.to_dict`."""
        from dozan.check.catalog import RULES

        known = {rule.name: rule for rule in RULES}
        return {
            "errors": self._counts["error"].total(), "warnings": self._counts["warning"].total(),
            "findings": [
                {"code": known[name].code, "name": name, "severity": severity, "title": known[name].title,
                 "remedy": known[name].remedy, "count": count}
                for severity, counts in self._counts.items() for name, count in counts.most_common()
            ],
        }  # fmt: skip


def check_rows(examples: Iterable[Example], chat: ChatFormat) -> list[Finding]:
    """All findings, in the order of the rows."""
    return [finding for example in examples for finding in check_row(view_row(example, chat))]


def refuse_errors(findings: Iterable[Finding], rows: int = 0) -> None:
    """`Checked.refuse_errors` of these findings."""
    _checked(findings).refuse_errors(rows)


def count_rules(findings: Iterable[Finding], severity: Severity = "warning") -> dict[str, int]:
    """`Checked.count_rules` of these findings."""
    return _checked(findings).count_rules(severity)


def _checked(findings: Iterable[Finding]) -> Checked:
    checked = Checked()
    checked.add(findings)
    return checked
