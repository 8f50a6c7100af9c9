"""Several models on the same rows: scored where they run, or read from score files, and let through by gates."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dozan.errors import InputError
from dozan.judge.evaluate import read_scores
from dozan.judge.gates import Gate, read_gate
from dozan.judge.summary import Scores
from dozan.model.hub import resolve_model, run_base
from dozan.recipe import load_recipe
from dozan.ship.served import OnProgress, evaluate

Progress = Callable[[str], AbstractContextManager[OnProgress]]
"""Opens what shows how far a model is, by a title."""


def score_all(
    models: Sequence[str | Path], data: str | Path | None, progress: Progress, max_new_tokens: int = 256,
    limit: int | None = None,
) -> dict[str, Scores]:  # fmt: skip
    """Each model's scores by its name, in the order given: read from a file that `dozan eval --json` wrote, or made now
    on the rows of `data`. Raises InputError."""
    if len(models) < 2:
        raise InputError("give two models, score files of `dozan eval --json`, or a run to hold against its base")
    named = dict(zip(short_names(models), models, strict=True))
    files = {name for name, model in named.items() if str(model).endswith(".json")}
    absent = [str(model) for name, model in named.items() if name not in files]
    if absent and data is None:
        raise InputError(f"{', '.join(absent)}: no score file; name rows to score on with --data rows.jsonl")
    found: dict[str, Scores] = {}
    for name, model in named.items():
        if name in files:
            found[name] = _first(read_scores(model), limit)
        else:
            assert data is not None
            with progress(f"scoring {name}") as on_progress:
                found[name] = evaluate(model, data, None, max_new_tokens, limit, on_progress)
    return found


def with_base(models: Sequence[str]) -> list[str]:
    """The models; before a run that stands alone, the base that it was trained on."""
    if len(models) != 1 or not (Path(models[0]) / "run.json").is_file():
        return list(models)
    return [str(resolve_model(run_base(Path(models[0])))), *models]


def short_names(models: Sequence[str | Path]) -> list[str]:
    """Each model's last part; the whole path where two end alike. Raises InputError for a model given twice."""
    paths = [str(model) for model in models]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)}: given twice; a model is not compared with itself")
    ends = [Path(path).name.removesuffix(".json") for path in paths]
    return [end if ends.count(end) == 1 else path for end, path in zip(ends, paths, strict=True)]


def gates_for(models: Sequence[str | Path], required: Sequence[str], recipe: str | None) -> list[Gate]:
    """The gates of the command line, of a recipe (`score.require`), and of the second model's own run. InputError."""
    texts = list(required)
    if recipe is not None:
        texts += load_recipe(recipe).score.require
    run = Path(models[1]) / "run.json" if len(models) > 1 else Path()
    if run.is_file():
        found = json.loads(run.read_text(encoding="utf-8")).get("recipe") or {}
        texts += (found.get("score") or {}).get("require") or ()
    return [read_gate(text) for text in dict.fromkeys(texts)]


def _first(scores: Scores, limit: int | None) -> Scores:
    return scores if limit is None else Scores(scores.rows[:limit])
