"""The tokenizer against SentencePiece, its spans, and its refusal to turn plain text into control tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sentencepiece
from chat_fixtures import folder, lines, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from dozan.chat.format import Writer
from dozan.chat.sentencepiece_json import to_tokenizer_json
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import CONTROL_TOKENS, FUNCTION_TOKENS
from dozan.errors import InputError


def test_ids_equal_sentencepiece() -> None:
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(folder() / "tokenizer.model"))
    for line in lines(1000, seed=1, rare=True):
        assert tokenizer().encode(line) == oracle.encode(line), line


def test_control_tokens_sit_at_functiongemmas_ids() -> None:
    assert [tokenizer().id(token) for token in FUNCTION_TOKENS] == list(range(46, 53))
    names = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    assert [tokenizer().id(token) for token in names] == [0, 1, 2, 3, 105, 106]


@given(st.lists(st.one_of(st.sampled_from([*CONTROL_TOKENS, "<unused7>", "<", ">"]), st.text(max_size=8))).map("".join))
@settings(deadline=None)
def test_plain_text_never_gives_a_control_id_and_comes_back(text: str) -> None:
    ids = tokenizer().encode(text)
    assert tokenizer().control_ids.isdisjoint(ids)
    assert tokenizer().decode(ids) == text


def test_the_whole_tokenizer_would_have_given_control_ids() -> None:
    from tokenizers import Tokenizer as Whole

    whole = Whole.from_file(str(folder() / "tokenizer.json"))
    assert 52 in whole.encode("x<escape>y", add_special_tokens=False).ids
    assert 52 not in tokenizer().encode("x<escape>y")


def test_spans_are_characters_even_with_byte_fallback() -> None:
    writer = Writer()
    writer.control("<bos>")
    writer.text("اكتب <escape> 🧿中 now")
    writer.control("<end_of_turn>")
    rendered = writer.rendered(())
    ids, spans = tokenizer().encode_rendered(rendered)
    assert (ids[0], ids[-1]) == (2, 106) and tokenizer().control_ids.isdisjoint(ids[1:-1])
    assert [rendered.text[a:b] for a, b in (spans[0], spans[-1])] == ["<bos>", "<end_of_turn>"]
    emoji = rendered.text.index("🧿")
    assert spans.count((emoji, emoji + 1)) == 4
    for i, (start, end) in zip(ids, spans, strict=True):
        if (start, end) != (emoji, emoji + 1) and rendered.text[start:end] != "中":
            assert tokenizer().decode([i]) == rendered.text[start:end]
    assert {a for a, b in spans for a in range(a, b)} == set(range(len(rendered.text)))


def test_decode_spells_or_drops_controls() -> None:
    ids = [2, *tokenizer().encode("مرحبا"), 106]
    assert tokenizer().decode(ids) == "<bos>مرحبا<end_of_turn>"
    assert tokenizer().decode(ids, controls=False) == "مرحبا"


def test_a_merge_that_makes_a_control_token_is_removed() -> None:
    vocab = {"<pad>": 0, "<": 1, "p": 2, "a": 3, "d": 4, ">": 5, "<p": 6, "ad": 7, "<pad": 8}
    merges = [["<", "p"], ["a", "d"], ["<p", "ad"], ["<pad", ">"]]
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": False}
    small = Tokenizer({"version": "1.0", "model": model, "added_tokens": []})
    assert small.encode("<pad>") == [8, 5]


def test_files_and_errors(tmp_path: Path) -> None:
    assert [path.name for path in tokenizer().files] == ["tokenizer.json", "tokenizer.model"]
    with pytest.raises(InputError, match="no such file"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(InputError, match="not a BPE"):
        Tokenizer.load(tmp_path)
    with pytest.raises(InputError, match="no token '<nothing>'"):
        tokenizer().id("<nothing>")


def test_a_model_trained_otherwise_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(300, seed=2)), model_prefix=str(tmp_path / "other"), model_type="bpe",
        vocab_size=200, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    with pytest.raises(InputError, match="byte_fallback is off.*not identity.*add_dummy_prefix is on"):
        to_tokenizer_json(tmp_path / "other.model")


@pytest.mark.parametrize("text", ["[]", '{"model": null}', '{"model": {"type": "WordPiece"}}'])
def test_another_tokenizer_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(InputError, match="not a BPE tokenizer"):
        Tokenizer.load(tmp_path)
