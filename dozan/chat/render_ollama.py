"""FunctionGemma's conversations as Ollama writes them (`RENDERER functiongemma`).

From ollama/ollama, model/renderers/functiongemma.go, written anew. What differs from the official template:
- with tools, a newline and a sentence of Ollama's own stand between the developer's text and the declarations;
- a property is its description and its first type: no enum, no items, no properties of its own;
- keys sort by code point; names are never changed; numbers are Go's (2.0 is 2);
- a call ends with <end_of_turn> unless a tool's response follows; the response is text: `response:NAME{<escape>…}`.
One <bos> comes first. Ollama's tokenizer adds it; versions whose renderer writes one too begin with two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from dozan.chat.calls import parse_calls
from dozan.chat.format import Call, Message, Parsed, Rendered, Tool, Writer
from dozan.chat.messages import Turn, texts_of
from dozan.chat.render_tools import finish, parameters_of, read, write_turn, write_value
from dozan.chat.tokens import (
    BOS,
    END_CALL,
    END_DECLARATION,
    END_RESPONSE,
    END_TURN,
    EOS,
    START_CALL,
    START_DECLARATION,
    START_RESPONSE,
    START_TURN,
)
from dozan.rows.example import Json

SENTENCE = "You can do function calling with the following functions:"
"""What Ollama writes before the declarations unless the developer says just that."""

_INT64 = 2.0**63


@dataclass(frozen=True)
class OllamaFunctionGemma:
    """FunctionGemma in Ollama's bytes; see the module."""

    name: str = "functiongemma"
    stop_tokens: tuple[str, ...] = (EOS, END_TURN, START_RESPONSE)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """The conversation as text with spans; see `ChatFormat.render`."""
        turns, declared, notes = read(messages, tools, generate, place)
        writer = Writer(str)
        writer.control(BOS)
        rest = _write_developer(writer, turns, declared)
        _write_turns(writer, rest, _asked(messages))
        return finish(writer, turns, generate, notes)

    def parse(self, text: str) -> Parsed:
        """Reads a generated model turn; see `ChatFormat.parse`."""
        return parse_calls(text)


OLLAMA_FUNCTIONGEMMA = OllamaFunctionGemma()


def _write_developer(writer: Writer, turns: Sequence[Turn], tools: Sequence[Mapping[str, Json]]) -> Sequence[Turn]:
    """The first developer turn, with the declarations; gives the turns that are left."""
    opens = bool(turns) and turns[0].role == "developer"
    text = turns[0].text if opens else ""
    # An opening message of spaces counts as given in Ollama, which looks before it trims.
    given = bool(turns[0].raw) if opens else False
    if given or tools:
        writer.control(START_TURN)
        writer.text(f"developer\n{text}")
        if tools:
            writer.text("\n" if given else "")
            writer.text("" if text == SENTENCE else SENTENCE)
        for tool in tools:
            _write_declaration(writer, tool)
        writer.control(END_TURN)
        writer.text("\n")
    return turns[1:] if opens else turns


def _write_turns(writer: Writer, turns: Sequence[Turn], asked: Mapping[str, str]) -> None:
    before = ""
    calls: tuple[Call, ...] = ()
    answered = 0
    for i, turn in enumerate(turns):
        if turn.role == "tool":
            for k, (name, text) in enumerate(texts_of(turn.responses)):
                name = asked.get(turn.where) or (calls[answered].name if answered < len(calls) else name)
                _write_response(writer, name, text, opened=before == "call" and k == 0)
                answered += 1
        elif turn.role == "assistant":
            followed = i + 1 < len(turns) and turns[i + 1].role == "tool"
            _write_answer(writer, turn, opened=before == "tool", followed=followed)
            calls, answered = turn.calls, 0
        else:
            write_turn(writer, turn.role, turn.text)
        before = "call" if turn.calls else turn.role


def _write_answer(writer: Writer, turn: Turn, opened: bool, followed: bool) -> None:
    if not opened:
        writer.control(START_TURN)
        writer.text("model\n")
    writer.begin()
    writer.text(turn.text)
    for call in turn.calls:
        writer.control(START_CALL)
        writer.text(f"call:{call.name}{{")
        for i, key in enumerate(sorted(call.arguments)):
            writer.text(f"{',' if i else ''}{key}:")
            _write_value(writer, call.arguments[key])
        writer.text("}")
        writer.control(END_CALL)
    goes_on = bool(turn.calls) and followed
    writer.control(START_RESPONSE if goes_on else END_TURN)
    writer.end()
    writer.text("" if goes_on else "\n")


def _write_response(writer: Writer, name: str, text: Json, opened: bool) -> None:
    if not opened:
        writer.control(START_RESPONSE)
    writer.text(f"response:{name}{{")
    _write_value(writer, text)
    writer.text("}")
    writer.control(END_RESPONSE)


def _write_declaration(writer: Writer, function: Mapping[str, Json]) -> None:
    writer.control(START_DECLARATION)
    writer.text(f"declaration:{function['name']}{{description:")
    _write_value(writer, function.get("description") or "")
    parameters = parameters_of(function)
    properties, kind = parameters.get("properties"), parameters.get("type") or ""
    if properties is not None or kind:
        parts = [
            ("properties:{", properties), ("required:", parameters.get("required")), ("type:", str(kind).upper())
        ]  # fmt: skip
        writer.text(",parameters:{")
        for i, (label, value) in enumerate([part for part in parts if part[1]]):
            writer.text(f"{',' if i else ''}{label}")
            if isinstance(value, Mapping):
                _write_properties(writer, value)
            else:
                _write_value(writer, value)
        writer.text("}")
    writer.text("}")
    writer.control(END_DECLARATION)


def _write_properties(writer: Writer, properties: Mapping[str, Json]) -> None:
    """Each property's description and first type, by name."""
    for i, name in enumerate(sorted(properties)):
        schema = properties[name] or {}
        writer.text(f"{',' if i else ''}{name}:{{description:")
        _write_value(writer, schema.get("description") or "")
        kinds = schema.get("type")
        first = (kinds[0] if kinds else None) if isinstance(kinds, list) else kinds
        if first:
            writer.text(",type:")
            _write_value(writer, str(first).upper())
        writer.text("}")
    writer.text("}")


def _write_value(writer: Writer, value: Json) -> None:
    write_value(writer, value, go_literal, ordered=True)


def go_literal(value: Json) -> str:
    """true, false or a number as Go prints one that it read from JSON: a double, whole ones as integers, the others as
    %v does, with an exponent below 1e-4 and from 1e6 on."""
    if isinstance(value, bool):
        return "true" if value else "false"
    number = float(value)
    if number.is_integer() and -_INT64 <= number < _INT64:
        return str(int(number))
    _, digits, power = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(power, int), "numbers are finite"
    exponent = len(digits) + power - 1
    if -4 <= exponent < 6:
        return repr(number)
    whole, *rest = map(str, digits)
    fraction = f".{''.join(rest)}" if rest else ""
    return f"{'-' if number < 0 else ''}{whole}{fraction}e{exponent:+03d}"


def _asked(messages: Sequence[Message]) -> dict[str, str]:
    """By the place of a tool message, the function whose call it names by its id."""
    names: dict[str, str] = {}
    found: dict[str, str] = {}
    for i, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            if isinstance(call.get("id"), str):
                names[call["id"]] = call.get("function", call)["name"]
        asked = names.get(str(message.get("tool_call_id")))
        if message.get("role") == "tool" and asked is not None:
            found[f"messages[{i}]"] = asked
    return found
