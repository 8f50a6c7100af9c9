"""Rows as token ids with their spans, one by one: what can be encoded, and a word on what cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from dozan.chat.encode import span_weights
from dozan.chat.format import ChatFormat, Rendered
from dozan.chat.tokenizer import Span, Tokenizer
from dozan.errors import InputError
from dozan.rows.example import Example

Refused = Callable[[Example, str], None]
_TOGETHER = 256


@dataclass(frozen=True)
class Encoded:
    """A row's rendering, its token ids, each one's characters in the rendering, and what predicting it weighs."""

    example: Example
    rendered: Rendered
    ids: list[int]
    spans: list[Span]
    weights: tuple[float, ...]


def encode_examples(
    examples: Iterable[Example], chat: ChatFormat, tokenizer: Tokenizer, refused: Refused
) -> Iterator[Encoded]:
    """The rows in order, 256 in memory at a time; `refused` gets those that cannot be rendered or encoded, and why."""
    left = iter(examples)
    while some := list(islice(left, _TOGETHER)):
        rendered = [(example, text) for example in some if (text := _render(example, chat, refused)) is not None]
        try:
            found = tokenizer.encode_many([text for _, text in rendered])
            encoded = [(*pair, each) for pair, each in zip(rendered, found, strict=True)]
        except InputError:
            encoded = list(_one_by_one(rendered, tokenizer, refused))
        for example, text, (ids, spans) in encoded:
            yield Encoded(example, text, ids, spans, span_weights(spans, text.trained))


def _render(example: Example, chat: ChatFormat, refused: Refused) -> Rendered | None:
    try:
        rendered = chat.render(example.messages, example.tools)
        rendered.text.encode()
    except InputError as error:
        refused(example, str(error))
    except UnicodeEncodeError as error:
        refused(example, f"half a surrogate pair, U+{ord(error.object[error.start]):04X}, which is no text")
    else:
        return rendered
    return None


def _one_by_one(
    rendered: list[tuple[Example, Rendered]], tokenizer: Tokenizer, refused: Refused
) -> Iterator[tuple[Example, Rendered, tuple[list[int], list[Span]]]]:
    for example, text in rendered:
        try:
            yield example, text, tokenizer.encode_rendered(text)
        except InputError as error:
            refused(example, str(error))
