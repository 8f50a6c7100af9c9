"""Calls for the tests of the grammar: tools with every kind of schema, calls drawn from them, and ways to break one."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from typing import Any

from chat_fixtures import lines

from dozan.chat.format import Writer
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import CONTROL_TOKENS, END_CALL, ESCAPE, START_CALL, find_control

_CONTROL = re.compile("(" + "|".join(map(re.escape, (START_CALL, END_CALL, ESCAPE))) + ")")
Call = tuple[str, dict[str, Any]]


def tool(name: str, properties: dict[str, Any], required: list[str], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": required, **more}
    return {"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}}


TIME = {"type": "string", "description": "as YYYY-MM-DDTHH:MM:SS"}
TOOLS = [
    tool("turn_on", {}, []),
    tool("event", {"title": {"type": "string"}, "datetime": TIME, "minutes": {"type": "integer"}}, ["title", "datetime"]),  # noqa: E501
    tool("light", {"Room": {"type": "string", "enum": ["المطبخ", "غرفة النوم", "a", "ab", ""]},
                   "level": {"type": "number"}, "on": {"type": "boolean"}, "step": {"type": "integer", "enum": [1, 5]},
                   "type": {"type": "string"}, "note": {"type": ["string", "null"]}}, ["Room", "on", "type", "note"]),
    tool("order", {
        "items": {"type": "array", "minItems": 1, "maxItems": 3, "items": {
            "type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
            "required": ["count"]}},
        "tags": {"type": "array", "items": {"type": "string"}}, "day": {"type": "string", "format": "date"},
        "where": {"type": "object", "properties": {"city": {"type": "string"}, "at": {"type": "array", "items": {
            "type": "number"}}}, "required": ["city"]},
        "extra": {"type": "object"}, "price": {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        "any": {"type": "array"}}, ["items", "price"]),
]  # fmt: skip


def written(name: str, arguments: Any) -> str:
    """A call as the format writes it."""
    messages = [{"role": "user", "content": "x"},
                {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}]  # fmt: skip  # noqa: E501
    rendered = FUNCTIONGEMMA.render(messages, TOOLS)
    ((start, end),) = rendered.trained
    return rendered.text[start : rendered.text.index(END_CALL, start) + len(END_CALL)]


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of an answer: call tokens as tokens, everything else as characters."""
    writer = Writer()
    for part in _CONTROL.split(text):
        writer.control(part) if _CONTROL.fullmatch(part) else writer.text(part)
    return tokenizer.encode_rendered(writer.rendered(()))[0]


class Drawing:
    """Draws arguments by the schemas of TOOLS, written apart from the grammar."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.strings = [line for line in lines(300, seed, rare=True) if not find_control(line) and "\0" not in line]
        self.strings += ["", "<", "a<b", "<<escap", "<start_of", "<unused", "<unused7 ", "{a:1}", ",x:", "'\"\\", "\n"]

    def text(self) -> str:
        return self.draw.choice(self.strings)

    def number(self) -> int | float:
        numbers = [0, -7, 3.5, -0.25, 1e21, 1e-7, 12345678901, 2.0, self.draw.random(), self.draw.randint(-999, 10**9)]
        return self.draw.choice(numbers)

    def day(self) -> str:
        day = self.draw.choice(["2024-02-29", "2000-02-29", "2026-12-31", "2025-04-30", "1999-01-01", "2096-02-29"])
        return (
            day
            if self.draw.random() < 0.3
            else f"{self.draw.randint(1000, 9999)}-0{self.draw.randint(1, 9)}-2{self.draw.randint(0, 8)}"
        )

    def time(self) -> str:
        return (
            f"{self.day()}T{self.draw.randint(0, 23):02d}:{self.draw.randint(0, 59):02d}:{self.draw.randint(0, 59):02d}"
        )

    def some(self, **options: Callable[[], Any]) -> dict[str, Any]:
        return {name: make() for name, make in options.items() if self.draw.random() < 0.6}

    def many(self, make: Callable[[], Any], least: int, most: int) -> list[Any]:
        return [make() for _ in range(self.draw.randint(least, most))]

    def any(self, depth: int = 2) -> Any:
        kind = self.draw.randrange(6 if depth else 4)
        if kind == 4:
            return self.many(lambda: self.any(depth - 1), 0, 3)
        if kind == 5:
            return {f"k {i}": self.any(depth - 1) for i in range(self.draw.randint(0, 3))}
        return [self.text(), self.number(), True, self.draw.random() < 0.5][kind]

    def call(self) -> Call:
        draw, name = self.draw, self.draw.choice(["turn_on", "event", "light", "order", "order"])
        if name == "turn_on":
            return name, {}
        if name == "event":
            return name, {
                "title": self.text(),
                "datetime": self.time(),
                **self.some(minutes=lambda: draw.randint(0, 90)),
            }
        if name == "light":
            rooms = TOOLS[2]["function"]["parameters"]["properties"]["Room"]["enum"]
            needed = {"Room": draw.choice(rooms), "on": draw.random() < 0.5, "type": self.text()}
            return name, {**needed, **self.some(level=self.number, step=lambda: draw.choice([1, 5]), note=self.text)}
        item = lambda: {"count": draw.randint(-5, 5), **self.some(name=self.text)}  # noqa: E731
        where = lambda: {"city": self.text(), **self.some(at=lambda: self.many(self.number, 0, 3))}  # noqa: E731
        return name, {
            "items": self.many(item, 1, 3),
            "price": draw.choice([3, self.text()]),
            **self.some(
                tags=lambda: self.many(self.text, 0, 4),
                day=self.day,
                where=where,
                extra=lambda: {f"x{i}": self.any() for i in range(draw.randint(0, 3))},
                any=lambda: self.many(self.any, 0, 3),
            ),
        }


LIGHT: Call = ("light", {"Room": "a", "on": True, "type": "t", "level": 1.5, "step": 5})
EVENT: Call = ("event", {"title": "قهوة", "datetime": "2026-11-08T14:00:00", "minutes": 5})
ORDER: Call = ("order", {"items": [{"count": 1, "name": "n"}], "price": 3, "where": {"city": "c"}, "day": "2026-11-08"})


def _changed(call: Call, change: Callable[[dict[str, Any]], Any]) -> str:
    arguments = copy.deepcopy(call[1])
    change(arguments)
    return written(call[0], arguments)


def _put(call: Call, **values: Any) -> str:
    return _changed(call, lambda arguments: arguments.update(values))


def _swapped(call: Call, old: str, new: str) -> str:
    text = written(*call)
    assert old in text, (old, text)
    return text.replace(old, new, 1)


def broken() -> dict[str, str]:
    """Answers that are wrong in one way each, by what is wrong."""
    found = {
        "unknown function": written("lights", LIGHT[1]), "no function": f"{START_CALL}call:{{}}{END_CALL}",
        "missing key": _changed(LIGHT, lambda a: a.pop("on")), "no keys": written("light", {}),
        "missing reserved key": _changed(LIGHT, lambda a: a.pop("type")),
        "another key": _put(LIGHT, colour="red"), "keys for none": written("turn_on", {"x": 1}),
        "another nested key": _put(ORDER, where={"city": "c", "x": 1}), "nested key missing": _put(ORDER, where={}),
        "item key missing": _put(ORDER, items=[{"name": "n"}]), "too few items": _put(ORDER, items=[]),
        "too many items": _put(ORDER, items=[{"count": 1}] * 4), "scalar for list": _put(ORDER, items=3),
        "list for scalar": _put(EVENT, title=["a"]), "number for string": _put(EVENT, title=5),
        "string for number": _put(LIGHT, level="1.5"), "string for boolean": _put(LIGHT, on="true"),
        "number for boolean": _put(LIGHT, on=1), "fraction for integer": _put(EVENT, minutes=1.5),
        "no option of the union": _put(ORDER, price=True), "item of another type": _put(ORDER, tags=[1]),
        "outside the enum": _put(LIGHT, Room="b"), "beginning of an enum": _put(LIGHT, Room="غرفة"),
        "outside the numbers": _put(LIGHT, step=15), "bare Arabic digit": _swapped(EVENT, "minutes:5", "minutes:٥"),
        "leading zero": _swapped(EVENT, "minutes:5", "minutes:05"), "null": _swapped(EVENT, "minutes:5", "minutes:null"),  # noqa: E501
        "None": _swapped(EVENT, "minutes:5", "minutes:None"), "no value": _swapped(EVENT, "minutes:5", "minutes:"),
        "infinite": _swapped(LIGHT, "level:1.5", "level:1e999"), "bare string": _swapped(LIGHT, "level:1.5", "level:x"),
        "JSON string": _swapped(EVENT, f"{ESCAPE}قهوة{ESCAPE}", '"قهوة"'),
        "string not opened": _swapped(EVENT, f"title:{ESCAPE}", "title:"),
        "string not closed": _swapped(EVENT, f"قهوة{ESCAPE}", "قهوة"),
        "key in escapes": _swapped(EVENT, "title:", f"{ESCAPE}title{ESCAPE}:"),
        "space after a comma": _swapped(EVENT, ",minutes", ", minutes"), "trailing comma": _swapped(EVENT, "}", ",}"),
        "no brace": _swapped(EVENT, "}", ""), "two braces": _swapped(EVENT, "}", "}}"),
        "no end": _swapped(EVENT, END_CALL, ""), "no call:": _swapped(EVENT, "call:", ""),
        "text after the call": written(*EVENT) + "ok", "end twice": written(*EVENT) + END_CALL,
        "key twice": _swapped(EVENT, "minutes:5", "minutes:5,minutes:5"), "nothing": "",
        "another order": f"{START_CALL}call:event{{title:{ESCAPE}a{ESCAPE},datetime:{ESCAPE}2026-11-08T14:00:00{ESCAPE}}}{END_CALL}",  # noqa: E501
        "call in a call": _swapped(EVENT, "قهوة", START_CALL), "escape outside": f"a{ESCAPE}b",
    }  # fmt: skip
    for time in ("2026-13-08T14:00:00", "2026-02-30T14:00:00", "2025-02-29T14:00:00", "1900-02-29T14:00:00",
                 "2026-04-31T14:00:00", "2026-11-08T24:00:00", "2026-11-08T14:60:00", "2026-11-08T14:00", "2026-11-08",
                 "2026-11-8T14:00:00", "بكرة", "٢٠٢٦-١١-٠٨T14:00:00", "2026-11-08T14:00:00Z", ""):  # fmt: skip
        found[f"time {time}"] = _put(EVENT, datetime=time)
    return {**found, "day": _put(ORDER, day="2026-11-31")}


def spelt() -> dict[str, list[str]]:
    """Control tokens spelt out as characters, before, in the middle and at the end of a string, and in an answer."""
    tokens = [*CONTROL_TOKENS, "<unused0>", "<unused99>"]
    return {token: [token, f"a{token}", f"<{token}b", f"<start_of{token}<"] for token in tokens}
