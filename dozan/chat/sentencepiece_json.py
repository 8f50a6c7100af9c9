"""Writes a SentencePiece BPE model as a tokenizer.json in Gemma's manner, giving the same ids.

The model must have been trained as Gemma's was: BPE with byte fallback, identity normalisation, no dummy prefix, no
removal of spaces. SentencePiece merges by the score of the merged piece; `tokenizers` merges by the rank of a pair.
Every way of splitting a piece into two others becomes a pair, ranked by the piece's score.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dozan.chat.tokens import UNK
from dozan.errors import InputError
from dozan.rows.example import Json

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_BPE = 2


@dataclass(frozen=True)
class Piece:
    """An entry of a SentencePiece vocabulary; `kind` is its type in the file."""

    text: str
    score: float
    kind: int


def to_tokenizer_json(model_path: str | Path) -> str:
    """The tokenizer.json text for a `.model` file. Raises InputError for a model trained in another manner."""
    pieces, trainer, normalizer = _read(Path(model_path))
    _refuse_other_manners(Path(model_path), pieces, trainer, normalizer)
    return json.dumps(tokenizer_definition(pieces), ensure_ascii=False)


def tokenizer_definition(pieces: list[Piece]) -> dict[str, Json]:
    """What tokenizer.json holds for a vocabulary of Gemma's manner, in the order of its ids."""
    vocab = {piece.text: i for i, piece in enumerate(pieces)}
    assert len(vocab) == len(pieces), "two pieces are spelt alike"
    space = {"String": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, piece) for i, piece in enumerate(pieces) if piece.kind in _NEVER_MERGED],
        "normalizer": {"type": "Replace", "pattern": space, "content": "▁"},
        "pre_tokenizer": {"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": False},
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNK,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": _merges(pieces, vocab),
        },
    }


_NEVER_MERGED = (_UNKNOWN, _CONTROL, _USER_DEFINED)


def _added(i: int, piece: Piece) -> dict[str, Json]:
    """An added token: matched in the raw text, or after spaces became ▁ when its spelling has one."""
    return {
        "id": i,
        "content": piece.text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": "▁" in piece.text,
        "special": piece.kind != _USER_DEFINED,
    }


def _merges(pieces: list[Piece], vocab: dict[str, int]) -> list[list[str]]:
    """Pairs in the order in which they merge: by the merged piece's score, best first, then by their own ids."""
    normal = {piece.text for piece in pieces if piece.kind == _NORMAL}
    found: list[tuple[float, int, int]] = []
    for piece in pieces:
        if piece.kind != _NORMAL:
            continue
        for cut in range(1, len(piece.text)):
            left, right = piece.text[:cut], piece.text[cut:]
            if left in normal and right in normal:
                found.append((-piece.score, vocab[left], vocab[right]))
    return [[pieces[left].text, pieces[right].text] for _, left, right in sorted(found)]


def _refuse_other_manners(
    path: Path, pieces: list[Piece], trainer: dict[int, list[bytes | int]], normalizer: dict[int, list[bytes | int]]
) -> None:
    """Field numbers are those of sentencepiece_model.proto; an absent field has its default."""
    problems = {
        "model_type is not bpe": trainer.get(3, [1])[-1] != _BPE,
        "byte_fallback is off": sum(piece.kind == _BYTE for piece in pieces) != 256,
        "the normalisation rule is not identity": normalizer.get(2, [b""])[-1] != b"",
        "add_dummy_prefix is on": normalizer.get(3, [1])[-1] != 0,
        "remove_extra_whitespaces is on": normalizer.get(4, [1])[-1] != 0,
        "spaces are not escaped": normalizer.get(5, [1])[-1] != 1,
        "treat_whitespace_as_suffix is on": trainer.get(24, [0])[-1] != 0,
    }
    bad = [name for name, wrong in problems.items() if wrong]
    if bad:
        raise InputError(f"{path}: not trained in Gemma's manner: {', '.join(bad)}; train it again without that")


def _read(path: Path) -> tuple[list[Piece], dict[int, list[bytes | int]], dict[int, list[bytes | int]]]:
    """The pieces, trainer settings and normaliser settings of a ModelProto."""
    fields = _fields(path.read_bytes())
    settings = [_fields(_bytes(fields[number][-1])) if number in fields else {} for number in (2, 3)]
    return [_piece(_bytes(raw)) for raw in fields.get(1, [])], settings[0], settings[1]


def _piece(data: bytes) -> Piece:
    fields = _fields(data)
    kind = fields.get(3, [_NORMAL])[-1]
    assert isinstance(kind, int), "a piece's type is a number"
    score = struct.unpack("<f", _bytes(fields.get(2, [b"\0\0\0\0"])[-1]))[0]
    return Piece(_bytes(fields[1][-1]).decode("utf-8"), score, kind)


def _bytes(value: bytes | int) -> bytes:
    assert isinstance(value, bytes), "expected a length-delimited field"
    return value


def _fields(data: bytes) -> dict[int, list[bytes | int]]:
    """A protobuf message's values by field number: varints as integers, everything else as bytes."""
    fields: dict[int, list[bytes | int]] = {}
    for number, value in _walk(data):
        fields.setdefault(number, []).append(value)
    return fields


def _walk(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}[wire]
        yield key >> 3, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
