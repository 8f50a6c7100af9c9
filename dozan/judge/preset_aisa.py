"""The scores of the AISA-ArabicFC shared task (TuwaiqAcademy, ArabicNLP 2026): FnAcc, ArgEM, tracks A, B and C.

FnAcc = right names / all rows, where a row without a call has the name "none". ArgEM = rows whose arguments are the
same / rows that ask for a call, **whatever the name that was called**. Track A = 0.4 FnAcc + 0.6 ArgEM; track B =
0.3 FnAcc + 0.5 ArgEM + 0.2 ThinkRate, the share of rows with more than 5 characters of thinking; track C is both by
dialect, and the gap between the best and the worst. Beside each stands the honest version, where arguments count only
under the right name. The first call of an answer counts, as the task knows one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dozan.chat.tokens import START_CALL
from dozan.judge.intervals import Sums, bootstrap
from dozan.judge.measured import Measured, PresetScores, share
from dozan.judge.preset_aisa_values import same_arguments
from dozan.judge.summary import RowScore
from dozan.rows.example import Example

_RULES = "AISA-ArabicFC: A = 0.4 FnAcc + 0.6 ArgEM, the arguments whatever the name; honest: only under the right name"
_THOUGHT = re.compile(r"<think>(.*?)(?:</think>|$)", re.DOTALL)
_NONE = "none"
_LEAST_THOUGHT = 5


@dataclass(frozen=True)
class _Row:
    dialect: str
    asks: bool
    named: bool
    arguments: bool
    thinks: bool


def score_aisa(rows: Sequence[RowScore], examples: Sequence[Example]) -> PresetScores:
    """Figures for all rows; track C in `groups`, its gaps (which have no interval that holds) in `figures`."""
    read = [_read(row) for row in rows]
    dialects = sorted({row.dialect for row in read} - {""})
    groups = {name: _by_parts([row for row in read if row.dialect == name]) for name in dialects}
    figures = {**_figures(read), **_gaps(groups)}
    right = {
        row.id: found.named and (found.arguments or not found.asks) for row, found in zip(rows, read, strict=True)
    }
    return PresetScores("aisa", _RULES, figures, groups, right)


def thought(prediction: str) -> str:
    """What a prediction thinks: in `<think>`, or before its call."""
    found = _THOUGHT.search(prediction)
    before, call, _ = prediction.partition(START_CALL)
    return (found.group(1) if found else before if call else "").strip()


def _read(row: RowScore) -> _Row:
    gold, made = (calls[0] if calls else None for calls in (row.gold, row.calls))
    named = (made.name if made else _NONE) == (gold.name if gold else _NONE)
    same = gold is not None and same_arguments(made.arguments if made else {}, gold.arguments, gold.name)
    return _Row(row.dialect.lower(), gold is not None, named, same, len(thought(row.prediction)) > _LEAST_THOUGHT)


def _figures(rows: Sequence[_Row]) -> dict[str, Measured]:
    return {
        "track A": _mixture(rows, 0.4, 0.6, 0.0, False),
        "track A, honest": _mixture(rows, 0.4, 0.6, 0.0, True),
        "track B": _mixture(rows, 0.3, 0.5, 0.2, False),
        "track B, honest": _mixture(rows, 0.3, 0.5, 0.2, True),
        **_by_parts(rows),
        "ThinkRate": share([row.thinks for row in rows]),
    }


def _by_parts(rows: Sequence[_Row]) -> dict[str, Measured]:
    asking = [row for row in rows if row.asks]
    return {
        "FnAcc": share([row.named for row in rows]),
        "ArgEM": share([row.arguments for row in asking]),
        "ArgEM, honest": share([row.named and row.arguments for row in asking]),
    }


def _mixture(rows: Sequence[_Row], name: float, arguments: float, think: float, honest: bool) -> Measured:
    """name x FnAcc + arguments x ArgEM + think x ThinkRate; none without a row that asks for a call."""
    asking = sum(row.asks for row in rows)
    if not asking:
        return Measured(None, len(rows))
    columns = [
        (1, row.named, row.thinks, row.asks, row.asks and row.arguments and (row.named or not honest)) for row in rows
    ]

    def mixed(sums: Sums) -> Sums:
        return (name * sums[:, 1] + think * sums[:, 2]) / sums[:, 0] + arguments * sums[:, 4] / sums[:, 3]

    mean = asking / len(rows)
    low, high = bootstrap(columns, mixed, (1, 1, 1, mean, mean), (1, 0, 0, mean, 0))
    total = [sum(column) for column in zip(*columns, strict=True)]
    value = (name * total[1] + think * total[2]) / total[0] + arguments * total[4] / total[3]
    return Measured(value, len(rows), low, high)


def _gaps(groups: dict[str, dict[str, Measured]]) -> dict[str, Measured]:
    """Between the best and the worst dialect: FnAcc, and ArgEM where the dialect has call rows."""
    found = {}
    for name in ("FnAcc", "ArgEM", "ArgEM, honest"):
        figures = [group[name] for group in groups.values()]
        values = [figure.value for figure in figures if figure.value is not None]
        total = sum(figure.n for figure in figures)
        found[f"gap in {name}"] = Measured(max(values) - min(values) if values else None, total)
    return found
