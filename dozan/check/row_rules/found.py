"""What a row rule yields before the row's place is put to it."""

from __future__ import annotations

from typing import TypeAlias

from dozan.check.finding import Rule

Found: TypeAlias = tuple[Rule, str, str]
"""The rule, the path in the row, and the particulars."""
