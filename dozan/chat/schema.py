"""Tool declarations brought to what FunctionGemma's format can say: repairs are named, what cannot be said is refused.

The format prints a description, a type, an enum of strings, nested properties and items, and nothing else. What else a
JSON Schema holds goes into the description, so that the model still reads it. Five names of parameters would vanish;
they are written with one more underscore, and `original_name` takes it off again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dozan.chat.format import Tool
from dozan.chat.messages import Notes, check_name, clean_value
from dozan.rows.example import Json

_TYPES = {
    "string": "STRING", "str": "STRING", "any": "STRING",
    "integer": "INTEGER", "int": "INTEGER", "long": "INTEGER",
    "number": "NUMBER", "float": "NUMBER", "double": "NUMBER",
    "boolean": "BOOLEAN", "bool": "BOOLEAN",
    "array": "ARRAY", "list": "ARRAY", "tuple": "ARRAY",
    "object": "OBJECT", "dict": "OBJECT", "null": "NULL",
}  # fmt: skip
_STANDARD = {"string", "integer", "number", "boolean", "array", "object"}
_QUIET = {"title", "$schema", "$id", "$comment", "$defs", "definitions", "nullable"}
_RESERVED = re.compile(r"(?:type|description|properties|required|nullable)(_*)")
_UNIONS = ("anyOf", "oneOf", "allOf")


@dataclass(frozen=True)
class Declaration:
    """A function as the format prints it; `parameters` holds type, properties and required, or is None."""

    name: str
    description: str
    parameters: Mapping[str, Json] | None


def declared_name(name: str) -> str:
    """How a property's name is written: one underscore more where the format would lose it."""
    return f"{name}_" if _RESERVED.fullmatch(name) else name


def original_name(name: str) -> str:
    """The name that `declared_name` or `written_arguments` wrote."""
    found = _RESERVED.fullmatch(name)
    return name[:-1] if found and found.group(1) else name


def written_arguments(value: Json, schema: Mapping[str, Json]) -> Json:
    """Arguments with their names as in the (cleaned) declaration; names that it does not have stay as they are."""
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [written_arguments(item, items) for item in value]
    if not isinstance(value, Mapping):
        return value
    properties = schema.get("properties") or {}
    written: dict[str, Json] = {}
    for key, item in value.items():
        found = _RESERVED.fullmatch(key)
        name = declared_name(key) if found and (found.group(1) or declared_name(key) in properties) else key
        written[name] = written_arguments(item, properties.get(name) or {})
    return written


def read_tools(tools: Sequence[Tool], notes: Notes) -> list[Declaration]:
    """The declarations in order; errors and repairs go to `notes`."""
    declarations: list[Declaration] = []
    for i, tool in enumerate(tools):
        found = _read_tool(tool, f"tools[{i}]", notes)
        if found is None:
            continue
        if any(found.name == other.name for other in declarations):
            notes.error(f"tools[{i}]", f"a second tool named {found.name!r}; names must differ")
        declarations.append(found)
    return declarations


def _read_tool(tool: Tool, where: str, notes: Notes) -> Declaration | None:
    function: Json = tool.get("function")
    if function is None and isinstance(tool.get("name"), str):
        notes.repair(where, 'wrapped as {"type": "function", "function": {...}}')
        function = {key: value for key, value in tool.items() if key != "type"}
    where = f"{where}.function"
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        notes.error(where, 'expected {"name": "...", "description": "...", "parameters": {...}}')
        return None
    check_name(function["name"], f"{where}.name", notes)
    for key in sorted(set(function) - {"name", "description", "parameters"}):
        if function[key] is not None:
            notes.repair(f"{where}.{key}", "left out: a declaration has no place for it")
    parameters = _parameters(function.get("parameters"), f"{where}.parameters", notes)
    lost = parameters.pop("lost", []) if parameters else []
    description = _description(function.get("description"), lost, where, notes)
    return Declaration(function["name"], description, parameters)


def _parameters(value: Json, where: str, notes: Notes) -> dict[str, Json] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            notes.error(where, f"a string that is no JSON ({error}); give the schema as an object")
            return None
        notes.repair(where, "parsed from a JSON string")
    if not value:
        return None
    if not isinstance(value, Mapping):
        notes.error(where, f"expected a JSON Schema object, found {type(value).__name__}")
        return None
    if value.get("type") is None:
        notes.repair(f"{where}.type", "missing: written as OBJECT")
        value = {**value, "type": "object"}
    schema = clean_schema(value, where, notes, root=True)
    if schema["type"] != "OBJECT":
        notes.error(f"{where}.type", f"{value['type']!r}: the parameters of a function are an object")
    return schema


def clean_schema(value: Json, where: str, notes: Notes, root: bool = False) -> dict[str, Json]:
    """A schema with the keys that the format prints, types in capitals, names renamed, and the rest described.

    At the root, where the format prints no description, what has no place of its own is returned under `lost`.
    """
    if not isinstance(value, Mapping):
        notes.error(where, f"expected a JSON Schema object, found {type(value).__name__}")
        return {"type": "STRING", "description": ""}
    schema = merge_union({key: item for key, item in value.items() if item is not None}, where, notes)
    if "$ref" in schema:
        notes.error(f"{where}.$ref", "references have no form; write the schema out in its place")
    cleaned: dict[str, Json] = {"type": schema_type(schema, where, notes)}
    printed = {"type", "description"}
    if cleaned["type"] == "OBJECT":
        printed |= {"properties", "required"}
        cleaned["properties"] = _properties(schema.get("properties") or {}, f"{where}.properties", notes)
        cleaned["required"] = _required(schema.get("required") or [], f"{where}.required", notes)
    if cleaned["type"] == "ARRAY" and isinstance(schema.get("items"), Mapping):
        printed.add("items")
        cleaned["items"] = _items(schema["items"], f"{where}.items", notes)
    if cleaned["type"] == "STRING" and isinstance(schema.get("enum"), list):
        printed.add("enum")
        cleaned["enum"] = clean_value(schema["enum"], f"{where}.enum", notes)
    lost = _lost(schema, printed, where, notes)
    if root:
        return {**cleaned, "lost": lost} if lost else cleaned
    return {**cleaned, "description": _description(schema.get("description"), lost, where, notes)}


def _properties(value: Json, where: str, notes: Notes) -> dict[str, Json]:
    if not isinstance(value, Mapping):
        notes.error(where, f"expected an object of properties, found {type(value).__name__}")
        return {}
    cleaned: dict[str, Json] = {}
    for name, schema in value.items():
        if schema is None:
            notes.repair(f"{where}.{name}", "null dropped")
            continue
        check_name(name, f"{where}.{name}", notes, spaces=True)
        if declared_name(name) != name:
            notes.repair(f"{where}.{name}", f"renamed to {declared_name(name)}: the format loses the name")
        cleaned[declared_name(name)] = clean_schema(schema, f"{where}.{name}", notes)
    return cleaned


def _required(value: Json, where: str, notes: Notes) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        notes.error(where, "expected a list of names")
        return []
    return [declared_name(name) for name in value]


def _items(value: Mapping[str, Json], where: str, notes: Notes) -> dict[str, Json]:
    """The schema of a list's items, of which the format prints every key; deeper lists are printed as given."""
    cleaned: dict[str, Json] = {}
    if "$ref" in value:
        notes.error(f"{where}.$ref", "references have no form; write the schema out in its place")
    for key, item in value.items():
        if item is None:
            continue
        if key == "properties":
            cleaned[key] = _properties(item, f"{where}.{key}", notes)
        elif key == "required":
            cleaned[key] = _required(item, f"{where}.{key}", notes)
        elif key == "type":
            cleaned[key] = schema_type(value, where, notes)
        else:
            cleaned[key] = clean_value(item, f"{where}.{key}", notes)
    return cleaned


def schema_type(schema: Mapping[str, Json], where: str, notes: Notes) -> str:
    """The type in capitals; a missing one is guessed, and a union becomes its first type that is not null."""
    given = schema.get("type")
    if isinstance(given, list):
        kinds = [kind for kind in given if kind != "null"]
        notes.repair(f"{where}.type", f"{given} written as its first type")
        given = kinds[0] if kinds else "string"
    if given is None or given == "":
        guess = "object" if "properties" in schema else "array" if "items" in schema else "string"
        notes.repair(f"{where}.type", f"missing: written as {guess.upper()}")
        given = guess
    name = str(given).lower()
    if name not in _TYPES:
        notes.error(f"{where}.type", f"unknown type {given!r}; use one of {', '.join(sorted(_STANDARD))}")
        return "STRING"
    if name not in _STANDARD:
        notes.repair(f"{where}.type", f"{given} written as {_TYPES[name]}")
    return _TYPES[name]


def merge_union(schema: dict[str, Json], where: str, notes: Notes) -> dict[str, Json]:
    """A union of one schema (and null) merged into its parent; a wider one is left, and gives the type of its first."""
    for key in _UNIONS:
        options = schema.get(key)
        if not isinstance(options, list) or not all(isinstance(option, Mapping) for option in options):
            continue
        real = [option for option in options if option.get("type") != "null"]
        if not real:
            continue
        if len(real) == 1:
            notes.repair(f"{where}.{key}", "merged: it has one schema besides null")
            rest = {name: value for name, value in schema.items() if name != key}
            schema = {**real[0], **rest}
        elif schema.get("type") is None and real[0].get("type") is not None:
            notes.repair(f"{where}.type", "missing: written as the first type of the union")
            schema = {**schema, "type": real[0]["type"]}
    return schema


def _lost(schema: Mapping[str, Json], printed: set[str], where: str, notes: Notes) -> list[str]:
    """What the format would not print, as words for the description."""
    words: list[str] = []
    for key, value in schema.items():
        if key in printed or value == [] or value == {}:
            continue
        if key in _QUIET or (key == "additionalProperties" and value is False):
            notes.repair(f"{where}.{key}", "left out")
            continue
        text = json.dumps(clean_value(value, f"{where}.{key}", notes), ensure_ascii=False)
        words.append(f"{key}: {text[1:-1] if isinstance(value, str | list) else text}")
        notes.repair(f"{where}.{key}", "moved into the description")
    return words


def _description(value: Json, lost: Sequence[str], where: str, notes: Notes) -> str:
    if value is not None and not isinstance(value, str):
        notes.error(f"{where}.description", f"expected text, found {type(value).__name__}")
        value = None
    text = str(clean_value(value or "", f"{where}.description", notes))
    return f"{text} ({'; '.join(lost)})".strip() if lost else text
