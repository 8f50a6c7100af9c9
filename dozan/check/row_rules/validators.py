"""A tool's parameters as a JSON Schema that can be asked about arguments, and the values that descriptions list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jsonschema import Draft202012Validator, SchemaError

from dozan.check.row_rules.memory import MadeByContent
from dozan.check.row_rules.patterns import pattern_problem
from dozan.rows.example import Json

Schema = Mapping[str, Json]
_TYPES = {
    "str": "string", "int": "integer", "long": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object",
}  # fmt: skip
_KNOWN = {"string", "integer", "number", "boolean", "array", "object", "null"}
_SCHEMAS = ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else")
_UNIONS = ("anyOf", "oneOf", "allOf", "prefixItems")
_LEFT_OUT = {"$ref", "$dynamicRef", "$schema", "$id", "$anchor", "$dynamicAnchor", "$defs", "definitions",
             "patternProperties", "nullable", "title", "description", "default", "examples", "format"}  # fmt: skip
_LISTED = re.compile(
    r"(?:supported|allowed|accepted|possible|valid|permitted)\s+(?:values|options)\s*(?:are|is)?\s*:\s*(?P<a>[^)\n]+)"
    r"|(?:must be|should be|has to be)?\s*one of\s*:\s*(?P<b>[^)\n]+)"
    r"|(?:ال)?قيم\s+(?:ال)?(?:مدعومة|مسموحة|مسموح بها|مقبولة|متاحة|ممكنة)\s*(?:هي)?\s*:\s*(?P<c>[^)\n]+)"
    r"|(?:إحدى|احدى|أحد|واحد من|واحدة من)\s+(?:ال)?(?:قيم|خيارات)?\s*(?:التالية|الآتية)?\s*:\s*(?P<d>[^)\n]+)",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\s*[,،|؛;]\s*(?:or\s+|and\s+|أو\s+)?|\s+or\s+|\s+أو\s+")
_OPEN = re.compile(r"\betc\b|\.\.\.|…|e\.g\.|such as|وغيرها|وغيره|إلخ|الخ\b|مثل\s", re.IGNORECASE)
_LONGEST_VALUE = 40
_LONGEST_DESCRIPTION = 2000


@dataclass(frozen=True)
class Validator:
    """Asks whether arguments fit; `problem` says why nothing can be asked, else ""."""

    schema: Schema
    validator: Draft202012Validator | None
    problem: str


_VALIDATORS: MadeByContent[Validator] = MadeByContent()


def validator_for(schema: Schema) -> Validator:
    """The validator of a tool's parameters, made once for equal schemas."""
    return _VALIDATORS.get(schema, lambda: _make(schema))


def _make(schema: Schema) -> Validator:
    plain = plain_schema(schema)
    try:
        Draft202012Validator.check_schema(plain)
    except SchemaError as error:
        where = ".".join(map(str, error.absolute_path)) or "the schema"
        return Validator(plain, None, f"{where}: {error.message:.120}")
    return Validator(plain, Draft202012Validator(plain), "")


def plain_schema(schema: Json) -> dict[str, Json]:
    """The schema in the types of JSON Schema, without references and patterns that cannot be run."""
    plain: dict[str, Json] = {}
    if not isinstance(schema, Mapping):
        return plain
    for key, value in schema.items():
        if key in _LEFT_OUT or value is None:
            continue
        if key == "type":
            plain.update(_plain_type(value, schema.get("nullable") is True))
        elif key == "properties" and isinstance(value, Mapping):
            plain[key] = {name: plain_schema(item) for name, item in value.items()}
        elif key in _SCHEMAS and isinstance(value, Mapping):
            plain[key] = plain_schema(value)
        elif key in _UNIONS and isinstance(value, list):
            plain[key] = [plain_schema(item) for item in value]
        elif key != "pattern" or not isinstance(value, str) or pattern_problem(value) is None:
            plain[key] = value
    return plain


def _plain_type(value: Json, nullable: bool) -> dict[str, Json]:
    names = [
        _TYPES.get(str(name).lower(), str(name).lower()) for name in (value if isinstance(value, list) else [value])
    ]
    if not names or not _KNOWN.issuperset(names):
        return {}
    names = list(dict.fromkeys([*names, "null"] if nullable else names))
    return {"type": names[0] if len(names) == 1 else names}


def listed_values(description: Json) -> tuple[str, ...]:
    """The values of a description's closed list ("Supported values: a, b"), in English or Arabic; () without one."""
    if not isinstance(description, str) or ":" not in description:
        return ()
    found = _LISTED.search(description[:_LONGEST_DESCRIPTION])
    if found is None:
        return ()
    text = next(group for group in found.groups() if group is not None)
    if _OPEN.search(text):
        return ()
    text = re.split(r"[.。]\s|[.。]$", text, maxsplit=1)[0]
    values = tuple(value.strip(" '\"`«»[]") for value in _BETWEEN.split(text))
    good = len(values) > 1 and all(0 < len(value) <= _LONGEST_VALUE for value in values)
    return values if good else ()
