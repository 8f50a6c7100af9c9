"""Text to token ids and back, over a checkpoint's tokenizer.json, where plain text can never become a control token."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from tokenizers import Tokenizer as BaseTokenizer

from dozan.chat.format import Rendered
from dozan.chat.tokens import is_control
from dozan.errors import InputError
from dozan.rows.example import Json

Span = tuple[int, int]
Stretch = tuple[int, str, bool]
_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_AROUND = ("post_processor", "truncation", "padding")
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class Tokenizer:
    """A tokenizer whose control tokens are only written where a chat format says so.

    Control tokens are known by name (the file's `special` flag misses most of them), and any added token outside the
    model's own vocabulary is one, since a checkpoint may have no row for it. They are taken out of the added tokens and
    of the merges, so `encode("<end_of_turn>")` spells the characters. `size` is the largest id
    plus one, `special_ids` what the file flags as special, `files` the tokenizer's own files, to be copied byte for
    byte on export.
    """

    def __init__(self, definition: dict[str, Json], files: Sequence[Path] = ()) -> None:
        added = definition.get("added_tokens") or []
        self._ids: dict[str, int] = dict(definition["model"]["vocab"])
        self._ids.update((token["content"], token["id"]) for token in added)
        vocab = definition["model"]["vocab"]
        self.special_ids = frozenset(token["id"] for token in added if token["special"])
        special = {token["content"] for token in added if token["special"] or token["content"] not in vocab}
        self._control = {i: token for token, i in self._ids.items() if token in special or is_control(token)}
        self._plain = BaseTokenizer.from_str(json.dumps(_without(definition, set(self._control.values()))))
        self.size = max(self._ids.values()) + 1
        self._lengths = _character_lengths(self._ids, self.size)
        self.files = tuple(files)

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Reads `folder/tokenizer.json`. Raises InputError when it is missing or is not a BPE tokenizer's."""
        path = Path(folder) / "tokenizer.json"
        if not path.is_file():
            raise InputError(f"{path}: no such file; a checkpoint folder brings its tokenizer as tokenizer.json")
        found = path.stat()
        tokenizer = copy.copy(_read(path, (found.st_ino, found.st_size, found.st_mtime_ns)))
        tokenizer.files = tuple(path.parent / name for name in _FILES if (path.parent / name).is_file())
        return tokenizer

    def id(self, token: str) -> int:
        """The id of a vocabulary entry, control tokens included. Raises InputError when there is none."""
        if token not in self._ids:
            raise InputError(f"the tokenizer has no token {token!r}; is this a Gemma 3 checkpoint?")
        return self._ids[token]

    def has(self, token: str) -> bool:
        """Whether the vocabulary holds `token`."""
        return token in self._ids

    def piece(self, i: int) -> str:
        """The vocabulary entry of an id."""
        return self._pieces[i]

    def bytes_of(self, i: int) -> bytes:
        """What an id that is no control token stands for, in UTF-8: in byte fallback a part of a character."""
        piece = self._pieces[i]
        byte = _BYTE.fullmatch(piece)
        return piece.replace("\u2581", " ").encode() if byte is None else bytes([int(byte.group(1), 16)])

    def definition(self) -> str:
        """The text of a tokenizer.json that marks every control token as special, for who must tell them from text."""
        definition = json.loads(self._plain.to_str())
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        marked = [{"id": i, "content": token, **plain, "special": True} for i, token in sorted(self._control.items())]
        return json.dumps({**definition, "added_tokens": definition["added_tokens"] + marked})

    @cached_property
    def _pieces(self) -> dict[int, str]:
        return {i: token for token, i in self._ids.items()}

    @property
    def control_ids(self) -> frozenset[int]:
        """The ids that plain text never gives."""
        return frozenset(self._control)

    def encode(self, text: str) -> list[int]:
        """Plain text to ids, none of them a control token's and none added."""
        return self._segments([text])[text][0]

    def encode_rendered(self, rendered: Rendered) -> tuple[list[int], list[Span]]:
        """Ids of a rendered conversation and each one's character span in `rendered.text`.

        The bytes of one character that the vocabulary lacks share its span.
        """
        return self.encode_many([rendered])[0]

    def encode_many(self, conversations: Sequence[Rendered]) -> list[tuple[list[int], list[Span]]]:
        """`encode_rendered` of each; a stretch of text that several share (tool declarations) is encoded once."""
        rows = _split_all(conversations)
        known = self._segments({text for _, pieces in rows for _, text, control in pieces if not control})
        return self._join(rows, known)

    def decode(self, ids: Sequence[int], controls: bool = True) -> str:
        """Ids to text; control tokens are spelt out, or left out with `controls=False`."""
        parts: list[str] = []
        start = 0
        for at, i in enumerate(ids):
            if i in self._control:
                parts += [self._plain.decode(list(ids[start:at]), skip_special_tokens=False)]
                parts += [self._control[i]] if controls else []
                start = at + 1
        parts.append(self._plain.decode(list(ids[start:]), skip_special_tokens=False))
        return "".join(parts)

    def _segments(self, texts: Iterable[str]) -> dict[str, tuple[list[int], list[Span]]]:
        """Each plain text's ids and spans."""
        ordered = sorted(set(texts))
        encodings = self._plain.encode_batch_fast(ordered, add_special_tokens=False)
        return {text: (found.ids, self._spans(text, found.ids)) for text, found in zip(ordered, encodings, strict=True)}

    def _spans(self, text: str, ids: list[int]) -> list[Span]:
        """The characters of each id, from the lengths of the vocabulary's entries."""
        if not self._control.keys().isdisjoint(ids):
            bad = next(self._control[i] for i in ids if i in self._control)
            raise InputError(f"the tokenizer turns plain text into {bad}: {text[:80]!r}")
        spans: list[Span] = []
        at = 0
        for i in ids:
            length = self._lengths[i]
            start = at if length else at - 1
            at += length
            spans.append((start, at))
        if at != len(text):
            raise InputError(f"the tokenizer changes the text ({len(text)} characters to {at}): {text[:80]!r}")
        return spans

    def _join(
        self, rows: Sequence[tuple[int, list[Stretch]]], known: dict[str, tuple[list[int], list[Span]]]
    ) -> list[tuple[list[int], list[Span]]]:
        """Each row's ids and spans; what a row begins with in common with the row before it is copied."""
        joined: list[tuple[list[int], list[Span]]] = []
        ids, spans, ends = list[int](), list[Span](), list[int]()
        for same, pieces in rows:
            count = ends[same - 1] if same else 0
            ids, spans, ends = ids[:count], spans[:count], ends[:same]
            for start, text, control in pieces:
                if control:
                    ids.append(self.id(text))
                    spans.append((start, start + len(text)))
                else:
                    ids += known[text][0]
                    spans += [(start + a, start + b) for a, b in known[text][1]]
                ends.append(len(ids))
            joined.append((ids, spans))
        return joined


@lru_cache(maxsize=1)
def _read(path: Path, stamp: tuple[int, int, int]) -> Tokenizer:
    """The tokenizer of a file as it was at a stamp. A command asks for one file several times, which takes Gemma's two
    seconds each."""
    try:
        definition = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); download the checkpoint again") from None
    model = definition.get("model") if isinstance(definition, dict) else None
    if not isinstance(model, dict) or model.get("type") != "BPE":
        raise InputError(f"{path}: not a BPE tokenizer; Gemma 3's is expected")
    return Tokenizer(definition)


def _split_all(conversations: Sequence[Rendered]) -> list[tuple[int, list[Stretch]]]:
    """For each conversation how many stretches it begins with in common with the one before it, and those after."""
    rows: list[tuple[int, list[Stretch]]] = []
    before: Rendered | None = None
    counts = [0]  # stretches up to each control token of the conversation before
    for rendered in conversations:
        same = _common_controls(before, rendered) if before is not None else 0
        pieces, counts = _split(rendered, same, counts[: same + 1])
        rows.append((counts[same], pieces))
        before = rendered
    return rows


def _common_controls(before: Rendered, now: Rendered) -> int:
    """How many control tokens two conversations have in common, with all the text up to them; by halves."""
    low, high = 0, min(len(before.controls), len(now.controls))
    while low < high:
        middle = (low + high + 1) // 2
        start, stop = now.controls[low - 1][1] if low else 0, now.controls[middle - 1][1]
        if before.controls[low:middle] == now.controls[low:middle] and before.text[start:stop] == now.text[start:stop]:
            low = middle
        else:
            high = middle - 1
    return low


def _split(rendered: Rendered, first: int, counts: list[int]) -> tuple[list[Stretch], list[int]]:
    """(start, text, whether it is a control token) of a conversation's stretches after its `first` control tokens, in
    order; and `counts`, the stretches up to each of those, gone on with."""
    pieces: list[Stretch] = []
    at = rendered.controls[first - 1][1] if first else 0
    for start, end in (*rendered.controls[first:], (len(rendered.text), len(rendered.text))):
        if start > at:
            pieces.append((at, rendered.text[at:start], False))
        if end > start:
            pieces.append((start, rendered.text[start:end], True))
        counts.append(counts[first] + len(pieces))
        at = end
    return pieces, counts


def _without(definition: dict[str, Json], control: set[str]) -> dict[str, Json]:
    """The definition without the control tokens among its added tokens and merges, and with nothing added around."""
    model = dict(definition["model"])
    pairs = (tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
    model["merges"] = [[left, right] for left, right in pairs if left + right not in control]
    added = [token for token in definition.get("added_tokens") or [] if token["content"] not in control]
    return {**definition, "model": model, "added_tokens": added, **dict.fromkeys(_AROUND)}


def _character_lengths(ids: dict[str, int], size: int) -> list[int]:
    """How many characters each id adds: 1 for the first byte of a character in byte fallback, 0 for its other bytes."""
    lengths = [0] * size
    for token, i in ids.items():
        byte = _BYTE.fullmatch(token)
        lengths[i] = len(token) if byte is None else int(int(byte.group(1), 16) & 0xC0 != 0x80)
    return lengths
