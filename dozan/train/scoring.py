"""Scores by generation while a run trains: held-out rows answered and scored, the best adapter kept, and when to stop.

The loss says how sure a model is of the right tokens, not whether its calls are right; it may rise while they improve.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from dozan.chat.encode import encode_prompt
from dozan.chat.format import ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.judge.generate import generate
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.model.bundle import Bundle
from dozan.model.gathered import gathers
from dozan.model.gemma3 import Gemma3
from dozan.recipe import ScoreRecipe
from dozan.rows.example import Example
from dozan.train.checkpoint import checkpoints, newest_valid, remove, save_checkpoint
from dozan.train.live import Event, OnEvent
from dozan.train.state import STATE, Progress, Trainee
from dozan.world import ALONE, current

BEST = "best"
_FIGURES = ("strict", "normalised", "tool_name", "parse_failures")
_PAUSED_EVERY = 64


def _nothing() -> None: ...


@dataclass(frozen=True)
class Scorer:
    """Answers the same held-out rows whenever it is asked."""

    examples: tuple[Example, ...]
    tokenizer: Tokenizer
    chat: ChatFormat
    base_folder: Path
    recipe: ScoreRecipe

    def due(self, step: int, evaluate: bool) -> bool:
        """Whether to score after so many steps: every `score.steps`, or with each evaluation of the loss."""
        return evaluate if self.recipe.steps is None else step % self.recipe.steps == 0

    @torch.no_grad()
    def __call__(
        self, model: Gemma3, alive: Callable[[], None] = _nothing, pause: Callable[[], None] = _nothing
    ) -> tuple[Scores, float]:
        """The scores, and the share of answers that were cut off at the most tokens. alive: called as answers end;
        pause: by all ranks together, where there are several, after some rows of each."""
        bundle = Bundle(model.eval(), model.config, self.tokenizer, self.chat, self.base_folder, None)
        # Where a pass gathers weights, all ranks answer all rows together.
        world = ALONE if gathers(model) else current()
        own = self.examples[world.rank :: world.size]
        prompts = [encode_prompt(example, self.chat, self.tokenizer) for example in own]
        longest, found = -(-len(self.examples) // world.size), list[list[int]]()
        some = longest if current().size == 1 else _PAUSED_EVERY
        for at in range(0, longest, some):
            taken = prompts[at : at + some]
            found += generate(bundle, taken, self.recipe.max_new_tokens, lambda done, rows: alive())
            if at + some < longest:
                pause()
        each = world.gathered(found)
        answers = [ids for row in zip_longest(*each) for ids in row if ids is not None]
        unended = sum(len(ids) >= self.recipe.max_new_tokens for ids in answers) / len(answers)
        return score_rows(self.examples, [self.tokenizer.decode(ids) for ids in answers], self.chat), unended


def score_run(
    scorer: Scorer, trainee: Trainee, out: Path, progress: Progress, steps_per_epoch: int,
    alive: Callable[[], None] = _nothing, pause: Callable[[], None] = _nothing,
) -> tuple[Progress, Event, list[str]]:  # fmt: skip
    """Score the model and keep what was trained in `out/best` if none was better; the event, and what is to be said.
    What `alive` and `pause` raise comes through."""
    begun = time.perf_counter()
    scores, unended = scorer(trainee.model, alive, pause)
    figures = scores.summary()
    by = scorer.recipe.by
    value = float((figures["graded"]["f1"] if by == "graded_f1" else figures[by]) or 0.0)
    event: Event = {
        "step": progress.step, "epoch": round(progress.step / steps_per_epoch, 6),
        **{f"score/{name}": figures[name] for name in _FIGURES}, "score/graded_f1": figures["graded"]["f1"],
        "score/unended": round(unended, 6), "score/rows": len(scorer.examples),
        "score/seconds": round(time.perf_counter() - begun, 6),
    }  # fmt: skip
    # One for all ranks: a word that only one of them finds likelier must not part them.
    found: dict[str, Any] = {"event": event, "value": value}
    given = current().from_first(lambda: found)
    event, value = given["event"], given["value"]
    if progress.best_score is not None and value <= progress.best_score:
        worse = replace(progress, scored_since_best=progress.scored_since_best + 1)
        return worse, event, [stopped_text(scorer, worse)] if is_over(scorer, worse) else []

    better = replace(progress, best_score=value, best_step=progress.step, scored_since_best=0)
    if not current().first and not trainee.is_sharded:
        return better, event, []

    def named() -> Path | None:  # the newest checkpoint may be gone back to
        steps = [best_step(folder) for _, folder in checkpoints(out / "checkpoints")[:1]]
        return next((folder for step, folder in checkpoints(out / BEST) if step in steps), None)

    world = current() if trainee.is_sharded else ALONE
    save_checkpoint(out / BEST, progress.step, trainee.save_trained, 1, named, world)
    return better, event, []


def is_over(scorer: Scorer, progress: Progress) -> bool:
    """Whether `score.patience` scorings in a row were no better than the best."""
    patience = scorer.recipe.patience
    return patience is not None and progress.scored_since_best >= patience


def stopped_text(scorer: Scorer, progress: Progress) -> str:
    """Why a run ends before its last step."""
    assert progress.best_score is not None
    return (f"stopped after step {progress.step}: {progress.scored_since_best} scorings in a row were no better than "
            f"{scorer.recipe.by} {progress.best_score:.1%} after step {progress.best_step}")  # fmt: skip


def best_step(checkpoint: Path) -> int | None:
    """After which step the best of the run was scored, as a checkpoint says; None when it does not."""
    try:
        step = json.loads((checkpoint / STATE).read_bytes())["best_step"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or of a version without it
        return None
    return step if isinstance(step, int) else None


def settle_best(out: Path, progress: Progress, report: OnEvent) -> Progress:
    """Let `out/best` hold the best of the course that `progress` is on, and nothing of one that was given up. The
    progress to go on with: without a best where that one is not there, which is told."""
    kept = newest_valid(out / BEST, lambda folder: folder.name == f"step-{progress.best_step or 0:06d}").folder
    for _, folder in checkpoints(out / BEST):
        if folder != kept:
            remove(folder)
    if progress.best_step is None or kept is not None:
        return progress
    report({"event": "note", "text": f"the best of step {progress.best_step} is not in {out / BEST}, or damaged: from "
            "here on the best is chosen anew"})  # fmt: skip
    return replace(progress, best_score=None, best_step=None, scored_since_best=0)


def take_best(trainee: Trainee, out: Path, progress: Progress, report: OnEvent) -> int | None:
    """Give the model the best of what was kept; the step it is of, None when none was."""
    progress = settle_best(out, progress, report)
    found = newest_valid(out / BEST)
    if found.folder is None:
        return None
    trainee.load_trained(found.folder)
    return found.step


def chosen_rows(heldout: int, wanted: int) -> frozenset[int]:
    """Which of the held-out rows are scored: `wanted` of them, spread evenly, always the same."""
    count = min(heldout, wanted)
    return frozenset(place * heldout // count for place in range(count))


def scorer_of(
    examples: Sequence[Example], tokenizer: Tokenizer, chat: ChatFormat, base_folder: Path, recipe: ScoreRecipe
) -> Scorer | None:
    """A scorer for these rows, None when there are none."""
    return Scorer(tuple(examples), tokenizer, chat, base_folder, recipe) if examples else None
