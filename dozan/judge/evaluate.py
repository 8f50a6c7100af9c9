"""Evaluates a model on rows: prompts, greedy answers, scores, and JSON with every figure and every prediction."""

from __future__ import annotations

import json as json_format
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dozan.chat.encode import encode_prompt, gold
from dozan.chat.grammar import row_grammars
from dozan.errors import InputError
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_rows

if TYPE_CHECKING:
    from dozan.judge.measured import PresetScores
    from dozan.model.bundle import Bundle

Complete = Callable[[list[list[int]]], list[list[int]]]
Progress = Callable[[int, int], None]
_SHOWN = 20


def evaluate(
    model: str | Path | Bundle,
    data: str | Path | Sequence[Example],
    json: str | Path | None = None,
    max_new_tokens: int = 256,
    limit: int | None = None,
    on_progress: Progress | None = None,
    complete: Complete | None = None,
    grammar: bool = False,
) -> Scores:
    """Scores a run, an adapter, a checkpoint folder, a hub id or an opened model on rows (a JSONL file or examples).

    Only the first `limit` rows are scored when it is given. `complete` answers the prompts' ids elsewhere than in
    torch, with the tokenizer and chat format of `model`. `grammar` holds each answer to the grammar of its row's tools.
    `json` gets `Scores.to_json`, whole or not at all. Raises
    InputError for rows or a model that cannot be used.
    """
    examples = _examples(data, limit)
    bundle = _open(model)
    prompts = _prompts(examples, bundle)
    if complete is None:
        from dozan.judge.generate import generate

        grammars = row_grammars(examples, bundle.chat) if grammar else None
        answers = generate(bundle, prompts, max_new_tokens, on_progress, grammars=grammars)
    else:
        answers = complete(prompts)
    texts = [bundle.tokenizer.decode(ids) for ids in answers]
    scores = score_rows(examples, texts, bundle.chat)
    if json is not None:
        write_scores(json, scores, str(bundle.adapter_folder or bundle.base_folder))
    return scores


def score_predictions(
    predictions: str | Path, data: str | Path | Sequence[Example], json: str | Path | None = None,
    limit: int | None = None,
) -> Scores:  # fmt: skip
    """Scores answers that were made elsewhere (`judge.predictions`) on rows; `json` gets what `evaluate` would write.

    With a `limit` only the first rows are scored, and predictions for the others passed over. Raises InputError for
    rows or predictions that cannot be used, and for predictions that are not for these rows.
    """
    from dozan.judge.predictions import read_predictions

    examples = _examples(data, None)
    chosen = _examples(examples, limit)
    left = {example.id for example in examples[len(chosen) :]}
    found = read_predictions(predictions, examples)
    scores = score_rows(chosen, {name: text for name, text in found.items() if name not in left})
    if json is not None:
        write_scores(json, scores, str(predictions))
    return scores


def add_preset(path: str | Path, preset: PresetScores) -> None:
    """Puts a preset's figures under `preset` into a file that `write_scores` wrote."""
    path = Path(path)
    _write(path, {**json_format.loads(path.read_text(encoding="utf-8")), "preset": preset.to_json()})


def write_scores(path: str | Path, scores: Scores, model: str) -> None:
    """Writes every figure and every row's prediction as JSON: the file is the old one or the new one, never a part."""
    _write(Path(path), {"model": model, **scores.to_json()})


def _write(path: Path, found: Mapping[str, Json]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    with staging.open("w", encoding="utf-8") as file:
        json_format.dump(found, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    staging.replace(path)


def read_scores(path: str | Path) -> Scores:
    """Reads what `write_scores` wrote. Raises InputError for another file."""
    try:
        found = json_format.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as scores ({error}); write one with `dozan eval --json`") from None
    return Scores.from_json(found, str(path))


def _examples(data: str | Path | Sequence[Example], limit: int | None) -> list[Example]:
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; give at least 1, or leave it out to score every row")
    examples = read_rows(data) if isinstance(data, (str, Path)) else list(data)
    if not examples:
        name = data if isinstance(data, (str, Path)) else "data"
        raise InputError(f"{name}: no rows to score; give at least one row with an assistant message")
    return examples[:limit]


def _open(model: str | Path | Bundle) -> Bundle:
    if not isinstance(model, (str, Path)):
        return model
    if str(model).endswith(".gguf"):
        raise InputError(f"{model}: a GGUF file runs in llama.cpp; score it with dozan.evaluate or `dozan eval`")
    from dozan.judge.opened import open_for_judging

    return open_for_judging(model)


def _prompts(examples: Sequence[Example], bundle: Bundle) -> list[list[int]]:
    """Each row's prompt. Raises InputError, before anything is generated, for every row that cannot be scored."""
    context = bundle.config.max_position_embeddings
    prompts: list[list[int]] = []
    errors: list[str] = []
    for example in examples:
        try:
            prompts.append(encode_prompt(example, bundle.chat, bundle.tokenizer))
            gold(example)
        except InputError as error:
            errors.append(str(error))
            continue
        if len(prompts[-1]) >= context:
            length = len(prompts[-1])
            errors.append(f"{example.place or example.id}: {length} tokens fill the context of {context}; shorten it")
    if errors:
        raise InputError(f"{len(errors)} of {len(examples)} rows cannot be scored:\n" + "\n".join(errors[:_SHOWN]))
    return prompts
