"""Conversations brought to one form before a chat format writes them: what is refused, what is repaired and said."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from dozan.chat.format import Call, Message
from dozan.chat.tokens import find_control
from dozan.errors import InputError
from dozan.rows.example import Json

ROLES = ("developer", "system", "user", "assistant", "tool")
_READ = {"role", "content", "tool_calls", "name", "tool_call_id"}
_KEY_BREAKERS = frozenset(":,{}[]<>\n\r")


@dataclass
class Notes:
    """The errors and repairs found while one row is read, each with the field it is about."""

    place: str
    errors: list[str] = field(default_factory=list)
    repairs: list[str] = field(default_factory=list)

    def error(self, where: str, message: str) -> None:
        self.errors.append(f"{self.place}: {where}: {message}" if self.place else f"{where}: {message}")

    def repair(self, where: str, message: str) -> None:
        self.repairs.append(f"{where}: {message}")

    def raise_errors(self) -> None:
        """Raises one InputError with every error noted so far."""
        if self.errors:
            raise InputError("\n".join(self.errors))


@dataclass(frozen=True)
class Turn:
    """One message in plain form: system is `developer`, text is trimmed, arguments and responses are typed values.

    `raw` is the text before it was trimmed.
    """

    role: str
    where: str
    text: str = ""
    calls: tuple[Call, ...] = ()
    responses: tuple[tuple[str, Json], ...] = ()
    raw: str = ""


def read_turns(messages: Sequence[Message], notes: Notes) -> list[Turn]:
    """The messages as turns; what is wrong goes to `notes`."""
    turns: list[Turn] = []
    names: dict[str, str] = {}
    waiting: list[str] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        role = message.get("role")
        if role not in ROLES:
            notes.error(f"{where}.role", f"unknown role {role!r}; use one of {', '.join(ROLES)}")
            continue
        for key in sorted(set(message) - _READ):
            if message[key]:
                notes.repair(f"{where}.{key}", "left out: the chat format has no place for it")
        if role == "tool":
            responses = _responses(message, where, names, waiting, notes)
            turns.append(Turn("tool", where, responses=responses))
        elif role == "assistant":
            calls = read_calls(message, where, notes)
            waiting = [call.name for call in calls]
            names.update(_call_ids(message))
            turns.append(Turn("assistant", where, message_text(message, where, notes).strip(), calls))
        else:
            raw = message_text(message, where, notes)
            turns.append(Turn("user" if role == "user" else "developer", where, raw.strip(), raw=raw))
    return turns


def texts_of(responses: Sequence[tuple[str, Json]]) -> tuple[tuple[str, Json], ...]:
    """Tool responses as an interface takes them that knows text only: objects, lists and numbers as their JSON."""
    return tuple(
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)) for name, value in responses
    )


def read_calls(message: Message, where: str, notes: Notes) -> tuple[Call, ...]:
    """The calls of an assistant message, with arguments parsed and nulls dropped."""
    if message.get("function_call"):
        notes.error(f"{where}.function_call", 'an old form; write "tool_calls": [{"function": {"name", "arguments"}}]')
    calls: list[Call] = []
    raw = message.get("tool_calls") or []
    if not isinstance(raw, list):
        notes.error(f"{where}.tool_calls", f"expected a list of calls, found {type(raw).__name__}")
        return ()
    for i, item in enumerate(raw):
        here = f"{where}.tool_calls[{i}]"
        function = item.get("function", item) if isinstance(item, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            notes.error(here, 'expected {"function": {"name": "...", "arguments": {...}}}')
            continue
        name = function["name"]
        check_name(name, f"{here}.function.name", notes)
        calls.append(Call(name, _arguments(function.get("arguments"), f"{here}.function.arguments", notes)))
    return tuple(calls)


def check_name(name: str, where: str, notes: Notes, spaces: bool = False) -> None:
    """Notes an error when a function's or (with `spaces`) an argument's name could not be read back from the text."""
    spaced = any(map(str.isspace, name)) and not (spaces and name == name.strip())
    if not name or spaced or not _KEY_BREAKERS.isdisjoint(name):
        notes.error(where, f"the name {name!r} cannot be read back; use letters, digits and _")


def clean_value(value: Json, where: str, notes: Notes) -> Json:
    """A value without nulls in its objects; strings and keys that could not be read back are errors."""
    if isinstance(value, str):
        found = find_control(value)
        if found:
            notes.error(where, f"holds the control token {found}, which cannot be read back; take it out of the value")
        return value
    if isinstance(value, float) and not math.isfinite(value):
        notes.error(where, f"{value} is no JSON number; use a finite number or leave it out")
    if isinstance(value, list):
        if any(item is None for item in value):
            notes.error(where, "null inside a list has no form; leave the item out")
        return [clean_value(item, f"{where}[{i}]", notes) for i, item in enumerate(value)]
    return _clean_object(value, where, notes) if isinstance(value, Mapping) else value


def _clean_object(value: Mapping[str, Json], where: str, notes: Notes) -> dict[str, Json]:
    cleaned: dict[str, Json] = {}
    for key, item in value.items():
        if item is None:
            notes.repair(f"{where}.{key}", "null dropped")
            continue
        check_name(key, f"{where}.{key}", notes, spaces=True)
        cleaned[key] = clean_value(item, f"{where}.{key}", notes)
    return cleaned


def _arguments(value: Json, where: str, notes: Notes) -> dict[str, Json]:
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else {}
        except ValueError as error:
            notes.error(where, f"a string that is no JSON ({error}); give the arguments as an object")
            return {}
        notes.repair(where, "parsed from a JSON string")
    if value is None:
        notes.repair(where, "null read as no arguments")
        value = {}
    if not isinstance(value, Mapping):
        notes.error(where, f"expected an object of arguments, found {type(value).__name__}")
        return {}
    cleaned: dict[str, Json] = clean_value(value, where, notes)
    return cleaned


def message_text(message: Message, where: str, notes: Notes) -> str:
    """A message's text as it was given, text parts joined by lines; what is no text is noted and read as ""."""
    content = message.get("content")
    content = "" if content is None else _joined(content, where, notes)
    if not isinstance(content, str):
        notes.error(f"{where}.content", f"expected text, found {type(content).__name__}; nothing else has a form")
        return ""
    found = find_control(content) if message["role"] == "assistant" else None
    if found:
        notes.error(f"{where}.content", f"holds the control token {found}; give plain text, and calls as tool_calls")
    return content


def _joined(content: Json, where: str, notes: Notes) -> Json:
    """The text of a list of text parts; anything else as it is."""
    if not isinstance(content, list) or not content or not all(_is_text_part(part) for part in content):
        return content
    notes.repair(f"{where}.content", "text parts joined")
    return "\n".join(part["text"].strip() for part in content)


def _is_text_part(part: Json) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _call_ids(message: Message) -> dict[str, str]:
    """Name by id of the calls in an assistant message."""
    raw = message.get("tool_calls")
    calls = [item for item in raw if isinstance(item, Mapping)] if isinstance(raw, list) else []
    named = [(item.get("id"), item.get("function", item)) for item in calls]
    return {i: f["name"] for i, f in named if isinstance(i, str) and isinstance(f, Mapping) and "name" in f}


def _responses(
    message: Message, where: str, names: Mapping[str, str], waiting: list[str], notes: Notes
) -> tuple[tuple[str, Json], ...]:
    """(name, response) of a tool message, whose content is {name, response}, a list of such, or a bare response."""
    content = _joined(message.get("content"), where, notes)
    items = content if isinstance(content, list) and content and all(_is_named(item) for item in content) else [content]
    responses: list[tuple[str, Json]] = []
    for item in items:
        name = item["name"] if _is_named(item) else _name_of(message, where, names, waiting, notes)
        if name is None:
            continue
        if name in waiting:
            waiting.remove(name)
        value = item["response"] if _is_named(item) else item
        check_name(name, f"{where}.name", notes)
        responses.append((name, clean_value("" if value is None else value, f"{where}.content", notes)))
    return tuple(responses)


def _is_named(item: Json) -> TypeGuard[Mapping[str, Json]]:
    return isinstance(item, Mapping) and isinstance(item.get("name"), str) and "response" in item


def _name_of(message: Message, where: str, names: Mapping[str, str], waiting: list[str], notes: Notes) -> str | None:
    """The name of the tool that answers: its own, the one of its call id, or the first call without an answer."""
    given = message.get("name")
    if isinstance(given, str) and given:
        return given
    found = names.get(str(message.get("tool_call_id"))) or (waiting[0] if waiting else None)
    if found is None:
        notes.error(f"{where}.name", "missing, and no earlier call tells it; add the name of the tool that answered")
        return None
    notes.repair(f"{where}.name", f"{found!r} taken from the call it answers")
    return found
