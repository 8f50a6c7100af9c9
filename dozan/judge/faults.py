"""What a row's prediction got wrong, one fault at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dozan.chat.format import Call, Parsed
from dozan.check.row_rules.grounding import UNGROUNDED, unsupported
from dozan.judge.calls import Schemas, alike, property_schema
from dozan.judge.summary import Fault
from dozan.judge.values import declared_types, differ_in_digits, differ_in_year, script, strictly_equal, suits_type
from dozan.rows.example import Json

_POSITION = re.compile(r"at \d+: ")
_FOUND = re.compile(r"'.*'|\".*\"|\b\d[\w.+-]*", re.DOTALL)


def find_faults(
    gold: Parsed, predicted: Parsed, paired: Mapping[int, int], schemas: Schemas, said: str
) -> tuple[Fault, ...]:
    """All faults of a prediction whose calls are `paired` with gold's; none exactly when the row is strictly right.

    `said` is the conversation before the answer, which values may be taken from.
    """
    faults = [Fault("parse_failure", problem_kind(problem), predicted=problem) for problem in predicted.problems]
    for i, call in enumerate(gold.calls):
        if i in paired:
            faults += _call_faults(call, predicted.calls[paired[i]], schemas, said)
        else:
            faults.append(Fault("missed_call", call.name, gold=call.arguments))
    answered = set(paired.values())
    extra = [call for j, call in enumerate(predicted.calls) if j not in answered]
    return (*faults, *(Fault("false_call", call.name, predicted=call.arguments) for call in extra))


def problem_kind(problem: str) -> str:
    """A parser's problem without its position (`at CHARACTER: `) and with what was found there as an ellipsis."""
    return _FOUND.sub("…", _POSITION.sub("", problem, count=1))


def _call_faults(gold: Call, predicted: Call, schemas: Schemas, said: str) -> list[Fault]:
    if gold.name != predicted.name:
        return [Fault("wrong_name", f"{gold.name} → {predicted.name}", gold.name, predicted.name)]
    schema = schemas.get(gold.name, {})
    required, declared = schema.get("required") or (), schema.get("properties") or {}
    faults: list[Fault] = []
    for key, value in gold.arguments.items():
        if key not in predicted.arguments:
            kind = "missing_required" if key in required else "missing_optional"
            faults.append(Fault(kind, f"{gold.name}.{key}", gold=value))
        elif not strictly_equal(value, predicted.arguments[key]):
            kind = _value_fault(gold, predicted, key, schemas, said)
            faults.append(Fault(kind, f"{gold.name}.{key}", value, predicted.arguments[key]))
    for key in sorted(predicted.arguments.keys() - gold.arguments.keys()):
        kind = "extra_argument" if key in declared else "off_schema_key"
        faults.append(Fault(kind, f"{gold.name}.{key}", predicted=predicted.arguments[key]))
    return faults


def _value_fault(gold: Call, predicted: Call, key: str, schemas: Schemas, said: str) -> str:
    schema, wanted, value = property_schema(gold.name, key, schemas), gold.arguments[key], predicted.arguments[key]
    typed = suits_type(value, schema) if declared_types(schema) else _kind(value) is _kind(wanted)
    if not typed:
        return "type_error"
    if alike(gold, predicted, key, schemas):
        return "digits" if differ_in_digits(wanted, value) else "surface_form"
    if differ_in_year(wanted, value):
        return "wrong_year"
    scripts = {script(wanted), script(value)}
    if len(scripts) == 2 and None not in scripts:
        return "wrong_language"
    return "ungrounded" if unsupported(value, schema, said) is UNGROUNDED else "wrong_value"


def _kind(value: Json) -> type:
    return float if type(value) is int else type(value)
