"""Gates: what a model must reach to be let through, such as `normalised>=0.9` or `strict>=base-0.01`."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dozan.errors import InputError
from dozan.judge.paired import pair_rows
from dozan.judge.summary import Scores
from dozan.rows.example import Json

_GATE = re.compile(r"\s*(?P<metric>[^<>=]+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<base>base)?\s*(?P<value>.*?)\s*")
_NUMBER = re.compile(r"[-+]?\s*(?:\d+\.?\d*|\.\d+)\s*%?")
_SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
_SHORT = {"graded_f1": "graded.f1"}
_COUNTS = ("regressions", "wins")
_EXAMPLE = "write for example normalised>=0.9, strict>=base-0.01, by_dialect.gulf.strict>=0.8 or regressions<=5"


@dataclass(frozen=True)
class Gate:
    """A bound on a figure of `Scores.summary()`, by its dotted name, or on `regressions` or `wins` against the first
    model. `value` is added to the first model's figure where the gate says `base`."""

    text: str
    metric: str
    sign: str
    value: float
    relative: bool


@dataclass(frozen=True)
class Verdict:
    """One gate on one model: what was found, and the bound."""

    gate: Gate
    model: str
    found: float
    bound: float
    met: bool

    def __str__(self) -> str:
        return f"{'met' if self.met else 'MISSED'}: {self.gate.text}: {self.model} has {self.found:.4g}" + (
            f", the bound is {self.bound:.4g}" if self.gate.relative else ""
        )


def read_gate(text: str) -> Gate:
    """`METRIC >= VALUE` (or <=, >, <); VALUE is a number, a percentage, or `base` with or without one added. A figure's
    95 % interval is asked by `.low` and `.high` (`strict.low>=0.85`). Raises InputError."""
    found = _GATE.fullmatch(text)
    if found is None:
        raise InputError(f"gate {text!r}: no comparison; {_EXAMPLE}")
    number, relative = found["value"], found["base"] is not None
    if not (_NUMBER.fullmatch(number) or relative and not number):
        raise InputError(f"gate {text!r}: {number!r} is no number; {_EXAMPLE}")
    if relative and number and number[0] not in "+-":
        raise InputError(f"gate {text!r}: base and {number!r} need a + or - between them; {_EXAMPLE}")
    plain = number.replace(" ", "").rstrip("%")
    value = float(plain or 0) / (100 if number.endswith("%") else 1)
    if relative and found["metric"] in _COUNTS:
        raise InputError(f"gate {text!r}: {found['metric']} are counted against the first model; give a number")
    return Gate(text.strip(), found["metric"], found["sign"], value, relative)


def check_gates(gates: Sequence[Gate], runs: Mapping[str, Scores]) -> list[Verdict]:
    """Every gate on every model but the first; on the only one when there is one.

    Raises InputError for a figure that the scores do not have, or that no row of theirs tells of.
    """
    (first, base), *others = runs.items()
    verdicts = []
    for gate in gates:
        for name, scores in others or [(first, base)]:
            found = _figure(gate, scores, base)
            bound = gate.value + (_figure(gate, base, base) if gate.relative else 0.0)
            verdicts.append(Verdict(gate, name, found, bound, _SIGNS[gate.sign](found, bound)))
    return verdicts


def _figure(gate: Gate, scores: Scores, base: Scores) -> float:
    if gate.metric in _COUNTS:
        rows = list(zip(base.rows, scores.rows, strict=True))
        return float(len(getattr(pair_rows(rows, "strict"), gate.metric)))
    path = _SHORT.get(gate.metric, gate.metric)
    stem, _, end = path.rpartition(".")
    if end in ("low", "high") and stem:
        group, _, name = _SHORT.get(stem, stem).rpartition(".")
        path = ".".join(filter(None, (group, "intervals", name, end)))
    value = _look_up(scores.summary(), path.split("."), gate)
    if value is None:
        raise InputError(f"gate {gate.text!r}: no row tells of {gate.metric}; take the gate out, or add such rows")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"gate {gate.text!r}: {gate.metric} is no figure; {_EXAMPLE}")
    return float(value)


def _look_up(found: Json, path: Sequence[str], gate: Gate) -> Json:
    """The value at a dotted path; names may hold dots themselves (`by_argument.tool.key`)."""
    if not path:
        return found
    names = found if isinstance(found, Mapping) else {}
    for used in range(len(path), 0, -1):
        name = ".".join(path[:used])
        if name in names:
            return _look_up(names[name], path[used:], gate)
    known = ", ".join(str(name) for name in names if name != "intervals") or "nothing more"
    raise InputError(f"gate {gate.text!r}: {gate.metric} is not known; at {path[0]!r} there is {known}")
