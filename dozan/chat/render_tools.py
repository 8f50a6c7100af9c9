"""What the renderings of Ollama and LiteRT-LM share: rows read and refused, turns of text, values, and tool lists as
runtimes take them: unwrapped, with what could not be read back refused. Nothing is renamed or moved, unlike in
`chat.schema`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dozan.chat.format import Message, Rendered, Tool, Writer
from dozan.chat.functiongemma import check_order
from dozan.chat.messages import Notes, Turn, check_name, read_turns
from dozan.chat.schema import original_name
from dozan.chat.tokens import END_TURN, ESCAPE, START_TURN, find_control
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


def read(
    messages: Sequence[Message], tools: Sequence[Tool], generate: bool, place: str
) -> tuple[Sequence[Turn], list[Mapping[str, Json]], Notes]:
    """The turns and functions of a row. Rows that FunctionGemma's format cannot place are refused here too, and so are
    names that could not be read back: one error with all of them."""
    notes = Notes(place)
    turns = read_turns(messages, notes)
    declared = functions(tools, notes)
    if not notes.errors:
        check_order(turns, generate, notes)
    notes.raise_errors()
    return turns, declared, notes


def finish(writer: Writer, turns: Sequence[Turn], generate: bool, notes: Notes) -> Rendered:
    """What was written, behind it the model's turn where an answer is to be generated and none is open."""
    if generate and (not turns or turns[-1].role != "tool"):
        writer.control(START_TURN)
        writer.text("model\n")
    return writer.rendered(notes.repairs)


def write_turn(writer: Writer, role: str, text: str) -> None:
    """A turn that is text alone."""
    writer.control(START_TURN)
    writer.text(f"{role}\n{text}")
    writer.control(END_TURN)
    writer.text("\n")


def write_value(writer: Writer, value: Json, literal: Callable[[Json], str], ordered: bool) -> None:
    """A value in FunctionGemma's form, as this runtime prints null, booleans and numbers (`literal`); ordered: keys
    sort by code point, else they stand as given."""
    if isinstance(value, str):
        writer.control(ESCAPE)
        writer.text(value)
        writer.control(ESCAPE)
    elif isinstance(value, Mapping):
        writer.text("{")
        for i, (key, inner) in enumerate(sorted(value.items()) if ordered else value.items()):
            writer.text(f"{',' if i else ''}{key}:")
            write_value(writer, inner, literal, ordered)
        writer.text("}")
    elif isinstance(value, list):
        writer.text("[")
        for i, item in enumerate(value):
            writer.text("," if i else "")
            write_value(writer, item, literal, ordered)
        writer.text("]")
    else:
        writer.text(literal(value))


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
