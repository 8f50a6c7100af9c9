"""Repairs of tool declarations: texts, nulls, types, and parameter names that chat templates lose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dozan.chat.schema import declared_name
from dozan.check.fixes.repair import Log, Repair
from dozan.check.fixes.texts import fix_texts
from dozan.rows.example import Json
from dozan.rows.json_text import JsonText

Schema = Mapping[str, Json]
_SPELLINGS = {
    "str": "string", "int": "integer", "long": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object",
}  # fmt: skip
_STANDARD = {"string", "integer", "number", "boolean", "array", "object"}
_MAY_BE_NULL = ("default", "const")
_UNIONS = ("anyOf", "oneOf", "allOf")
_JSON_TYPES = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array"))


@dataclass(frozen=True)
class FixedTool:
    """A repaired declaration; paths of the repairs go on from the tool's.

    renames: old names by the path of the new one. guessed: paths of arguments whose type was taken to be a string
    because nothing in the schema tells it.
    """

    tool: Schema
    repairs: tuple[Repair, ...]
    renames: Mapping[str, str]
    guessed: frozenset[str]


def fix_tool(tool: Schema, log: Log, typeless: frozenset[str] = frozenset()) -> FixedTool:
    """The repaired declaration; arguments at the paths of `typeless` are given no guessed type."""
    fixed = _wrapped(tool, log)
    function = fixed.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return FixedTool(tool, (), {}, frozenset())
    start = ".function" if "function" in tool else ""
    parameters = function.get("parameters")
    if isinstance(parameters, str) and log.wants("DZ311"):
        value, problems = JsonText().parse(parameters)
        if isinstance(value, Mapping) and not problems:
            log.add("DZ311", f"{start}.parameters", parameters, value)
            function = {**function, "parameters": value}
    in_text = isinstance(function.get("parameters"), str)
    rest = {key: value for key, value in function.items() if not (in_text and key == "parameters")}
    function = {**function, **fix_texts(rest, start, "schema", log)}
    reader = _Schemas(log, typeless)
    schema = function.get("parameters")
    if isinstance(schema, Mapping) and schema:
        function = {**function, "parameters": reader.fixed(schema, f"{start}.parameters", "", True)}
    fixed = tool if not log.repairs else {**fixed, "function": function}
    return FixedTool(fixed, tuple(log.repairs), reader.renames, frozenset(reader.guessed))


def _wrapped(tool: Schema, log: Log) -> Schema:
    if "function" in tool or not isinstance(tool.get("name"), str) or not log.wants("DZ313"):
        return tool
    wrapped = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    log.add("DZ313", "", tool, wrapped)
    return wrapped


class _Schemas:
    """Repairs the schemas of one tool. `at` is the path of a schema's arguments, with the names that are written."""

    def __init__(self, log: Log, typeless: frozenset[str]) -> None:
        self.log = log
        self.typeless = typeless
        self.renames: dict[str, str] = {}
        self.guessed: set[str] = set()

    def fixed(self, schema: Schema, path: str, at: str, root: bool = False) -> dict[str, Json]:
        """The schema repaired, and all that it holds."""
        found = self._merged(self._without_nulls(schema, path), path)
        found = self._typed(found, path, at, root)
        if isinstance(found.get("properties"), Mapping):
            found = self._with_properties(found, path, at)
        if isinstance(found.get("items"), Mapping):
            found["items"] = self.fixed(found["items"], f"{path}.items", f"{at}[]")
        return found

    def _without_nulls(self, schema: Schema, path: str) -> dict[str, Json]:
        if not self.log.wants("DZ209"):
            return dict(schema)
        kept = {key: value for key, value in schema.items() if value is not None or key in _MAY_BE_NULL}
        for key in sorted(schema.keys() - kept.keys()):
            self.log.add("DZ209", f"{path}.{key}", None, None)
        return kept

    def _merged(self, schema: dict[str, Json], path: str) -> dict[str, Json]:
        """A union of one schema (and null) merged into its parent, and a list of one type (and null) as that type."""
        if not self.log.wants("DZ304"):
            return schema
        for key in _UNIONS:
            options = schema.get(key)
            if isinstance(options, list) and options and all(isinstance(option, Mapping) for option in options):
                real = [option for option in options if option.get("type") != "null"]
                if len(real) == 1:
                    merged = {**real[0], **{name: value for name, value in schema.items() if name != key}}
                    self.log.add("DZ304", f"{path}.{key}", options, real[0])
                    schema = merged
        kinds = schema.get("type")
        if isinstance(kinds, list):
            real_kinds = [kind for kind in kinds if kind != "null"]
            if len(real_kinds) == 1 and isinstance(real_kinds[0], str):
                self.log.add("DZ304", f"{path}.type", kinds, real_kinds[0])
                schema = {**schema, "type": real_kinds[0]}
                if isinstance(schema.get("enum"), list) and None in schema["enum"]:
                    schema["enum"] = [value for value in schema["enum"] if value is not None]
        return schema

    def _typed(self, schema: dict[str, Json], path: str, at: str, root: bool) -> dict[str, Json]:
        kind = schema.get("type")
        if isinstance(kind, str) and kind and kind not in _STANDARD and not kind.isupper():
            plain = _SPELLINGS.get(kind.lower(), kind.lower())
            if plain in _STANDARD and self.log.wants("DZ306"):
                self.log.add("DZ306", f"{path}.type", kind, plain)
                return {**schema, "type": plain}
        if kind in (None, "") and self.log.wants("DZ303") and not any(key in schema for key in (*_UNIONS, "$ref")):
            found = "object" if root and "properties" in schema else None if root else _evident_type(schema)
            if found is None and not root and at not in self.typeless:
                self.guessed.add(at)
                found = "string"
            if found is not None:
                self.log.add("DZ303", f"{path}.type", kind, found)
                return {"type": found, **{key: value for key, value in schema.items() if key != "type"}}
        return schema

    def _with_properties(self, schema: dict[str, Json], path: str, at: str) -> dict[str, Json]:
        """The properties repaired, nulls left out, lost names changed; `required` follows."""
        given = schema["properties"]
        properties: dict[str, Json] = {}
        names: dict[str, str] = {}
        for name, value in given.items():
            where = f"{path}.properties.{name}"
            if value is None and self.log.wants("DZ209"):
                self.log.add("DZ209", where, None, None)
                continue
            new = self._new_name(name, given, where)
            here = f"{at}.{new}" if at else new
            if new != name:
                names[name] = new
                self.renames[here] = name
            properties[new] = self.fixed(value, where, here) if isinstance(value, Mapping) else value
        schema = {**schema, "properties": properties}
        required = schema.get("required")
        if isinstance(required, list):
            schema["required"] = self._required(required, names, given, path)
        return schema

    def _new_name(self, name: str, properties: Mapping[str, Json], path: str) -> str:
        if declared_name(name) == name or not self.log.wants("DZ301"):
            return name
        new = f"{name.rstrip('_')}_value"
        while new in properties:
            new += "_"
        self.log.add("DZ301", path, name, new)
        return new

    def _required(self, required: list[Json], names: Mapping[str, str], given: Schema, path: str) -> list[Json]:
        """The required names as they are now, without those that may be null: leaving them out says the same."""
        kept: list[Json] = []
        for name in required:
            if isinstance(name, str) and self.log.wants("DZ304") and _may_be_null(given.get(name)):
                self.log.add("DZ304", f"{path}.required", name, None)
            elif isinstance(name, str) and self.log.wants("DZ321") and name not in given:
                self.log.add("DZ321", f"{path}.required", name, None)
            else:
                kept.append(names.get(name, name) if isinstance(name, str) else name)
        return kept


def _may_be_null(schema: Json) -> bool:
    """Whether a schema is a union of null and one other type, which `_merged` makes that type alone."""
    if not isinstance(schema, Mapping):
        return False
    kinds = schema.get("type")
    if isinstance(kinds, list):
        return "null" in kinds and len(set(map(str, kinds))) == 2
    return any(
        isinstance(options := schema.get(key), list) and len(options) == 2 and {"type": "null"} in options
        for key in ("anyOf", "oneOf")
    )


def _evident_type(schema: Schema) -> str | None:
    """The type that the rest of a schema tells, or None."""
    if "properties" in schema:
        return "object"
    if "items" in schema:
        return "array"
    enum = schema.get("enum")
    values = enum if isinstance(enum, list) and enum else [schema["default"]] if "default" in schema else []
    found = {next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "") for value in values}
    return (found.pop() or None) if len(found) == 1 else None


def argument_paths(value: Json, path: str = "") -> Iterator[tuple[str, Json]]:
    """Every value in the arguments of a call that is no object, with its path; `[]` stands for any item."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from argument_paths(item, f"{path}.{key}" if path else key)
        return
    yield path, value
    for item in value if isinstance(value, list) else ():
        yield from argument_paths(item, f"{path}[]")
