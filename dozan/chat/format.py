"""What a chat format is: messages and tools to text with spans, and the model's text back to calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from dozan.rows.example import Json

Message = Mapping[str, Json]
Tool = Mapping[str, Json]


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it. All spans are half-open character offsets in `text`, sorted, disjoint.

    `controls` are the control tokens that the format itself wrote; whatever else looks like one is plain text.
    `trained` is what the loss sees, stop tokens included, tool results excluded.
    `repairs` names what was changed in the input so that it could be rendered.
    """

    text: str
    controls: tuple[tuple[int, int], ...]
    trained: tuple[tuple[int, int], ...]
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One function call with typed arguments."""

    name: str
    arguments: dict[str, Json]


@dataclass(frozen=True)
class Parsed:
    """What the model said: its calls in order, the text around them, and what could not be read (with its position)."""

    calls: tuple[Call, ...]
    text: str
    problems: tuple[str, ...] = ()


class ChatFormat(Protocol):
    """Renders conversations and parses answers of one family of models.

    `stop_tokens` end a generation; `parse` tolerates them at the end of what it is given.
    """

    @property
    def name(self) -> str: ...

    @property
    def stop_tokens(self) -> tuple[str, ...]: ...

    def render(
        self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, place: str = ""
    ) -> Rendered:
        """Renders a conversation; `generate` leaves the model's turn open. All assistant turns are trained.

        Raises InputError naming `place`, the field and a remedy, for input that cannot be rendered faithfully.
        """
        ...

    def parse(self, text: str) -> Parsed:
        """Reads one generated turn. Never raises: what is malformed is named in `problems`."""
        ...


class Writer:
    """Collects text with the spans of its control tokens and of what is trained; `order` is by what keys sort."""

    def __init__(self, order: Callable[[str], str] = str.lower) -> None:
        self.order = order
        self._parts: list[str] = []
        self._length = 0
        self._controls: list[tuple[int, int]] = []
        self._trained: list[tuple[int, int]] = []
        self._open: int | None = None

    def text(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)

    def control(self, token: str) -> None:
        self._controls.append((self._length, self._length + len(token)))
        self.text(token)

    def block(self, text: str, controls: Sequence[tuple[int, int]]) -> None:
        """Text written before, with the spans of its control tokens."""
        self._controls += _moved(tuple(controls), self._length)
        self.text(text)

    def begin(self) -> None:
        """What follows is trained, until `end`."""
        assert self._open is None, "a trained span is already open"
        self._open = self._length

    def end(self) -> None:
        assert self._open is not None and self._length > self._open, "no trained text to close"
        self._trained.append((self._open, self._length))
        self._open = None

    def rendered(self, repairs: Sequence[str]) -> Rendered:
        assert self._open is None, "a trained span was left open"
        return Rendered("".join(self._parts), tuple(self._controls), tuple(self._trained), tuple(repairs))


@lru_cache(maxsize=64)
def _moved(spans: tuple[tuple[int, int], ...], by: int) -> tuple[tuple[int, int], ...]:
    """Spans so many characters further on; those of a tool list come again and again at the same place."""
    return tuple((start + by, end + by) for start, end in spans)
