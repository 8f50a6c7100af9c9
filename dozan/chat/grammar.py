"""The language of well-formed answers to a tool list: what a generation may be, as rules of no one's notation.

`answer_grammar` reads the schemas; `grammar_text` writes the rules for llguidance (Lark) and llama.cpp (GBNF), so both
say the same. Exact are control tokens, function names, keys, types, enums, required keys, dates of a told form, and
`minItems`, `maxItems`. Keys come in the order and under the names of training (`data.target`), each once. Strings
are free, but that no control token is spelt out in them. Bounds of numbers, lengths and regular expressions (`pattern`)
are not enforced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dozan.chat.arranged import arrangement_of
from dozan.chat.format import ChatFormat, Rendered, Tool, Writer
from dozan.chat.functiongemma import FUNCTIONGEMMA, write_value
from dozan.chat.grammar_patterns import PATTERNS, written_form
from dozan.chat.grammar_rules import Choice, Control, Literal, Node, Repeat, Rule, Series, optional, series
from dozan.chat.messages import Notes
from dozan.chat.schema import Declaration, merge_union, read_tools, schema_type, written_arguments
from dozan.chat.tokens import END_CALL, ESCAPE, START_CALL
from dozan.errors import InputError
from dozan.recipe import Runtime
from dozan.rows.example import Example, Json
from dozan.rows.identity import MadeOnce

_CLOSED_IN = {"text": 1, "key": 1, "integer": 2, "number": 3}
_ANY_DEPTH = 3
_SHOWN = 20
_UNIONS = ("anyOf", "oneOf", "allOf")


@dataclass(frozen=True)
class Grammar:
    """Rules by name, from `start`; `patterns` are the regular ones, characters only. Two grammars are one if equal."""

    start: str
    rules: Mapping[str, Node]
    patterns: Mapping[str, Node]

    def ending(self, count: Callable[[str], int]) -> int:
        """At most how many tokens an answer needs from any point to its end when it is brought to one: at each point
        what closes is taken if it may be. `count` gives a literal's tokens."""
        return _cost(Rule(self.start), self, count, {})


def answer_grammar(tools: Sequence[Tool], chat: ChatFormat, must_call: bool = False) -> Grammar:
    """The grammar of one model turn: text and calls of these tools, several in parallel; with `must_call` calls alone.

    The stop token is not part of it. Raises InputError for declarations that cannot be read, a format without calls,
    and schemas that no value satisfies, each by its field.
    """
    if chat.name != FUNCTIONGEMMA.name:
        raise InputError(f"the chat format {chat.name} has no calls, so no grammar; leave the grammar out, or give a "
                         f"model whose format is {FUNCTIONGEMMA.name}")  # fmt: skip
    keys = _KEYS[arrangement_of(chat).target]
    return _MADE[keys, must_call].get(tuple(tools), lambda: _Builder(keys).build(tools, must_call))


def row_grammars(rows: Sequence[Example], chat: ChatFormat, must_call: bool = False) -> list[Grammar]:
    """Each row's grammar; rows with one tool list share theirs. Raises one InputError that names the first rows."""
    found: list[Grammar] = []
    errors: list[str] = []
    for row in rows:
        try:
            found.append(answer_grammar(row.tools, chat, must_call))
        except InputError as error:
            errors.append(f"{row.place or row.id}: {error}")
    if errors:
        raise InputError(
            f"{len(errors)} of {len(rows)} rows have tools without a grammar:\n" + "\n".join(errors[:_SHOWN])
        )
    return found


@dataclass(frozen=True)
class _Keys:
    """How a runtime writes keys: under names that the template does not lose, or as given; sorted by code point, or
    without regard to case."""

    renamed: bool = True
    by_code_point: bool = False

    def sorts(self, name: str) -> str:
        return name if self.by_code_point else name.lower()


_KEYS: dict[Runtime, _Keys] = {
    "transformers": _Keys(), "ollama": _Keys(False, True), "llama.cpp": _Keys(True, True), "litert-lm": _Keys(False)
}  # fmt: skip
_MADE: dict[tuple[_Keys, bool], MadeOnce[Grammar]] = {
    (keys, must_call): MadeOnce() for keys in _KEYS.values() for must_call in (False, True)
}


@dataclass(frozen=True)
class _Key:
    """A key as it is written, whether it must be there, and the form of its value."""

    name: str
    required: bool
    value: Node


@dataclass
class _Builder:
    """Collects rules and what cannot be satisfied."""

    keys: _Keys = _Keys()
    rules: dict[str, Node] = field(default_factory=dict)
    notes: Notes = field(default_factory=lambda: Notes(""))

    def build(self, tools: Sequence[Tool], must_call: bool) -> Grammar:
        declarations = read_tools(tools, self.notes)
        self.notes.raise_errors()
        calls: list[Node] = [
            Rule(self._rule(f"call {i + 1} {found.name}", self._call(tool, found, f"tools[{i}].function")))
            for i, (tool, found) in enumerate(zip(tools, declarations, strict=True))
        ]
        if must_call and not calls:
            self.notes.error("tools", "there is none to call; give at least one, or allow an answer without a call")
        self.notes.raise_errors()
        text = Rule("text")
        if calls:
            self.rules["call"] = Series(
                (Control(START_CALL), Literal("call:"), Choice(tuple(calls)), Control(END_CALL))
            )
            some = Repeat(Rule("call"), 1, None)
            self.rules["answer"] = some if must_call else Choice((text, Series((optional(text), some))))
        else:
            self.rules["answer"] = text
        used = _used(self.rules.values())
        return Grammar("answer", self.rules, {name: node for name, node in PATTERNS.items() if name in used})

    def _rule(self, name: str, node: Node) -> str:
        """Adds a rule, under a name made of letters that every notation takes."""
        plain = re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")
        while plain in self.rules or plain in PATTERNS:
            plain += "_x"
        self.rules[plain] = node
        return plain

    def _call(self, tool: Tool, declaration: Declaration, where: str) -> Node:
        function = tool.get("function") or tool
        raw = function.get("parameters") or {}
        raw = json.loads(raw) if isinstance(raw, str) else raw
        keys = self._keys(raw, declaration.parameters or {}, f"{where}.parameters", declaration.name)
        return series(Literal(f"{declaration.name}{{"), self._object(keys, declaration.name), Literal("}"))

    def _keys(self, raw: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> list[_Key]:
        """The keys of an object in the order in which they are written."""
        properties = {key: schema for key, schema in (raw.get("properties") or {}).items() if schema is not None}
        required = raw.get("required") or []
        for key in (key for key in required if key not in properties):
            self.notes.error(f"{where}.required", f"names {key!r}, which is no property: no call could satisfy it; "
                             f"add the property or take the name out")  # fmt: skip
        keys: list[_Key] = []
        for key, schema in properties.items():
            (written,) = written_arguments({key: 0}, cleaned)
            child = (cleaned.get("properties") or {}).get(written) or {}
            written = written if self.keys.renamed else key
            plain = merge_union({k: v for k, v in schema.items() if v is not None}, where, Notes(""))
            if _only_null(plain):
                continue
            value = self._value(plain, child, f"{where}.properties.{key}", f"{name} {key}")
            keys.append(_Key(written, key in required and not _may_be_null(schema), value))
        return sorted(keys, key=lambda key: self.keys.sorts(key.name))

    def _object(self, keys: Sequence[_Key], name: str) -> Node:
        """What stands between the braces: the keys in order, those not required left out or not."""
        tails: list[Node] = [Series(())]
        for key in reversed(keys):
            entry = Series((Literal(f",{key.name}:"), key.value))
            rest = series(entry if key.required else optional(entry), tails[-1])
            tails.append(Rule(self._rule(f"{name} after {key.name}", rest)))
        tails.reverse()
        options: list[Node] = []
        for i, key in enumerate(keys):
            options.append(series(Literal(f"{key.name}:"), key.value, tails[i + 1]))
            if key.required:
                return Choice(tuple(options))
        return optional(Choice(tuple(options))) if options else Series(())

    def _value(self, schema: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> Node:
        """A value of a schema (unions of one merged) as a rule of its own."""
        return Rule(self._rule(name, self._form(schema, cleaned, where, name)))

    def _form(self, schema: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> Node:
        values = [schema["const"]] if "const" in schema else schema.get("enum")
        kinds = _kinds(schema, where)
        if isinstance(values, list):
            return self._one_of(values, kinds, where)
        for key in _UNIONS:
            options = schema.get(key)
            if isinstance(options, list) and options and all(isinstance(option, Mapping) for option in options):
                rest = {k: v for k, v in schema.items() if k != key}
                if key == "allOf":
                    return self._form({**rest, **{k: v for o in options for k, v in o.items()}}, cleaned, where, name)
                real = [{**rest, **option} for option in options if not _only_null(option)]
                return Choice(tuple(self._value(option, cleaned, f"{where}.{key}", name) for option in real))
        return Choice(tuple(self._kind(kind, schema, cleaned, where, name) for kind in kinds))

    def _one_of(self, values: list[Json], kinds: Sequence[str], where: str) -> Node:
        fitting = [value for value in values if value is not None and any(_is_kind(value, kind) for kind in kinds)]
        if not fitting:
            listed = json.dumps(values, ensure_ascii=False)
            self.notes.error(f"{where}.enum", f"{listed} holds no value of the type {' or '.join(kinds)}: no call "
                             "could satisfy it; correct the type or the values")  # fmt: skip
            return Series(())
        return Choice(tuple(_written(value) for value in fitting))

    def _kind(self, kind: str, schema: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> Node:
        match kind:
            case "STRING":
                form = written_form(schema)
                inside = optional(Rule("text")) if form is None else Rule(form)
                return Series((Control(ESCAPE), inside, Control(ESCAPE)))
            case "INTEGER" | "NUMBER":
                return Rule(kind.lower())
            case "BOOLEAN":
                return Choice((Literal("true"), Literal("false")))
            case "ARRAY":
                return self._list(schema, cleaned, where, name)
        return self._nested(schema, cleaned, where, name)

    def _list(self, schema: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> Node:
        items = schema.get("items")
        if isinstance(items, Mapping) and items:
            plain = merge_union({k: v for k, v in items.items() if v is not None}, where, Notes(""))
            item = self._value(plain, cleaned.get("items") or {}, f"{where}.items", f"{name} item")
        else:
            item = self._any(_ANY_DEPTH)
        least, most = _count(schema.get("minItems")) or 0, _count(schema.get("maxItems"))
        if most is not None and least > most:
            self.notes.error(where, f"minItems {least} is more than maxItems {most}: no call could satisfy it")
        return _listed(item, least, most)

    def _nested(self, schema: Mapping[str, Json], cleaned: Mapping[str, Json], where: str, name: str) -> Node:
        more = schema.get("additionalProperties")
        if schema.get("properties") or more is False:
            inside = self._object(self._keys(schema, cleaned, where, name), name)
        elif isinstance(more, Mapping) and more:
            inside = _entries(self._value(more, {}, f"{where}.additionalProperties", f"{name} value"))
        else:
            inside = _entries(self._any(_ANY_DEPTH))
        return series(Literal("{"), inside, Literal("}"))

    def _any(self, depth: int) -> Node:
        """Any value, with lists and objects in each other at most so deep."""
        name = f"any_{depth}"
        if name not in self.rules:
            string = Series((Control(ESCAPE), optional(Rule("text")), Control(ESCAPE)))
            options: list[Node] = [string, Rule("number"), Literal("true"), Literal("false")]
            if depth:
                inner = self._any(depth - 1)
                options += [_listed(inner, 0, None), Series((Literal("{"), _entries(inner), Literal("}")))]
            self.rules[name] = Choice(tuple(options))
        return Rule(name)


def _listed(item: Node, least: int, most: int | None) -> Node:
    """`[item,item]` with so many items."""
    if most == 0:
        return Literal("[]")
    more = Repeat(Series((Literal(","), item)), max(0, least - 1), None if most is None else most - 1)
    some = Series((item, more))
    return Series((Literal("["), some if least else optional(some), Literal("]")))


def _entries(value: Node) -> Node:
    """Any keys with values of one form. That a key comes once is beyond a grammar of this kind."""
    entry = Series((Rule("key"), Literal(":"), value))
    return optional(Series((entry, Repeat(Series((Literal(","), entry)), 0, None))))


def _written(value: Json) -> Node:
    """A fixed value as the format writes it."""
    writer = Writer()
    write_value(writer, value)
    return _nodes(writer.rendered(()))


def _nodes(rendered: Rendered) -> Node:
    parts: list[Node] = []
    at = 0
    for start, end in (*rendered.controls, (len(rendered.text), len(rendered.text))):
        parts += [Literal(rendered.text[at:start])] if start > at else []
        parts += [Control(rendered.text[start:end])] if end > start else []
        at = end
    return Series(tuple(parts))


def _kinds(schema: Mapping[str, Json], where: str) -> list[str]:
    """The types in capitals that a value may have; null, which is never written, apart."""
    given = schema.get("type")
    if isinstance(given, list):
        named = [kind for kind in given if kind not in ("null", None)]
        return [schema_type({**schema, "type": kind}, where, Notes("")) for kind in named or ["string"]]
    if given is None and isinstance(schema.get("enum"), list):
        return ["STRING", "INTEGER", "NUMBER", "BOOLEAN", "ARRAY", "OBJECT"]
    return [schema_type(schema, where, Notes(""))]


def _is_kind(value: Json, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "BOOLEAN"
    if isinstance(value, int):
        return kind in ("INTEGER", "NUMBER")
    known = {"STRING": str, "NUMBER": float, "ARRAY": list, "OBJECT": Mapping}
    return kind in known and isinstance(value, known[kind])


def _only_null(schema: Mapping[str, Json]) -> bool:
    return str(schema.get("type")).lower() == "null" or schema.get("type") == ["null"]


def _may_be_null(schema: Mapping[str, Json]) -> bool:
    """A null is written by leaving the key out, so such a key is never required."""
    given = schema.get("type")
    union = [option for key in ("anyOf", "oneOf") for option in schema.get(key) or () if isinstance(option, Mapping)]
    return (
        (isinstance(given, list) and "null" in given)
        or schema.get("nullable") is True
        or None in (schema.get("enum") or ())
        or any(_only_null(option) for option in union)
    )


def _count(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _used(nodes: Iterable[Node]) -> set[str]:
    """The names of the rules that nodes refer to."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        match node:
            case Rule(name):
                found.add(name)
            case Series(parts) | Choice(parts):
                waiting += parts
            case Repeat(part):
                waiting.append(part)
    return found


def _cost(node: Node, grammar: Grammar, count: Callable[[str], int], known: dict[str, int]) -> int:
    """Tokens of the longest way through a node that takes each repetition once, or as often as it must, and a string
    where one may stand: `<escape>` is among what closes."""
    match node:
        case Literal(text):
            return count(text)
        case Rule(name):
            if name not in known:
                inside = {**grammar.rules, **grammar.patterns}[name]
                known[name] = _CLOSED_IN.get(name) or _cost(inside, grammar, count, known)
            return known[name]
        case Series(parts):
            return sum(_cost(part, grammar, count, known) for part in parts)
        case Choice(parts):
            strings = [part for part in parts if isinstance(part, Series) and part.parts[:1] == (Control(ESCAPE),)]
            return max((_cost(part, grammar, count, known) for part in strings or parts), default=0)
        case Repeat(part, least):
            return max(1, least) * _cost(part, grammar, count, known)
    return 1
