"""A seeded corpus of broken rows: one kind of defect a line, between sound rows, with what must be found where.

A kind is a function that breaks a sound row in place (or gives the line's bytes), registered with its code and path:

    @kind("DZ402", ARGUMENTS + ".datetime")
    def missing_argument(row: Row, random: Random) -> None: ...

`corpus(seed)` shuffles all registered kinds into one file. Modules that register kinds of their own are imported by
`register_all`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from random import Random
from typing import Any

Row = dict[str, Any]
Breaker = Callable[[Row, Random], bytes | None]
CALL = "messages[2].tool_calls[0].function"
ARGUMENTS = f"{CALL}.arguments"
USER = "messages[1].content"
TOOL = "tools[0].function"
PROPERTIES = f"{TOOL}.parameters.properties"
_NAMES = ("سالم", "ليلى", "كريم", "هند", "يوسف")
_TITLES = ("اجتماع الفريق", "موعد الأسنان", "زيارة الجدة", "تمرين السباحة")


@dataclass(frozen=True)
class Kind:
    """One way to break a row. also: codes that it cannot but break with it; at: the path of the finding."""

    name: str
    code: str
    at: str
    breaks: Breaker
    also: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Expected:
    """What must be found: the line is counted from 1."""

    kind: str
    code: str
    line: int
    path: str
    also: frozenset[str]


KINDS: dict[str, Kind] = {}
MODULES = ("broken_conversations", "broken_calls", "broken_texts")
"""The modules that register kinds; add yours here."""


def kind(code: str, at: str = "", also: tuple[str, ...] = ()) -> Callable[[Breaker], Breaker]:
    """Registers a function as the kind of its name."""

    def register(breaks: Breaker) -> Breaker:
        name = breaks.__name__
        assert name not in KINDS, f"{name} is given twice"
        KINDS[name] = Kind(name, code, at, breaks, frozenset(also))
        return breaks

    return register


def register_all() -> dict[str, Kind]:
    """Every kind of every module."""
    for module in MODULES:
        import_module(module)
    return KINDS


def tools() -> list[Row]:
    """Two tools, with every sort of parameter."""
    return [
        {
            "type": "function",
            "function": {
                "name": "create_event",
                "description": "Creates a calendar event.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "title": {"type": "string", "description": "Title, as said."},
                        "datetime": {"type": "string", "description": "YYYY-MM-DDTHH:MM:SS"},
                        "calendar": {"type": "string", "description": "Which one.", "enum": ["work", "home"]},
                        "color": {"type": "string", "description": "Its colour (Supported values: red, blue)"},
                        "minutes": {"type": "integer", "description": "How long."},
                        "phone": {"type": "string", "description": "Phone number."},
                        "guests": {"type": "array", "description": "Who comes.", "items": {"type": "string"}},
                        "place": {
                            "type": "object",
                            "description": "Where.",
                            "properties": {"city": {"type": "string", "description": "City."}},
                            "required": ["city"],
                        },
                    },
                    "required": ["title", "datetime"],
                },
            },
        },
        {"type": "function", "function": {"name": "open_settings", "description": "Opens the settings."}},
    ]


def sound(random: Random, number: int) -> Row:
    """A row in which nothing is wrong; every call gives its own objects."""
    title, name = random.choice(_TITLES), random.choice(_NAMES)
    developer = (
        "Current date and time given in YYYY-MM-DDTHH:MM:SS format: 2025-03-03T10:15:00\n"
        "You are a model that can do function calling with the following functions"
    )
    call = {"name": "create_event", "arguments": {"title": title, "datetime": "2025-03-04T17:00:00", "guests": [name]}}
    return {
        "id": f"row-{number}",
        "dialect": "msa",
        "tools": tools(),
        "messages": [
            {"role": "developer", "content": developer},
            {"role": "user", "content": f"سجل {title} غدًا الساعة ٥ مساء مع {name} رقم 0501234567"},
            {"role": "assistant", "tool_calls": [{"type": "function", "function": call}]},
        ],
    }


def arguments(row: Row) -> Row:
    found: Row = row["messages"][2]["tool_calls"][0]["function"]["arguments"]
    return found


def properties(row: Row) -> Row:
    found: Row = row["tools"][0]["function"]["parameters"]["properties"]
    return found


def corpus(seed: int, kinds: dict[str, Kind] | None = None) -> tuple[bytes, list[Expected]]:
    """A JSONL file's bytes with each kind once, in an order by the seed, and what must be found; sound rows between."""
    random = Random(seed)
    chosen = list((register_all() if kinds is None else kinds).values())
    random.shuffle(chosen)
    lines: list[bytes] = []
    expected: list[Expected] = []
    for one in chosen:
        for _ in range(random.randint(0, 2)):
            lines.append(_line(sound(random, len(lines) + 1)))
        row = sound(random, len(lines) + 1)
        raw = one.breaks(row, random)
        lines.append(_line(row) if raw is None else raw)
        expected.append(Expected(one.name, one.code, len(lines), one.at, one.also))
    lines.append(_line(sound(random, len(lines) + 1)))
    return b"\n".join(lines) + b"\n", expected


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass")
