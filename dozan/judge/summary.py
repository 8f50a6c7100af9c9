"""Scored rows and their summary: every figure with its n and a 95 % interval, call and no-call rows apart."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from dozan.chat.format import Call
from dozan.errors import InputError
from dozan.judge.intervals import ratio_interval, wilson
from dozan.rows.example import Json

T = TypeVar("T")

FAULTS = (
    "parse_failure", "missed_call", "false_call", "wrong_name", "off_schema_key", "missing_required", "type_error",
    "ungrounded", "wrong_language", "wrong_year", "wrong_value", "missing_optional", "extra_argument", "digits",
    "surface_form",
)  # fmt: skip
"""What can be wrong, the gravest first; a row's `error` is its gravest. Each argument has at most one fault.

Of wrong values, `ungrounded` stands nowhere in the conversation, `wrong_language` is in another script than the right
one, `wrong_year` is the right day of another year. `digits` and `surface_form` are right once normalised: the first
differs in nothing but the kind of digits.
"""

ARGUMENT_KINDS = ("copied", "computed", "absent")
LENGTHS = {5: "1 to 5", 10: "6 to 10", 20: "11 to 20", 40: "21 to 40"}
"""Groups of rows by the words of their query, by the most words in each; longer ones are `LONGER`."""
LONGER = "over 40"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: `detail` says which (the kind of problem, the tool, `tool.argument`, `gold → made`)."""

    kind: str
    detail: str
    gold: Json = None
    predicted: Json = None


@dataclass(frozen=True)
class CallScore:
    """A gold call against the predicted call it was matched with."""

    tool: str
    named: bool
    strict: bool
    normalised: bool


@dataclass(frozen=True)
class ArgumentScore:
    """A gold argument (or a gold call without any: kind "absent", no key); right only under the right name."""

    tool: str
    key: str
    kind: str
    strict: bool
    normalised: bool


@dataclass(frozen=True)
class Graded:
    """Counts of (call name, key, value): in common, predicted, gold. A call without arguments counts as one."""

    common: int
    predicted: int
    gold: int


@dataclass(frozen=True)
class RowScore:
    """A row's prediction and all its scores. `error` is its gravest fault's kind, None when strictly right.

    `tools` tells one tool set from another (`score.tool_set`). It is "", and `normalised_ordered` None, in scores
    written before they were kept.
    """

    id: str
    place: str
    query: str
    dialect: str
    kind: str
    gold: tuple[Call, ...]
    gold_text: str
    prediction: str
    calls: tuple[Call, ...]
    problems: tuple[str, ...]
    strict: bool
    strict_ordered: bool
    normalised: bool
    tool_name: bool
    graded: Graded
    error: str | None
    faults: tuple[Fault, ...]
    call_scores: tuple[CallScore, ...]
    arguments: tuple[ArgumentScore, ...]
    normalised_ordered: bool | None = None
    tools: str = ""


@dataclass(frozen=True)
class Scores:
    """All rows' scores, in the order of the data."""

    rows: tuple[RowScore, ...]

    def summary(self) -> dict[str, Json]:
        """Every figure, worked out once: do not change it. What is over no rows is None.

        `intervals` holds n, right, low and high (95 %, Wilson) of each proportion; `graded.intervals` those of its
        three by bootstrap over rows; `faults` for each class the rows that have such a fault.
        """
        return self._summary

    @cached_property
    def _summary(self) -> dict[str, Json]:
        with_call = [row for row in self.rows if row.gold]
        return {
            **_block(self.rows),
            "calls": _block(with_call),
            "no_calls": _block([row for row in self.rows if not row.gold]),
            "by_dialect": _groups(self.rows, lambda row: row.dialect, _block),
            "by_kind": _groups(self.rows, lambda row: row.kind, _block),
            "by_length": _by_length(self.rows),
            "by_tool": _groups((c for row in self.rows for c in row.call_scores), lambda c: c.tool, _call_block),
            "by_argument_kind": _by_argument_kind(self.rows),
            "by_argument": _groups(_arguments(self.rows), lambda a: f"{a.tool}.{a.key}" if a.key else "", _unit_block),
            "errors": _errors(self.rows),
        }

    def to_json(self) -> dict[str, Json]:
        """Every figure at the top level (`n`, `strict`, ...), and every row, as `from_json` reads it."""
        return {**self.summary(), "rows": [dataclasses.asdict(row) for row in self.rows]}

    @staticmethod
    def from_json(found: Json, place: str = "scores") -> Scores:
        """Raises InputError naming `place` when `found` is not what `to_json` wrote."""
        try:
            return Scores(tuple(_read_row(row) for row in found["rows"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"{place}: not a file of scores ({error!r}); write one with `dozan eval --json`") from None


def _block(rows: Sequence[RowScore]) -> dict[str, Json]:
    """The scores of a group of rows; tool_name is over its call rows."""
    with_call = [row for row in rows if row.gold]
    figures = _proportions(
        {
            "strict": [row.strict for row in rows],
            "strict_ordered": [row.strict_ordered for row in rows],
            "normalised": [row.normalised for row in rows],
            "normalised_ordered": [row.normalised_ordered for row in rows if row.normalised_ordered is not None],
            "parse_failures": [bool(row.problems) for row in rows],
            "tool_name": [row.tool_name for row in with_call],
            "missed_calls": [not row.calls for row in with_call],
            "false_calls": [bool(row.calls) for row in rows if not row.gold],
        }
    )
    graded = _graded([row.graded for row in rows])
    return {"n": len(rows), **figures, "graded": graded, "faults": _fault_rows(rows)}


def _fault_rows(rows: Sequence[RowScore]) -> dict[str, Json]:
    """For each class of fault the rows that have one, however many it is in a row."""
    kinds = Counter(kind for row in rows for kind in {fault.kind for fault in row.faults})
    found: dict[str, Json] = {}
    for kind in FAULTS:
        low, high = wilson(kinds[kind], len(rows)) if rows else (None, None)
        share = kinds[kind] / len(rows) if rows else None
        found[kind] = {"n": len(rows), "rows": kinds[kind], "share": share, "low": low, "high": high}
    return found


def _call_block(calls: Sequence[CallScore]) -> dict[str, Json]:
    names = {"tool_name": [call.named for call in calls]}
    return {"n": len(calls), **_proportions({**_right(calls), **names})}


def _unit_block(units: Sequence[ArgumentScore]) -> dict[str, Json]:
    return {"n": len(units), **_proportions(_right(units))}


def _right(units: Sequence[CallScore] | Sequence[ArgumentScore]) -> dict[str, list[bool]]:
    return {"strict": [unit.strict for unit in units], "normalised": [unit.normalised for unit in units]}


def _proportions(outcomes: Mapping[str, Sequence[bool]]) -> dict[str, Json]:
    shares: dict[str, Json] = {name: sum(found) / len(found) if found else None for name, found in outcomes.items()}
    intervals = {}
    for name, found in outcomes.items():
        low, high = wilson(sum(found), len(found)) if found else (None, None)
        intervals[name] = {"n": len(found), "right": sum(found), "low": low, "high": high}
    return {**shares, "intervals": intervals}


def _graded(parts: Sequence[Graded]) -> dict[str, Json]:
    """Precision, recall and F1 over all units of all rows; None where there is nothing to divide by."""
    common, predicted, gold = (sum(getattr(part, name) for part in parts) for name in ("common", "predicted", "gold"))
    return {
        "precision": common / predicted if predicted else None,
        "recall": common / gold if gold else None,
        "f1": 2 * common / (predicted + gold) if predicted + gold else None,
        "common": common,
        "predicted": predicted,
        "gold": gold,
        "intervals": {
            "precision": _ratio([(part.common, part.predicted) for part in parts]),
            "recall": _ratio([(part.common, part.gold) for part in parts]),
            "f1": _ratio([(2 * part.common, part.predicted + part.gold) for part in parts]),
        },
    }


def _ratio(pairs: Sequence[tuple[float, float]]) -> dict[str, Json]:
    """n, low and high; n counts the rows with something to divide by."""
    low, high = ratio_interval(pairs) or (None, None)
    return {"n": sum(bool(pair[1]) for pair in pairs), "low": low, "high": high}


def _by_length(rows: Sequence[RowScore]) -> dict[str, Json]:
    """By the words of the query, the shortest first."""
    names, most = [*LENGTHS.values(), LONGER], list(LENGTHS)
    found = _groups(rows, lambda row: names[bisect_left(most, len(row.query.split()))], _block)
    return {name: found[name] for name in names if name in found}


def _groups(
    units: Iterable[T], key: Callable[[T], str], block: Callable[[list[T]], dict[str, Json]]
) -> dict[str, Json]:
    groups: dict[str, list[T]] = {}
    for unit in units:
        groups.setdefault(key(unit), []).append(unit)
    return {name: block(groups[name]) for name in sorted(groups) if name}


def _by_argument_kind(rows: Sequence[RowScore]) -> dict[str, Json]:
    return {kind: _unit_block([a for a in _arguments(rows) if a.kind == kind]) for kind in ARGUMENT_KINDS}


def _arguments(rows: Sequence[RowScore]) -> list[ArgumentScore]:
    return [argument for row in rows for argument in row.arguments]


def _errors(rows: Sequence[RowScore]) -> dict[str, Json]:
    """For each class: rows whose gravest fault it is, all faults of it, and these by detail, the commonest first."""
    gravest = Counter(row.error for row in rows)
    faults = [fault for row in rows for fault in row.faults]
    found: dict[str, Json] = {}
    for kind in FAULTS:
        details = Counter(fault.detail for fault in faults if fault.kind == kind)
        ordered = sorted(details.items(), key=lambda item: (-item[1], item[0]))
        found[kind] = {"rows": gravest[kind], "count": details.total(), "by": dict(ordered)}
    return found


def _read_row(found: Mapping[str, Json]) -> RowScore:
    parts = {
        "gold": tuple(Call(**call) for call in found["gold"]),
        "calls": tuple(Call(**call) for call in found["calls"]),
        "problems": tuple(found["problems"]),
        "graded": Graded(**found["graded"]),
        "faults": tuple(Fault(**fault) for fault in found["faults"]),
        "call_scores": tuple(CallScore(**call) for call in found["call_scores"]),
        "arguments": tuple(ArgumentScore(**argument) for argument in found["arguments"]),
    }
    return RowScore(**{**found, **parts})
