"""Conversations of `from` and `value` (ShareGPT, Hermes function calling), and Glaive's `system` and `chat` texts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dozan.rows.example import Example, Json
from dozan.rows.shapes.shape import (
    Fields,
    Options,
    Shape,
    ShapeError,
    kind,
    looks_listed,
    made,
    parsed,
    refuse,
    system_message,
    text_field,
)
from dozan.rows.shapes.tools import call, calls_in, declared, literal, names_of, values_in

_ROLES = {
    "human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant",
    "model": "assistant", "bot": "assistant", "chatgpt": "assistant", "bard": "assistant", "bing": "assistant",
    "claude": "assistant", "system": "system", "developer": "developer", "function_call": "call",
    "tool_call": "call", "observation": "tool", "tool": "tool", "function": "tool", "function_response": "tool",
    "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
_KEYS = ("conversations", "conversation", "messages", "items")
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
_TOOLS = re.compile(r"<tools>(.*)</tools>", re.DOTALL)
_OLD_CALL = re.compile(r"<functioncall>\s*(\{.*\})", re.DOTALL)
_QUOTED_ARGUMENTS = re.compile(r"\"arguments\"\s*:\s*'(.*)'\s*\}\s*$", re.DOTALL)
_TURN = re.compile(r"^(USER|ASSISTANT|FUNCTION RESPONSE|SYSTEM):", re.MULTILINE)


def _list_key(fields: Fields) -> str:
    """The field with the conversation; "" when there is none."""
    for key in _KEYS:
        value = fields.get(key)
        if isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value):
            if key != "messages" or any("from" in turn for turn in value):
                return key
        elif key == "conversations" and isinstance(value, str | list) and looks_listed(value):
            return key
    return ""


def read_sharegpt(fields: Fields, place: str, options: Options) -> Example:
    """The conversation with roles by their names here, calls parsed, `<tools>` of a system text as tools."""
    key = _list_key(fields) or "conversations"
    turns = parsed(fields.get(key), key)
    if not isinstance(turns, list) or not turns:
        raise ShapeError(key, 'expected a list like [{"from": "human", "value": "..."}]')
    errors: list[ShapeError] = []
    messages: list[Fields] = []
    meta: dict[str, Json] = {}
    tools = declared(fields.get("tools"))
    for i, turn in enumerate(turns):
        try:
            role, text = _turn(turn, f"{key}[{i}]")
            if role == "system" and _TOOLS.search(text):
                tools = tools or _system_tools(text, f"{key}[{i}]")
                meta["system_text"] = text
            else:
                _add(messages, role, text, turn, f"{key}[{i}]")
        except ShapeError as error:
            errors.append(error)
    refuse(errors)
    if not any(message["role"] in ("system", "developer") for message in messages):
        messages[:0] = system_message(fields, options)
    if not messages:
        raise ShapeError(key, "nothing but a system text")
    return made({**fields, **meta}, (key, "tools", "system", "system_prompt"), place, tools, messages)


def _turn(turn: Json, path: str) -> tuple[str, Json]:
    """The role and the content of a turn."""
    if not isinstance(turn, dict):
        raise ShapeError(path, f"expected an object with from and value, found {kind(turn)}")
    given = turn.get("from", turn.get("role"))
    role = _ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        known = ", ".join(("human", "gpt", "system", "function_call", "observation"))
        raise ShapeError(f"{path}.from", f"unknown role {given!r:.40}; use one of {known}", "unknown-role")
    content = turn.get("value", turn.get("content", turn.get("text")))
    if content is None and turn.get("tool_calls"):
        content = ""
    if not isinstance(content, str) and role not in ("tool", "call"):
        raise ShapeError(f"{path}.value", f"expected text, found {kind(content)}")
    return role, content


def _add(messages: list[Fields], role: str, content: Json, turn: Mapping[str, Json], path: str) -> None:
    if role == "call":
        calls = calls_in(content, path) if isinstance(content, str) else [call(content, path)]
        messages.append({"role": "assistant", "tool_calls": calls})
    elif role == "tool":
        _add_responses(messages, content, turn)
    elif role == "assistant":
        messages.append(_answer(content, turn, path))
    else:
        messages.append({"role": role, "content": content})


def _answer(text: str, turn: Mapping[str, Json], path: str) -> Fields:
    """An assistant message; calls come from `tool_calls`, `<tool_call>` or `<functioncall>`."""
    given = turn.get("tool_calls")
    if isinstance(given, list) and given:
        calls = [call(item, f"{path}.tool_calls[{i}]") for i, item in enumerate(given)]
        return {"role": "assistant", "content": text, "tool_calls": calls}
    calls = [found for body in _CALL.findall(text) for found in calls_in(body, path)]
    rest = _CALL.sub("", text)
    old = _OLD_CALL.search(rest)
    if old:
        calls.append(_old_call(old.group(1), path))
        rest = rest[: old.start()] + rest[old.end() :]
    if "<tool_call>" in rest or "<functioncall>" in rest:
        raise ShapeError(path, "a call that does not end; close <tool_call> with </tool_call>", "bad-call")
    if not calls:
        return {"role": "assistant", "content": text}
    return {"role": "assistant", **({"content": rest.strip()} if rest.strip() else {}), "tool_calls": calls}


def _old_call(text: str, path: str) -> dict[str, Json]:
    """Glaive's call, whose arguments are JSON between single quotes."""
    quoted = _QUOTED_ARGUMENTS.search(text)
    if quoted is None:
        return calls_in(text, path)[0]
    value = literal(text[: quoted.start()] + '"arguments": {}}')
    if not isinstance(value, dict):
        raise ShapeError(path, f"a call that is no JSON: {text[:60]!r}", "bad-call")
    arguments = quoted.group(1)
    try:
        return call({**value, "arguments": arguments}, path)
    except ShapeError:
        return call({**value, "arguments": arguments.replace("\\'", "'")}, path)


def _add_responses(messages: list[Fields], content: Json, turn: Mapping[str, Json]) -> None:
    """Tool messages, one a response, named by what they say or else by the calls before them in order."""
    parts = (_RESPONSE.findall(content) or [content]) if isinstance(content, str) else [content]
    answered = 0
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        answered += 1
    names = names_of(messages)[answered:]
    for i, part in enumerate(parts):
        value = literal(part) if isinstance(part, str) else part
        value = value if isinstance(value, dict | list) else part.strip() if isinstance(part, str) else part
        name = turn.get("name") or (names[i] if i < len(names) else None)
        if isinstance(value, dict) and isinstance(value.get("name"), str) and "content" in value:
            name, value = value["name"], value["content"]
        messages.append({"role": "tool", **({"name": name} if name else {}), "content": value})


def _system_tools(text: str, path: str) -> list[Fields]:
    found = _TOOLS.search(text)
    values = values_in(found.group(1)) if found else []
    flat = [tool for value in values for tool in (value if isinstance(value, list) else [value])]
    if not flat and found and found.group(1).strip(" []\n"):
        raise ShapeError(path, "its <tools> hold no JSON; write a list of declarations", "bad-tools")
    return declared(flat, path)


def _is_glaive(fields: Fields) -> bool:
    chat = fields.get("chat")
    return isinstance(chat, str) and ("USER:" in chat or "ASSISTANT:" in chat)


def read_glaive(fields: Fields, place: str, options: Options) -> Example:
    """Glaive's function calling: declarations in the `system` text, turns in the `chat` text."""
    chat = text_field(fields, "chat")
    system = text_field(fields, "system", may_be_empty=True).removeprefix("SYSTEM:").strip()
    tools = declared(values_in(system), "system")
    messages: list[Fields] = []
    if not tools and (system or options.system):
        messages.append({"role": "system", "content": system or options.system})
    marks = list(_TURN.finditer(chat))
    errors: list[ShapeError] = []
    for i, mark in enumerate(marks):
        end = marks[i + 1].start() if i + 1 < len(marks) else len(chat)
        text = chat[mark.end() : end].replace("<|endoftext|>", "").strip()
        role = {"USER": "user", "ASSISTANT": "assistant", "SYSTEM": "system"}.get(mark.group(1), "tool")
        try:
            _add(messages, role, text, {}, "chat")
        except ShapeError as error:
            errors.append(error)
    if not marks:
        errors.append(ShapeError("chat", "no turn begins with USER: or ASSISTANT:"))
    refuse(errors)
    kept = {**fields, "system_text": system} if tools else fields
    return made(kept, ("system", "chat"), place, tools, messages)


SHAREGPT = Shape("sharegpt", "conversations (from, value)", lambda fields: bool(_list_key(fields)), read_sharegpt)
GLAIVE = Shape("glaive", "system and chat (USER:, ASSISTANT:, <functioncall>)", _is_glaive, read_glaive)
