"""The rules that look at one row; `check_row` runs them all."""

from __future__ import annotations

from dozan.check.finding import Catalog, Finding
from dozan.check.row_rules import calls, characters, conversation, dates, dialect, grounding, rendering, tools
from dozan.check.view import RowView

_MODULES = (conversation, rendering, tools, calls, grounding, dates, characters, dialect)
RULES = Catalog(rule for module in _MODULES for rule in module.RULES)
_FUNCTIONS = (
    conversation.conversation_findings,
    rendering.rendering_findings,
    tools.tool_findings,
    calls.call_findings,
    grounding.grounding_findings,
    dates.date_findings,
    characters.character_findings,
    dialect.dialect_findings,
)


def check_row(view: RowView) -> list[Finding]:
    """Everything that is wrong with one row, by stage: conversation, rendering, tools, calls, text."""
    place, row = view.place, view.example.id
    found = (item for function in _FUNCTIONS for item in function(view))
    return [Finding(rule, place, path, message, row) for rule, path, message in found]
