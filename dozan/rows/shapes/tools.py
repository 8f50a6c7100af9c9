"""Tool declarations and calls as other sets write them, brought to OpenAI's form."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dozan.rows.example import Json
from dozan.rows.shapes.shape import Fields, ShapeError, kind, parsed

_TYPES = {
    "str": "string", "int": "integer", "float": "number", "double": "number", "long": "integer", "bool": "boolean",
    "dict": "object", "map": "object", "list": "array", "tuple": "array", "set": "array", "char": "string",
    "hashmap": "object", "arraylist": "array",
}  # fmt: skip
_LIST_OF = re.compile(r"^(?:list|tuple|set|sequence|iterable)\[(\w+).*\]$", re.IGNORECASE)


def declared(value: Json, path: str = "tools") -> list[Fields]:
    """A list of declarations (or its JSON text) as `{"type": "function", "function": {...}}`, each kept as it is."""
    value = parsed(value, path) if value not in (None, "") else []
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise ShapeError(path, f"expected a list of tools, found {kind(value)}")
    tools: list[Fields] = []
    for i, tool in enumerate(value):
        tool = parsed(tool, f"{path}[{i}]")
        if not isinstance(tool, dict):
            raise ShapeError(f"{path}[{i}]", f"expected an object with a name, found {kind(tool)}")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tools


def plain_types(schema: Json) -> Json:
    """A schema with the type names of Python and Java (`dict`, `float`, `ArrayList`) as those of JSON Schema."""
    if isinstance(schema, list):
        return [plain_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: value if key in ("enum", "default") and not isinstance(value, dict) else plain_types(value)
        for key, value in schema.items()
    }
    if isinstance(schema.get("type"), str):
        found["type"] = _TYPES.get(schema["type"].lower(), schema["type"])
    return found


def from_arguments(tool: Mapping[str, Json]) -> dict[str, Json]:
    """A function whose `parameters` list its arguments without a schema around (xLAM), with that schema."""
    parameters = tool.get("parameters")
    if not isinstance(parameters, dict) or isinstance(parameters.get("properties"), dict):
        return dict(tool)
    properties: dict[str, Json] = {}
    required: list[str] = []
    for name, given in parameters.items():
        if not isinstance(given, dict):
            return dict(tool)
        properties[name], is_optional = _argument(given)
        if not is_optional and given.get("required") is not False and "default" not in given:
            required.append(name)
    return {**tool, "parameters": {"type": "object", "properties": properties, "required": required}}


def _argument(given: Mapping[str, Json]) -> tuple[dict[str, Json], bool]:
    """An argument's schema from a Python type such as `List[int], optional`, and whether it is optional."""
    schema = {key: value for key, value in given.items() if key != "required"}
    words = given.get("type")
    if not isinstance(words, str):
        return schema, False
    is_optional = "optional" in words.lower()
    name = re.sub(r"^optional\[(.*)\]$", r"\1", re.sub(r",?\s*optional\s*$", "", words.strip(), flags=re.I), flags=re.I)
    listed = _LIST_OF.match(name)
    base = name.split("[")[0].lower()
    schema["type"] = _TYPES.get(base, "array" if listed else name)
    if listed:
        schema["items"] = {"type": _TYPES.get(listed.group(1).lower(), listed.group(1).lower())}
    return schema, is_optional


def call(value: Json, path: str) -> dict[str, Any]:
    """A call `{"name", "arguments"}` (arguments an object or its JSON text) as an item of `tool_calls`."""
    value = value.get("function", value) if isinstance(value, dict) else value
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise ShapeError(path, 'expected a call like {"name": "...", "arguments": {...}}', "bad-call")
    arguments = value.get("arguments", value.get("parameters", {}))
    return {"type": "function", "function": {"name": value["name"], "arguments": object_of(arguments, path)}}


def object_of(arguments: Json, path: str) -> dict[str, Json]:
    """Arguments as an object; text is parsed as JSON, nothing is no arguments."""
    where = f"{path}.arguments"
    if arguments is None or isinstance(arguments, str) and not arguments.strip():
        return {}
    found = parsed(arguments, where)
    if not isinstance(found, dict):
        raise ShapeError(where, f"expected an object of arguments, found {kind(found)}", "bad-call")
    return found


def calls_in(text: str, path: str) -> list[dict[str, Any]]:
    """The calls that a text holds as JSON (or a Python literal): one, or a list of them."""
    value = literal(text)
    if value is None:
        raise ShapeError(
            path, f'a call that is no JSON: {text.strip()[:60]!r}; write {{"name", "arguments"}}', "bad-call"
        )
    return [call(item, path) for item in (value if isinstance(value, list) else [value])]


def literal(text: str) -> Json:
    """The value of a text in JSON, or in Python's way of writing one; None when it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        found = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return found if isinstance(found, dict | list) else None


def values_in(text: str) -> list[Json]:
    """Every JSON object or list in a text, one after another, whatever stands between."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while (start := _bracket(text, at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            at = start + 1
            continue
        found.append(value)
    return found


def _bracket(text: str, at: int) -> int:
    """Where the next object or list of objects begins; -1 when there is none."""
    match = re.compile(r'\{\s*"|\[\s*\{').search(text, at)
    return match.start() if match else -1


def names_of(messages: Sequence[Fields]) -> list[str]:
    """The functions that the last assistant message called, for the tool messages that answer them."""
    for message in reversed(messages):
        if message.get("role") == "assistant" and message.get("tool_calls"):
            return [item["function"]["name"] for item in message["tool_calls"]]
    return []
