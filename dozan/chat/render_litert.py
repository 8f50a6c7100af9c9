"""FunctionGemma's conversations as LiteRT-LM writes them (its FunctionGemma data processor and template).

From google-ai-edge/LiteRT-LM, runtime/components/tool_use/fc_tool_format_utils.cc, runtime/conversation and its
built-in template, written anew, and from runs of the litert-lm-api-nightly wheel. Unlike in the official template:
- a declaration is the function's whole JSON, every key in the order given, types in capitals, nulls as null;
- two newlines stand between the developer's text and the declarations;
- the keys of a response sort by code point; one that is no object is `{response:…,type:<escape>tool_response<escape>}`.
A call stays as the model wrote it, so its keys sort as FunctionGemma's do. An application gives the first developer
message as the system instruction, its only place there. One <bos> comes first, which the session adds. A file that
brings the checkpoint's own template (`use_template_for_fc_format`) is rendered by that one instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dozan.chat.calls import parse_calls
from dozan.chat.format import Message, Parsed, Rendered, Tool, Writer
from dozan.chat.messages import Turn
from dozan.chat.render_tools import finish, read, write_turn, write_value
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

_TYPES = frozenset({"string", "number", "integer", "object", "array", "boolean", "null"})


@dataclass(frozen=True)
class LiteRtFunctionGemma:
    """FunctionGemma in LiteRT-LM's bytes; see the module."""

    name: str = "functiongemma"
    stop_tokens: tuple[str, ...] = (EOS, END_TURN, START_RESPONSE)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """The conversation as text with spans; see `ChatFormat.render`."""
        turns, declared, notes = read(messages, tools, generate, place)
        writer = Writer()
        writer.control(BOS)
        _write_turns(writer, turns, messages, declared)
        return finish(writer, turns, generate, notes)

    def parse(self, text: str) -> Parsed:
        """Reads a generated model turn; see `ChatFormat.parse`."""
        return parse_calls(text)


LITERT_FUNCTIONGEMMA = LiteRtFunctionGemma()


def _write_turns(
    writer: Writer, turns: Sequence[Turn], messages: Sequence[Message], tools: Sequence[Mapping[str, Json]]
) -> None:
    opens = bool(turns) and turns[0].role == "developer"
    if opens or tools:
        writer.control(START_TURN)
        writer.text("developer\n")
        if opens:
            writer.text(turns[0].text + ("\n\n" if tools else ""))
        for tool in tools:
            writer.control(START_DECLARATION)
            writer.text(f"declaration:{tool['name']}")
            _write_value(writer, {key: value for key, value in _in_capitals(tool).items() if key != "name"})
            writer.control(END_DECLARATION)
        writer.control(END_TURN)
        writer.text("\n")
    before = ""
    for turn, message in list(zip(turns, messages, strict=True))[1 if opens else 0 :]:
        if turn.role == "tool":
            _write_responses(writer, turn, opened=before == "call")
        elif turn.role == "assistant":
            _write_answer(writer, turn, opened=before == "tool")
        else:
            write_turn(writer, message['role'], turn.text)
        before = "call" if turn.calls else turn.role


def _write_answer(writer: Writer, turn: Turn, opened: bool) -> None:
    if not opened:
        writer.control(START_TURN)
        writer.text("model\n")
    writer.begin()
    writer.text(turn.text)
    for call in turn.calls:
        writer.control(START_CALL)
        writer.text(f"call:{call.name}")
        _write_value(writer, _ordered(call.arguments, str.lower))
        writer.control(END_CALL)
    writer.control(START_RESPONSE if turn.calls else END_TURN)
    writer.end()
    writer.text("" if turn.calls else "\n")


def _write_responses(writer: Writer, turn: Turn, opened: bool) -> None:
    for i, (name, response) in enumerate(turn.responses):
        if i or not opened:
            writer.control(START_RESPONSE)
        writer.text(f"response:{name}")
        fields = response if isinstance(response, Mapping) else {"response": response, "type": "tool_response"}
        _write_value(writer, _ordered(fields, str))
        writer.control(END_RESPONSE)


def _write_value(writer: Writer, value: Json) -> None:
    write_value(writer, value, json_literal, ordered=False)


def json_literal(value: Json) -> str:
    """null, true, false or a number as nlohmann::json prints it: a double of over 15 whole digits with an exponent."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and 1e15 <= abs(value) < 1e16:
        digits = f"{abs(value):.0f}"
        fraction = digits[1:].rstrip("0")
        return f"{'-' if value < 0 else ''}{digits[0]}{'.' if fraction else ''}{fraction}e+15"
    return repr(value)


def _ordered(value: Json, order: Callable[[str], str]) -> Json:
    """The value with the keys of its objects sorted, however deep."""
    if isinstance(value, Mapping):
        return {key: _ordered(value[key], order) for key in sorted(value, key=order)}
    return [_ordered(inner, order) for inner in value] if isinstance(value, list) else value


def _in_capitals(value: Json) -> Json:
    """The schema with each `type` that JSON Schema knows in capitals, however deep."""
    if isinstance(value, Mapping):
        return {
            key: inner.upper() if key == "type" and isinstance(inner, str) and inner in _TYPES else _in_capitals(inner)
            for key, inner in value.items()
        }
    return [_in_capitals(inner) for inner in value] if isinstance(value, list) else value
