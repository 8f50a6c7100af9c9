"""An endless stream of fixed-shape packs for pretraining, made by worker processes ahead of the GPU."""

from __future__ import annotations

import functools
import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import numpy
from numpy.typing import NDArray

from dozan.chat.encode import Tokens, encode_rows
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.pack import pack_rows
from dozan.rows.example import Example
from tiny_corpus import named, sentences, tasks, text
from tiny_corpus.glossary import entries
from tiny_corpus.values import Words, people

LENGTH, SUPERVISED = 2048, 1024
KINDS = ("command", "copy", "text", "cue", "date", "sentence")
Pack = dict[str, NDArray[numpy.int64]]


def text_rows(rng: random.Random, words: Words, corpus: Path, count: int) -> Iterator[Example]:
    """Translation both ways: the glossary, sentences, people's names, CLDR's names, Tatoeba's sentences."""
    pairs, names = _text(corpus)
    for i in range(count):
        source = rng.random()
        code = ""
        if source < 0.42:
            english, arabic = rng.choice(entries())
        elif source < 0.72:
            english, arabic, _ = sentences.filled(rng, words, *rng.choice(sentences.written()))
        elif source < 0.76:
            arabic, english = rng.choice(people()[rng.choice(("man", "woman"))])
        elif source < 0.84:
            english, arabic, code = rng.choice(names)
        else:
            english, arabic = rng.choice(pairs)
        if code and rng.random() < 0.5:
            ask, answer = f"Code of {arabic if rng.random() < 0.7 else english}", code
        elif rng.random() < 0.35:
            ask, answer = f"Translate to Arabic: {english}", arabic
        else:
            ask, answer = f"Translate to English: {arabic}", english
        yield Example(
            id=str(i), tools=(), messages=({"role": "user", "content": ask}, {"role": "assistant", "content": answer})
        )


@functools.cache
def _text(corpus: Path) -> tuple[list[tuple[str, str]], list[tuple[str, str, str]]]:
    return text.pairs(corpus), text.lexicon(corpus)


def make_pack(rng: random.Random, words: Words, corpus: Path, tokenizer: Tokenizer) -> Pack:
    """One pack of rows under one tool set: ids, position, end [LENGTH]; at, target, weight, row [SUPERVISED]; kind
    [1]."""
    kind = rng.choices(range(len(KINDS)), (36, 4, 22, 12, 13, 13))[0]
    if kind == 2:
        rows = list(text_rows(rng, words, corpus, 50))
    else:
        makers = (tasks.command_rows, tasks.copy_rows, None, tasks.cue_rows, tasks.date_rows, named.sentence_rows)
        rows = list(makers[kind](rng, words, 30))
    encoded = encode_rows(rows, FUNCTIONGEMMA, tokenizer, LENGTH)
    return _arrays(encoded, kind)


def _arrays(rows: list[Tokens], kind: int) -> Pack:
    while len(batches := pack_rows(rows, "tries", LENGTH)) > 1:
        rows = rows[: len(rows) - 2]
    (batch,) = batches
    length, supervised = len(batch), min(len(batch.at), SUPERVISED)
    index = numpy.arange(LENGTH)
    pack = {"ids": index * 0, "position": index * 0, "end": index + 1, "kind": numpy.array([kind])}
    for name in ("ids", "position", "end"):
        pack[name][:length] = getattr(batch, name).numpy()
    for name in ("at", "target"):
        pack[name] = numpy.zeros(SUPERVISED, dtype=numpy.int64)
        pack[name][:supervised] = getattr(batch, name).numpy()[:supervised]
    pack["weight"] = (numpy.arange(SUPERVISED) < supervised).astype(numpy.int64)
    pack["row"] = numpy.searchsorted(numpy.array(batch.row_starts), pack["at"], side="right")
    return pack


def _work(seed: int, corpus: Path, folder: Path, batch: int, queue: multiprocessing.Queue[Pack | str]) -> None:
    import torch

    torch.set_num_threads(1)
    rng, words, tokenizer = random.Random(seed), text.words(corpus), Tokenizer.load(folder)
    while True:
        try:
            packs = [make_pack(rng, words, corpus, tokenizer) for _ in range(batch)]
        except (InputError, AssertionError) as error:
            queue.put(f"worker {seed}: {error}")
            return
        queue.put({name: numpy.stack([pack[name] for pack in packs]) for name in packs[0]})


def stream(seed: int, corpus: Path, folder: Path, batch: int, workers: int) -> Iterator[Pack | None]:
    """Batches of packs, each array [batch, ...], or None when none is ready. The order depends on timing, the content
    on the seed. A worker's error is raised here."""
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[Pack | str] = context.Queue(maxsize=4 * workers)
    for worker in range(workers):
        context.Process(target=_work, args=(seed * 1000 + worker, corpus, folder, batch, queue), daemon=True).start()
    while True:
        try:
            found = queue.get_nowait()
        except Empty:
            yield None
            continue
        if isinstance(found, str):
            raise InputError(found)
        yield found
