"""What is wrong with rows before they are trained on: errors make training refuse, warnings are counted.

An error is what cannot be rendered, or what teaches something false about the tools: a call to one that the row does
not declare. Values that disagree with their schema are warnings: published sets are full of them.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dozan.chat.format import Call, ChatFormat
from dozan.chat.messages import Notes, read_calls
from dozan.errors import InputError
from dozan.rows.arabic import encoding_damage, has_bidi_override, has_invisible
from dozan.rows.example import Example, Json
from dozan.rows.identity import MadeOnce

Severity = Literal["error", "warning"]
Schema = Mapping[str, Json]
_SHOWN = 20
_SUPPORTED = re.compile(r"Supported values: ([^)]*)\)")
_KINDS: dict[str, Callable[[Json], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
}


@dataclass(frozen=True)
class Finding:
    """One thing wrong in one row: where, which rule, what, and whether it stops training."""

    place: str
    field: str
    rule: str
    message: str
    severity: Severity

    def __str__(self) -> str:
        return f"{self.place}: {self.field}: {self.message} [{self.rule}]"


def check_rows(examples: Sequence[Example], chat: ChatFormat) -> list[Finding]:
    """All findings, in the order of the rows."""
    return [finding for example in examples for finding in check_row(example, chat)]


def check_row(example: Example, chat: ChatFormat) -> list[Finding]:
    """All findings in one row."""
    place = example.place or example.id
    found = [
        *_unrenderable(example, chat),
        *_unanswered(example),
        *_damaged_text(example),
        *_call_findings(example),
    ]
    return [Finding(place, *finding) for finding in found]


def refuse_errors(findings: Sequence[Finding]) -> None:
    """Raises InputError with the first errors and a count of the others; warnings pass."""
    errors = [str(finding) for finding in findings if finding.severity == "error"]
    if errors:
        more = f"\n... and {len(errors) - _SHOWN} more" if len(errors) > _SHOWN else ""
        raise InputError("\n".join(errors[:_SHOWN]) + more)


def count_rules(findings: Sequence[Finding], severity: Severity = "warning") -> dict[str, int]:
    """How often each rule of that severity was broken, most often first."""
    return dict(Counter(finding.rule for finding in findings if finding.severity == severity).most_common())


_Found = tuple[str, str, str, Severity]


def _unrenderable(example: Example, chat: ChatFormat) -> Iterator[_Found]:
    """What the chat format refuses (errors) or changes (warnings)."""
    try:
        rendered = chat.render(example.messages, example.tools)
    except InputError as error:
        for line in str(error).split("\n"):
            field, _, message = line.partition(": ")
            yield field, "unrenderable", message, "error"
        return
    for repair in rendered.repairs:
        field, _, message = repair.partition(": ")
        yield field, "repaired", message, "warning"


def _unanswered(example: Example) -> Iterator[_Found]:
    if not any(message.get("role") == "assistant" for message in example.messages):
        yield "messages", "no-answer", "no assistant message; add the answer to train on", "error"


def _damaged_text(example: Example) -> Iterator[_Found]:
    """Misread encodings and characters that hide or turn text, in messages and tools."""
    for i, value in enumerate(example.messages):
        for field, text in _texts(value, f"messages[{i}]"):
            yield from _text_findings(field, text)
    yield from _TOOL_TEXTS.get(tuple(example.tools), lambda: list(_damaged_tools(example.tools)))


_TOOL_TEXTS: MadeOnce[list[_Found]] = MadeOnce()


def _damaged_tools(tools: Sequence[Mapping[str, Json]]) -> Iterator[_Found]:
    for i, value in enumerate(tools):
        for field, text in _texts(value, f"tools[{i}]"):
            yield from _text_findings(field, text)


def _text_findings(field: str, text: str) -> Iterator[_Found]:
    if text.isascii() and "\\u06" not in text and "\x00" not in text:
        return
    damage = encoding_damage(text)
    if damage:
        yield field, "encoding", f"{damage}: {text[:40]!r}; read the source again in its own encoding", "error"
    if has_bidi_override(text):
        yield field, "bidi-override", "U+202D or U+202E turns the reading order and hides text; take it out", "error"
    elif has_invisible(text):
        yield field, "invisible", "holds bidi controls or zero-width characters", "warning"


def _texts(value: Json, field: str) -> Iterator[tuple[str, str]]:
    """Every string in a value, with its field; names of properties and arguments too."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{field}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _texts(item, f"{field}[{i}]")


def _call_findings(example: Example) -> Iterator[_Found]:
    """Calls against the schemas of the row's tools."""
    schemas = dict(_schemas(example.tools))
    for i, message in enumerate(example.messages):
        if message.get("role") != "assistant":
            continue
        for j, call in enumerate(read_calls(message, f"messages[{i}]", Notes(""))):
            field = f"messages[{i}].tool_calls[{j}].function"
            if call.name in schemas:
                yield from _object_findings(call.arguments, schemas[call.name], f"{field}.arguments")
            else:
                yield f"{field}.name", "unknown-tool", _unknown_tool(call, list(schemas)), "error"


def _schemas(tools: Sequence[Schema]) -> Iterator[tuple[str, Schema]]:
    """The name and parameters of each tool that has them."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(function.get("name"), str):
            parameters = function.get("parameters")
            yield function["name"], parameters if isinstance(parameters, Mapping) else {}


def _unknown_tool(call: Call, names: Sequence[str]) -> str:
    if not names:
        return f"calls {call.name!r}, but the row has no tools; add them"
    near = difflib.get_close_matches(call.name, names, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"its tools are {', '.join(names[:8])}"
    return f"calls {call.name!r}, which is none of the row's tools; {hint}"


def _object_findings(value: Mapping[str, Json], schema: Schema, field: str) -> Iterator[_Found]:
    """Missing and unknown keys of an object, and its values against theirs."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return
    required = schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in value:
            yield f"{field}.{name}", "missing-argument", "required by the schema, but not given", "warning"
    for name, item in value.items():
        known = properties.get(name)
        if isinstance(known, Mapping):
            yield from _value_findings(item, known, f"{field}.{name}")
        else:
            near = difflib.get_close_matches(name, list(properties), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            yield f"{field}.{name}", "unknown-argument", f"not in the schema{hint}", "warning"


def _value_findings(value: Json, schema: Schema, field: str) -> Iterator[_Found]:
    """A value's type and enum, and those of what it holds."""
    kinds = _kinds(schema)
    if kinds and not any(_KINDS[kind](value) for kind in kinds):
        yield field, "wrong-type", f"{value!r:.60} is no {' or '.join(kinds)}", "warning"
        return
    allowed = _allowed(schema)
    if allowed and not isinstance(value, list | Mapping) and value not in allowed:
        near = difflib.get_close_matches(str(value), list(map(str, allowed)), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(map(str, allowed[:8]))}"
        yield field, "outside-enum", f"{value!r:.60} is none of the schema's values; {hint}", "warning"
    if isinstance(value, Mapping):
        yield from _object_findings(value, schema, field)
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, Mapping):
        for i, item in enumerate(value):
            yield from _value_findings(item, items, f"{field}[{i}]")


def _kinds(schema: Schema) -> list[str]:
    """The JSON types that a schema names; none when it names another or leaves it open."""
    given = schema.get("type")
    names = [str(kind).lower() for kind in (given if isinstance(given, list) else [given]) if kind is not None]
    names = [name for name in names if name != "null"]
    return names if all(name in _KINDS for name in names) else []


def _allowed(schema: Schema) -> list[Json]:
    """The values that a schema allows: its enum, or the "Supported values: ..." of its description."""
    enum = schema.get("enum")
    if isinstance(enum, list):
        return enum
    description = schema.get("description")
    found = _SUPPORTED.search(description) if isinstance(description, str) else None
    return [value.strip() for value in found.group(1).split(",")] if found else []


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
