"""A run's rows, read from their files as often as they are needed and never held: divided, checked, encoded to disk.

The first reading finds every line that is no row and divides the rows; the second checks them and encodes them. Of a
row that stays behind one byte in memory, and 8 in the store of its tokens.
"""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dozan.chat.arranged import Arrangement, arranged
from dozan.chat.encode import TOGETHER, Tokens, encode_some, refuse_unusable
from dozan.chat.format import ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.check.row_rules import check_row
from dozan.check.rules import Checked
from dozan.check.view import RowView, view_row
from dozan.errors import InputError
from dozan.rows.errors import Errors
from dozan.rows.example import Example, Json
from dozan.rows.groups import KeyGroups
from dozan.rows.hub import is_hub_id
from dozan.rows.readers import Say, read_examples, stream_rows
from dozan.rows.splits import require_share, sentence_pattern
from dozan.train.store import TokenStore

Row = Example | Tokens
"""Of a conversation, or its tokens with their weights as they are: those are not checked."""
Rows = str | Path | Sequence[Example] | Sequence[Tokens]
Part = str | Path | list[Row]
Stamp = tuple[int, int, int] | None
_COMPARED = 8
"""Training rows that are compared with a checkpoint's chat template."""


class GatheredRows:
    """Rows in order, each with whether it is held out; files are read again each time.

    is_split: whether they were divided here.
    """

    def __init__(self, parts: Sequence[Part], stamps: Sequence[Stamp], heldout: bytes, is_split: bool) -> None:
        self.is_split = is_split
        self._parts, self._stamps, self._heldout = parts, stamps, heldout

    def __len__(self) -> int:
        return len(self._heldout)

    @property
    def sizes(self) -> tuple[int, int]:
        """How many rows are trained on, and how many are held out."""
        held = self._heldout.count(1)
        return len(self._heldout) - held, held

    def read(self) -> Iterator[tuple[Row, bool]]:
        """Every row. Raises InputError when a file is not as it was."""
        self._require_unchanged()
        count = 0
        for part in self._parts:
            for example in part if isinstance(part, list) else read_examples(part, None, lambda broken: None):
                if count == len(self):
                    raise self._changed()
                yield example, bool(self._heldout[count])
                count += 1
        if count != len(self):
            raise self._changed()
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if [_stamp(part) for part in self._parts] != self._stamps:
            raise self._changed()

    def _changed(self) -> InputError:
        names = ", ".join(str(part) for part in self._parts if isinstance(part, str | Path))
        return InputError(f"{names}: changed while the rows were read; begin again when the file is whole")


@dataclass(frozen=True)
class Encoder:
    """How rows become tokens: their format and arrangement, and the longest that may be trained."""

    chat: ChatFormat
    arrangement: Arrangement
    tokenizer: Tokenizer
    max_tokens: int


@dataclass
class Encoded:
    """The rows' tokens by side (training, held out), and what was found on the way.

    seen: how many rows. checked: what the rules found. first: the first training rows. scored: those held-out rows that
    are to be answered. shared_tools: the tools that all rows have, if so. moved_tools, moved_dates: rows that the
    arrangement changes.
    """

    stores: tuple[TokenStore, TokenStore]
    seen: int = 0
    checked: Checked = field(default_factory=Checked)
    first: list[Example] = field(default_factory=list)
    scored: list[Example] = field(default_factory=list)
    shared_tools: Sequence[Mapping[str, Json]] = ()
    moved_tools: int = 0
    moved_dates: int = 0


def gather_rows(data: Rows, eval_data: Rows | None, share: float, seed: int, say: Say) -> GatheredRows:
    """The rows to train on and those held out: of a file or list of their own, else a share by sentence pattern.

    say: told the shape found, and what was passed over. Raises InputError that names every line that is no row.
    """
    is_split = eval_data is None and share != 0
    if is_split:
        require_share(share)
    given = [data] if eval_data is None else [data, eval_data]
    parts: list[Part] = [part if isinstance(part, str | Path) else list(part) for part in given]
    stamps = [_stamp(part) for part in parts]
    groups, count = KeyGroups(), 0
    for row in _first_reading(parts[0], say):
        count += 1
        if is_split:
            assert isinstance(row, Example), "rows that are tokens already have no pattern to be held out by"
            groups.add(sentence_pattern(row))
    if not count:
        raise InputError("no rows to train on; give at least one")
    if is_split:
        heldout = bytes(groups.hold_out(share, seed))
    else:
        heldout = bytes(count) + b"\1" * sum(1 for part in parts[1:] for _ in _first_reading(part, say))
    return GatheredRows(parts, stamps, heldout, is_split)


def encode_sides(
    rows: GatheredRows, encoder: Encoder, is_strict: bool, folder: Path, scored: Collection[int] = ()
) -> Encoded:
    """Check the rows and write their tokens to stores on the disk of a folder; `scored`: which held-out rows to keep.

    Raises InputError for what the rules refuse, if strict, and then for rows that have no form or are too long: the
    first twenty of all of them are named.
    """
    sizes = rows.sizes
    found = Encoded((TokenStore(folder, sizes[0]), TokenStore(folder, sizes[1])))
    checked, errors, seen = (Checked(), Checked()), (Errors(), Errors()), 0
    reading = rows.read()
    with _rare_collections():
        while read := list(islice(reading, TOGETHER)):
            some = _store_tokens(found, read, encoder, errors)
            views = [view_row(example, encoder.chat) for example, _ in some]
            for view, (_, is_heldout) in zip(views, some, strict=True):
                checked[is_heldout].add(check_row(view))
            _notice(found, some, encoder.arrangement)
            held = [example for example, is_heldout in some if is_heldout]
            found.scored += [example for place, example in enumerate(held, seen) if place in scored]
            seen += len(held)
            if not is_strict or not any(each.is_refused for each in checked):
                for side, store in enumerate(found.stores):
                    own = [view for view, (_, here) in zip(views, some, strict=True) if here == side]
                    store.add(_encode(own, encoder, errors[side]))
    found.checked = checked[0].and_then(checked[1])
    if is_strict:
        _refuse(found.checked, len(rows))
    for side in (0, 1):
        refuse_unusable(errors[side], sizes[side])
    return found


def _store_tokens(
    found: Encoded, some: Sequence[tuple[Row, bool]], encoder: Encoder, errors: Sequence[Errors]
) -> list[tuple[Example, bool]]:
    """Puts rows that are tokens already into their stores; the others."""
    for side, store in enumerate(found.stores):
        given = [row for row, here in some if here == side and isinstance(row, Tokens)]
        store.add([row for row in given if _is_usable(row, encoder.max_tokens, errors[side])])
        found.seen += len(given)
    return [(row, here) for row, here in some if isinstance(row, Example)]


def _is_usable(row: Tokens, max_tokens: int, errors: Errors) -> bool:
    """Whether a row trains something and is not too long; else it is named."""
    assert len(row.ids) == len(row.weights) and not any(row.weights[:1]), f"{row.row}: the first token is predicted"
    if not len(row.supervised[0]):
        errors.add(f"{row.row}: nothing to train on; every token is context")
    elif len(row.ids) > max_tokens:
        words = "shorten the row, or raise data.max_tokens as far as the model's context goes"
        errors.add(f"{row.row}: {len(row.ids)} tokens, more than the {max_tokens} allowed; {words}")
    else:
        return True
    return False


def _encode(views: Sequence[RowView], encoder: Encoder, errors: Errors) -> list[Tokens]:
    """Rows that were checked as tokens; what the checks rendered serves again, unless rows are laid out otherwise."""
    chat = arranged(encoder.chat, encoder.arrangement)
    known = [view.rendered for view in views] if chat is encoder.chat else ()
    return encode_some([view.example for view in views], chat, encoder.tokenizer, encoder.max_tokens, errors, known)


@contextmanager
def _rare_collections() -> Iterator[None]:
    """Python looks for cycles a hundred times less often: rows make millions of tuples and no cycles worth a fifth of
    the time."""
    before = gc.get_threshold()
    gc.set_threshold(100 * before[0], *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _notice(found: Encoded, some: Sequence[tuple[Example, bool]], arrangement: Arrangement) -> None:
    """What the notes of a run and its copy of the rows need to know of some rows."""
    if some and not found.seen:
        found.shared_tools = some[0][0].tools
    found.seen += len(some)
    found.first += [example for example, is_heldout in some if not is_heldout][: _COMPARED - len(found.first)]
    for example, _ in some:
        if found.shared_tools and example.tools != found.shared_tools:
            found.shared_tools = ()
        found.moved_tools += arrangement.tools(example.tools) != example.tools
        found.moved_dates += arrangement.messages(example.messages, example.tools) != example.messages


def _refuse(checked: Checked, rows: int) -> None:
    """Raises InputError for errors of the checks, with the ways out."""
    try:
        checked.refuse_errors(rows)
    except InputError as error:
        ways = "repair them with dozan data fix, or train on them all the same with --force, which the run records"
        raise InputError(f"{error}\n{ways}") from None


def _first_reading(part: Part, say: Say) -> Iterator[Row]:
    return stream_rows(part, say=say) if isinstance(part, str | Path) else iter(part)


def _stamp(part: Part) -> Stamp:
    """By which a file is known to be as it was; None for a list, what is not there, and a set of the hub."""
    if not isinstance(part, str | Path) or is_hub_id(part) or not Path(part).is_file():
        return None
    found = Path(part).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
