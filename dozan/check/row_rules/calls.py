"""DZ401 to DZ419: calls against the schemas of the row's tools. What the tool itself would refuse is an error."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from jsonschema import ValidationError

from dozan.chat.schema import declared_name
from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.row_rules.validators import listed_values, validator_for
from dozan.check.view import RowView
from dozan.rows.arabic import ascii_digits
from dozan.rows.example import Json

Schema = Mapping[str, Json]
_REFUSED = "The tool refuses the call, and the model learns to make it."

UNKNOWN_TOOL = Rule(
    "DZ401",
    "unknown-tool",
    "error",
    "row",
    "A call to a tool that the row does not declare",
    "The model learns to invent tools.",
    "Add the tool, or correct the name.",
)
MISSING = Rule(
    "DZ402",
    "missing-argument",
    "error",
    "row",
    "A required argument is missing",
    _REFUSED,
    "Give it, or take it out of required when it may be left out.",
)
UNKNOWN_ARGUMENT = Rule(
    "DZ403",
    "unknown-argument",
    "error",
    "row",
    "An argument that the schema does not have",
    "The model learns to invent arguments.",
    "Correct the name, or declare it.",
)
WRONG_TYPE = Rule(
    "DZ404",
    "wrong-type",
    "error",
    "row",
    "A value of another type than declared",
    _REFUSED,
    "Give the declared type.",
    True,
)
OUTSIDE_ENUM = Rule(
    "DZ405",
    "outside-enum",
    "error",
    "row",
    "A value that the enum does not have",
    _REFUSED,
    "Use one of the enum's values, or add it there.",
    True,
)
OUTSIDE_LIST = Rule(
    "DZ406",
    "outside-supported",
    "warning",
    "row",
    "A value outside the list in its description",
    "The description says which values are supported; the model learns to ignore it.",
    "Use a listed value, or extend the list.",
    True,
)
BROKEN_CONSTRAINT = Rule(
    "DZ407",
    "constraint-broken",
    "warning",
    "row",
    "A value outside the schema's bounds",
    "The prompt states a bound (minimum, pattern, length ...) that the answer ignores.",
    "Correct the value or the bound.",
)
NUMBER_AS_TEXT = Rule(
    "DZ408", "number-as-text", "error", "row", "A number given as text", _REFUSED, "Give a JSON number.", True
)
TEXT_AS_NUMBER = Rule(
    "DZ409",
    "text-as-number",
    "error",
    "row",
    "A text given as a number",
    "Leading zeros are lost from phone numbers and ids, and the tool gets another type.",
    "Give the digits as text.",
    True,
)
UNDECLARED = Rule(
    "DZ410",
    "undeclared-arguments",
    "warning",
    "row",
    "Arguments to a tool declared without parameters",
    "The prompt shows none of them.",
    "Declare the tool's parameters.",
)
HIDDEN = Rule(
    "DZ411",
    "hidden-argument",
    "warning",
    "row",
    "A call uses a parameter that the official template hides",
    "The answer needs an argument that the prompt never shows.",
    "Rename the parameter (`dozan data fix`: `type` to `type_value`); unrepaired, training writes it as `type_`.",
    True,
)

RULES = Catalog([
    UNKNOWN_TOOL, MISSING, UNKNOWN_ARGUMENT, WRONG_TYPE, OUTSIDE_ENUM, OUTSIDE_LIST, BROKEN_CONSTRAINT, NUMBER_AS_TEXT,
    TEXT_AS_NUMBER, UNDECLARED, HIDDEN,
])  # fmt: skip
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
_LONGEST_NAME = 100
_BY_OTHERS = ("required", "additionalProperties", "unevaluatedProperties")


def call_findings(view: RowView) -> Iterator[Found]:
    """Every call of the row against its tool."""
    for path, call in view.calls:
        schema = view.schemas.get(call.name)
        if schema is None:
            yield UNKNOWN_TOOL, f"{path}.name", _unknown_tool(call.name, list(view.schemas))
        elif not schema and call.arguments:
            yield UNDECLARED, f"{path}.arguments", f"{call.name} is declared without parameters"
        elif schema:
            where = f"{path}.arguments"
            yield from _names(call.arguments, schema, where)
            yield from _values(call.arguments, schema, where)
            yield from _listed(call.arguments, schema, where)


def _unknown_tool(name: str, names: Sequence[str]) -> str:
    if not names:
        return f"calls {name!r}, but the row has no tools; add them"
    near = _near(name, names)
    hint = f"did you mean {near[0]!r}?" if near else f"its tools are {', '.join(names[:8])}"
    return f"calls {name!r}, which is none of the row's tools; {hint}"


def _near(name: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(name, names, 1) if len(name) <= _LONGEST_NAME else []


def _names(value: Json, schema: Schema, path: str) -> Iterator[Found]:
    """Missing and unknown keys of an object and of all that it holds."""
    if isinstance(value, list):
        items = schema.get("items")
        for i, item in enumerate(value if isinstance(items, Mapping) else ()):
            yield from _names(item, items, f"{path}[{i}]")  # type: ignore[arg-type]
    properties = schema.get("properties")
    if not isinstance(value, Mapping) or not isinstance(properties, Mapping):
        return
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if isinstance(name, str) and name not in value:
            yield MISSING, f"{path}.{name}", "required by the schema, but not given"
    others = schema.get("additionalProperties")
    for name, item in value.items():
        known = properties.get(name)
        if isinstance(known, Mapping):
            if declared_name(name) != name:
                yield HIDDEN, f"{path}.{name}", f"written as {declared_name(name)}: the prompt would lose {name!r}"
            yield from _names(item, known, f"{path}.{name}")
        elif known is None and not (others is True or isinstance(others, Mapping) or "patternProperties" in schema):
            near = _near(name, list(properties))
            yield (
                UNKNOWN_ARGUMENT,
                f"{path}.{name}",
                f"not in the schema{f'; did you mean {near[0]!r}?' if near else ''}",
            )


def _values(arguments: Mapping[str, Json], schema: Schema, path: str) -> Iterator[Found]:
    """What the validator of JSON Schema says about the values."""
    validator = validator_for(schema).validator
    for error in validator.iter_errors(arguments) if validator is not None else ():
        if error.validator in _BY_OTHERS or _has_no_form(error.instance):
            continue
        where = path + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        yield _of_error(error, where)


def _has_no_form(value: Json) -> bool:
    """Whether the chat format itself refuses the value: null, NaN, infinity."""
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def _of_error(error: ValidationError, where: str) -> Found:
    value, expected = error.instance, error.validator_value
    if error.validator == "type":
        kinds = expected if isinstance(expected, list) else [expected]
        said = f"{value!r:.60} is no {' or '.join(map(str, kinds))}"
        if isinstance(value, str) and {"number", "integer"} & set(kinds) and _NUMBER.fullmatch(_plain(value)):
            return NUMBER_AS_TEXT, where, f"{said}; give the number {_plain(value)}"
        if "string" in kinds and isinstance(value, int | float) and not isinstance(value, bool):
            return TEXT_AS_NUMBER, where, f"{said}; give the text"
        return WRONG_TYPE, where, said
    if error.validator in ("enum", "const"):
        allowed = expected if isinstance(expected, list) else [expected]
        return OUTSIDE_ENUM, where, f"{value!r:.60} is none of the schema's values; {_hint(value, allowed)}"
    return BROKEN_CONSTRAINT, where, f"{error.message:.160} ({error.validator})"


def _plain(text: str) -> str:
    return ascii_digits(text).strip().replace("٬", "").replace(",", "")


def _hint(value: Json, allowed: Sequence[Json]) -> str:
    near = _near(str(value), list(map(str, allowed)))
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(map(str, allowed[:8]))}"


def _listed(value: Json, schema: Schema, path: str) -> Iterator[Found]:
    """Strings against the closed list of values in their description."""
    if isinstance(value, Mapping):
        properties = schema.get("properties")
        for name, item in value.items() if isinstance(properties, Mapping) else ():
            inner = properties.get(name)  # type: ignore[union-attr]
            if isinstance(inner, Mapping):
                yield from _listed(item, inner, f"{path}.{name}")
        return
    items = schema.get("items")
    allowed = () if schema.get("enum") else listed_values(schema.get("description"))
    for i, item in enumerate(value if isinstance(value, list) else ()):
        inner = items if isinstance(items, Mapping) else {}
        if isinstance(item, str) and allowed and item not in allowed:
            yield OUTSIDE_LIST, f"{path}[{i}]", f"{item!r:.60} is not listed; {_hint(item, allowed)}"
        yield from _listed(item, inner, f"{path}[{i}]")
    if isinstance(value, str) and allowed and value not in allowed:
        yield OUTSIDE_LIST, path, f"{value!r:.60} is not listed; {_hint(value, allowed)}"
