"""The row rules over rows in memory, as training asks them: errors refuse, warnings are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from dozan.chat.format import ChatFormat
from dozan.check.finding import Finding, Severity
from dozan.check.row_rules import check_row
from dozan.check.view import view_row
from dozan.errors import InputError
from dozan.rows.example import Example

_SHOWN = 20
DISAGREEMENTS = frozenset(f"DZ{number}" for number in range(402, 420))
"""Errors of a call's arguments against their schema: a few of them are in most published sets."""

TOLERATED = 0.05
"""Training goes on, and says so, while at most this share of the rows disagrees with a schema."""


def check_rows(examples: Iterable[Example], chat: ChatFormat) -> list[Finding]:
    """All findings, in the order of the rows."""
    return [finding for example in examples for finding in check_row(view_row(example, chat))]


def refuse_errors(findings: Sequence[Finding], rows: int = 0) -> None:
    """Raises InputError with the first errors and a count of the others; warnings and notes pass.

    Of `rows` rows, a share of TOLERATED may disagree with the schemas of their tools.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    disagreeing = {finding.place for finding in errors if finding.code in DISAGREEMENTS}
    if len(disagreeing) <= TOLERATED * rows:
        errors = [finding for finding in errors if finding.code not in DISAGREEMENTS]
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError("\n".join(map(str, errors[:_SHOWN])) + more)


def count_rules(findings: Iterable[Finding], severity: Severity = "warning") -> dict[str, int]:
    """How often each rule of that severity was broken, by its name, most often first."""
    return dict(Counter(finding.rule.name for finding in findings if finding.severity == severity).most_common())
