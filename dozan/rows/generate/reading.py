"""A lexicon's file to a `Lexicon`: everything wrong with it is said at once, with file, line, dialect and pattern."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.generate.grammar import expand, items, slots
from dozan.rows.generate.lexicon import MOMENTS, PARTS, UNITS, Dialect, Kind, Lexicon, Pair, Pattern, Value
from dozan.rows.generate.located import Text, line_of, read_yaml
from dozan.rows.generate.tools import Tool, misfit, type_of
from dozan.rows.generate.words import WORDS

_TOP = ("kinds", "values", "apart", "shares", "dialects")
_DIALECT = ("words", "openers", "tails", "joins", "patterns", "clauses", "no_call")
_KIND = ("kind", "unit", "from", "to", "step", "forms")
_KINDS = ("text", "free", *MOMENTS, "duration", "number", "digits")
_FORMATS = {"date-time": "datetime", "date": "date", "time": "time"}
_MOST_FRAMES, _MOST_NUMBERS = 20_000, 100_000
_SHOWN = 20


def read_lexicon(path: Path, tools: Mapping[str, Tool], dialects: Sequence[str] = ()) -> Lexicon:
    """The lexicon for these tools, of these dialects or all. Raises one InputError with everything that is wrong."""
    value = read_yaml(path)
    reader = _Reader(path, tools, value if isinstance(value, dict) else {})
    if not isinstance(value, dict):
        reader.say(0, "", "no lexicon; write the keys values and dialects")
    found = reader.read(dialects)
    if reader.problems:
        more = f"\n... and {len(reader.problems) - _SHOWN} more" if len(reader.problems) > _SHOWN else ""
        raise InputError("\n".join(reader.problems[:_SHOWN]) + more)
    return found


class _Reader:
    def __init__(self, path: Path, tools: Mapping[str, Tool], value: Mapping[Any, Any]) -> None:
        self.path, self.tools, self.value = path, tools, value
        self.problems: list[str] = []
        self.names = {argument for tool in tools.values() for argument in tool.arguments}
        self.kinds: dict[tuple[str, str], Kind] = {}
        self.values: dict[tuple[str, str, str], tuple[Value, ...]] = {}

    def say(self, line: int, where: str, message: str) -> None:
        at = f"{self.path}:{line}" if line else str(self.path)
        self.problems.append(f"{at}: {where}: {message}" if where else f"{at}: {message}")

    def read(self, dialects: Sequence[str]) -> Lexicon:
        self._known(self.value, _TOP, "")
        named = self._mapping(self.value, "dialects", "")
        chosen = list(dict.fromkeys(dialects)) or list(named)
        for name in chosen:
            if name not in named:
                self.say(line_of(named), "dialects", f"no dialect {name!r}; there are {', '.join(named) or 'none'}")
        chosen = [name for name in chosen if name in named]
        if not chosen and not self.problems:
            self.say(0, "dialects", "none; write patterns under dialects.egyptian.patterns, or another's")
        self._read_kinds()
        self._read_values(list(named))
        shares = self._mapping(self.value, "shares", "")
        self._known(shares, ("no_call", "parallel"), "shares")
        return Lexicon(
            self.path, self.tools, self.kinds, self.values, self._apart(), self._share(shares, "no_call"),
            self._share(shares, "parallel"), tuple(self._dialect(name, named[name]) for name in chosen),
        )  # fmt: skip

    def _share(self, shares: Mapping[Any, Any], key: str) -> float:
        value = shares.get(key, 0.1)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 0.5:
            return float(value)
        self.say(line_of(shares), f"shares.{key}", f"{value!r} is no share; give 0 to 0.5, such as 0.1")
        return 0.0

    def _apart(self) -> frozenset[frozenset[str]]:
        found: set[frozenset[str]] = set()
        for pair in self._listed(self.value.get("apart"), "apart"):
            if not isinstance(pair, list) or len(pair) != 2 or not set(map(str, pair)) <= set(self.tools):
                self.say(line_of(pair), "apart", f"{pair!r:.80} is no pair of tools; write - [turn_on, turn_off]")
            else:
                found.add(frozenset(map(str, pair)))
        return frozenset(found)

    def _read_kinds(self) -> None:
        given = {key: self._kind(key, value) for key, value in self._arguments("kinds")}
        for tool in self.tools.values():
            for argument, schema in tool.arguments.items():
                found = given.get(f"{tool.name}.{argument}") or given.get(argument) or _told_kind(schema)
                wanted = type_of(schema)
                if found.name in (*MOMENTS, "digits") and wanted not in ("string", ""):
                    self.say(0, f"kinds.{argument}", f"{found.name} is a text, {tool.name} asks for {wanted}")
                self.kinds[tool.name, argument] = found

    def _kind(self, key: str, value: Any) -> Kind:
        where, line = f"kinds.{key}", line_of(value) or line_of([key])
        fields = value if isinstance(value, dict) else {"kind": value}
        self._known(fields, _KIND, where)
        name = fields.get("kind")
        low, high, step = fields.get("from", 1), fields.get("to", 60), fields.get("step", 1)
        if name not in _KINDS:
            self.say(line, where, f"unknown kind {name!r}; use one of {', '.join(_KINDS)}")
            return Kind("text")
        whole = all(type(number) is int for number in (low, high, step))
        if not whole or step < 1 or not 0 <= high - low <= _MOST_NUMBERS * step:
            words = f"give whole numbers, such as from: 1, to: 60; {_MOST_NUMBERS:,} of them at most"
            self.say(line, where, f"from {low!r} to {high!r} by {step!r}: {words}")
            return Kind("text")
        unit = fields.get("unit", "minutes")
        if unit not in UNITS or name == "duration" and low < 1:
            self.say(line, where, f"{low} {unit}: give 1 or more, and unit: {', '.join(UNITS)}")
        forms = tuple(map(str, self._listed(fields.get("forms"), where)))
        if name == "digits" and (not forms or not all("#" in form for form in forms)):
            self.say(line, where, 'digits need forms, a # for each random digit; write forms: ["05########"]')
        return Kind(name, str(unit), low, high, step, forms)

    def _arguments(self, section: str) -> Iterator[tuple[str, Any]]:
        """The entries of a section whose keys are arguments (`city`, or `get_weather.city`)."""
        for key, value in self._mapping(self.value, section, "").items():
            tool, _, argument = str(key).rpartition(".")
            known = self.tools[tool].arguments if tool in self.tools else self.names if not tool else ()
            if argument in known:
                yield str(key), value
            else:
                self.say(line_of(key), f"{section}.{key}", f"no tool has this argument{_nearest(argument, self.names)}")

    def _read_values(self, dialects: Sequence[str]) -> None:
        given = dict(self._arguments("values"))
        for tool in self.tools.values():
            for argument, schema in tool.arguments.items():
                key = f"{tool.name}.{argument}" if f"{tool.name}.{argument}" in given else argument
                if key not in given or self.kinds[tool.name, argument].name not in ("text", "free"):
                    continue
                lists = given[key] if isinstance(given[key], dict) else {"all": given[key]}
                self._known(lists, ("all", *dialects), f"values.{key}")
                is_free = self.kinds[tool.name, argument].name == "free"
                for dialect in dialects:
                    both = (("all", lists.get("all")), (dialect, lists.get(dialect)))
                    found = [
                        value
                        for side, part in both
                        if part is not None
                        for value in self._value_list(part, f"values.{key}.{side}", tool.name, schema, is_free)
                    ]
                    unique = {value.said: value for value in found}
                    self.values[dialect, tool.name, argument] = tuple(unique.values())

    def _value_list(
        self, part: Any, where: str, tool: str, schema: Mapping[str, Json], is_free: bool
    ) -> Iterator[Value]:
        for item in items(part) if isinstance(part, str) else self._listed(part, where):
            said, value = next(iter(item.items())) if isinstance(item, dict) and len(item) == 1 else (item, item)
            value = str(value) if isinstance(value, Text) else value
            line = line_of(said) or line_of(part)
            why = misfit(value, schema)
            if why:
                self._once(line, where, f"{why} ({tool})")
            elif isinstance(said, dict | list) or not str(said).strip():
                self._once(line, where, f"{said!r:.60} is no value; write - words, or - words: value")
            elif "،" in str(said) and not is_free:
                self._once(line, where, f"{str(said)!r:.60} holds «،»; write one value a line, or kind: free above")
            else:
                yield Value(" ".join(str(said).split()), value)

    def _once(self, line: int, where: str, message: str) -> None:
        before = len(self.problems)
        self.say(line, where, message)
        if self.problems[-1] in self.problems[:before]:
            self.problems.pop()

    def _dialect(self, name: str, value: Any) -> Dialect:
        where = f"dialects.{name}"
        value = self._mapping({"": value}, "", where)
        self._known(value, _DIALECT, where)
        words = str(value.get("words", name))
        if words not in WORDS:
            message = f"no time words of {words!r}; write words: and one of {', '.join(WORDS)}"
            self.say(line_of(value), f"{where}.words", message)
        patterns: dict[str, tuple[Pattern, ...]] = {}
        for tool, block in self._tool_blocks(value, "patterns", where):
            patterns[tool] = tuple(self._patterns(block, tool, name, f"{where}.patterns.{tool}"))
        for tool in self.tools:
            if not self._mapping(value, "patterns", where).get(tool):
                message = "no patterns; write some, or leave the dialect out (--dialects), or the tool"
                self.say(line_of(value), f"{where}.patterns.{tool}", message)
        clauses = tuple(clause for tool, block in self._tool_blocks(value, "clauses", where)
                        for clause in self._patterns(block, tool, name, f"{where}.clauses.{tool}"))  # fmt: skip
        openers, tails, joins = (
            tuple(str(part) for part in self._listed(value.get(key), f"{where}.{key}"))
            for key in ("openers", "tails", "joins")
        )
        if clauses and not joins:
            self.say(clauses[0].line, f"{where}.joins", 'none to join clauses with; write joins: [" و", " وبعدين "]')
        return Dialect(name, line_of(value), WORDS.get(words, WORDS["msa"]), openers, tails, joins, patterns, clauses,
                       tuple(self._pairs(value.get("no_call"), f"{where}.no_call")))  # fmt: skip

    def _tool_blocks(self, value: Mapping[Any, Any], key: str, where: str) -> Iterator[tuple[str, Any]]:
        for tool, block in self._mapping(value, key, where).items():
            if tool in self.tools:
                yield str(tool), block
            else:
                self.say(line_of(tool), f"{where}.{key}.{tool}", f"no such tool{_nearest(str(tool), self.tools)}")

    def _patterns(self, block: Any, tool: str, dialect: str, where: str) -> Iterator[Pattern]:
        for line, text in self._lines(block, where):
            said, _, fixed_text = (part.strip() for part in text.partition("=>"))
            at = f"{where}: {text!r:.120}"
            problem = _frame_problem(said)
            if problem:
                self.say(line, at, problem)
                continue
            fixed, before = self._fixed(fixed_text, self.tools[tool], line, at), len(self.problems)
            frames = expand(said)
            for message in dict.fromkeys(m for frame in frames for m in self._slots(frame, tool, dialect, fixed)):
                self.say(line, at, message)
            if len(self.problems) == before:
                yield Pattern(tool, text, line, where, frames, fixed)

    def _slots(self, frame: str, tool: str, dialect: str, fixed: Mapping[str, Json]) -> Iterator[str]:
        """What is wrong with the slots of a plain frame."""
        declared = self.tools[tool]
        parts: dict[str, set[str]] = {}
        for slot in slots(frame):
            argument, _, part = slot.partition(".")
            parts.setdefault(argument, set()).add(part)
            if argument not in declared.arguments:
                listed = ", ".join(f"{{{name}}}" for name in declared.arguments) or "none"
                yield f"no argument {argument!r} of {tool}; its slots: {listed}{_nearest(argument, declared.arguments)}"
                continue
            kind = self.kinds[tool, argument].name
            if part and (kind != "datetime" or part not in PARTS):
                yield f"{{{slot}}}: only a datetime has parts, .day and .clock; write {{{argument}}}"
            if kind in ("text", "free") and not self.values.get((dialect, tool, argument)):
                yield f"no values for {{{argument}}} in {dialect}; write values.{argument}, or kinds.{argument}"
        for argument, found in parts.items():
            if found not in ({""}, set(PARTS)) and found <= {"", *PARTS}:
                yield f"{argument}: write {{{argument}}} alone, or both {{{argument}.day}} and {{{argument}.clock}}"
        for name in declared.required:
            if name not in parts and name not in fixed:
                yield f"{tool} requires {name}; put {{{name}}} into every way to say it, or end with => {name}=value"

    def _fixed(self, text: str, tool: Tool, line: int, where: str) -> dict[str, Json]:
        """The arguments after `=>`."""
        found: dict[str, Json] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, written = (piece.strip() for piece in part.partition("="))
            schema = tool.arguments.get(name)
            if not equals or schema is None:
                listed = ", ".join(tool.arguments)
                self.say(line, where, f"{part!r}: write argument=value with an argument of {tool.name}: {listed}")
                continue
            value = written if type_of(schema) in ("string", "") else _json(written)
            why = misfit(value, schema)
            if why:
                self.say(line, where, f"{name}: {why}")
            found[name] = value
        return found

    def _pairs(self, value: Any, where: str) -> Iterator[Pair]:
        for pair in self._listed(value, where):
            texts = [str(pair.get(key) or "") for key in ("request", "answers")] if isinstance(pair, dict) else [""]
            line = line_of(pair)
            found = [[row.strip() for row in text.splitlines() if row.strip()] for text in texts]
            if not all(found):
                self.say(line, where, "write request: (way|another way) and answers: (one|another)")
                continue
            rows = [row for part in found for row in part]
            problems = [f"{row!r:.80}: {why}" for row in rows if (why := _frame_problem(row))]
            for problem in problems + [f"{row!r:.80}: nothing fills a slot here" for row in rows if slots(row)]:
                self.say(line, where, problem)
            if not problems:
                requests, answers = (tuple(dict.fromkeys(f for text in part for f in expand(text))) for part in found)
                yield Pair(line, requests, answers)

    def _lines(self, block: Any, where: str) -> Iterator[tuple[int, str]]:
        """The patterns of a block (one a line) or of a list, each with its line in the file."""
        texts = [block] if isinstance(block, str) else self._listed(block, where)
        for text in texts:
            if not isinstance(text, str):
                message = f"{text!r:.80} is no text; put the pattern in quotes, or write a block after |"
                self.say(line_of(text) or line_of(block), where, message)
                continue
            for i, row in enumerate(text.splitlines()):
                if row.strip():
                    yield line_of(text) + i, row.strip()

    def _mapping(self, value: Mapping[Any, Any], key: str, where: str) -> Mapping[Any, Any]:
        found = value.get(key)
        if found is not None and not isinstance(found, dict):
            at = ".".join(part for part in (where, key) if part)
            self.say(line_of(found) or line_of(value), at, f"{found!r:.60} has no keys; write name: value below it")
        return found if isinstance(found, dict) else {}

    def _listed(self, value: Any, where: str) -> list[Any]:
        if value is not None and not isinstance(value, list):
            self.say(line_of(value), where, f"{value!r:.60} is no list; write [one, another]")
        return value if isinstance(value, list) else []

    def _known(self, value: Mapping[Any, Any], keys: Iterable[str], where: str) -> None:
        known = list(keys)
        for key in value:
            if key not in known:
                listed = f"; use {', '.join(known)}{_nearest(str(key), known)}"
                self.say(line_of(key), where, f"unknown key {str(key)!r}{listed}")


def _told_kind(schema: Mapping[str, Json]) -> Kind:
    """What the schema itself says of an argument: a date by its format, or by its description."""
    name = _FORMATS.get(str(schema.get("format")))
    description = str(schema.get("description") or "")
    if name is None and re.search(r"YYYY-MM-DD", description):
        name = "datetime" if re.search(r"YYYY-MM-DDTHH:MM", description) else "date"
    return Kind(name) if name else Kind("text")  # type: ignore[arg-type]


def _frame_problem(text: str) -> str:
    """Why a pattern cannot be expanded, or ""."""
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth not in (0, 1):
            return "brackets inside brackets, or one that closes nothing; write (one|another) side by side"
        if character == "|" and depth == 0:
            return "a bar outside brackets; write (one|another)"
    if depth:
        return "a bracket that never closes; write (one|another)"
    if not re.sub(r"[(|)\s]", "", text):
        return "empty; write the words of a request"
    ways = math.prod(part.count("|") + 1 for part in re.findall(r"\(([^()]*)\)", text))
    if ways > _MOST_FRAMES:
        return f"{ways:,} ways to say it, over {_MOST_FRAMES:,}; divide it into several patterns"
    if not any(frame for frame in expand(text)) or not all(expand(text)):
        return "one way to say it is empty; write words outside the brackets"
    if re.search(r"[{}]", re.sub(r"\{[\w.]+\}", "", text)):
        return "a brace that is no slot; write {argument}"
    return ""


def _json(text: str) -> Json:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""
