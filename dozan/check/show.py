"""A row as the model sees it: its tokens by turn, which are trained, and how many other rows begin with them too."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from dozan.chat.format import ChatFormat
from dozan.chat.keys import common_prefix, key
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import END_TURN, START_CALL, START_DECLARATION, START_RESPONSE, START_TURN
from dozan.check.encoded import Encoded, encode_examples
from dozan.errors import InputError
from dozan.rows.example import Example

Part = Literal["trained", "context", "masked"]
MODEL_ROLE = "model"
_MARKS_APART = 8


@dataclass(frozen=True)
class Piece:
    """A token: its ids, its text, the weight of predicting it, and what it is to the training.

    ids has more than one element where a character is spelt in bytes. trained: the loss sees it. masked: in the
    model's turn, but the loss does not see it (a tool's result). context: everything that is given to the model.
    stop: the trained token at which the model is to stop. shared: how many other rows begin with this row's tokens up
    to here, this one included.
    """

    ids: tuple[int, ...]
    text: str
    weight: float
    part: Part
    control: bool = False
    stop: bool = False
    shared: int = 0

    @property
    def begins_line(self) -> bool:
        """Whether a view puts it on a line of its own: declarations, calls and responses."""
        return self.control and not self.stop and self.text in (START_DECLARATION, START_CALL, START_RESPONSE)


Numbered = tuple[int, Piece]
"""A token with its place in the row."""


@dataclass(frozen=True)
class Turn:
    """The tokens from one start of a turn up to the next; role as the model reads it (developer, user, model)."""

    role: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Shown:
    """A row to show. others: how many rows it was compared with; repairs: what was changed so that it could be written.

    refused: why the row cannot be rendered, and then it has no turns.
    """

    row: str
    place: str
    turns: tuple[Turn, ...]
    others: int = 0
    repairs: tuple[str, ...] = ()
    refused: str = ""

    @property
    def pieces(self) -> Iterator[Piece]:
        return (piece for turn in self.turns for piece in turn.pieces)

    @property
    def tokens(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces)

    @property
    def trained(self) -> int:
        return sum(len(piece.ids) for piece in self.pieces if piece.part == "trained")

    def marks(self) -> dict[int, int]:
        """Where sharing ends: the numbers of pieces before which those rows fall to a tenth; from how many."""
        found: dict[int, int] = {}
        before = marked = self.others
        for i, piece in enumerate(self.pieces):
            apart = not found or i - max(found) >= _MARKS_APART
            if piece.shared < before and piece.shared * 10 <= marked and apart:
                found[i] = before
                marked = piece.shared
            before = piece.shared
        return found

    @property
    def shared(self) -> int:
        """Tokens at the row's beginning that at least one other row begins with too."""
        return sum(len(piece.ids) for piece in self.pieces if piece.shared)


def show_rows(
    read: Callable[[], Iterable[Example]], chat: ChatFormat, tokenizer: Tokenizer, rows: Sequence[str] = (),
    limit: int = 1,
) -> list[Shown]:  # fmt: skip
    """The rows of these ids or line numbers; without any, the first `limit`. In constant memory.

    `read` gives the rows of the file from its start; it is called twice, since each row shown is compared with all
    others. Raises InputError for an id or a line that no row has.
    """
    chosen = _choose(read(), rows, limit)
    refused: dict[str, str] = {}

    def refuse(example: Example, why: str) -> None:
        refused[example.place] = why

    encoded = {found.example.place: found for found in encode_examples(chosen, chat, tokenizer, refuse)}
    common = _compare(encoded.values(), read(), chat, tokenizer)
    return [
        _show(encoded[example.place], common[example.place], chat, tokenizer)
        if example.place in encoded
        else Shown(example.id, example.place, (), refused=refused[example.place])
        for example in chosen
    ]


def _choose(examples: Iterable[Example], rows: Sequence[str], limit: int) -> list[Example]:
    if not rows:
        return list(islice(examples, limit))
    found: dict[str, Example] = {}
    near: set[str] = set()
    for example in examples:
        line = example.place.rpartition(":")[2]
        for name in {example.id, line}.intersection(rows):
            found.setdefault(name, example)
        near.update(difflib.get_close_matches(example.id, rows, 1, 0.8) and [example.id] if len(near) < 3 else ())
        if len(found) == len(set(rows)):
            break
    if missing := [name for name in rows if name not in found]:
        hint = f"; near it are {', '.join(sorted(near))}" if near else ""
        raise InputError(f"--row {', '.join(missing)}: no row has that id or stands on that line{hint}")
    return [found[name] for name in dict.fromkeys(rows)]


def _compare(
    shown: Iterable[Encoded], examples: Iterable[Example], chat: ChatFormat, tokenizer: Tokenizer
) -> dict[str, Counter[int]]:
    """For each shown row, by its place: how many other rows have so many first tokens in common with it."""
    keys = {row.example.place: key(row.ids) for row in shown}
    common: dict[str, Counter[int]] = {place: Counter() for place in keys}
    for other in encode_examples(examples, chat, tokenizer, lambda example, why: None):
        packed = key(other.ids)
        for place, own in keys.items():
            if place != other.example.place:
                common[place][common_prefix(own, packed)] += 1
    return common


def _show(row: Encoded, common: Counter[int], chat: ChatFormat, tokenizer: Tokenizer) -> Shown:
    stops = {tokenizer.id(token) for token in chat.stop_tokens if tokenizer.has(token)}
    shared = _shared_by(common, len(row.ids))
    parts = _parts(row)
    pieces: list[Piece] = []
    starts: list[int] = []
    roles: list[str] = []
    text, controls = row.rendered.text, set(row.rendered.controls)
    for at, (token, (start, end)) in enumerate(zip(row.ids, row.spans, strict=True)):
        control = (start, end) in controls
        if control and text[start:end] == START_TURN:
            starts.append(len(pieces) if roles else 0)
            roles.append(text[end : text.find("\n", end)])
        if at and row.spans[at - 1] == (start, end):
            pieces[-1] = replace(pieces[-1], ids=(*pieces[-1].ids, token))
            continue
        weight = row.weights[at]
        stop = token in stops and weight > 0
        pieces.append(Piece((token,), text[start:end], weight, parts[at], control, stop, shared[at]))
    ends = [*starts[1:], len(pieces)]
    turns = tuple(
        Turn(role, tuple(pieces[start:end])) for role, start, end in zip(roles, starts, ends, strict=True)
    ) or (Turn("", tuple(pieces)),)
    others = sum(common.values())
    return Shown(row.example.id, row.example.place, turns, others, row.rendered.repairs)


def _shared_by(common: Counter[int], length: int) -> list[int]:
    """For each token, how many other rows begin with the row's tokens up to and with it."""
    shared = [0] * length
    rows = 0
    for at in range(length - 1, -1, -1):
        rows += common[at + 1]
        shared[at] = rows
    return shared


def _parts(row: Encoded) -> list[Part]:
    """What each token is to the training; the line that opens a model's turn and the last line end are its frame."""
    text, controls = row.rendered.text, set(row.rendered.controls)
    parts: list[Part] = []
    body: tuple[int, int] = (0, 0)
    for (start, end), weight in zip(row.spans, row.weights, strict=True):
        if (start, end) in controls and text.startswith(f"{START_TURN}{MODEL_ROLE}\n", start):
            begin = start + len(START_TURN) + len(MODEL_ROLE) + 1
            close = text.find(END_TURN, begin)
            body = (begin, len(text) if close < 0 else close + len(END_TURN))
        inside = body[0] <= start and end <= body[1]
        parts.append("trained" if weight > 0 else "masked" if inside else "context")
    return parts


def lines_of(pieces: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """A turn's tokens in lines: after each line break, and before what begins a line."""
    line: list[Numbered] = []
    for number, piece in pieces:
        if line and piece.begins_line:
            yield line
            line = []
        line.append((number, piece))
        if piece.text.endswith("\n"):
            yield line
            line = []
    if line:
        yield line
