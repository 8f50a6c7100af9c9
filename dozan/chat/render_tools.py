"""Tool lists as runtimes take them, that print them by rules of their own: unwrapped, with what could not be read back
refused. Nothing is renamed or moved, unlike in `chat.schema`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from dozan.chat.format import Tool, Writer
from dozan.chat.messages import Notes, check_name
from dozan.chat.schema import original_name
from dozan.chat.tokens import find_control
from dozan.rows.example import Json


def functions(tools: Sequence[Tool], notes: Notes) -> list[Mapping[str, Json]]:
    """The functions of the declarations; what cannot be written goes to `notes`."""
    found: list[Mapping[str, Json]] = []
    for i, tool in enumerate(tools):
        function, where = tool.get("function", tool), f"tools[{i}].function"
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            notes.error(where, 'expected {"name": "...", "description": "...", "parameters": {...}}')
            continue
        check_name(function["name"], f"{where}.name", notes)
        _check_texts(function, where, notes)
        if not isinstance(function.get("parameters") or {}, Mapping):
            notes.error(f"{where}.parameters", "expected a JSON Schema object")
            continue
        _check_names(parameters_of(function), f"{where}.parameters", notes)
        found.append(function)
    return found


def parameters_of(function: Mapping[str, Json]) -> Mapping[str, Json]:
    """A function's schema; empty when there is none."""
    return function.get("parameters") or {}


def named_block(
    writer: Writer, items: Iterable[tuple[str, Json]], write: Callable[[Writer, Json], None]
) -> None:
    """`{KEY:VALUE,...}` in the order given."""
    writer.text("{")
    for i, (key, value) in enumerate(items):
        writer.text(f"{',' if i else ''}{key}:")
        write(writer, value)
    writer.text("}")


def _check_names(schema: Mapping[str, Json], where: str, notes: Notes) -> None:
    """Notes names of properties that a call could not be read back with, however deep."""
    properties = schema.get("properties")
    for name, inner in (properties if isinstance(properties, Mapping) else {}).items():
        here = f"{where}.properties.{name}"
        check_name(name, here, notes, spaces=True)
        if original_name(name) != name:
            notes.error(here, f"{name!r} would be read back as {original_name(name)!r}; give it another name")
        if isinstance(inner, Mapping):
            _check_names(inner, here, notes)
    if isinstance(schema.get("items"), Mapping):
        _check_names(schema["items"], f"{where}.items", notes)


def _check_texts(value: Json, where: str, notes: Notes) -> None:
    """Notes control tokens spelt out anywhere in a declaration, its keys too."""
    if isinstance(value, str):
        found = find_control(value)
        if found:
            notes.error(where, f"holds the control token {found}; take it out of the declaration")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_texts(key, f"{where}.{key}", notes)
            _check_texts(inner, f"{where}.{key}", notes)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_texts(inner, f"{where}[{i}]", notes)
