"""DZ631 to DZ633: the tools of the whole set: nothing required, twins, tools that are offered and never called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from dozan.check.finding import Catalog, Rule
from dozan.check.set_rules.facts import RowFacts
from dozan.check.set_rules.found import SetFound, ordered
from dozan.check.set_rules.tally import Tally
from dozan.check.view import read_parameters
from dozan.rows.arabic import fold
from dozan.rows.example import Json
from dozan.rows.identity import MadeOnce
from dozan.rows.tool_lists import Tools as RowTools

NOTHING_REQUIRED = Rule(
    "DZ631", "required-empty", "warning", "set", "No tool requires any of its parameters",
    "A call without arguments is then as good as any, for the model, for a grammar and for this check.",
    "Name in `required` what the tool cannot do without.",
)  # fmt: skip
TWINS = Rule(
    "DZ632", "near-duplicate-tools", "warning", "set", "Two tools that do the same",
    "Nothing tells which one to call, so the model learns it from chance.",
    "Keep one, or say in the descriptions what is different.",
)  # fmt: skip
NEVER_CALLED = Rule(
    "DZ633", "uncalled-tools", "warning", "set", "Tools that are offered and never called",
    "The model learns that these are never right.",
    "Add rows that call them, or take them out of the lists.",
)  # fmt: skip
RULES = Catalog([NOTHING_REQUIRED, TWINS, NEVER_CALLED])

_FEWEST_TOOLS = 3
_OFFERED_OFTEN = 20
_MOST_TOOLS = 5_000
_MOST_COMPARED = 2_000
_WORD = re.compile(r"\w+")
_NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_A-Za-z]+")


class _Tool:
    def __init__(self, function: Mapping[str, Json], place: str) -> None:
        schema = read_parameters(function.get("parameters"))
        properties, required = schema.get("properties"), schema.get("required")
        self.name = str(function.get("name", ""))
        self.place = place
        self.parameters = frozenset(properties) if isinstance(properties, Mapping) else frozenset[str]()
        self.requires = bool(required) or any(
            isinstance(inner, Mapping) and inner.get("required") is True
            for inner in (properties.values() if isinstance(properties, Mapping) else ())
        )
        self.words = frozenset(_WORD.findall(fold(str(function.get("description") or ""))))
        self.name_words = frozenset(part.lower() for part in _NAME_PART.findall(self.name))


class Tools:
    """The first declaration of each tool by name (5,000 at most), and how often each is offered and called."""

    def __init__(self) -> None:
        self._tools: dict[str, _Tool] = {}
        self._known: MadeOnce[bool] = MadeOnce()
        self._offered: Tally[str] = Tally(_MOST_TOOLS)
        self._called: Tally[str] = Tally(_MOST_TOOLS)

    def add(self, facts: RowFacts, tools: RowTools) -> None:
        self._known.get(tools, lambda: self._learn(tools, facts.place))
        for name in facts.names:
            self._offered.add(name, facts.place)
        for name in facts.called:
            self._called.add(name, facts.place)

    def findings(self) -> Iterator[SetFound]:
        with_parameters = [tool for tool in self._tools.values() if tool.parameters]
        if len(with_parameters) >= _FEWEST_TOOLS and not any(tool.requires for tool in with_parameters):
            count = len(with_parameters)
            words = f"`required` is empty or missing in all {count} tools that have parameters"
            yield SetFound(
                NOTHING_REQUIRED,
                "tools",
                words,
                count,
                tuple(f"{tool.place} {tool.name}" for tool in with_parameters[:100]),
            )
        pairs = list(self._twins())
        if pairs:
            names = [f"{a.name} and {b.name}" for a, b in pairs]
            words = f"{len(pairs)} pairs of tools with the same parameters and the same words: {ordered(names)}"
            yield SetFound(
                TWINS,
                "tools",
                words,
                len(pairs),
                tuple(f"{a.place} {a.name}, {b.place} {b.name}" for a, b in pairs[:100]),
            )
        if self._called.total and self._called.is_exact:
            idle = [(name, n) for name, n in self._offered.top() if n >= _OFFERED_OFTEN and not self._called[name]]
            if idle:
                said = ordered([f"{name} (offered {count} times)" for name, count in idle])
                places = tuple(self._offered.place(name) for name, _ in idle[:100])
                yield SetFound(NEVER_CALLED, "tools", f"{len(idle)} tools are never called: {said}", len(idle), places)

    def _learn(self, tools: RowTools, place: str) -> bool:
        for tool in tools:
            function = tool.get("function", tool)
            name = function.get("name") if isinstance(function, Mapping) else None
            if isinstance(name, str) and name not in self._tools and len(self._tools) < _MOST_TOOLS:
                self._tools[name] = _Tool(function, place)
        return True

    def _twins(self) -> Iterator[tuple[_Tool, _Tool]]:
        """Pairs with equal parameter names, of which one's description or name says no word that the other does not."""
        alike: dict[frozenset[str], list[_Tool]] = {}
        for tool in list(self._tools.values())[:_MOST_COMPARED]:
            alike.setdefault(tool.parameters, []).append(tool)
        for tools in alike.values():
            for i, first in enumerate(tools):
                yield from ((first, second) for second in tools[i + 1 :] if _same_words(first, second))


def _same_words(first: _Tool, second: _Tool) -> bool:
    fewer, more = sorted((first.words, second.words), key=len)
    if len(fewer) >= 2:
        return fewer <= more
    few, many = sorted((first.name_words, second.name_words), key=len)
    return not more and len(few) >= 2 and few <= many
