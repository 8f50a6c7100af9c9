"""What a conversation starts with where nobody says it: tools, the developer's messages, commands to try, and answers
of tools to begin from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path

import dozan
from dozan.chat.format import Call, ChatFormat, Tool
from dozan.chat.gemma3 import GEMMA3
from dozan.errors import InputError
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_examples
from dozan.ship.serve_requests import TRIGGER

DEFAULT_TOOLS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "tools.json"
DEFAULT_ROWS = DEFAULT_TOOLS.with_name("dev.jsonl")
EXAMPLES, LOOKED_AT, DEPTH = 8, 400, 6
_RETURNS = ("response", "returns", "output_schema", "outputSchema")
_EMPTY: dict[str, Json] = {"string": "", "integer": 0, "number": 0, "boolean": True, "array": [], "object": {}}


@dataclass(frozen=True)
class Given:
    """opening: the developer's messages before a command, as text. examples: commands that the rows have."""

    tools: tuple[Tool, ...]
    opening: tuple[str, ...]
    examples: tuple[str, ...] = ()


def given_for(model: str | Path, tools: Path | None, chat: ChatFormat) -> Given:
    """From --tools, else from the rows of the run that `model` is, else the demo's phone tools. Raises InputError."""
    if chat == GEMMA3 and tools is None:
        return Given((), ())
    rows = next((path for name in ("heldout.jsonl", "train.jsonl") if (path := Path(model) / "data" / name).is_file()),
                None)  # fmt: skip
    if tools is not None:
        declared = read_tools(tools)
        return Given(declared, opening(bool(declared)))
    if rows is None:
        return Given(read_tools(DEFAULT_TOOLS), opening(True), commands(_read(DEFAULT_ROWS)))
    found = _read(rows)
    if not found:
        return Given((), ())
    before = [message for message in found[0].messages if message.get("role") in ("developer", "system")]
    texts = tuple(str(message.get("content") or "") for message in before)
    return Given(tuple(found[0].tools), texts, commands(found))


def _read(path: Path) -> list[Example]:
    return list(islice(read_examples(path), LOOKED_AT))


def commands(rows: Iterable[Example]) -> tuple[str, ...]:
    """What users say first in these rows: one for each function called, short ones, and one that calls nothing."""
    found: dict[str, str] = {}
    for row in rows:
        said = [str(message.get("content") or "") for message in row.messages if message.get("role") == "user"]
        last = row.messages[-1] if row.messages else {}
        calls = last.get("tool_calls") if isinstance(last, Mapping) else None
        names = [str(call.get("function", call).get("name")) for call in calls or () if isinstance(call, Mapping)]
        if said and len(said[0]) <= 60:
            found.setdefault("+".join(names), said[0])
    return tuple(found.values())[:EXAMPLES]


def opening(with_tools: bool, now: datetime | None = None) -> tuple[str, ...]:
    """The developer's messages before a command, as the embedded rows have them: the tools, then what time it is."""
    now = now or datetime.now()
    clock = f"Now is {now:%Y-%m-%dT%H:%M} {now:%A}"
    return (TRIGGER, clock) if with_tools else (clock,)


def stub(tool: Tool) -> Json:
    """An answer that the tool might give, to be filled in: of the schema that it says it returns, if it says one."""
    function = tool.get("function", tool)
    for key in _RETURNS:
        schema = function.get(key) if isinstance(function, Mapping) else None
        if isinstance(schema, Mapping) and schema:
            return sample(schema)
    return {"status": "ok"}


def sample(schema: Mapping[str, Json], depth: int = 0) -> Json:
    """The plainest value of a schema: its default, its example, the first of an enum, else an empty one of the type."""
    for key in ("const", "default", "example"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if isinstance(schema.get(key), list) and schema[key]:
            return schema[key][0]
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and depth < DEPTH:
        return {key: sample(value, depth + 1) for key, value in properties.items() if isinstance(value, Mapping)}
    items = schema.get("items")
    if str(kind).lower() == "array" and isinstance(items, Mapping) and items and depth < DEPTH:
        return [sample(items, depth + 1)]
    return json.loads(json.dumps(_EMPTY.get(str(kind).lower(), "")))


def answered(calls: Sequence[Call], answers: Sequence[Json]) -> list[dict[str, Json]]:
    """The messages of calls and of what their tools said, in order."""
    made = [{"type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    said = [{"role": "tool", "name": call.name, "content": answer} for call, answer in zip(calls, answers, strict=True)]
    return [{"role": "assistant", "content": None, "tool_calls": made}, *said]


def read_tools(path: Path) -> tuple[Mapping[str, Json], ...]:
    """Tool declarations from a JSON list. Raises InputError naming the file and the place."""
    tools = read_json_file(path, "--tools takes a JSON list of declarations")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise InputError(f'{path}: expected a JSON list like [{{"type": "function", "function": {{...}}}}]')
    return tuple(tools)


def read_answers(path: Path) -> dict[str, Json]:
    """What each tool answers, by name, from a JSON object. Raises InputError naming the file and the place."""
    answers = read_json_file(path, "--answers takes a JSON object of answers by tool")
    if not isinstance(answers, dict):
        raise InputError(f'{path}: expected a JSON object like {{"get_weather": {{"temperature": 21}}}}')
    return answers


def read_json_file(path: Path, what: str) -> Json:
    """The JSON in a file that a user names. Raises InputError."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; {what}")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error}); save it as JSON in UTF-8") from None
