"""A row: the tools a model may call, the conversation, and where the row came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any
"""A value as `json.loads` gives it: dict, list, str, int, float, bool or None."""


@dataclass(frozen=True)
class Example:
    """One row in canonical form.

    `tools` holds OpenAI-style declarations (`{"type": "function", "function": {...}}`), `messages` the conversation
    in order (roles developer, system, user, assistant, tool), `meta` every other key of the row (`dialect`, `source`,
    ...), and `place` the file and line for error messages (`rows.jsonl:12`).
    """

    id: str
    tools: tuple[Mapping[str, Json], ...]
    messages: tuple[Mapping[str, Json], ...]
    meta: Mapping[str, Json] = field(default_factory=dict)
    place: str = ""
