"""Rows to token ids with a training weight for each: labels come from spans of the rendered text, not from markers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dozan.chat.format import ChatFormat, Parsed, Rendered
from dozan.chat.keys import key
from dozan.chat.messages import Notes, read_turns
from dozan.chat.tokenizer import Span, Tokenizer
from dozan.chat.tokens import BOS
from dozan.errors import InputError
from dozan.rows.errors import Errors
from dozan.rows.example import Example

TOGETHER = 256
"""Rows that are encoded at a time: a tool list that they share is tokenised once for all."""

_T = TypeVar("_T")
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Tokens:
    """A row as the model trains on it: `weights[i]` is that of predicting `ids[i]`, 0 where nothing is trained.

    Tuples, or arrays ("I" and "d") when the row is read from a store.
    """

    row: str
    ids: Sequence[int]
    weights: Sequence[float]

    @cached_property
    def key(self) -> bytes:
        """The ids as bytes that sort and compare as they do."""
        return key(self.ids)

    @cached_property
    def supervised(self) -> tuple[Numbers, Numbers]:
        """Which ids are trained, int64 [S], and their weights, float32 [S]."""
        weights = np.array(self.weights, np.float32)
        (at,) = np.nonzero(weights > 0)
        return at, weights[at]


def encode_example(example: Example, chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """One row's tokens. Raises InputError for a row that is malformed, trains nothing or is too long."""
    return encode_rows([example], chat, tokenizer, max_tokens)[0]


def encode_rows(examples: Sequence[Example], chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int) -> list[Tokens]:
    """Every row's tokens, in order; nothing is truncated or dropped. All bad rows are named in one InputError."""
    errors = Errors()
    rows: list[Tokens] = []
    for at in range(0, len(examples), TOGETHER):
        rows += encode_some(examples[at : at + TOGETHER], chat, tokenizer, max_tokens, errors)
    refuse_unusable(errors, len(examples))
    return rows


def encode_some(
    examples: Sequence[Example], chat: ChatFormat, tokenizer: Tokenizer, max_tokens: int, errors: Errors,
    written: Sequence[Rendered | None] = (),
) -> list[Tokens]:  # fmt: skip
    """The tokens of the rows that can be used; what is wrong with the others goes to `errors`.

    written: the rows as `chat` renders them, where that is known already.
    """
    rendered: list[tuple[Example, Rendered]] = []
    for example, known in zip_longest(examples, written):
        row = _attempt(partial(_render, example, chat, known), errors)
        if row is not None:
            rendered.append((example, row))
    encoded = tokenizer.encode_many([row for _, row in rendered])
    rows = [
        _attempt(partial(_tokens, example, row, found, chat, tokenizer, max_tokens), errors)
        for (example, row), found in zip(rendered, encoded, strict=True)
    ]
    return [row for row in rows if row is not None]


def refuse_unusable(errors: Errors, rows: int) -> None:
    """Raises InputError with the first of the errors that some of so many rows have."""
    if errors:
        head = f"{len(errors)} of {rows} rows cannot be used:\n" if rows > 1 else ""
        raise InputError(f"{head}{errors}")


def encode_prompt(example: Example, chat: ChatFormat, tokenizer: Tokenizer) -> list[int]:
    """The conversation before its last assistant message (all of it when there is none), the model's turn left open."""
    last = _last_assistant(example)
    messages = example.messages if last is None else example.messages[:last]
    rendered = chat.render(messages, example.tools, generate=True, place=_name(example))
    return tokenizer.encode_rendered(rendered)[0]


def gold(example: Example) -> Parsed:
    """The answer a row asks for: the calls and text of its last assistant message.

    Raises InputError when the row has none, or when its arguments cannot be read.
    """
    last = _last_assistant(example)
    if last is None:
        raise InputError(f"{_name(example)}: no assistant message; add the answer that the row should be scored on")
    notes = Notes(_name(example))
    turn = read_turns(example.messages[last : last + 1], notes)
    notes.raise_errors()
    return Parsed(turn[0].calls, turn[0].text)


def _render(example: Example, chat: ChatFormat, known: Rendered | None) -> Rendered:
    rendered = known or chat.render(example.messages, example.tools, place=_name(example))
    if not rendered.trained:
        raise InputError(f"{_name(example)}: nothing to train on; add an assistant message with the answer")
    return rendered


def _tokens(
    example: Example, rendered: Rendered, encoded: tuple[list[int], list[Span]], chat: ChatFormat,
    tokenizer: Tokenizer, max_tokens: int,
) -> Tokens:  # fmt: skip
    ids, spans = encoded
    if len(ids) > max_tokens:
        raise InputError(
            f"{_name(example)}: {len(ids)} tokens, more than the {max_tokens} allowed; "
            "shorten the row, or raise data.max_tokens as far as the model's context goes"
        )
    runs = _runs(spans, rendered.trained)
    bos = tokenizer.id(BOS)
    assert ids[0] == bos and ids.count(bos) == 1, f"{_name(example)}: exactly one {BOS} must come first"
    stops = {tokenizer.id(token) for token in chat.stop_tokens if tokenizer.has(token)}
    stopped = [spans[i][1] for first, after in runs for i in range(first, after) if ids[i] in stops]
    assert stopped == [end for _, end in rendered.trained], (
        f"{_name(example)}: a trained span must end in its only stop token"
    )
    return Tokens(example.id, tuple(ids), _weights(len(ids), runs))


def span_weights(spans: Sequence[Span], trained: Sequence[Span]) -> tuple[float, ...]:
    """1.0 for each token whose characters lie in a trained span, else 0.0. A token across a border is a bug of ours."""
    return _weights(len(spans), _runs(spans, trained))


def _weights(count: int, runs: Sequence[Span]) -> tuple[float, ...]:
    weights = [0.0] * count
    for first, after in runs:
        weights[first:after] = [1.0] * (after - first)
    return tuple(weights)


def _runs(spans: Sequence[Span], trained: Sequence[Span]) -> list[Span]:
    """The first token of each trained span and the one after its last."""
    runs: list[Span] = []
    for begin, stop in trained:
        first, after = bisect_left(spans, (begin, -1)), bisect_left(spans, (stop, -1))
        for border, at in ((begin, first - 1), (stop, after - 1)):
            assert at < 0 or spans[at][1] <= border, f"a token at {spans[at]} lies across the border {border}"
        runs.append((first, after))
    return runs


def _last_assistant(example: Example) -> int | None:
    """The index of the last assistant message."""
    found = [i for i, message in enumerate(example.messages) if message.get("role") == "assistant"]
    return found[-1] if found else None


def _name(example: Example) -> str:
    """How a row is named in messages: its place, then its id."""
    return f"{example.place} ({example.id})" if example.place else f"row {example.id}"


def _attempt(work: Callable[[], _T], errors: Errors) -> _T | None:
    try:
        return work()
    except InputError as error:
        errors.add(str(error))
        return None
