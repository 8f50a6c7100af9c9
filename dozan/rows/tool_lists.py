"""Tool lists that thousands of rows share: parsed once from their text, and the same object for equal lists.

Rules and renderers remember what they made of a list by identity (`rows/identity.py`), so equal lists must be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from dozan.rows.example import Json
from dozan.rows.json_text import JsonText, Problem

Tools = tuple[Mapping[str, Json], ...]
_MOST_LISTS, _MOST_TOOLS, _MOST_LENGTHS = 512, 4096, 8
_STARTS = re.compile(r'"tools": ?(?=\[\{")')
_STAND_IN = "\ue000tools\ue000"
_QUOTED = f'"{_STAND_IN}"'


class ToolLists:
    """Gives the same object for equal lists and for equal tools; what is kept is bounded."""

    def __init__(self) -> None:
        self._lists: dict[str, Tools] = {}
        self._tools: dict[str, Mapping[str, Json]] = {}
        self._known: dict[int, tuple[Json, Tools]] = {}

    def one(self, tools: Tools | list[Mapping[str, Json]]) -> Tools:
        """The tuple that stands for these tools; a list that was given before is told by its identity."""
        known = self._known.get(id(tools))
        if known is not None:
            return known[1]
        if not tools:
            return ()
        texts = [json.dumps(tool, ensure_ascii=False) for tool in tools]
        key = "\n".join(texts)
        found = self._lists.get(key)
        if found is None:
            if len(self._lists) >= _MOST_LISTS:
                self._lists.clear()
                self._known.clear()
            found = self._lists[key] = tuple(map(self._one_tool, texts, tools))
        self._known[id(found)] = (found, found)
        if len(self._known) < 2 * _MOST_LISTS:
            self._known[id(tools)] = (tools, found)
        return found

    def _one_tool(self, text: str, tool: Mapping[str, Json]) -> Mapping[str, Json]:
        if len(self._tools) >= _MOST_TOOLS:
            self._tools.clear()
        return self._tools.setdefault(text, tool)


class LineParser:
    """Parses the rows of a file, and the text of a `tools` list only the first time that it comes."""

    def __init__(self) -> None:
        self._json = JsonText()
        self._by_length: dict[int, dict[str, Json]] = {}
        self._count = 0

    def parse(self, text: str) -> tuple[Json, list[Problem]]:
        """The value and its problems, as `JsonText.parse`."""
        start = _STARTS.search(text)
        if start is None or _STAND_IN in text:
            return self._json.parse(text)
        tools, end = self._tools(text, start.end())
        if tools is None:
            return self._json.parse(text)
        value, problems = self._json.parse(text[: start.end()] + _QUOTED + text[end:])
        if problems or not isinstance(value, dict) or value.get("tools") != _STAND_IN:
            return self._json.parse(text)
        value["tools"] = tools
        return value, []

    def _tools(self, text: str, start: int) -> tuple[Json, int]:
        """The list that begins there and where it ends; None when it is not plain and sound."""
        for length, known in self._by_length.items():
            found = known.get(text[start : start + length])
            if found is not None:
                return found, start + length
        try:
            self._json.odd = False
            tools, end = self._json.decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None, 0
        own = text[start:end]
        if self._json.judge(own, tools)[1]:
            return None, 0
        self._remember(own, tools)
        return tools, end

    def _remember(self, text: str, tools: Json) -> None:
        if self._count >= _MOST_LISTS or len(self._by_length) >= _MOST_LENGTHS:
            self._by_length.clear()
            self._count = 0
        self._by_length.setdefault(len(text), {})[text] = tools
        self._count += 1
