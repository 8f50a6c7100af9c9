"""One row as the rules see it: its request, calls, schemas, date and rendering, each worked out once."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from dozan.chat.format import Call, ChatFormat, Rendered
from dozan.chat.messages import Notes, read_calls
from dozan.errors import InputError
from dozan.rows.arabic import ascii_digits
from dozan.rows.example import Example, Json
from dozan.rows.identity import MadeOnce

Schema = Mapping[str, Json]
Problem = tuple[str, str]
"""A path in the row and what is wrong there."""

DEEPEST = 64
"""Levels of nesting that a row may have; more is no schema that a model could read, and would exhaust the stack."""

_NOW = re.compile(r"(?<!\d)(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?))?(?!\d)")
_NOW_WORDS = re.compile(r"current|today|now\b|الحالي|اليوم|الآن|الان", re.IGNORECASE)
_BEFORE_NOW = 100
_PROBLEM_START = re.compile(r"\n(?=(?:messages|tools)\b)")
_PARSED = (".arguments", ".parameters")


@dataclass(frozen=True)
class ToolsView:
    """What is known of a list of tools, made once for all rows that share it.

    schemas: the parameters by the tool's name, parsed when they were text, `{}` when there are none. paths: where each
    tool's declaration is, by name. deep: the path that is nested too deeply, or "".
    """

    schemas: Mapping[str, Schema]
    paths: Mapping[str, str]
    deep: str


@dataclass(frozen=True)
class RowView:
    """A row and what its rules need.

    query: the text of all user messages. calls: every call of the assistant with the path of its `function`.
    sources: for each call the text of the conversation up to it, which its values can come from.
    now: the date and time that the developer's text gives, without zone. rendered: None when the chat format refuses
    the row; `errors` then say why. repairs: what the format changed so that it could write the row. tokens: the
    rendered row's length, None where it was not counted because it cannot pass `max_tokens`. deep: the path that is
    nested too deeply to be looked into, or "".
    """

    example: Example
    query: str
    calls: tuple[tuple[str, Call], ...]
    sources: tuple[str, ...]
    tools: ToolsView
    now: datetime | None
    rendered: Rendered | None
    errors: tuple[Problem, ...]
    repairs: tuple[Problem, ...]
    tokens: int | None
    max_tokens: int
    deep: str

    @property
    def place(self) -> str:
        return self.example.place or self.example.id

    @property
    def schemas(self) -> Mapping[str, Schema]:
        return self.tools.schemas


def view_row(
    example: Example, chat: ChatFormat, count_tokens: Callable[[str], int] | None = None, max_tokens: int = 4096
) -> RowView:
    """The view of one row; `count_tokens` is asked only about rows that could pass `max_tokens`. Never raises."""
    tools = _TOOLS.get(tuple(example.tools), lambda: _view_tools(example.tools))
    deep = too_deep(list(example.messages), "messages") or tools.deep
    calls, sources = ((), ()) if deep else _calls(example)
    rendered, errors = (None, ()) if deep else _render(example, chat)
    return RowView(
        example=example,
        query="\n".join(_contents(example, ("user",))),
        calls=calls,
        sources=sources,
        tools=tools,
        now=_now("\n".join(_contents(example, ("developer", "system")))),
        rendered=rendered,
        errors=errors,
        repairs=tuple(map(_split, rendered.repairs)) if rendered else (),
        tokens=_count(rendered, count_tokens, max_tokens),
        max_tokens=max_tokens,
        deep=deep,
    )


def texts(value: Json, path: str) -> Iterator[tuple[str, str]]:
    """Every string in a value with its path, names of keys included, in order."""
    waiting: list[tuple[Json, str]] = [(value, path)]
    while waiting:
        item, where = waiting.pop()
        if isinstance(item, str):
            yield where, item
        elif isinstance(item, Mapping):
            yield from ((f"{where}.{key}", key) for key in item if not key.isascii())
            waiting += [(inner, f"{where}.{key}") for key, inner in reversed(list(item.items()))]
        elif isinstance(item, list):
            waiting += [(inner, f"{where}[{i}]") for i, inner in reversed(list(enumerate(item)))]


def too_deep(value: Json, path: str, deepest: int = DEEPEST) -> str:
    """The path of the first part nested more than `deepest` levels, arguments given as JSON text included; else ""."""
    waiting: list[tuple[Json, str, int]] = [(value, path, 0)]
    while waiting:
        item, where, level = waiting.pop()
        parsed = isinstance(item, str) and len(item) > deepest and where.endswith(_PARSED)
        if level > deepest or (parsed and _bracketed(item, deepest)):
            return _short(where)
        if isinstance(item, Mapping):
            waiting += [(inner, f"{where}.{key}", level + 1) for key, inner in item.items()]
        elif isinstance(item, list):
            waiting += [(inner, f"{where}[{i}]", level + 1) for i, inner in enumerate(item)]
    return ""


def _short(path: str) -> str:
    return path if len(path) <= 80 else f"{path[:80]}..."


def _bracketed(text: str, deepest: int) -> bool:
    """Whether a text that may be JSON opens more brackets than `deepest` before it closes them."""
    if text.lstrip()[:1] not in ("{", "[") or text.count("{") + text.count("[") <= deepest:
        return False
    level = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', text):
        level += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found.group(), 0)
        if level > deepest:
            return True
    return False


_TOOLS: MadeOnce[ToolsView] = MadeOnce()


def _view_tools(tools: Sequence[Schema]) -> ToolsView:
    deep = too_deep(list(tools), "tools")
    schemas: dict[str, Schema] = {}
    paths: dict[str, str] = {}
    for i, tool in enumerate(() if deep else tools):
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            continue
        if function["name"] not in schemas:
            schemas[function["name"]] = read_parameters(function.get("parameters"))
            paths[function["name"]] = f"tools[{i}].function" if "function" in tool else f"tools[{i}]"
    return ToolsView(schemas, paths, deep)


def read_parameters(value: Json) -> Schema:
    """A tool's parameters, parsed when they are a JSON text; {} when they are no object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _contents(example: Example, roles: Sequence[str]) -> Iterator[str]:
    for message in example.messages:
        if message.get("role") in roles:
            yield content_text(message.get("content"))


def content_text(content: Json) -> str:
    """The text of a message's content: itself, its text parts by lines, or JSON of what else it holds."""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
        parts = [part.get("text") for part in content]
        if all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def _calls(example: Example) -> tuple[tuple[tuple[str, Call], ...], tuple[str, ...]]:
    """The calls with the paths of their functions, and the text before each."""
    calls: list[tuple[str, Call]] = []
    sources: list[str] = []
    said: list[str] = []
    for i, message in enumerate(example.messages):
        said.append(content_text(message.get("content")))
        if message.get("role") != "assistant":
            continue
        raw = message.get("tool_calls")
        for j, item in enumerate(raw if isinstance(raw, list) else ()):
            where = f"messages[{i}].tool_calls[{j}]"
            for call in read_calls({"tool_calls": [item]}, f"messages[{i}]", Notes("")):
                calls.append((f"{where}.function" if "function" in item else where, call))
                sources.append("\n".join(said))
    return tuple(calls), tuple(sources)


def _now(text: str) -> datetime | None:
    """The one date that a developer's text gives, or the first that it calls the current one."""
    found = list(_NOW.finditer(ascii_digits(text)))
    if len({match.group() for match in found}) > 1:
        found = [m for m in found if _NOW_WORDS.search(text, max(0, m.start() - _BEFORE_NOW), m.start())]
    try:
        return datetime.fromisoformat(found[0].group().replace(" ", "T")) if found else None
    except ValueError:
        return None


def _render(example: Example, chat: ChatFormat) -> tuple[Rendered | None, tuple[Problem, ...]]:
    try:
        return chat.render(example.messages, example.tools), ()
    except InputError as error:
        return None, tuple(map(_split, _PROBLEM_START.split(str(error))))


def _split(problem: str) -> Problem:
    path, _, message = problem.partition(": ")
    return path, message


def _count(rendered: Rendered | None, count_tokens: Callable[[str], int] | None, max_tokens: int) -> int | None:
    """The row's tokens; a token stands for a byte or more, so that short rows need no counting."""
    if rendered is None or count_tokens is None or len(rendered.text) * 4 <= max_tokens:
        return None
    return count_tokens(rendered.text) if len(rendered.text.encode("utf-8", "replace")) > max_tokens else None
