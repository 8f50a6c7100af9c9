"""A small SentencePiece BPE in Gemma's manner, trained once, and its tokenizer.json: real tokenizers for chat tests."""

from __future__ import annotations

import functools
import io
import random
import tempfile
from pathlib import Path

import sentencepiece

from dozan.chat.sentencepiece_json import to_tokenizer_json
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import CONTROL_TOKENS, END_TURN, FUNCTION_TOKENS, MASK, START_TURN

ARABIC = """
شغل الكشاف افتح الضوء في المطبخ غرفة المعيشة أرسل رسالة إلى أحمد حدد موعد اجتماع الفريق بكرة الساعة العصر
الطقس في الرياض اليوم مشمس ودرجة الحرارة مرتفعة احكي لي نكتة من فضلك عايز أبعت إيميل لسارة وقول لها إني هتأخر
خفض سطوع المصباح إلى خمسين بالمئة أضف الحليب والخبز إلى قائمة التسوق ما هو الوقت الآن في القاهرة
"""
ENGLISH = """
You are a model that can do function calling with the following functions turn on the light in the kitchen
send an email to Sara about the meeting tomorrow declaration description parameters properties required type
STRING OBJECT INTEGER call response name value the date and time of the event model user developer
"""


def lines(count: int, seed: int, rare: bool = False) -> list[str]:
    """Random Arabic, English and mixed lines with digits, newlines, runs of spaces, punctuation and emoji."""
    draw = random.Random(seed)
    words = (ARABIC + ENGLISH).split()
    extras = ["2024-11-15", "٤٥", "3.5", "😀", "👩‍👩‍👧", "{a:1}", "؟", "،", "\n", "  ", "مَرْحَبًا", "هههههه", "ß", "中文"]
    extras += ["\t", "🧿", "\u202b", "Ω≈", "\x00", "هههههههههه", "    ", "\n\n"] if rare else []
    return [" ".join(draw.choice([*words, *extras]) for _ in range(draw.randint(1, 18))) for _ in range(count)]


@functools.cache
def folder() -> Path:
    """A folder with tokenizer.model and tokenizer.json, its control tokens at FunctionGemma's ids."""
    names: dict[int, str] = {4: MASK, 105: START_TURN, 106: END_TURN}
    names.update(zip(range(46, 53), FUNCTION_TOKENS, strict=True))
    symbols = [names.get(i, f"<unused{i}>") for i in range(4, 107)]
    target = Path(tempfile.mkdtemp(prefix="dozan-tokenizer-"))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in lines(3000, seed=0) if line.strip()),
        model_writer=model, model_type="bpe", vocab_size=1024, byte_fallback=True, split_digits=True,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, character_coverage=0.999, hard_vocab_limit=False,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", unk_piece="<unk>",
        user_defined_symbols=[*symbols, "\n"], minloglevel=2, num_threads=1,
    )  # fmt: skip
    (target / "tokenizer.model").write_bytes(model.getvalue())
    (target / "tokenizer.json").write_text(to_tokenizer_json(target / "tokenizer.model"), encoding="utf-8")
    return target


@functools.cache
def tokenizer() -> Tokenizer:
    """The small tokenizer."""
    loaded = Tokenizer.load(folder())
    assert all(loaded.has(token) for token in CONTROL_TOKENS[:14])
    return loaded
