"""A whole run over a base that is shared out: what one process makes, measured, skipped, stopped and gone on with."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed.fsdp
from ranks import on_ranks, results
from shard_models import base
from test_ranks import BASE, Stop, losses, ragged

import dozan
from dozan.judge.generate import generate_ids
from dozan.model.adapter import attach
from dozan.model.bundle import open_model
from dozan.model.gathered import is_sharded
from dozan.model.shard import shard_base
from dozan.recipe import Recipe, ScoreRecipe, override
from dozan.rows.readers import read_rows
from dozan.train import step
from dozan.train.live import Event
from dozan.train.loop import fit
from dozan.train.plan import make_plan
from dozan.train.scoring import Scorer
from dozan.world import World, current

pytestmark = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                                reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip
SETTINGS = ["adapter.rank=4", "adapter.alpha=8", "adapter.dora=true", "train.batch_size=7", "train.learning_rate=0.01",
            "train.max_steps=5", "train.save_steps=3", "train.eval_steps=2", "train.pack_tokens=48",
            "train.recompute=2", "train.stall_minutes=0", "train.clip_norm=0.5"]  # fmt: skip


def train(out: Path, *changes: str, act: Any = lambda event: None) -> list[Event]:
    """The lines of metrics of a run in `out`, on whatever ranks there are."""
    chosen, rows = override(Recipe(), [*SETTINGS, *changes]), ragged()
    model = base("nf4")
    attach(model, chosen.adapter, chosen.train.seed)
    shard_base(model, current())
    assert is_sharded(model) == (current().size > 1)
    fit(model, make_plan(chosen, rows[7:], rows[:7]), out, BASE, act)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def require_same(found: list[Event], right: list[Event]) -> None:
    for kind in ("train/loss", "eval/loss", "train/grad_norm"):
        assert losses(found, kind) == pytest.approx(losses(right, kind), rel=1e-5 if "norm" in kind else 1e-6), kind
    assert len(losses(found)) == len(losses(right)) > 0


def test_it_goes_on_at_any_number_of_ranks(tmp_path: Path) -> None:
    """Two ranks, stopped; then three to the end: what one process makes."""
    right = train(tmp_path / "alone")
    ended = on_ranks(2, lambda world: train(tmp_path / "run", act=Stop(world, 0, 2)))
    assert [each.status for each in ended] == [75] * 2, ended
    require_same(results(3, lambda world: train(tmp_path / "run"))[0], right)


def test_what_is_not_finite_is_looked_for_together(tmp_path: Path) -> None:
    """A rank has no row of the step, and takes part in looking at those of others."""
    some = ("train.batch_size=1", "train.max_steps=4")

    def work(world: World) -> Any:
        real, notes = step.gradients, list[str]()

        def gradients(trainee: Any, batch: Any, total: float, at: int) -> Any:
            return real(trainee, batch, total, at) * (float("nan") if at == 2 else 1.0)

        step.gradients = gradients  # type: ignore[assignment]
        lines = train(tmp_path / "run", *some, act=lambda event: notes.append(str(event.get("text"))))
        return [line["step"] for line in lines if line.get("train/skipped")], notes

    for steps, notes in results(2, work)[:1]:
        assert steps == [3] and any("step 3: not finite, update skipped" in note for note in notes)


def test_answers_are_those_of_a_whole_base() -> None:
    """All ranks answer all rows: a pass of one is a pass of each."""
    prompts = [row.ids[:9] for row in ragged()[:5]]
    model = base("nf4")
    attach(model, override(Recipe(), SETTINGS).adapter, 0)
    right = generate_ids(model, prompts, 6, {1})

    def work(world: World) -> list[list[int]]:
        shard_base(model, world)
        return generate_ids(model, prompts, 6, {1})

    assert results(2, work) == [right] * 2


def test_scores_are_those_of_a_whole_base() -> None:
    """Of fewer rows than ranks: all ranks answer all of them."""
    bundle = open_model(dozan.EMBEDDED_BASE)
    examples = tuple(islice(read_rows(Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "dev.jsonl"), 1))
    scorer = Scorer(examples, bundle.tokenizer, bundle.chat, bundle.base_folder, ScoreRecipe(max_new_tokens=3))
    right = scorer(bundle.model)

    def work(world: World) -> bool:
        shard_base(bundle.model.requires_grad_(False), world)
        scores, unended = scorer(bundle.model)
        return scores.summary() == right[0].summary() and unended == right[1]

    assert results(2, work) == [True] * 2
