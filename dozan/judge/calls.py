"""Comparing calls: which predicted call answers which gold call, and how much two calls have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dozan.chat.format import Call
from dozan.judge.matching import best_matching
from dozan.judge.summary import Graded
from dozan.judge.values import Schema, normally_equal, strictly_equal

Schemas = Mapping[str, Schema]
_DIGIT = 10**6


def pair_calls(gold: Sequence[Call], predicted: Sequence[Call], schemas: Schemas) -> dict[int, int]:
    """Index of a gold call -> index of the predicted call that answers it.

    First as many right names as can be, then calls right normalised, then calls strictly right, then values in common.
    """
    return dict(best_matching([[_gain(g, p, schemas) for p in predicted] for g in gold]))


def _gain(gold: Call, predicted: Call, schemas: Schemas) -> int:
    named = gold.name == predicted.name
    similar, same = similar_call(gold, predicted, schemas), same_call(gold, predicted)
    total = 0
    for digit in (named, similar, same, common_units(gold, predicted, schemas)):
        total = total * _DIGIT + int(digit)
    return total


def same_call(gold: Call, predicted: Call) -> bool:
    return gold.name == predicted.name and strictly_equal(gold.arguments, predicted.arguments)


def similar_call(gold: Call, predicted: Call, schemas: Schemas) -> bool:
    if gold.name != predicted.name or gold.arguments.keys() != predicted.arguments.keys():
        return False
    return all(alike(gold, predicted, key, schemas) for key in gold.arguments)


def alike(gold: Call, predicted: Call, key: str, schemas: Schemas) -> bool:
    """Whether two calls of one tool agree in an argument that both have, after normalising."""
    return normally_equal(gold.arguments[key], predicted.arguments[key], property_schema(gold.name, key, schemas), key)


def property_schema(tool: str, key: str, schemas: Schemas) -> Schema:
    found = (schemas.get(tool, {}).get("properties") or {}).get(key)
    return found if isinstance(found, Mapping) else {}


def common_units(gold: Call, predicted: Call, schemas: Schemas) -> int:
    """How many (name, key, value) two calls share; two calls of one tool without arguments share one."""
    if gold.name != predicted.name:
        return 0
    shared = gold.arguments.keys() & predicted.arguments.keys()
    both_empty = not gold.arguments and not predicted.arguments
    return int(both_empty) + sum(alike(gold, predicted, key, schemas) for key in shared)


def graded(gold: Sequence[Call], predicted: Sequence[Call], schemas: Schemas) -> Graded:
    """Counted under the matching that has the most in common."""
    gain = [[common_units(g, p, schemas) for p in predicted] for g in gold]
    common = sum(gain[i][j] for i, j in best_matching(gain))
    return Graded(common, _units(predicted), _units(gold))


def _units(calls: Sequence[Call]) -> int:
    return sum(max(1, len(call.arguments)) for call in calls)
