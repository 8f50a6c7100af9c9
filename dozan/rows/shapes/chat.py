"""Rows with `messages`: the canonical one (Mobile Actions), and OpenAI's with arguments in text and call ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from dozan.rows.example import Example, Json
from dozan.rows.kept import require_kept
from dozan.rows.shapes.shape import Fields, Options, Shape, ShapeError, kind, looks_listed, made, parsed, refuse
from dozan.rows.shapes.tools import call, declared

ROLES = ("developer", "system", "user", "assistant", "tool")
_OWN = ("id", "tools", "messages")
_OWN_OPENAI = ("id", "tools", "messages", "functions", "function_call", "parallel_tool_calls", "tool_choice")
Tools = tuple[Fields, ...]


def _calls(fields: Fields) -> Iterator[Mapping[str, Json]]:
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        found = message.get("tool_calls") if isinstance(message, dict) else None
        for item in found if isinstance(found, list) else ():
            function = item.get("function", item) if isinstance(item, dict) else None
            if isinstance(function, dict):
                yield function


def _is_canonical(fields: Fields) -> bool:
    messages = fields.get("messages")
    if "messages" not in fields or isinstance(messages, list) and any("from" in m for m in _objects(messages)):
        return False
    calls = list(_calls(fields))
    in_text = sum(isinstance(function.get("arguments"), str) for function in calls)
    return not _is_legacy(fields) and in_text * 2 <= len(calls) or not isinstance(messages, list)


def _is_openai(fields: Fields) -> bool:
    messages = fields.get("messages")
    if not isinstance(messages, list) or any("from" in message for message in _objects(messages)):
        return False
    return _is_legacy(fields) or all(isinstance(function.get("arguments"), str) for function in _calls(fields))


def _objects(messages: list[Json]) -> list[dict[str, Json]]:
    return [message for message in messages if isinstance(message, dict)]


def _is_legacy(fields: Fields) -> bool:
    messages = fields.get("messages")
    listed = _objects(messages) if isinstance(messages, list) else []
    return "functions" in fields or any("function_call" in m or m.get("role") == "function" for m in listed)


def read_canonical(fields: Fields, place: str, options: Options) -> Example:
    """The row as it is, its roles and lists checked; `tools` may name a file beside the rows."""
    errors: list[ShapeError] = []
    messages = fields.get("messages")
    if looks_listed(messages) and isinstance(messages, str):
        messages = parsed(messages, "messages")
    errors += _message_errors(messages)
    tools: Tools = ()
    try:
        tools = read_tools(fields.get("tools"), options)
    except ShapeError as error:
        errors.append(error)
    refuse(errors)
    return made(fields, _OWN, place, tools, messages or ())


def _message_errors(messages: Json) -> Iterator[ShapeError]:
    if not isinstance(messages, list) or not messages:
        yield ShapeError("messages", 'expected a list like [{"role": "user", "content": "..."}]')
        return
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            yield ShapeError(f"messages[{i}]", "expected an object with role and content")
        elif message.get("role") not in ROLES:
            words = f"unknown role {message.get('role')!r:.40}; use one of {', '.join(ROLES)}"
            yield ShapeError(f"messages[{i}].role", words, "unknown-role")


def read_tools(value: Json, options: Options) -> Tools:
    """The tools of a row: a list, its JSON text, nothing, or the plain name of a file beside the rows, read once."""
    if value is None or value == "":
        return ()
    if isinstance(value, str) and not looks_listed(value):
        key = f"tools file {value}"
        if key not in options.memory:
            found = options.memory[key] = _tools_file(value, options.file.parent)
            options.beside.extend([] if isinstance(found, ShapeError) else [options.file.parent / value])
        found = options.memory[key]
        if isinstance(found, ShapeError):
            raise ShapeError("tools", found.message, found.code_name)
        return found
    return _tool_list(parsed(value, "tools"), "expected")


def _tool_list(value: Json, words: str) -> Tools:
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        message = f'{words} a list of objects like {{"type": "function", "function": {{...}}}}'
        raise ShapeError("tools", message, "bad-tools")
    return tuple(value)


def _tools_file(name: str, folder: Path) -> Tools | ShapeError:
    """Tools from a JSON array or a JSONL file beside the rows, or what is wrong with the file."""
    path = folder / name
    if Path(name).name != name or name in ("", ".", "..") or "\x00" in name or len(name) > 200:
        return ShapeError("tools", f"{name!r:.60} is no plain file name; put the file beside the rows", "tools-file")
    if not path.is_file():
        return ShapeError("tools", f"{path} does not exist; put the file beside the rows", "tools-file")
    require_kept(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        is_array = text.lstrip().startswith("[")
        values = json.loads(text) if is_array else [json.loads(line) for line in text.split("\n") if line.strip()]
        return _tool_list(values, f"{path}: expected")
    except ShapeError as error:
        return error
    except (ValueError, RecursionError) as error:
        words = f"{path}: not JSON in UTF-8: {error}; write a JSON array, or one tool a line"
        return ShapeError("tools", words, "tools-file")


def read_openai(fields: Fields, place: str, options: Options) -> Example:
    """OpenAI's chat row: arguments parsed to objects, old `function_call` and `functions` as calls and tools."""
    messages = fields.get("messages")
    errors = [e for e in _message_errors(messages) if not (e.code_name == "unknown-role" and "'function'" in e.message)]
    refuse(errors)
    found: list[Fields] = []
    names: dict[str, str] = {}
    for i, message in enumerate(messages or ()):
        try:
            found.append(_openai_message(message, f"messages[{i}]", names))
        except ShapeError as error:
            errors.append(error)
    tools: list[Fields] = []
    try:
        key = "functions" if fields.get("tools") is None else "tools"
        tools = declared(fields.get(key), key) if key == "functions" else list(read_tools(fields.get("tools"), options))
    except ShapeError as error:
        errors.append(error)
    refuse(errors)
    return made(fields, _OWN_OPENAI, place, tools, found)


def _openai_message(message: Mapping[str, Json], path: str, names: dict[str, str]) -> Fields:
    """One message; `names` gathers the functions by call id, for the tool messages that only give the id."""
    kept = {key: value for key, value in message.items() if not (value is None and key != "content")}
    if kept.pop("function_call", None):
        kept["tool_calls"] = [call(message["function_call"], f"{path}.function_call")]
    elif message.get("tool_calls"):
        calls = message["tool_calls"]
        if not isinstance(calls, list):
            raise ShapeError(f"{path}.tool_calls", f"expected a list of calls, found {kind(calls)}", "bad-call")
        kept["tool_calls"] = [_openai_call(item, f"{path}.tool_calls[{i}]", names) for i, item in enumerate(calls)]
    if kept["role"] in ("function", "tool"):
        kept["role"] = "tool"
        if not kept.get("name") and str(kept.get("tool_call_id")) in names:
            kept["name"] = names[str(kept["tool_call_id"])]
    return kept


def _openai_call(item: Json, path: str, names: dict[str, str]) -> Fields:
    made_call = call(item, path)
    identity = {key: item[key] for key in ("id",) if key in item}
    if identity:
        names[str(item["id"])] = made_call["function"]["name"]
    return {**identity, **made_call}


CANONICAL = Shape("mobile-actions", "messages (role, content, tool_calls) and tools", _is_canonical, read_canonical)
OPENAI = Shape("openai", "messages (arguments as text, call ids or function_call)", _is_openai, read_openai)
