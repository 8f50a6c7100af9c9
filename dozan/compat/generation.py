"""model.generate: a batch of prompts continued, greedily or by draws, told token by token.

Draws are made as transformers makes them: the repetition penalty first, then temperature, top_k, top_p and min_p, then
torch's own generator (torch.manual_seed). Shapes: B rows, T prompt tokens, N new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.judge.generate import Answering, effort, require_answerable
from dozan.model.gemma3 import Gemma3

DEFAULT_NEW_TOKENS = 256


class Streamer(Protocol):
    def put(self, value: Tensor) -> None: ...
    def end(self) -> None: ...


@dataclass(frozen=True)
class Draw:
    """How a token is chosen; without `sample` the likeliest. top_k of 0 is all."""

    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        bad = {
            "temperature (above 0; or do_sample=False)": self.sample and not self.temperature > 0,
            "top_k (0 for all, or more)": self.top_k < 0, "top_p (above 0, at most 1)": not 0 < self.top_p <= 1,
            "min_p (from 0 to 1)": not 0 <= self.min_p <= 1, "repetition_penalty (above 0)":
            not self.repetition_penalty > 0,
        }  # fmt: skip
        wrong = [name for name, is_wrong in bad.items() if is_wrong]
        if wrong:
            raise InputError(f"generate: out of range: {', '.join(wrong)}; given {self}")

    @staticmethod
    def of(given: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> Draw:
        """What was given, else what the checkpoint's generation_config.json says."""
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        settings = {name: given[name] if given[name] is not None else checkpoint.get(name) for name in names}
        sample = given["do_sample"] if given["do_sample"] is not None else bool(checkpoint.get("do_sample", False))
        return Draw(bool(sample), **{name: value for name, value in settings.items() if value is not None})

    def choose(self, logits: Tensor, seen: Sequence[Sequence[int]]) -> Tensor:
        """fp32 [B, V] and each row's tokens so far -> int64 [B]."""
        scores = logits
        if self.repetition_penalty != 1.0:
            scores = scores.clone()
            for row, ids in enumerate(seen):
                at = torch.tensor(sorted(set(ids)), device=scores.device)
                own = scores[row, at]
                scores[row, at] = torch.where(own < 0, own * self.repetition_penalty, own / self.repetition_penalty)
        if not self.sample:
            return scores.argmax(-1)
        return torch.multinomial(self.probabilities(scores), 1).squeeze(1)

    def probabilities(self, scores: Tensor) -> Tensor:
        """fp32 [B, V] scores -> the probabilities that are drawn from."""
        scores = scores / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k).values[:, -1:]
            scores = scores.masked_fill(scores < least, -torch.inf)
        if self.top_p < 1:
            ordered, order = scores.sort(dim=-1)
            outside = ordered.softmax(-1).cumsum(-1) <= 1 - self.top_p
            outside[:, -1] = False
            scores = scores.masked_fill(outside.scatter(1, order, outside), -torch.inf)
        if self.min_p > 0:
            chances = scores.softmax(-1)
            scores = scores.masked_fill(chances < self.min_p * chances.amax(-1, keepdim=True), -torch.inf)
        return scores.softmax(-1)


class _Told(Answering):
    """A batch whose tokens are drawn, and told as they come; `ends` are the stop tokens that ended rows."""

    def __init__(
        self, model: Gemma3, prompts: Sequence[Sequence[int]], most: int, stops: set[int], draw: Draw,
        streamer: Streamer | None,
    ) -> None:  # fmt: skip
        super().__init__(model, prompts, 0, most, stops, effort(model.device).prefill_tokens)
        self.draw, self.streamer = draw, streamer
        self.ends: list[list[int]] = [[] for _ in prompts]

    def _choose(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        seen = [[*self.rests[row], *self.answers[row]] for row in rows]
        return self.draw.choose(self.model.logits(hidden).float(), seen)

    def _ends(self, row: int, token: int) -> bool:
        if self.streamer is not None:
            self.streamer.put(torch.tensor([token]))
        if token in self.stops:
            self.ends[row] = [token]
        return super()._ends(row, token)


@torch.inference_mode()
def generate_ids(
    model: Gemma3, prompts: Sequence[Sequence[int]], most: int, stops: set[int], draw: Draw,
    streamer: Streamer | None = None,
) -> list[list[int]]:  # fmt: skip
    """The new ids of each prompt, with the stop token that ended it; a streamer is put the prompt first. Raises
    InputError for an empty or too long one."""
    if streamer is not None and len(prompts) > 1:
        raise InputError("generate: a streamer tells one answer; give one prompt")
    require_answerable(prompts, most, model.config.max_position_embeddings)
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    batch = _Told(model.eval(), [prompts[row] for row in order], most, stops, draw, streamer)
    if streamer is not None:
        streamer.put(torch.tensor(prompts))
    batch.run()
    if streamer is not None:
        streamer.end()
    found: list[list[int]] = [[] for _ in prompts]
    for place, row in enumerate(order):
        found[row] = batch.answers[place] + batch.ends[place]
    return found
