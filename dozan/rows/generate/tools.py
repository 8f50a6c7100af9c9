"""The tools that rows are made for: their arguments, which are required, and what fits each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.shapes.chat import read_tools
from dozan.rows.shapes.shape import Options, ShapeError
from dozan.rows.shapes.tools import declared

_PYTHON = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,),
           "object": (dict,)}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A tool: the schema of each argument by name, and the arguments that are required."""

    name: str
    arguments: Mapping[str, Mapping[str, Json]]
    required: tuple[str, ...]


def read_tools_file(path: Path) -> tuple[list[Mapping[str, Json]], dict[str, Tool]]:
    """The declarations as rows carry them, and the tools by name. Raises InputError naming every tool that is no tool.

    The file is a JSON array or has one tool a line; a function without `{"type": "function"}` around it will do.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a JSON array of tools")
    try:
        written: list[Mapping[str, Json]] = [*declared(list(read_tools(path.name, Options(file=path))))]
    except ShapeError as error:
        raise InputError(str(error.message)) from None
    problems: list[str] = []
    tools: dict[str, Tool] = {}
    for i, item in enumerate(written):
        tool = _tool(item.get("function"))
        if isinstance(tool, str):
            problems.append(f"{path}: [{i}]: {tool}")
        elif tool.name in tools:
            problems.append(f"{path}: [{i}]: a second tool {tool.name!r}; give each its own name")
        else:
            tools[tool.name] = tool
    if not written:
        problems.append(f"{path}: no tools; give a JSON array of them")
    if problems:
        raise InputError("\n".join(problems))
    return written, tools


def misfit(value: Json, schema: Mapping[str, Json]) -> str:
    """Why a value does not fit an argument: its type, or its enum; "" when it does."""
    kind = type_of(schema)
    wanted = _PYTHON.get(kind)
    if wanted and (not isinstance(value, wanted) or isinstance(value, bool) and kind != "boolean"):
        quoted = "; put it in quotes" if kind == "string" and isinstance(value, bool | int | float) else ""
        return f"{value!r:.60} is no {kind}{quoted}"
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        listed = ", ".join(map(str, allowed[:12]))
        given = f"{value!r:.60} is not in the enum ({listed})"
        return f"{given}; write the words and what they mean, as - {value}: {allowed[0] if allowed else ''}"
    return ""


def type_of(schema: Mapping[str, Json]) -> str:
    """The argument's type in lower case; of several the first that is not null, "" without one."""
    kind = schema.get("type")
    names = [str(name).lower() for name in (kind if isinstance(kind, list) else [kind]) if name is not None]
    return next((name for name in names if name != "null"), "")


def _tool(function: Json) -> Tool | str:
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return 'no function with a name; write {"type": "function", "function": {"name": ...}}'
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {} if isinstance(parameters, Mapping) else None
    if not isinstance(properties, Mapping) or not all(isinstance(item, Mapping) for item in properties.values()):
        return f'the parameters of {function["name"]} are no schema; write {{"type": "object", "properties": {{...}}}}'
    required = parameters.get("required") or ()
    return Tool(function["name"], properties, tuple(name for name in required if name in properties))
