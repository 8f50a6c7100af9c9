"""Our rendering, tokens and logits on a checkpoint against transformers' on the same folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dozan.chat.encode import encode_prompt, encode_rows
from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_model
from dozan.rows.example import Example
from dozan.ship.parity import compare, reference_logits

ROWS, LOGIT_ROWS, TAIL = 200, 4, 48
LARGEST = 1e-3
"""Of the largest logit: fp32 sums in another order come to a tenth of it at 18 layers."""


def require_transformers() -> None:
    """Raises InputError without transformers, which is what a checkpoint is compared with."""
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        raise InputError("dozan reproduce compares with transformers: pip install 'dozan[reproduce]'") from None


def check_rendering(folder: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """Compare the token ids of rows' prompts with those of the checkpoint's own template and tokenizer.

    Rows that the official template corrupts are left out, and counted. Raises InputError for the first row that
    differs, and when no row is left.
    """
    from transformers import AutoTokenizer

    bundle = open_model(folder)
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    equal = repaired = 0
    for example in examples[:ROWS]:
        prompt = list(example.messages)
        while prompt and prompt[-1].get("role") == "assistant":
            prompt.pop()
        if bundle.chat.render(prompt, example.tools, generate=True, place=example.place).repairs:
            repaired += 1
            continue
        ours = encode_prompt(example, bundle.chat, bundle.tokenizer)
        found = theirs.apply_chat_template(
            prompt, tools=list(example.tools) or None, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        if list(found) != list(ours):
            raise InputError(_difference(example, theirs.decode(found), bundle.tokenizer.decode(ours)))
        equal += 1
    if not equal:
        raise InputError(f"none of {repaired} rows is one that the checkpoint's template writes rightly")
    return {"rows_equal": equal, "rows_repaired": repaired, "vocabulary": len(theirs)}


def check_logits(folder: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """Compare the last logits of rows in fp32 with transformers'. Raises InputError when they are apart."""
    bundle = open_model(folder, torch.float32)
    encoded = encode_rows(examples[:LOGIT_ROWS], bundle.chat, bundle.tokenizer, bundle.config.max_position_embeddings)
    rows = [list(row.ids) for row in encoded]
    ours = list(reference_logits(bundle.model, rows, TAIL))
    theirs = _their_logits(folder, bundle, rows)
    found = compare(ours, theirs)
    largest = max(float(np.abs(logits).max()) for logits in theirs)
    if not found.max_abs <= LARGEST * largest:
        raise InputError(f"{folder}: our logits are {found.max_abs:.3g} from transformers', where the largest is "
                         f"{largest:.3g}; nothing that follows would mean anything")  # fmt: skip
    return {"rows": len(rows), "positions": found.positions, "max_abs": found.max_abs, "largest_logit": largest,
            "mean_kl": found.mean_kl, "same_first_choice": found.top1}  # fmt: skip


def _their_logits(folder: Path, bundle: Bundle, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    from transformers import Gemma3ForCausalLM, Gemma3ForConditionalGeneration

    kind: Any = Gemma3ForConditionalGeneration if bundle.config.vision else Gemma3ForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([list(row)])).logits[0, -TAIL:].numpy() for row in rows]


def _difference(example: Example, theirs: str, ours: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    start = max(0, at - 40)
    return (f"{example.place or example.id}, character {at}: the checkpoint's template and tokenizer give "
            f"{theirs[start : at + 40]!r}, dozan {ours[start : at + 40]!r}")  # fmt: skip
