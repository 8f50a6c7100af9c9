"""The tokenizer check: counts against a direct count, on tokenizers of several kinds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dozan.check.engine import EMBEDDED
from dozan.check.tokens import BASELINE, Sample, load_tokenizer, measure, tokenizer_findings
from dozan.errors import InputError
from dozan.rows.example import Example

ARABIC = ["كيف الطقس اليوم في الرياض", "أرسل رسالة إلى محمد"]
ENGLISH = ["what is the weather today", "send a message"]


def words_tokenizer(folder: Path, vocabulary: list[str]) -> Path:
    """A WordLevel tokenizer that knows these words alone."""
    ids = {word: i for i, word in enumerate(["[UNK]", *vocabulary])}
    made = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    return folder


def bytes_tokenizer(folder: Path) -> Path:
    """A byte-level BPE tokenizer without merges: each byte is a piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.save(str(folder / "tokenizer.json"))
    return folder


def test_a_word_a_piece_and_what_is_unknown(tmp_path: Path) -> None:
    folder = words_tokenizer(tmp_path, " ".join([*ARABIC[:1], *ENGLISH]).split())
    figures = measure(load_tokenizer(folder), [*ARABIC, *ENGLISH], [], "words")
    arabic, english = figures.cuts["arabic"], figures.cuts["english"]
    assert (arabic.words, arabic.pieces, arabic.unknown, arabic.byte_pieces) == (9, 9, 4, 0)
    assert (english.words, english.pieces, english.unknown) == (8, 8, 0)
    assert arabic.bytes == sum(len(text.encode()) for text in ARABIC)
    found = {(finding.rule.name, finding.path): finding for finding in tokenizer_findings(figures)}
    assert found["unknown-pieces", "arabic"].count == 4 and ("unknown-pieces", "english") not in found


def test_bytes_are_pieces_that_are_no_characters(tmp_path: Path) -> None:
    figures = measure(load_tokenizer(bytes_tokenizer(tmp_path)), [*ARABIC * 30, *ENGLISH * 30], [], "bytes")
    arabic, english = figures.cuts["arabic"], figures.cuts["english"]
    letters = 30 * sum(not letter.isascii() for text in ARABIC for letter in text)
    assert arabic.pieces == arabic.bytes and arabic.byte_pieces == 2 * letters
    assert english.byte_pieces == 0 and arabic.bytes_a_piece == 1.0
    found = {(finding.rule.name, finding.path) for finding in tokenizer_findings(figures)}
    assert ("byte-pieces", "arabic") in found and ("byte-pieces", "english") not in found
    assert {("tokenizer-costly", "arabic"), ("tokenizer-costly", "english")} <= found
    assert figures.shattered[0] == ("الرياض", 13, 30)


def test_the_words_in_most_pieces_come_first(tmp_path: Path) -> None:
    figures = measure(load_tokenizer(bytes_tokenizer(tmp_path)), ["سيارة سيارة مستشفيات", "a car"], [])
    assert list(figures.shattered) == [("مستشفيات", 17, 1), ("سيارة", 11, 2)]


def test_the_embedded_base_counts_as_its_tokenizer_does() -> None:
    tokenizer = load_tokenizer(EMBEDDED)
    figures = measure(tokenizer, ARABIC, ['{"name": "x"}'], "base")
    assert figures.cuts["arabic"].pieces == sum(len(tokenizer.encode(t, add_special_tokens=False).ids) for t in ARABIC)
    assert figures.cuts["json"].pieces > 0
    assert figures.to_dict()["baseline"]["arabic"]["pieces_a_word"] == BASELINE["arabic"][0]
    assert [finding.rule.name for finding in tokenizer_findings(figures)][0] == "tokenizer-figures"


def test_folders_without_a_usable_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_tokenizer(tmp_path)
    strange = '{"model": {"type": "X", "vocab": 1}}'
    for text, words in (("[", "not a tokenizer"), ("[]", "not a tokenizer"), (strange, "'X'")):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(InputError, match=words):
            load_tokenizer(tmp_path)


def test_the_sample_is_drawn_from_the_whole_stream_and_kept_small() -> None:
    sample = Sample()
    for i in range(10_000):
        sample.add(Example(str(i), ({"function": {"name": "f"}},), ({"role": "user", "content": f"row {i}"},)))
    said, declared = sample.texts()
    numbers = [int(line.split()[1]) for line in said]
    assert len(numbers) == 2_000 == len(set(numbers)) and 4_700 < sum(numbers) / 2_000 < 5_300
    assert declared == [json.dumps({"function": {"name": "f"}})]
