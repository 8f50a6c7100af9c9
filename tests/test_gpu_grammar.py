"""On a GPU, where a step is replayed as a graph: answers held to a grammar are whole, and as decoded op by op."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import dozan
from dozan.chat.encode import encode_prompt
from dozan.chat.grammar import row_grammars
from dozan.judge import generate as module
from dozan.judge.generate import generate
from dozan.model.bundle import open_model
from dozan.rows.readers import read_rows

TEST_ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "test.jsonl"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_captured_decoding_holds_to_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_model(dozan.EMBEDDED_BASE, device="cuda")
    rows = read_rows(TEST_ROWS)[:128]
    prompts = [encode_prompt(row, bundle.chat, bundle.tokenizer) for row in rows]
    grammars = row_grammars(rows, bundle.chat)
    seconds = {}
    for name, held in (("free", None), ("held", grammars), ("free", None), ("held", grammars)):
        started = time.perf_counter()
        answers = generate(bundle, prompts, 128, grammars=held)
        seconds[name] = time.perf_counter() - started
    print({name: f"{taken:.3f} s" for name, taken in seconds.items()})
    assert not any(bundle.chat.parse(bundle.tokenizer.decode(found)).problems for found in answers)
    monkeypatch.setattr(module, "decodes_statically", lambda device: False)
    plain = generate(bundle, prompts, 128, grammars=grammars)
    assert sum(a == b for a, b in zip(plain, answers, strict=True)) >= 120
