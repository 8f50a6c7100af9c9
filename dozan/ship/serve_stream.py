"""From token ids to what a client sees: text that never splits a character, and calls when they are whole.

A call begins and ends in tokens of its own, so text is held back only where it may yet be cut: the bytes of an
unfinished character, white space that nothing has followed, and what may be the beginning of a stop string.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from dozan.chat.format import Call, ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import END_CALL, START_CALL


@dataclass(frozen=True)
class Text:
    """More of the answer's text."""

    text: str


@dataclass(frozen=True)
class Called:
    """A whole call, the `index`-th of the answer."""

    index: int
    call: Call


Delta = Text | Called


class Reader:
    """Reads an answer token by token. `stopped`: a stop string was met, and nothing after it counts."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._chat, self._stop = tokenizer, chat, tuple(stop)
        self._opens = tokenizer.id(START_CALL) if tokenizer.has(START_CALL) else None
        self._closes = tokenizer.id(END_CALL) if tokenizer.has(END_CALL) else None
        self._controls = tokenizer.control_ids
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._begun = False
        self._call: list[int] = []
        self.ids: list[int] = []
        self.calls = 0
        self.problems: list[str] = []
        self.stopped = False

    def take(self, token: int) -> list[Delta]:
        """What a token brings."""
        self.ids.append(token)
        if self.stopped:
            return []
        if self._call:
            self._call.append(token)
            return self._close() if token == self._closes else []
        if token == self._opens:
            found = self._flush()
            self._call = [] if self.stopped else [token]
            return found
        if token in self._controls:
            self.problems.append(f"{self._tokenizer.decode([token])} outside a call")
            return []
        return self._text(self._bytes.decode(self._tokenizer.bytes_of(token)))

    def end(self) -> list[Delta]:
        """What is left when no token follows."""
        if self.stopped:
            return []
        if self._call:
            self.problems.append("the last call is cut off")
            self._call = []
            return []
        return self._flush()

    def raw(self) -> str:
        """Everything so far as the model wrote it, control tokens spelt out."""
        return self._tokenizer.decode(self.ids)

    def _close(self) -> list[Delta]:
        parsed = self._chat.parse(self._tokenizer.decode(self._call))
        self._call = []
        self.problems += parsed.problems
        found = [Called(self.calls + i, call) for i, call in enumerate(parsed.calls)]
        self.calls += len(found)
        return list(found)

    def _flush(self) -> list[Delta]:
        """The text before a call or the end; white space at its end is dropped."""
        found = self._text(self._bytes.decode(b"", final=True))
        self._bytes.reset()
        rest, self._held = ("" if self.stopped else self._held.rstrip()), ""
        rest = rest if self._begun else rest.lstrip()
        self._begun = self._begun or bool(rest)
        return [*found, Text(rest)] if rest else found

    def _text(self, more: str) -> list[Delta]:
        self._held += more
        met = [at for at in (self._held.find(word) for word in self._stop) if at >= 0]
        if met:
            self.stopped, safe = True, min(met)
        else:
            safe = len(self._held) - self._beginning()
        safe = len(self._held[:safe].rstrip())
        ready, self._held = self._held[:safe], self._held[safe:]
        ready = ready if self._begun else ready.lstrip()
        self._begun = self._begun or bool(ready)
        return [Text(ready)] if ready else []

    def _beginning(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1)
                     if any(word.startswith(self._held[-n:]) for word in self._stop)), 0)  # fmt: skip
