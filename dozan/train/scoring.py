"""Scores by generation while a run trains: held-out rows answered and scored, the best adapter kept, and when to stop.

The loss says how sure a model is of the right tokens, not whether its calls are right; it may rise while they improve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dozan.chat.encode import encode_prompt
from dozan.chat.format import ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.judge.generate import generate
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import Gemma3
from dozan.recipe import ScoreRecipe
from dozan.rows.example import Example
from dozan.train.checkpoint import newest_valid, save_checkpoint
from dozan.train.live import Event
from dozan.train.state import Progress, Trainee

BEST = "best"
_FIGURES = ("strict", "normalised", "tool_name", "parse_failures")


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
    def __call__(self, model: Gemma3, alive: Callable[[], None] = lambda: None) -> tuple[Scores, float]:
        """The scores, and the share of answers that were cut off at the most tokens. alive: called as answers end."""
        bundle = Bundle(model.eval(), model.config, self.tokenizer, self.chat, self.base_folder, None)
        prompts = [encode_prompt(example, self.chat, self.tokenizer) for example in self.examples]
        answers = generate(bundle, prompts, self.recipe.max_new_tokens, lambda done, rows: alive())
        unended = sum(len(ids) >= self.recipe.max_new_tokens for ids in answers) / len(answers)
        return score_rows(self.examples, [self.tokenizer.decode(ids) for ids in answers], self.chat), unended


def score_run(
    scorer: Scorer, trainee: Trainee, out: Path, progress: Progress, steps_per_epoch: int,
    alive: Callable[[], None] = lambda: None,
) -> tuple[Progress, Event, list[str]]:  # fmt: skip
    """Score the model and keep what was trained in `out/best` if none was better; the event, and what is to be said.
    What `alive` raises as answers end comes through."""
    begun = time.perf_counter()
    scores, unended = scorer(trainee.model, alive)
    figures = scores.summary()
    by = scorer.recipe.by
    value = float((figures["graded"]["f1"] if by == "graded_f1" else figures[by]) or 0.0)
    event: Event = {
        "step": progress.step, "epoch": round(progress.step / steps_per_epoch, 6),
        **{f"score/{name}": figures[name] for name in _FIGURES}, "score/graded_f1": figures["graded"]["f1"],
        "score/unended": round(unended, 6), "score/rows": len(scorer.examples),
        "score/seconds": round(time.perf_counter() - begun, 6),
    }  # fmt: skip
    if progress.best_score is not None and value <= progress.best_score:
        worse = replace(progress, scored_since_best=progress.scored_since_best + 1)
        return worse, event, [stopped_text(scorer, worse)] if is_over(scorer, worse) else []

    save_checkpoint(out / BEST, progress.step, trainee.save_trained, 1)
    return replace(progress, best_score=value, best_step=progress.step, scored_since_best=0), event, []


def is_over(scorer: Scorer, progress: Progress) -> bool:
    """Whether `score.patience` scorings in a row were no better than the best."""
    patience = scorer.recipe.patience
    return patience is not None and progress.scored_since_best >= patience


def stopped_text(scorer: Scorer, progress: Progress) -> str:
    """Why a run ends before its last step."""
    assert progress.best_score is not None
    return (f"stopped after step {progress.step}: {progress.scored_since_best} scorings in a row were no better than "
            f"{scorer.recipe.by} {progress.best_score:.1%} after step {progress.best_step}")  # fmt: skip


def take_best(trainee: Trainee, out: Path) -> int | None:
    """Give the model the best of what was kept; the step it is of, None when none was."""
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
