"""The embedded base's tokenizer: SentencePiece BPE in Gemma's manner, about 8k pieces.

Identity normalisation, no dummy prefix, split digits, byte fallback, and FunctionGemma's ids for its control tokens.
Words are shown to the trainer one by one and so no piece carries the space before it: a value then has the same
pieces wherever it stands in a command or in a call, which is what a small model needs in order to copy it.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sentencepiece

import dozan.chat
from dozan.chat.sentencepiece_json import to_tokenizer_json
from tiny_corpus import tasks, text
from tiny_corpus.text import ARABIC

SIZE = 8192
NOT_LATIN = re.compile("[\u0600-\u06ff]+")
CONTROL = {46: "<start_function_declaration>", 47: "<end_function_declaration>", 48: "<start_function_call>",
           49: "<end_function_call>", 50: "<start_function_response>", 51: "<end_function_response>", 52: "<escape>",
           105: "<start_of_turn>", 106: "<end_of_turn>"}  # fmt: skip
FORMAT = ("declaration:", "{description:", ",parameters:{", "properties:{", "},", ",type:", "type:", "required:[", "call:", "response:",
          "STRING", "OBJECT", "INTEGER", "NUMBER", "BOOLEAN", "ARRAY", "enum:[", "developer", "user", "model", "true",
          "false", "items:{")  # fmt: skip


def reserved() -> list[str]:
    """The symbols from id 4 on."""
    names = [CONTROL.get(index, f"<unused{index}>") for index in range(4, 107)]
    return names


def _words(corpus: Path, seed: int = 0) -> Iterator[str]:
    rng, words = random.Random(seed), text.words(corpus)
    for english, arabic in text.pairs(corpus):
        yield from english.split()
        yield from 2 * ARABIC.findall(arabic)
    for english, arabic, code in text.lexicon(corpus):
        yield from (english.split()[:1] + ARABIC.findall(arabic) + code.split())
    for _ in range(1500):
        for row in tasks.command_rows(rng, words, 8):
            yield from NOT_LATIN.sub(" ", str(row.messages[-2]["content"])).split()
        for tool in row.tools:
            function = tool["function"]
            yield from [function["name"], *function["description"].split(), *function["parameters"]["properties"]]
    yield from "٠١٢٣٤٥٦٧٨٩،؟؛٪٫٬"
    for piece in FORMAT:
        yield from [piece] * 3000


def train(corpus: Path, out: Path) -> None:
    """Write `out`/tokenizer.model."""
    with (out / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_words(corpus), model_writer=file, model_type="bpe", vocab_size=SIZE, character_coverage=1.0,
            pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>",
            control_symbols=reserved(), user_defined_symbols=["\n", "\n\n", "\t", "▁", "▁▁", "▁▁▁▁"], byte_fallback=True,
            normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True,
            minloglevel=1, num_threads=2,
        )  # fmt: skip


def write_folder(out: Path, config: dict[str, Any]) -> None:
    """The rest of a checkpoint folder around tokenizer.model: config, tokenizer.json, chat template, stop ids."""
    (out / "tokenizer.json").write_text(to_tokenizer_json(out / "tokenizer.model"), encoding="utf-8")
    settings = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>",
                "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
                "model_max_length": 4096}  # fmt: skip
    generation = {"bos_token_id": 2, "eos_token_id": [1, 106, 50], "pad_token_id": 0, "do_sample": False}
    for name, value in (("config", config), ("tokenizer_config", settings), ("generation_config", generation)):
        (out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(Path(dozan.chat.__file__).parent / "functiongemma.jinja", out / "chat_template.jinja")
