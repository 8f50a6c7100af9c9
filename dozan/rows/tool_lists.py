"""Tools that thousands of rows share: each parsed once from its text, and the same object for equal tools and lists.

Rules and renderers remember what they made of tools by identity (`rows/identity.py`), so equal ones must be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from dozan.rows.example import Json
from dozan.rows.json_text import JsonText, Problem

Tool = Mapping[str, Json]
Tools = tuple[Tool, ...]
_MOST = 2048
_PREFIX, _MOST_ALIKE = 80, 16
_STARTS = re.compile(r'"tools": ?\[(?=\{")')
_STAND_IN = "\ue000tools\ue000"
_QUOTED = f'"{_STAND_IN}"'


class ToolLists:
    """Gives the same object for equal lists and for equal tools; what is kept is bounded."""

    def __init__(self) -> None:
        self._lists: dict[tuple[int, ...], tuple[Sequence[Tool], Tools]] = {}
        self._by_identity: dict[int, tuple[Tool, Tool]] = {}
        self._by_text: dict[str, Tool] = {}

    def one(self, tools: Sequence[Tool]) -> Tools:
        """The tuple that stands for these tools, at once when the very same tools were given before."""
        if not tools:
            return ()
        identity = tuple(map(id, tools))
        known = self._lists.get(identity)
        if known is not None:
            return known[1]
        made = tuple(map(self._one_tool, tools))
        same = tuple(map(id, made))
        found = self._lists[same][1] if same in self._lists else made
        _put(self._lists, same, (found, found))
        if same != identity:
            _put(self._lists, identity, (tools, found))
        return found

    def _one_tool(self, tool: Tool) -> Tool:
        known = self._by_identity.get(id(tool))
        if known is not None:
            return known[1]
        text = json.dumps(tool, ensure_ascii=False)
        found = self._by_text.get(text)
        if found is None:
            _put(self._by_text, text, tool)
            found = tool
        _put(self._by_identity, id(tool), (tool, found))
        return found


def _put(known: dict[Any, Any], key: object, value: object) -> None:
    """Remembers a value; forgets all when there are too many, which costs time and nothing else."""
    if len(known) >= _MOST:
        known.clear()
    known[key] = value


class LineParser:
    """Parses the rows of a file, and the text of a tool only the first time that it comes."""

    def __init__(self) -> None:
        self._json = JsonText()
        self._by_prefix: dict[str, list[tuple[str, Json]]] = {}

    def parse(self, text: str) -> tuple[Json, list[Problem]]:
        """The value and its problems, as `JsonText.parse`."""
        start = _STARTS.search(text)
        found = self._tools(text, start.end()) if start is not None and _STAND_IN not in text else None
        if start is None or found is None:
            return self._json.parse(text)
        tools, end = found
        value, problems = self._json.parse(text[: start.end() - 1] + _QUOTED + text[end:])
        if problems or not isinstance(value, dict) or value.get("tools") != _STAND_IN:
            return self._json.parse(text)
        value["tools"] = tools
        return value, []

    def _tools(self, text: str, at: int) -> tuple[list[Json], int] | None:
        """The list whose first tool begins there and where it ends; None when it is not plain and sound."""
        tools: list[Json] = []
        while text.startswith("{", at):
            found = self._tool(text, at)
            if found is None:
                return None
            tools.append(found[0])
            at = found[1]
            if text.startswith("]", at):
                return tools, at + 1
            at += 2 if text.startswith(", ", at) else 1 if text.startswith(",", at) else 0
        return None

    def _tool(self, text: str, at: int) -> tuple[Json, int] | None:
        prefix = text[at : at + _PREFIX]
        alike = self._by_prefix.get(prefix, [])
        for known, tool in alike:
            if text.startswith(known, at):
                return tool, at + len(known)
        try:
            self._json.odd = False
            tool, end = self._json.decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        own = text[at:end]
        if self._json.judge(own, tool)[1]:
            return None
        if len(alike) < _MOST_ALIKE:
            _put(self._by_prefix, prefix, [*alike, (own, tool)])
        return tool, end
