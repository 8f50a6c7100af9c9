"""All repairs of one row, pass after pass until nothing changes: repairing a repaired row changes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from dozan.chat.tokens import find_control
from dozan.check.fixes.declarations import FixedTool, Schema, argument_paths, fix_tool
from dozan.check.fixes.repair import Chosen, Log, Repair
from dozan.check.fixes.texts import fix_text, fix_texts
from dozan.check.fixes.values import Values
from dozan.check.row_rules.conversation import TRIGGER
from dozan.check.view import content_text, read_parameters, too_deep
from dozan.rows.example import Example, Json
from dozan.rows.json_text import JsonText
from dozan.rows.renames import FIELD, Renames, joined_renames, renamed_arguments

_MOST_PASSES = 8
_MOST_TOOLS = 1024
_ANGLE = re.compile(r"<(?=[a-z_]+\d*>)")


@dataclass(frozen=True)
class FixedRow:
    """A row after its repairs; `renames` are those of its own tools, old ones included."""

    example: Example
    repairs: tuple[Repair, ...]
    renames: Renames


class RowFixer:
    """Repairs rows one after another; a tool that many rows share is repaired once, and stays one object."""

    def __init__(self, chosen: Chosen) -> None:
        self.chosen = chosen
        self._tools: dict[int, tuple[Schema, FixedTool]] = {}

    def fix(self, example: Example) -> FixedRow:
        """The repaired row, the very same example when there is nothing to repair; never raises."""
        renames = _renames_of(example)
        if too_deep(list(example.messages), "") or too_deep(list(example.tools), ""):
            return FixedRow(example, (), renames)
        repairs: list[Repair] = []
        for _ in range(_MOST_PASSES):
            log = Log(self.chosen)
            example, new = self._passed(example, log)
            renames = joined_renames(renames, new)
            repairs += log.repairs
            if not log.repairs:
                break
        if any(renames.values()) and renames != example.meta.get(FIELD):
            example = replace(example, meta={**example.meta, FIELD: renames})
        return FixedRow(example, tuple(repairs), renames)

    def _passed(self, example: Example, log: Log) -> tuple[Example, Renames]:
        fixed = [self._tool(tool, example, f"tools[{i}]", log) for i, tool in enumerate(example.tools)]
        tools = tuple(item.tool for item in fixed)
        schemas = {_function(tool).get("name"): read_parameters(_function(tool).get("parameters")) for tool in tools}
        renames = {_function(item.tool)["name"]: item.renames for item in fixed if item.renames}
        messages: list[Mapping[str, Json]] = []
        said: list[str] = []
        for i, message in enumerate(example.messages):
            message = _fix_message(message, f"messages[{i}]", log)
            said.append(content_text(message.get("content")))
            if message.get("role") == "assistant" and isinstance(message.get("tool_calls"), list):
                message = _fix_calls(message, f"messages[{i}]", schemas, renames, "\n".join(said), log)
            messages.append(message)
        messages = _with_trigger(messages, tools, log)
        if not log.repairs:
            return example, {}
        return replace(example, tools=tools, messages=tuple(messages)), renames

    def _tool(self, tool: Schema, example: Example, path: str, log: Log) -> FixedTool:
        known = self._tools.get(id(tool))
        if known is None:
            if len(self._tools) >= _MOST_TOOLS:
                self._tools.clear()
            known = self._tools[id(tool)] = (tool, fix_tool(tool, Log(self.chosen)))
        fixed = known[1]
        if fixed.guessed:
            other = _typed_otherwise(example, _function(fixed.tool).get("name"), fixed)
            fixed = fix_tool(tool, Log(self.chosen), other) if other else fixed
        log.repairs += [replace(repair, path=f"{path}{repair.path}") for repair in fixed.repairs]
        return fixed


def _typed_otherwise(example: Example, name: Json, fixed: FixedTool) -> frozenset[str]:
    """The guessed paths at which a call of the row has something else than a string."""
    found: set[str] = set()
    for message in example.messages:
        calls = message.get("tool_calls")
        for item in calls if isinstance(calls, list) else ():
            function = _function(item)
            if function.get("name") == name:
                arguments = renamed_arguments(str(name), function.get("arguments"), {str(name): fixed.renames})
                found |= {path for path, value in argument_paths(arguments) if not isinstance(value, str | None)}
                found |= {path.partition("[")[0] for path in found}
                found |= _objects(arguments)
    return frozenset(found) & fixed.guessed


def _objects(value: Json, path: str = "") -> set[str]:
    """The paths of the objects in a value."""
    if not isinstance(value, Mapping):
        return set()
    inner = (_objects(item, f"{path}.{key}" if path else key) for key, item in value.items())
    return {path}.union(*inner)


def _function(item: Json) -> Mapping[str, Json]:
    """The function of a tool or a call, which may stand bare."""
    function = item.get("function", item) if isinstance(item, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def _renames_of(example: Example) -> Renames:
    """What an earlier repair renamed in the row."""
    given = example.meta.get(FIELD)
    well_made = isinstance(given, Mapping) and all(isinstance(table, Mapping) for table in given.values())
    return given if well_made and given is not None else {}


def _fix_message(message: Mapping[str, Json], path: str, log: Log) -> Mapping[str, Json]:
    """A message but for its calls: parts joined, texts repaired, control tokens broken up."""
    content = message.get("content")
    where = f"{path}.content"
    if isinstance(content, list) and content and log.wants("DZ220") and all(map(_is_text_part, content)):
        joined = "\n".join(part["text"].strip() for part in content)
        log.add("DZ220", where, content, joined)
        content = joined
    if message.get("role") != "assistant" and log.wants("DZ226"):
        content = _neutral(content, where, log)
    fixed = {key: content if key == "content" else value for key, value in message.items()}
    rest = {key: value for key, value in fixed.items() if key not in ("tool_calls", "function_call")}
    changed = fix_texts(rest, path, "said", log)
    return {key: changed.get(key, value) if key in rest else value for key, value in fixed.items()}


def _is_text_part(part: Json) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _neutral(value: Json, path: str, log: Log) -> Json:
    """A value in whose texts a space breaks up each control token: `< start_of_turn>` is plain text everywhere."""
    if isinstance(value, str):
        if find_control(value) is None:
            return value
        plain = value
        while (token := find_control(plain)) is not None:
            plain = plain.replace(token, _ANGLE.sub("< ", token))
        log.add("DZ226", path, value, plain)
        return plain
    if isinstance(value, list):
        return [_neutral(item, f"{path}[{i}]", log) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: _neutral(item, f"{path}.{key}", log) for key, item in value.items()}
    return value


def _fix_calls(
    message: Mapping[str, Json], path: str, schemas: Mapping[Json, Schema], renames: Renames, said: str, log: Log
) -> Mapping[str, Json]:
    calls: list[Json] = []
    for i, item in enumerate(message["tool_calls"]):
        function = _function(item)
        if not isinstance(function.get("name"), str):
            calls.append(item)
            continue
        where = f"{path}.tool_calls[{i}]" + (".function" if "function" in item else "")
        fixed = _fix_call(function, where, schemas, renames, said, log)
        made = {**item, "function": fixed} if "function" in item else fixed
        if any(made == other for other in calls) and log.wants("DZ236"):
            log.add("DZ236", where, made, None)
        else:
            calls.append(made)
    return {**message, "tool_calls": calls}


def _fix_call(
    function: Mapping[str, Json], path: str, schemas: Mapping[Json, Schema], renames: Renames, said: str, log: Log
) -> Mapping[str, Json]:
    name = fix_text(function["name"], f"{path}.name", "gold", log)
    where = f"{path}.arguments"
    arguments = _parsed(function.get("arguments"), where, log)
    if isinstance(arguments, Mapping):
        arguments = fix_texts(arguments, where, "gold", log)
        renamed = renamed_arguments(name, arguments, renames)
        if renamed is not arguments and log.wants("DZ301"):
            log.add("DZ301", where, arguments, renamed)
            arguments = renamed
        arguments = Values(log, said).fixed(arguments, schemas.get(name, {}), where)
    fixed = {**function, "name": name}
    return {**fixed, "arguments": arguments} if "arguments" in function else fixed


def _parsed(arguments: Json, path: str, log: Log) -> Json:
    """Arguments as an object, when they are its JSON text or nothing at all."""
    if isinstance(arguments, str) and log.wants("DZ208"):
        value, problems = JsonText().parse(arguments) if arguments.strip() else ({}, [])
        if isinstance(value, Mapping) and not problems:
            log.add("DZ208", path, arguments, value)
            return value
    return arguments


def _with_trigger(messages: list[Mapping[str, Json]], tools: tuple[Schema, ...], log: Log) -> list[Mapping[str, Json]]:
    """With FunctionGemma's trigger sentence before the tools; asked for only."""
    if not tools or not log.wants("DZ235") or not messages:
        return messages
    first = messages[0]
    text = content_text(first.get("content"))
    if first.get("role") not in ("developer", "system"):
        made: Mapping[str, Json] = {"role": "developer", "content": TRIGGER}
        log.add("DZ235", "messages[0]", None, made)
        return [made, *messages]
    if TRIGGER in text or not isinstance(first.get("content"), str):
        return messages
    said = f"{text}\n{TRIGGER}"
    log.add("DZ235", "messages[0].content", text, said)
    return [{**first, "content": said}, *messages[1:]]
