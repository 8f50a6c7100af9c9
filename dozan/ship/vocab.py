"""A checkpoint's tokenizer as llama.cpp's SentencePiece vocabulary: a piece, score and type for each embedding row."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType

from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import BOS, END_TURN, EOS, PAD, UNK
from dozan.errors import InputError

SPACE = "\u2581"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """The three parallel lists of a GGUF's `tokenizer.ggml`."""

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]


@dataclass(frozen=True)
class SpecialIds:
    """Ids with a role. llama.cpp ends a generation at `end`, `end_of_turn` and `end_of_message`."""

    pad: int
    end: int
    begin: int
    unknown: int
    end_of_turn: int
    end_of_message: int | None


Entry = tuple[str, float, int]


def read_vocabulary(tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary cut or padded to `rows`, from tokenizer.model where the folder has one, else from tokenizer.json.

    Ids beyond the embedding are cut (FunctionGemma's tokenizer has two); rows without a token become unused "[PADn]".
    The control tokens are those that plain text never gives. Raises InputError when a list has holes or duplicates.
    """
    definition = _json(_file(tokenizer, "tokenizer.json"))
    model = _file(tokenizer, "tokenizer.model", required=False)
    entries = _from_sentencepiece(model) if model else _from_merges(definition["model"])
    for token in definition.get("added_tokens") or []:
        plain = token["content"].replace(SPACE, " ")
        entries[token["id"]] = (plain, entries.get(token["id"], ("", -1000.0, 0))[1], TokenType.USER_DEFINED)
    for i in tokenizer.control_ids & entries.keys():
        entries[i] = (*entries[i][:2], TokenType.CONTROL)
    unknown = tokenizer.id(UNK)
    entries[unknown] = (*entries[unknown][:2], TokenType.UNKNOWN)
    full = [entries.get(i, (f"[PAD{i}]", -1000.0, TokenType.UNUSED)) for i in range(rows)]
    _refuse_duplicates([piece for piece, _, _ in full])
    return Vocabulary(*(tuple(column) for column in zip(*full, strict=True)))


def special_ids(tokenizer: Tokenizer, stop_tokens: tuple[str, ...]) -> SpecialIds:
    """The roles of the chat format's stop tokens. Raises InputError when llama.cpp has no place for one of them."""
    more = [token for token in stop_tokens if token not in (EOS, END_TURN)]
    if len(more) > 1:
        raise InputError(f"GGUF has room for three stop tokens; beside {EOS} and {END_TURN} the chat format has {more}")
    extra = tokenizer.id(more[0]) if more else None
    pad, end, begin, unknown, turn = (tokenizer.id(token) for token in (PAD, EOS, BOS, UNK, END_TURN))
    return SpecialIds(pad, end, begin, unknown, turn, extra)


def chat_template(tokenizer: Tokenizer) -> str | None:
    """The checkpoint's chat template, from chat_template.jinja or tokenizer_config.json."""
    jinja = _file(tokenizer, "chat_template.jinja", required=False)
    if jinja:
        return jinja.read_text(encoding="utf-8")
    config = _file(tokenizer, "tokenizer_config.json", required=False)
    template = _json(config).get("chat_template") if config else None
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def _file(tokenizer: Tokenizer, name: str, required: bool = True) -> Path | None:
    found = next((path for path in tokenizer.files if path.name == name), None)
    if required and found is None:
        raise InputError(f"the model's folder has no {name}; a GGUF carries its tokenizer")
    return found


def _json(path: Path | None) -> dict[str, Any]:
    assert path is not None
    return dict(json.loads(path.read_text(encoding="utf-8")))


def _from_sentencepiece(path: Path) -> dict[int, Entry]:
    """Entries of a tokenizer.model, with its own scores and types."""
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(path))
    tests = (
        (model.IsUnknown, TokenType.UNKNOWN),
        (model.IsControl, TokenType.CONTROL),
        (model.IsUnused, TokenType.UNUSED),
        (model.IsByte, TokenType.BYTE),
    )
    kinds = [next((kind for test, kind in tests if test(i)), TokenType.NORMAL) for i in range(model.GetPieceSize())]
    return {i: (model.IdToPiece(i), model.GetScore(i), kind) for i, kind in enumerate(kinds)}


def _from_merges(model: dict[str, Any]) -> dict[int, Entry]:
    """Entries of a BPE tokenizer.json: a piece scores minus the rank of its first merge, so that llama.cpp, which joins
    the pair whose piece scores highest, joins in the same order."""
    rank: dict[str, int] = {}
    for i, merge in enumerate(model["merges"]):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        rank.setdefault(left + right, i)
    last = float(len(rank) + len(model["merges"]))
    return {i: (piece, -float(rank.get(piece, last)), _kind(piece)) for piece, i in model["vocab"].items()}


def _kind(piece: str) -> int:
    return TokenType.BYTE if _BYTE.fullmatch(piece) else TokenType.NORMAL


def _refuse_duplicates(pieces: list[str]) -> None:
    seen: set[str] = set()
    twice = sorted({piece for piece in pieces if piece in seen or seen.add(piece)})  # type: ignore[func-returns-value]
    if twice:
        raise InputError(f"the tokenizer has {len(twice)} pieces under two ids, which llama.cpp refuses: {twice[:5]}")
