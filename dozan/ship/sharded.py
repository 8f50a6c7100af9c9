"""One part of an evaluation, wherever the model runs; and an evaluation that the ranks of a world share.

A row's greedy answer does not depend on the rows that it is computed beside, but for rounding: a product over more
rows may add in another order. In fp32 on a CPU the texts are equal; in 16 bits a tie of two tokens may fall otherwise.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import dozan
from dozan.errors import InputError
from dozan.judge.predictions import read_predictions
from dozan.judge.presets import rows_for
from dozan.judge.purposes import PurposeScores, read_purpose_shard
from dozan.judge.score import score_rows
from dozan.judge.shards import KIND, Joined, OtherRows, join_scores, score_entries
from dozan.judge.summary import Scores
from dozan.rows.example import Example, Json
from dozan.rows.kept import sha256
from dozan.rows.parts import Head, part_of, write_part
from dozan.rows.readers import Say, stream_rows
from dozan.rows.shapes import Options
from dozan.rows.shards import Shard, own_rows
from dozan.ship.purposed import score_purposes
from dozan.ship.served import OnProgress, evaluate
from dozan.world import World

Progress = Callable[[str], AbstractContextManager[OnProgress]]
_AT_ONCE = 256
"""Rows that each rank sends at a time."""


@dataclass(frozen=True)
class Asked:
    """What `dozan eval` is asked for; see its options."""

    data: Path
    model: str
    limit: int | None = None
    max_new_tokens: int = 256
    predictions: Path | None = None
    preset: str | None = None
    purpose: str | None = None
    grammar: bool = False

    @property
    def given(self) -> str:
        """What is scored, as it was named."""
        return str(self.predictions or self.model)


@dataclass(frozen=True)
class _Scored:
    head: Head
    scores: Scores | PurposeScores | None
    examples: Sequence[Example]

    @property
    def entries(self) -> Iterator[Json]:
        return score_entries(self.scores, self.examples)

    @property
    def result(self) -> dict[str, Json]:
        return {"guards": list(self.scores.guards) if isinstance(self.scores, PurposeScores) else []}


def write_shard(asked: Asked, shard: Shard, out: Path, progress: Progress, say: Say | None = None) -> tuple[int, int]:
    """Scores one shard and writes its part; gives how many rows it has, and how many all have. Raises InputError."""
    scored = _score(asked, shard, progress, say)
    write_part(out, scored.head, scored.entries, lambda: scored.result)
    return len(scored.scores.rows) if scored.scores else 0, scored.head.about["rows"]


def evaluate_together(asked: Asked, world: World, progress: Progress, say: Say | None = None) -> Joined | None:
    """All rows, each rank's share scored by it; the first rank has the whole, the others None. Raises InputError."""
    shard = Shard(world.rank + 1, world.size)
    first = world.first
    scored = _score(asked, shard, progress if first else _silent, say if first else None)
    said = {"same": dict(scored.head.same), "about": dict(scored.head.about), "result": scored.result}
    heads = world.gathered(said)
    rows: list[list[Json]] = [[] for _ in range(world.size)]
    mine = list(scored.entries)
    (most,) = world.agree([len(mine)])
    for at in range(0, most, _AT_ONCE):
        for each, found in zip(rows, world.gathered(mine[at : at + _AT_ONCE]), strict=True):
            each += found if first else ()
    if not first:
        return None
    return join_scores([
        part_of(f"rank {rank}", Head(KIND, Shard(rank + 1, world.size), head["same"], head["about"]), each,
                head["result"])
        for rank, (head, each) in enumerate(zip(heads, rows, strict=True))
    ])  # fmt: skip


def _score(asked: Asked, shard: Shard, progress: Progress, say: Say | None) -> _Scored:
    beside: list[Path] = []
    examples, others, total = _read(asked, shard, beside, say)
    scores: Scores | PurposeScores | None = None
    name = asked.given
    if not examples:
        pass
    elif asked.purpose is not None:
        rows = {asked.purpose: examples}
        scores = score_purposes(asked.model, rows, progress, asked.max_new_tokens, True)[asked.purpose]
    elif asked.predictions is not None:
        scores = score_rows(examples, read_predictions(asked.predictions, examples, others))
    else:
        scores, name = _answered(asked, examples, progress)
    about = {"rows": total, "purpose": asked.purpose, "preset": asked.preset, "model": name, "given": asked.given,
             "data": asked.data.name}  # fmt: skip
    return _Scored(Head(KIND, shard, _same(asked, beside), about), scores, examples if asked.preset else ())


def _read(
    asked: Asked, shard: Shard, beside: list[Path], say: Say | None
) -> tuple[list[Example], OtherRows, int]:
    """The shard's rows, what the other rows are called, and how many rows there are."""
    others = OtherRows()
    if asked.purpose is not None:
        examples, total = read_purpose_shard(asked.purpose, asked.data, shard, asked.limit, beside)
        return examples, others, total
    rows = stream_rows(asked.data, say=say, options=Options(beside=beside))
    examples, total = own_rows(rows, shard, asked.limit, others.add)
    if not total:
        raise InputError(f"{asked.data}: no rows to score; give at least one row with an assistant message")
    return (examples if asked.preset is None else rows_for(asked.preset, examples)), others, total


def _answered(asked: Asked, examples: Sequence[Example], progress: Progress) -> tuple[Scores, str]:
    """The scores of the model's answers, and what the model is called in them."""
    from dozan.judge.opened import open_for_judging

    opened = None if asked.model.endswith(".gguf") else open_for_judging(asked.model)
    name = asked.model if opened is None else str(opened.adapter_folder or opened.base_folder)
    with progress("scoring") as on_progress:
        scores = evaluate(
            opened or asked.model, examples, None, asked.max_new_tokens, None, on_progress, grammar=asked.grammar
        )
    return scores, name


def _same(asked: Asked, beside: Sequence[Path]) -> dict[str, str]:
    """What all parts must have in common, so that they are one evaluation."""
    found = {f"rows, {asked.data.name}": sha256(asked.data)}
    found |= {f"{path.parent.name}/{path.name}": sha256(path) for path in dict.fromkeys(beside)}
    settings = {name: getattr(asked, name) for name in ("limit", "max_new_tokens", "preset", "purpose", "grammar")}
    versions = {"dozan": dozan.__version__, "python": ".".join(platform.python_version_tuple()[:2])}
    if asked.predictions is not None:
        found["predictions"] = sha256(asked.predictions)
    elif asked.model.endswith(".gguf"):
        found |= {"model": sha256(Path(asked.model)), "computed": "llama.cpp"}
        versions["xllamacpp"] = metadata.version("xllamacpp")
    else:
        from dozan.model.bundle import model_hash

        found |= {"model": model_hash(asked.model), "computed": _computed()}
        versions |= {name: metadata.version(name) for name in ("torch", "tokenizers")}
    return {**found, **{name: str(value) for name, value in settings.items()}, **versions}


def _computed() -> str:
    """As `judge.opened` opens a model."""
    import torch

    from dozan.kernels import training_dtype

    if not torch.cuda.is_available():
        return "in float32 on a CPU"
    return f"in {str(training_dtype(torch.device('cuda'))).removeprefix('torch.')} on a GPU"


@contextmanager
def _silent(title: str) -> Iterator[OnProgress]:
    yield lambda done, total: None
