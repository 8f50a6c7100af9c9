"""A model scored for a purpose wherever it runs, and several models for what tuning cost them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dozan.chat.encode import encode_prompt
from dozan.errors import InputError
from dozan.judge.opened import open_for_judging
from dozan.judge.purposes import JUDGED, PurposeScores, read_purpose, score_purpose
from dozan.judge.purposes_loss import row_losses
from dozan.rows.example import Example
from dozan.rows.purposes import purpose_named
from dozan.ship.served import OnProgress, Served, serve_bundle, serve_gguf

Progress = Callable[[str], AbstractContextManager[OnProgress]]
"""Opens what shows how far a piece of work is, by a title."""


def evaluate_purpose(
    purpose: str, model: str | Path, data: str | Path, progress: Progress, max_new_tokens: int = 512,
    limit: int | None = None,
) -> PurposeScores:  # fmt: skip
    """Scores a run, a folder, a hub id or a GGUF on a purpose's rows. A GGUF's answers are scored, not its losses.

    Raises InputError for a purpose, a model or rows that cannot be used.
    """
    purpose_named(purpose)
    rows = {purpose: read_purpose(purpose, data, limit)}
    return score_purposes(model, rows, progress, max_new_tokens, True)[purpose]


def score_purposes(
    model: str | Path, rows: Mapping[str, Sequence[Example]], progress: Progress, max_new_tokens: int, answers: bool
) -> dict[str, PurposeScores]:
    """One model on the rows of several purposes; without `answers` by losses alone. Raises InputError."""
    is_gguf = str(model).endswith(".gguf")
    bundle = None if is_gguf else open_for_judging(model)
    served = serve_gguf(model) if bundle is None else serve_bundle(bundle)
    found = {}
    for name, examples in rows.items():
        losses = None
        if bundle is not None:
            with progress(f"{name}: losses of {Path(model).name}") as on_progress:
                losses = row_losses(bundle, examples, on_progress)
        texts = None
        if answers:
            with progress(f"{name}: answers of {Path(model).name}") as on_progress:
                texts = _answers(served, examples, max_new_tokens, on_progress)
        title = f"{name}: running the code" if name in JUDGED else name
        with progress(title) as on_progress:
            found[name] = score_purpose(name, examples, texts, losses, served.chat, on_progress=on_progress)
    return found


def read_purposes(files: Sequence[str], limit: int | None) -> dict[str, list[Example]]:
    """`code=mbpp.jsonl` and so on: the rows of each purpose, in the order given. Raises InputError."""
    found: dict[str, list[Example]] = {}
    for text in files:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise InputError(f"--rows {text!r}: write PURPOSE=FILE, for example reasoning=gsm8k.jsonl")
        if name in found:
            raise InputError(f"--rows {text!r}: {name} is given twice")
        purpose_named(name)
        found[name] = read_purpose(name, path, limit)
    if not found:
        raise InputError("name held-out rows of what the base could do before: --rows reasoning=gsm8k.jsonl, and so on")
    return found


def _answers(served: Served, examples: Sequence[Example], max_new_tokens: int, on_progress: OnProgress) -> list[str]:
    prompts = [encode_prompt(example, served.chat, served.tokenizer) for example in examples]
    return [served.tokenizer.decode(ids) for ids in served.complete(prompts, max_new_tokens, on_progress)]
