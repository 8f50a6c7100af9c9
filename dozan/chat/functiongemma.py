"""FunctionGemma's chat format: the official template's bytes where those are faithful, a repair or refusal elsewhere.

    developer  <start_of_turn>developer\\n TEXT DECLARATION* <end_of_turn>\\n
    user       <start_of_turn>user\\n TEXT <end_of_turn>\\n
    calls      <start_of_turn>model\\n [TEXT] (<start_function_call>call:NAME{KEY:VALUE,...}<end_function_call>)+
    responses  (<start_function_response>response:NAME{KEY:VALUE,...}<end_function_response>)+   in the same model turn
    answer     TEXT <end_of_turn>\\n                                                  after a response, in the same turn

A call's stop token is the `<start_function_response>` that follows it, a text's is `<end_of_turn>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dozan.chat.calls import parse_calls
from dozan.chat.format import Call, Message, Parsed, Rendered, Tool, Writer
from dozan.chat.messages import Notes, Turn, read_turns
from dozan.chat.render_llamacpp import as_llama_cpp
from dozan.chat.schema import Declaration, read_tools, written_arguments
from dozan.chat.tokens import (
    BOS,
    END_CALL,
    END_DECLARATION,
    END_RESPONSE,
    END_TURN,
    EOS,
    ESCAPE,
    START_CALL,
    START_DECLARATION,
    START_RESPONSE,
    START_TURN,
)
from dozan.rows.example import Json
from dozan.rows.identity import MadeOnce


@dataclass(frozen=True)
class FunctionGemma:
    """FunctionGemma's format; see the module.

    `llama_cpp`: as llama-server writes it with the same template: keys sort by code point, capitals first; and see
    `chat.render_llamacpp`.
    """

    name: str = "functiongemma"
    stop_tokens: tuple[str, ...] = (EOS, END_TURN, START_RESPONSE)
    llama_cpp: bool = False

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """The conversation as text with spans. Every assistant turn in it is trained, tool responses never.

        `generate` opens the model's turn (after a tool response it already is open). Raises InputError with every
        field of the row that cannot be rendered so that it could be read back.
        """
        notes = Notes(place)
        turns = read_turns(messages, notes)
        if self.llama_cpp:
            turns = [as_llama_cpp(turn) for turn in turns]
        order = str if self.llama_cpp else str.lower
        declared = _DECLARED[self.llama_cpp].get(tuple(tools), lambda: _declare(tools, order))
        notes.errors += [f"{place}: {error}" if place else error for error in declared.errors]
        notes.repairs += declared.repairs
        if not notes.errors:
            check_order(turns, generate, notes)
        notes.raise_errors()
        writer = Writer(order)
        writer.control(BOS)
        _write_turns(writer, turns, declared)
        if generate and (not turns or turns[-1].role != "tool"):
            writer.control(START_TURN)
            writer.text("model\n")
        return writer.rendered(notes.repairs)

    def parse(self, text: str) -> Parsed:
        """Reads a generated model turn; see `ChatFormat.parse`."""
        return parse_calls(text)


FUNCTIONGEMMA = FunctionGemma()


@dataclass(frozen=True)
class Declared:
    """A row's tools as the format prints them: their text with its control spans, their schemas, and what was noted."""

    text: str
    controls: tuple[tuple[int, int], ...]
    schemas: Mapping[str, Mapping[str, Json]]
    errors: tuple[str, ...]
    repairs: tuple[str, ...]


_DECLARED: tuple[MadeOnce[Declared], MadeOnce[Declared]] = (MadeOnce(), MadeOnce())
"""By the sorting of keys."""


def _declare(tools: Sequence[Tool], order: Callable[[str], str]) -> Declared:
    notes, writer = Notes(""), Writer(order)
    declarations = read_tools(tools, notes)
    for declaration in declarations if not notes.errors else ():
        _write_declaration(writer, declaration)
    written = writer.rendered(())
    schemas = {found.name: found.parameters or {} for found in declarations}
    return Declared(written.text, written.controls, schemas, tuple(notes.errors), tuple(notes.repairs))


def check_order(turns: Sequence[Turn], generate: bool, notes: Notes) -> None:
    """Notes an error for each turn that the format cannot place after the one before it."""
    if not turns:
        notes.error("messages", "empty; give at least a user message")
    before = "nothing"
    for turn in turns:
        problem = _misplaced(turn, before)
        if problem:
            notes.error(turn.where, problem)
        before = "call" if turn.calls else turn.role
    if generate and before in ("call", "assistant"):
        remedy = "add the tool's response" if before == "call" else "take it out"
        notes.error(turns[-1].where, f"nothing can be generated after an assistant message; {remedy}")


def _misplaced(turn: Turn, before: str) -> str | None:
    if turn.role == "tool":
        return (
            None if before in ("call", "tool") else "a tool response without a call before it; add the call or drop it"
        )
    if before == "call":
        return f"a {turn.role} message after a call without a response; add the tool's response before it"
    if before == "tool" and turn.role != "assistant":
        return f"a {turn.role} message right after a tool response; add the assistant's answer before it"
    if turn.role == "assistant" and not turn.calls and not turn.text:
        return "an assistant message without text and calls; give it an answer or take it out"
    return None


def _write_turns(writer: Writer, turns: Sequence[Turn], declared: Declared) -> None:
    if declared.text and (not turns or turns[0].role != "developer"):
        _write_context(writer, "developer", "", declared)
    before = ""
    for i, turn in enumerate(turns):
        if turn.role == "tool":
            _write_responses(writer, turn, opened=before == "call")
        elif turn.role == "assistant":
            _write_answer(writer, turn, declared.schemas, opened=before == "tool")
        else:
            _write_context(writer, turn.role, turn.text, declared if i == 0 else None)
        before = "call" if turn.calls else turn.role


def _write_context(writer: Writer, role: str, text: str, declared: Declared | None) -> None:
    """A developer or user turn; the declarations are written into the first turn when it is the developer's."""
    writer.control(START_TURN)
    writer.text(f"{role}\n{text}")
    if role == "developer" and declared is not None:
        writer.block(declared.text, declared.controls)
    writer.control(END_TURN)
    writer.text("\n")


def _write_answer(writer: Writer, turn: Turn, schemas: Mapping[str, Mapping[str, Json]], opened: bool) -> None:
    """An assistant message: trained from its first character to its stop token."""
    if not opened:
        writer.control(START_TURN)
        writer.text("model\n")
    writer.begin()
    writer.text(turn.text)
    for call in turn.calls:
        _write_call(writer, call, schemas.get(call.name, {}))
    writer.control(START_RESPONSE if turn.calls else END_TURN)
    writer.end()
    writer.text("" if turn.calls else "\n")


def _write_call(writer: Writer, call: Call, schema: Mapping[str, Json]) -> None:
    writer.control(START_CALL)
    writer.text(f"call:{call.name}")
    write_value(writer, written_arguments(call.arguments, schema))
    writer.control(END_CALL)


def _write_responses(writer: Writer, turn: Turn, opened: bool) -> None:
    """Tool responses; the token that opens the first one was already written as the call's stop."""
    for i, (name, response) in enumerate(turn.responses):
        if i or not opened:
            writer.control(START_RESPONSE)
        writer.text(f"response:{name}")
        write_value(writer, response if isinstance(response, Mapping) else {"value": response})
        writer.control(END_RESPONSE)


def _write_declaration(writer: Writer, declaration: Declaration) -> None:
    writer.control(START_DECLARATION)
    writer.text(f"declaration:{declaration.name}{{description:")
    write_value(writer, declaration.description)
    if declaration.parameters is not None:
        writer.text(",parameters:{")
        if declaration.parameters["properties"]:
            writer.text("properties:{")
            _write_properties(writer, declaration.parameters["properties"])
            writer.text("},")
        if declaration.parameters["required"]:
            writer.text("required:")
            write_value(writer, declaration.parameters["required"])
            writer.text(",")
        writer.text("type:")
        write_value(writer, declaration.parameters["type"])
        writer.text("}")
    writer.text("}")
    writer.control(END_DECLARATION)


def _write_properties(writer: Writer, properties: Mapping[str, Json]) -> None:
    for i, (name, schema) in enumerate(_sorted(writer, properties)):
        writer.text(f"{',' if i else ''}{name}:{{description:")
        write_value(writer, schema["description"])
        if schema.get("enum"):
            writer.text(",enum:")
            write_value(writer, schema["enum"])
        if schema["type"] == "OBJECT":
            writer.text(",properties:{")
            _write_properties(writer, schema["properties"])
            writer.text("}")
            if schema["required"]:
                writer.text(",required:")
                write_value(writer, schema["required"])
        if schema.get("items"):
            writer.text(",items:{")
            _write_items(writer, schema["items"])
            writer.text("}")
        writer.text(",type:")
        write_value(writer, schema["type"])
        writer.text("}")


def _write_items(writer: Writer, items: Mapping[str, Json]) -> None:
    for i, (key, value) in enumerate(_sorted(writer, items)):
        writer.text(f"{',' if i else ''}{key}:")
        if key == "properties":
            writer.text("{")
            _write_properties(writer, value)
            writer.text("}")
        else:
            write_value(writer, value, escape_keys=True)


def write_value(writer: Writer, value: Json, escape_keys: bool = False) -> None:
    """One value; the keys of objects are sorted, and escaped only in a list's item schema."""
    if isinstance(value, str):
        writer.control(ESCAPE)
        writer.text(value)
        writer.control(ESCAPE)
    elif isinstance(value, bool):
        writer.text("true" if value else "false")
    elif isinstance(value, Mapping):
        writer.text("{")
        for i, (key, item) in enumerate(_sorted(writer, value)):
            writer.text("," if i else "")
            write_value(writer, key) if escape_keys else writer.text(key)
            writer.text(":")
            write_value(writer, item, escape_keys)
        writer.text("}")
    elif isinstance(value, list):
        writer.text("[")
        for i, item in enumerate(value):
            writer.text("," if i else "")
            write_value(writer, item, escape_keys)
        writer.text("]")
    else:
        writer.text(str(value))


def _sorted(writer: Writer, value: Mapping[str, Json]) -> list[tuple[str, Json]]:
    """Items by key, by default without regard to case; keys that differ only in case keep their order."""
    return sorted(value.items(), key=lambda item: writer.order(item[0]))
