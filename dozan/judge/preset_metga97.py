"""The scores that are published with metga97's Arabic FunctionGemma 270M: parsed, tool name, exact match, key F1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dozan.chat.format import Call
from dozan.judge.intervals import ratio_interval
from dozan.judge.measured import Measured, PresetScores, share
from dozan.judge.summary import RowScore
from dozan.rows.example import Example

_RULES = "metga97: parsed over all rows (a right answer without a call counts as unparsed); the rest over call rows"


def score_metga97(rows: Sequence[RowScore], examples: Sequence[Example]) -> PresetScores:
    """`strict exact match` over call rows, and the others; missed calls over call rows, false over no-call rows."""
    with_call = [row for row in rows if row.gold]
    pairs = [_keys(row) for row in with_call]
    interval = ratio_interval(pairs) or (None, None)
    total = sum(pair[1] for pair in pairs)
    figures = {
        "strict exact match": share([row.strict for row in with_call]),
        "tool name": share([row.tool_name for row in with_call]),
        "key F1": Measured(sum(pair[0] for pair in pairs) / total if total else None, len(with_call), *interval),
        "parsed": share([bool(row.calls) and not row.problems for row in rows]),
        "missed calls": share([not row.calls for row in with_call]),
        "false calls": share([bool(row.calls) for row in rows if not row.gold]),
    }
    dialects = sorted({row.dialect for row in with_call} - {""})
    groups = {
        name: {"strict exact match": share([row.strict for row in with_call if row.dialect == name])}
        for name in dialects
    }
    return PresetScores("metga97", _RULES, figures, groups, {row.id: row.strict for row in rows})


def _keys(row: RowScore) -> tuple[float, float]:
    """2 x argument names in common, and those predicted plus those of gold; a name counts under its call's."""
    gold, made = _named(row.gold), _named(row.calls)
    return 2.0 * (gold & made).total(), float(gold.total() + made.total())


def _named(calls: Sequence[Call]) -> Counter[tuple[str, str]]:
    return Counter((call.name, key) for call in calls for key in call.arguments)
