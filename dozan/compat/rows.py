"""A trainer's rows: conversations as the engine's Examples, texts and ids as tokens with their weights.

A column of texts (or formatting_func) is tokenised as it stands; columns input_ids and labels are taken as they are;
anything else is a conversation in one of dozan's shapes (messages, conversations, prompt and completion, ...).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dozan.chat.encode import Tokens, encode_example
from dozan.compat.markers import require_markers, response_spans, span_weights
from dozan.compat.say import say
from dozan.compat.tokenizer import ChatTokenizer
from dozan.errors import InputError
from dozan.rows.example import Example
from dozan.rows.readers import examples_of, read_rows
from dozan.rows.records import Record

IGNORED = -100
"""The label of a token that is not trained."""
_ANY_LENGTH = 1 << 30
_MASKS = ("labels", "completion_mask", "assistant_masks")


class TrainRows(Sequence[Any]):
    """Rows by what the engine takes; an item is a dict with input_ids and labels, and the row's own columns."""

    def __init__(self, name: str, tokenizer: ChatTokenizer) -> None:
        self.name, self.tokenizer = name, tokenizer
        self.path: str | Path | None = None
        self.raw: list[Mapping[str, Any]] = []
        self.examples: list[Example] = []
        self.texts: list[str] = []
        self.ids: list[Tokens] = []
        self.markers: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self.examples) or len(self.texts) or len(self.ids)

    @property
    def column_names(self) -> list[str]:
        return list(self[0])

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return [row[index] for row in self]
        if isinstance(index, slice):
            chosen = [self[i] for i in range(*index.indices(len(self)))]
            return {key: [row.get(key) for row in chosen] for key in (chosen[0] if chosen else ())}
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        row = self.tokens(index)
        labels = [i if weight else IGNORED for i, weight in zip(row.ids, row.weights, strict=True)]
        own = self.raw[index] if self.raw else {}
        return {**own, "input_ids": list(row.ids), "attention_mask": [1] * len(labels), "labels": labels}

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def tokens(self, index: int) -> Tokens:
        """A row's tokens and weights. Raises InputError for one that cannot be used."""
        if self.examples:
            return encode_example(self.examples[index], self.tokenizer.chat, self.tokenizer.tokens, _ANY_LENGTH)
        return self._of_text(index) if self.texts else self.ids[index]

    def for_engine(self) -> Any:
        """What `dozan.train` takes: a file's path, Examples or Tokens."""
        if self.path is not None:
            return self.path
        return self.examples or self.ids or [self._of_text(i) for i in range(len(self.texts))]

    def respond_only(self, instruction_part: str, response_part: str) -> None:
        """Train what is behind `response_part`. Raises InputError, with what does occur, for markers that do not."""
        names = [f"{self.name}[{i}]" for i in range(len(self))]
        if self.ids:
            texts = [self.tokenizer.decode(row.ids) for row in self.ids]
            require_markers(texts, names, instruction_part, response_part)
            given, self.texts, self.ids = self.ids, texts, []
            self.markers = (instruction_part, response_part)
            _tell_of_change(self, given)
        elif self.texts:
            require_markers(self.texts, names, instruction_part, response_part)
        else:
            chat = self.tokenizer.chat
            texts = [chat.render(e.messages, e.tools, place=e.place).text for e in self.examples]
            require_markers(texts, names, instruction_part, response_part)
            for text, example in zip(texts, self.examples, strict=True):
                own = list(chat.render(example.messages, example.tools, place=example.place).trained)
                if response_spans(text, instruction_part, response_part) != own:
                    raise InputError(f"train_on_responses_only: rows of messages are trained on the assistant's turns, "
                                     f"and {response_part!r} marks something else in {example.place}; give the text of "
                                     "the rows instead: tokenizer.apply_chat_template(…, tokenize=False)")  # fmt: skip
        self.markers = (instruction_part, response_part)

    def _of_text(self, index: int) -> Tokens:
        tokenizer, text = self.tokenizer, self.texts[index]
        text = text if text.startswith(tokenizer.bos_token) else tokenizer.bos_token + text
        ids, spans = tokenizer.tokens.encode_rendered(tokenizer.marked(text))
        trained = [(0, len(text))] if self.markers is None else response_spans(text, *self.markers)
        return Tokens(f"{self.name}[{index}]", array("I", ids), array("d", span_weights(spans, trained)))


def gather(
    name: str, data: Any, tokenizer: ChatTokenizer, text_field: str, formatting_func: Callable[..., Any] | None,
    most: int | None = None,
) -> TrainRows:  # fmt: skip
    """The rows of a data set, of which at most `most` are read when it has no length. Raises InputError for what is
    none."""
    rows = TrainRows(name, tokenizer)
    if isinstance(data, str | Path):
        rows.path, rows.examples = data, read_rows(data, say=say)
        return rows
    listed = list(data if hasattr(data, "__len__") or most is None else islice(data, most))
    if not listed:
        raise InputError(f"{name}: no rows; give at least one")
    if all(isinstance(row, Example) for row in listed):
        rows.examples = listed
        return rows
    wrong = next((i for i, row in enumerate(listed) if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise InputError(f"{name}[{wrong}]: expected a dict of columns, found {type(listed[wrong]).__name__}")
    rows.raw = listed
    if formatting_func is not None:
        rows.texts = _formatted(name, listed, formatting_func)
    elif "input_ids" in listed[0]:
        rows.ids = [_given(f"{name}[{i}]", row, tokenizer) for i, row in enumerate(listed)]
    elif isinstance(listed[0].get(text_field), str):
        rows.texts = [_text(f"{name}[{i}]", row, text_field) for i, row in enumerate(listed)]
    else:
        rows.examples = _conversations(name, listed)
        return rows
    if rows.texts:
        _tell_of_ends(rows)
    return rows


def _formatted(name: str, rows: Sequence[Mapping[str, Any]], function: Callable[..., Any]) -> list[str]:
    """What a formatting function makes of the rows: it takes one and gives its text, or a batch and gives a list. One
    that fails on a row is taken to want a batch."""
    try:
        first, problem = function(rows[0]), None
    except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
        first, problem = None, error
    if isinstance(first, str):
        made: Any = [first, *(function(row) for row in rows[1:])]
    else:
        try:
            made = function({key: [row.get(key) for row in rows] for key in rows[0]})
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            raise InputError(f"formatting_func: fits neither a row ({_failure(problem, first)}) nor a batch of rows "
                             f"({_failure(error)}); give a row's text, or a batch's list") from error  # fmt: skip
    if not isinstance(made, list | tuple):
        raise InputError(f"formatting_func: gave a {type(made).__name__} for a batch of rows; it must give a row's "
                         "text, or a list of the texts of a batch")  # fmt: skip
    texts = list(made)
    wrong = [i for i, text in enumerate(texts) if not isinstance(text, str) or not text.strip()]
    if wrong or len(texts) != len(rows):
        raise InputError(f"formatting_func: gave {len(texts)} texts for {len(rows)} rows of {name}, of which "
                         f"{len(wrong)} are empty or no text; it must give one text a row")  # fmt: skip
    return texts


def _failure(error: Exception | None, found: object = None) -> str:
    return f"gave a {type(found).__name__}" if error is None else f"{type(error).__name__}: {error}"


def _text(place: str, row: Mapping[str, Any], field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{place}: {field} is {'empty' if text == '' else repr(text)[:80]}; each row needs its text")
    return text


def _given(place: str, row: Mapping[str, Any], tokenizer: ChatTokenizer) -> Tokens:
    """A row whose ids and labels were made elsewhere."""
    ids = [int(i) for i in row["input_ids"]]
    bad = [i for i in ids if not 0 <= i < tokenizer.vocab_size]
    if bad or not ids:
        raise InputError(f"{place}: input_ids hold {bad[:3] or 'nothing'}; the tokenizer has 0 to "
                         f"{tokenizer.vocab_size - 1}")  # fmt: skip
    key = next((key for key in _MASKS if row.get(key) is not None), None)
    marks = list(row[key]) if key is not None else [1] * len(ids)
    if len(marks) != len(ids):
        raise InputError(f"{place}: {len(ids)} input_ids and {len(marks)} {key}; each token needs one")
    if key == "labels":
        other = [i for i, (token, label) in enumerate(zip(ids, marks, strict=True)) if label not in (IGNORED, token)]
        if other:
            raise InputError(f"{place}: labels[{other[0]}] is {marks[other[0]]}, neither the token {ids[other[0]]} nor "
                             f"{IGNORED}; labels are not shifted")  # fmt: skip
    trained = [mark != IGNORED if key == "labels" else bool(mark) for mark in marks]
    mask = list(row.get("attention_mask") or [1] * len(ids))
    kept = [i for i, there in enumerate(mask) if there]
    weights = [float(trained[i]) if n else 0.0 for n, i in enumerate(kept)]
    return Tokens(place, array("I", [ids[i] for i in kept]), array("d", weights))


def _conversations(name: str, rows: Sequence[Mapping[str, Any]]) -> list[Example]:
    records = (Record(dict(row), f"{name}[{i}]", i + 1, None) for i, row in enumerate(rows))
    return list(examples_of(records, name, say=say))


def _tell_of_ends(rows: TrainRows) -> None:
    """Say how many texts teach no end."""
    tokenizer = rows.tokenizer
    stops = tuple({tokenizer.eos_token, *tokenizer.chat.stop_tokens})
    endless = sum(not text.rstrip().endswith(stops) for text in rows.texts)
    if endless:
        say(f"{rows.name}: {endless} of {len(rows.texts)} texts end in no stop token ({', '.join(stops)}), and none is "
            "added: of them the model does not learn to stop")  # fmt: skip


def _tell_of_change(rows: TrainRows, given: Sequence[Tokens]) -> None:
    """Say how many rows of ids had labels that the markers take the place of, and how many get other ids."""
    marked = sum(0.0 in row.weights[1:] for row in given)
    if marked:
        say(f"train_on_responses_only: {rows.name}: the markers say what is trained; the labels or masks that {marked} "
            f"of {len(given)} rows brought are not used")  # fmt: skip
    other = sum(rows.tokens(i).ids != row.ids for i, row in enumerate(given))
    if other:
        say(f"train_on_responses_only: {rows.name}: {other} of {len(given)} rows of ids are tokenised again from their "
            "text, and get other ids than they brought (<bos>, or a tokenizer of another kind)")  # fmt: skip
