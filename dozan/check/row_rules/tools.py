"""DZ321 to DZ349: tool declarations that can be written, but say something that cannot be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dozan.check.finding import Catalog, Rule
from dozan.check.row_rules.found import Found
from dozan.check.row_rules.memory import MadeByContent
from dozan.check.row_rules.patterns import pattern_problem
from dozan.check.row_rules.validators import plain_schema, validator_for
from dozan.check.view import RowView, read_parameters
from dozan.rows.example import Json
from dozan.rows.identity import MadeOnce

Schema = Mapping[str, Json]

REQUIRED_UNKNOWN = Rule(
    "DZ321",
    "required-unknown",
    "warning",
    "row",
    "required names a parameter that is not declared",
    "The prompt demands an argument that it does not describe.",
    "Declare it, or take it out of required.",
    True,
)
INVALID_SCHEMA = Rule(
    "DZ322",
    "invalid-schema",
    "warning",
    "row",
    "The parameters are no valid JSON Schema",
    "Calls cannot be checked against them.",
    "Correct the key that is named.",
)
UNDESCRIBED_TOOL = Rule(
    "DZ323",
    "undescribed-tool",
    "warning",
    "row",
    "A tool without a description",
    "The model has only its name to choose it by.",
    "Say in one sentence what the tool does.",
)
UNDESCRIBED_PARAMETER = Rule(
    "DZ324",
    "undescribed-parameter",
    "note",
    "row",
    "Parameters without a description",
    "The model has only their names to fill them by.",
    "Say what the parameter holds and in which form.",
)
BAD_PATTERN = Rule(
    "DZ325",
    "unusable-pattern",
    "warning",
    "row",
    "A pattern that cannot be run",
    "It does not compile, or can take exponential time in every program that checks calls.",
    "Write it without a repetition inside a repetition, or use an enum.",
)
ENUM_ODD = Rule(
    "DZ326",
    "odd-enum",
    "warning",
    "row",
    "An enum that is empty, repeats a value or belies its type",
    "The model cannot choose from it.",
    "List each value once, in the declared type.",
)
DEFAULT_OUTSIDE = Rule(
    "DZ327",
    "default-outside",
    "warning",
    "row",
    "A default that the schema itself refuses",
    "One of the two is wrong.",
    "Correct the default or the schema.",
)
CASE_ONLY = Rule(
    "DZ328",
    "names-differ-in-case",
    "warning",
    "row",
    "Two parameters whose names differ in case alone",
    "Runtimes sort and match them differently.",
    "Rename one.",
)
NO_PROPERTIES = Rule(
    "DZ329",
    "no-properties",
    "warning",
    "row",
    "Parameters given without properties",
    "What stands beside type is no declaration: the prompt shows a tool without parameters.",
    'Write {"type": "object", "properties": {...}}.',
)

RULES = Catalog([
    REQUIRED_UNKNOWN, INVALID_SCHEMA, UNDESCRIBED_TOOL, UNDESCRIBED_PARAMETER, BAD_PATTERN, ENUM_ODD, DEFAULT_OUTSIDE,
    CASE_ONLY, NO_PROPERTIES,
])  # fmt: skip

_LISTS: MadeOnce[tuple[Found, ...]] = MadeOnce()
_TOOLS: MadeByContent[tuple[Found, ...]] = MadeByContent()


def tool_findings(view: RowView) -> Iterator[Found]:
    """What is wrong with the row's tools; worked out once a tool."""
    if not view.tools.deep and view.example.tools:
        yield from _LISTS.get(tuple(view.example.tools), lambda: _of_list(view.example.tools))


def _of_list(tools: Sequence[Schema]) -> tuple[Found, ...]:
    found: list[Found] = []
    for i, tool in enumerate(tools):
        rules = _TOOLS.get(tool, lambda tool=tool: tuple(_of_tool(tool)))  # type: ignore[misc]
        found += [(rule, f"tools[{i}]{path}", message) for rule, path, message in rules]
    bare = [f"{name}.{parameter}" for name, parameter in _bare(tools)]
    if bare:
        found.append((UNDESCRIBED_PARAMETER, "tools", f"{len(bare)} without a description: {', '.join(bare[:4])} ..."))
    return tuple(found)


def _bare(tools: Sequence[Schema]) -> Iterator[tuple[str, str]]:
    """Tool and parameter of every parameter without a description."""
    for tool in tools:
        function = tool.get("function", tool)
        properties = (
            read_parameters(function.get("parameters")).get("properties") if isinstance(function, Mapping) else None
        )
        for name, item in properties.items() if isinstance(properties, Mapping) else ():
            if _undescribed(item):
                yield str(function.get("name", "")), name


def _of_tool(tool: Schema) -> Iterator[Found]:
    """Findings in one tool, with paths from the tool on."""
    function = tool.get("function", tool)
    start = ".function" if "function" in tool else ""
    if not isinstance(function, Mapping):
        return
    description = function.get("description")
    if not (isinstance(description, str) and description.strip()):
        yield UNDESCRIBED_TOOL, f"{start}.description", "missing; say what the tool does"
    schema = read_parameters(function.get("parameters"))
    problem = validator_for(schema).problem
    if problem:
        yield INVALID_SCHEMA, f"{start}.parameters", problem
    properties = schema.get("properties")
    if schema and not isinstance(properties, Mapping) and any(isinstance(item, Mapping) for item in schema.values()):
        yield NO_PROPERTIES, f"{start}.parameters", f"no properties, but {', '.join(list(schema)[:5])}"
    yield from _of_schema(schema, f"{start}.parameters")


def _undescribed(schema: Json) -> bool:
    description = schema.get("description") if isinstance(schema, Mapping) else None
    return not (isinstance(description, str) and description.strip())


def _of_schema(schema: Schema, path: str) -> Iterator[Found]:
    """Findings in a schema and all that it holds."""
    properties = schema.get("properties")
    names: Sequence[str] = list(properties) if isinstance(properties, Mapping) else []
    required = schema.get("required")
    for name in required if isinstance(required, list) and isinstance(properties, Mapping) else ():
        if isinstance(name, str) and name not in names:
            yield REQUIRED_UNKNOWN, f"{path}.required", f"names {name!r}, which is not declared"
    if len({name.lower() for name in names}) < len(names):
        yield CASE_ONLY, f"{path}.properties", f"of {', '.join(names[:12])}"
    pattern = schema.get("pattern")
    problem = pattern_problem(pattern) if isinstance(pattern, str) else None
    if problem:
        yield BAD_PATTERN, f"{path}.pattern", problem
    yield from _of_values(schema, path)
    for name in names:
        inner = properties[name] if isinstance(properties, Mapping) else None
        if isinstance(inner, Mapping):
            yield from _of_schema(inner, f"{path}.properties.{name}")
    items = schema.get("items")
    if isinstance(items, Mapping):
        yield from _of_schema(items, f"{path}.items")


def _of_values(schema: Schema, path: str) -> Iterator[Found]:
    """An enum and a default against the rest of their schema."""
    enum = schema.get("enum")
    if isinstance(enum, list):
        shown = [repr(value) for value in enum]
        odd = "empty" if not enum else "repeats a value" if len(set(shown)) < len(shown) else ""
        plain = {key: value for key, value in schema.items() if key in ("type", "nullable")}
        check = validator_for(plain).validator
        if not odd and check is not None and not all(value is None or check.is_valid(value) for value in enum):
            odd = f"holds values that are no {plain.get('type')}"
        if odd:
            yield ENUM_ODD, f"{path}.enum", odd
    default = schema.get("default")
    if default is not None:
        check = validator_for(plain_schema(schema)).validator
        if check is not None and not check.is_valid(default):
            yield DEFAULT_OUTSIDE, f"{path}.default", f"{default!r:.60} does not fit the schema"
