"""Prints an answer while it is written."""

from __future__ import annotations

from typing import Any

from dozan.compat.tokenizer import ChatTokenizer

_PART = "\ufffd"
"""What the bytes of an unfinished character decode to."""


class TextStreamer:
    """Give it to `model.generate(streamer=…)`; `decode_kwargs` go to the tokenizer (skip_special_tokens=True)."""

    def __init__(self, tokenizer: ChatTokenizer, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer, self.skip_prompt, self.decode_kwargs = tokenizer, skip_prompt, decode_kwargs
        self._ids: list[int] = []
        self._printed = 0
        self._is_prompt = True

    def put(self, value: Any) -> None:
        """Ids [1, T] of the prompt first, then of each new token [1]."""
        ids = value.reshape(-1).tolist()
        is_prompt, self._is_prompt = self._is_prompt, False
        if is_prompt and self.skip_prompt:
            return
        self._ids += ids
        text = self.tokenizer.decode(self._ids, **self.decode_kwargs)
        if not text.endswith(_PART):
            self.on_finalized_text(text[self._printed :])
            self._printed = len(text)

    def end(self) -> None:
        """Prints what is left and a line end."""
        text = self.tokenizer.decode(self._ids, **self.decode_kwargs)
        self.on_finalized_text(text[self._printed :], stream_end=True)
        self._ids, self._printed, self._is_prompt = [], 0, True

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """What is done with new text: it is printed."""
        print(text, flush=True, end="\n" if stream_end else "")
