"""An answer in OpenAI's form: whole, or as the chunks of a stream."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field

from dozan.rows.example import Json
from dozan.ship.serve_stream import Called, Delta, Reader, Text


@dataclass
class Answer:
    """Collects what a reader finds of one answer; `chunks` gives each piece its form. prompt, known: its tokens."""

    model: str
    prompt: int
    reader: Reader
    raw: bool
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    known: int = 0
    reason: str | None = None
    _text: list[str] = field(default_factory=list)
    _calls: list[dict[str, Json]] = field(default_factory=list)

    def add(self, deltas: list[Delta]) -> list[dict[str, Json]]:
        """The stream's deltas for these pieces."""
        found: list[dict[str, Json]] = []
        for delta in deltas:
            match delta:
                case Text(text):
                    self._text.append(text)
                    found.append({"content": text})
                case Called(index, call):
                    arguments = json.dumps(call.arguments, ensure_ascii=False)
                    made = {"id": f"call_{secrets.token_hex(12)}", "type": "function"}
                    self._calls.append({**made, "function": {"name": call.name, "arguments": arguments}})
                    head = {"index": index, **made, "function": {"name": call.name, "arguments": ""}}
                    found.append({"tool_calls": [head]})
                    found.append({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
        return found

    def finish(self, reason: str, known: int) -> list[dict[str, Json]]:
        """The last deltas. reason: of the model, "stop" or "length"."""
        deltas = self.add(self.reader.end())
        self.known = known
        cut = reason == "length" and not self.reader.stopped
        self.reason = "length" if cut else "tool_calls" if self._calls else "stop"
        return deltas

    def whole(self) -> dict[str, Json]:
        """The `chat.completion` object."""
        text = "".join(self._text)
        message: dict[str, Json] = {"role": "assistant", "content": text or (None if self._calls else ""),
                                    "refusal": None}  # fmt: skip
        if self._calls:
            message["tool_calls"] = self._calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.reason, **self._more()}
        return {**self._head("chat.completion"), "choices": [choice], "usage": self.usage()}

    def chunk(self, delta: dict[str, Json], with_usage: bool, last: bool = False) -> dict[str, Json]:
        """A `chat.completion.chunk`; the `last` one has the finish reason."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self.reason if last else None,
                  **(self._more() if last else {})}  # fmt: skip
        return {**self._head("chat.completion.chunk"), "choices": [choice], **({"usage": None} if with_usage else {})}

    def usage_chunk(self) -> dict[str, Json]:
        """The chunk without choices that tells the tokens."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, Json]:
        """Tokens of the prompt, of these those that were known from before, and of the answer without its stop."""
        written = len(self.reader.ids)
        return {"prompt_tokens": self.prompt, "completion_tokens": written, "total_tokens": self.prompt + written,
                "prompt_tokens_details": {"cached_tokens": self.known}}  # fmt: skip

    def _head(self, kind: str) -> dict[str, Json]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _more(self) -> dict[str, Json]:
        """What OpenAI's form has no place for: what could not be read, if anything, and the raw text if asked."""
        more: dict[str, Json] = {"problems": list(self.reader.problems)} if self.reader.problems else {}
        if self.raw:
            more["raw"] = self.reader.raw()
        return {"dozan": more} if more else {}
