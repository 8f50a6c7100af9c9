"""Greedy generation in batches: a prefix that prompts share is computed and kept once; a row keeps its own rest.

Shapes: T new tokens of all rows (flat), B rows, N new tokens a row (padded), M own cached tokens, P shared tokens,
L layers, K key/value heads, G query heads for each of them (H = K·G), E head size, D model, V vocabulary.
Attention over the shared keys is one dense product for all rows; a row's own keys are a padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import Gemma3

Progress = Callable[[int, int], None]

BATCH_ROWS = 64
CACHE_BYTES = 2**30
_PREFILL_TOKENS = 2048
_BATCH_COST = 500
"""What one more batch costs beyond its tokens (its decoding steps), in tokens of prefill: it decides the grouping."""


def generate(
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    on_progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[list[int]]:
    """The greedy answer to each prompt, in order, without the stop id that ended it.

    Prompts hold their own <bos>. `on_progress(rows done, rows)` is called as rows end. A row also ends where the
    model's context does. Raises InputError for an empty or too long prompt, or a limit below 1.
    """
    stops = {bundle.tokenizer.id(token) for token in bundle.chat.stop_tokens if bundle.tokenizer.has(token)}
    return generate_ids(bundle.model, prompts, max_new_tokens, stops, on_progress, batch_rows)


@torch.inference_mode()
def generate_ids(
    model: Gemma3,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: set[int],
    on_progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> list[list[int]]:
    """`generate` for a bare model; `stops` are the ids that end a row."""
    _check(prompts, max_new_tokens, model.config.max_position_embeddings)
    answers: list[list[int]] = [[] for _ in prompts]
    training, done = model.training, 0
    model.eval()
    for group in group_prompts(prompts, max_new_tokens, batch_rows, _cache_tokens(model)):
        rows = sorted(group.rows, key=lambda row: -len(prompts[row]))
        batch = _Batch(model, [prompts[row] for row in rows], group.shared, max_new_tokens, stops)
        for slot in batch.run():
            answers[rows[slot]] = batch.answers[slot]
            done += 1
            if on_progress:
                on_progress(done, len(prompts))
    model.train(training)
    return answers


@dataclass(frozen=True)
class Group:
    """Rows generated together, and how many first tokens of their prompts are computed once."""

    rows: tuple[int, ...]
    shared: int


def group_prompts(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_rows: int, cache_tokens: int
) -> list[Group]:
    """Cuts the sorted prompts into batches so that the tokens to compute and the batches' own costs are least.

    A batch has at most `batch_rows` rows and `cache_tokens` padded own tokens (a single row always goes). Each row
    keeps at least its last token as its own. O(rows · batch_rows).
    """
    order = sorted(range(len(prompts)), key=lambda row: list(prompts[row]))
    shared = [_common_prefix(prompts[a], prompts[b]) for a, b in pairwise(order)]
    least: list[tuple[float, int, int]] = [(0, 0, 0)]  # of the first prompts: cost, the last batch's start and prefix
    for stop in range(1, len(order) + 1):
        best, total, longest, prefix = (float("inf"), 0, 0), 0, 0, len(prompts[order[stop - 1]]) - 1
        for start in range(stop - 1, max(-1, stop - 1 - batch_rows), -1):
            length = len(prompts[order[start]])
            prefix = min(prefix, length - 1, shared[start] if start < stop - 1 else length)
            total, longest, rows = total + length, max(longest, length), stop - start
            if rows > 1 and rows * (longest - prefix + max_new_tokens) > cache_tokens:
                break
            cost = least[start][0] + _BATCH_COST + prefix + total - rows * prefix
            best = min(best, (cost, start, prefix))
        least.append(best)
    groups, stop = [], len(order)
    while stop:
        _, start, prefix = least[stop]
        groups.append(Group(tuple(order[start:stop]), prefix))
        stop = start
    return groups[::-1]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    unequal = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(unequal, min(len(left), len(right)))


def _cache_tokens(model: Gemma3) -> int:
    config = model.config
    values = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return CACHE_BYTES // (values * model.embedding.element_size())


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1 (256 is the default)")
    empty = [str(i) for i, prompt in enumerate(prompts) if not prompt]
    long = [f"{i} ({len(prompt)})" for i, prompt in enumerate(prompts) if len(prompt) >= context]
    if empty:
        raise InputError(f"prompts without a token: {', '.join(empty[:20])}; each must at least hold <bos>")
    if long:
        raise InputError(f"prompts that fill the context of {context} tokens: {', '.join(long[:20])}; shorten them")


class Cache:
    """Keys and values of B rows: `shared` [L, 2, K, P, E] for all of them and `own` [L, 2, B, K, M, E]."""

    def __init__(self, model: Gemma3, shared: Tensor | None, rows: int, capacity: int) -> None:
        config, like = model.config, model.embedding
        layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        self.shared = like.new_empty(layers, 2, heads, 0, size) if shared is None else shared
        self.own = like.new_zeros(layers, 2, rows, heads, capacity, size)

    def move(self, source: int, target: int) -> None:
        """Put row `source` in the place of row `target`, which has left."""
        if source != target:
            self.own[:, :, target] = self.own[:, :, source]


class CachedAttention:
    """Attention of `counts[b]` new tokens of row b, the first in its own slot `starts[b]`; `model.gemma3.Attend`.

    The keys and values of the new tokens are written to the cache. Rows are the first `len(counts)` of the cache.
    """

    def __init__(self, cache: Cache, starts: Sequence[int], counts: Sequence[int], window: int, scale: float) -> None:
        device = cache.own.device
        count = torch.tensor(counts, device=device)
        self.cache, self.scale, self.window = cache, scale, window
        self.batch, self.width, self.shared = len(counts), max(counts), cache.shared.shape[3]
        self.first, self.used = min(starts), max(s + n for s, n in zip(starts, counts, strict=True))
        slot = torch.tensor(starts, device=device)[:, None] + torch.arange(self.width, device=device)  # [B, N]
        taken = torch.arange(self.width, device=device) < count[:, None]
        self.row, self.column = taken.nonzero(as_tuple=True)  # [T] each
        self.slot = slot[taken]
        self.position = self.slot + self.shared
        self.last = count.cumsum(0) - 1
        oldest = self.first - window + 1
        self.low = {False: (0, 0), True: (min(max(0, self.shared + oldest), self.shared), max(0, oldest))}
        self.mask = {sliding: self._mask(slot.clamp(max=self.used - 1), sliding) for sliding in (False, True)}

    def _mask(self, slot: Tensor, sliding: bool) -> Tensor:
        """Which keys, shared then own, each padded query may not see: bool [B, 1, 1, N, keys]."""
        shared_low, own_low = self.low[sliding]
        shared = torch.arange(shared_low, self.shared, device=slot.device) - self.shared
        key = torch.cat((shared, torch.arange(own_low, self.used, device=slot.device)))
        distance = slot[..., None] - key
        hidden = (distance < 0) | (distance >= self.window) if sliding else distance < 0
        return hidden[:, None, None]

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]; softmax in fp32."""
        own = self.cache.own[layer]
        own[0][self.row, :, self.slot] = k
        own[1][self.row, :, self.slot] = v
        shared_low, own_low = self.low[sliding]
        own_key, own_value = own[:, : self.batch, :, own_low : self.used]  # [B, K, M, E]
        key, value = self.cache.shared[layer][:, :, shared_low:]  # [K, P, E]
        query = self._pad(q, k.shape[1])  # [B, K, G·N, E]
        scores = torch.cat((_of_all(query, key.mT), query @ own_key.mT), dim=-1).float() * self.scale
        grouped = scores.unflatten(2, (-1, self.width)).masked_fill(self.mask[sliding], float("-inf"))
        weights = grouped.softmax(-1).to(v.dtype).flatten(2, 3)
        split = key.shape[1]
        mixed = _of_all(weights[..., :split], value) + weights[..., split:] @ own_value
        return self._flatten(mixed)

    def _pad(self, q: Tensor, heads: int) -> Tensor:
        """[T, H, E] -> [B, K, G·N, E], zero where a row has fewer new tokens."""
        if self.width == 1:
            return q.unflatten(1, (heads, -1))
        padded = q.new_zeros(self.batch, self.width, *q.shape[1:])
        padded[self.row, self.column] = q
        return padded.unflatten(2, (heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)

    def _flatten(self, mixed: Tensor) -> Tensor:
        """[B, K, G·N, E] -> [T, H, E]."""
        if self.width == 1:
            return mixed.flatten(1, 2)
        return mixed.unflatten(2, (-1, self.width)).flatten(1, 2)[self.row, :, self.column]


def _of_all(rows: Tensor, shared: Tensor) -> Tensor:
    """rows [B, K, X, Y] times shared [K, Y, Z] -> [B, K, X, Z], as one product a head."""
    product = rows.transpose(0, 1).flatten(1, 2) @ shared  # [K, B·X, Z]
    return product.unflatten(1, (rows.shape[0], -1)).transpose(0, 1)


class _Batch:
    """Rows that share their first tokens, from prompt to answer; the longest prompt comes first."""

    def __init__(
        self, model: Gemma3, prompts: Sequence[Sequence[int]], shared: int, max_new_tokens: int, stops: set[int]
    ) -> None:
        self.model, self.stops = model, stops
        self.answers: list[list[int]] = [[] for _ in prompts]
        context = model.config.max_position_embeddings
        self.limits = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
        self.rests = [list(prompt[shared:]) for prompt in prompts]
        capacity = max(len(rest) + limit for rest, limit in zip(self.rests, self.limits, strict=True))
        self.cache = Cache(model, self._trunk(prompts[0][:shared]), len(prompts), capacity)

    def run(self) -> list[int]:
        """Fills `answers`; gives the rows in the order in which they ended."""
        ended: list[int] = []
        rows, lengths = list(range(len(self.rests))), [len(rest) for rest in self.rests]
        chosen = self._choose(self._prefill(self.cache, self.rests))
        while rows:
            for slot in reversed(range(len(rows))):
                if self._ends(rows[slot], chosen[slot]):
                    ended.append(rows[slot])
                    self.cache.move(len(rows) - 1, slot)
                    for column in (rows, lengths, chosen):
                        column[slot] = column[-1]
                        column.pop()
            if rows:
                chosen = self._choose(self._extend(self.cache, [[token] for token in chosen], lengths))
                lengths = [length + 1 for length in lengths]
        return ended

    def _ends(self, row: int, token: int) -> bool:
        """Takes a chosen token; says whether it was the row's last."""
        if token in self.stops:
            return True
        self.answers[row].append(token)
        return len(self.answers[row]) == self.limits[row]

    def _trunk(self, ids: Sequence[int]) -> Tensor | None:
        """Keys and values [L, 2, K, P, E] of the shared tokens."""
        if not ids:
            return None
        cache = Cache(self.model, None, 1, len(ids))
        self._prefill(cache, [list(ids)])
        return cache.own[:, :, 0]

    def _prefill(self, cache: Cache, prompts: list[list[int]]) -> Tensor:
        """Each row's last hidden state [B, D], computed a stretch at a time."""
        step = max(16, _PREFILL_TOKENS // len(prompts))
        last = self._extend(cache, [prompt[:step] for prompt in prompts], [0] * len(prompts))
        for start in range(step, len(prompts[0]), step):
            pieces = [prompt[start : start + step] for prompt in prompts if len(prompt) > start]
            last[: len(pieces)] = self._extend(cache, pieces, [start] * len(pieces))
        return last

    def _extend(self, cache: Cache, pieces: list[list[int]], starts: list[int]) -> Tensor:
        """Runs new tokens of the first rows of the cache; gives the hidden state of each row's last one, [B, D]."""
        config = self.model.config
        counts = [len(piece) for piece in pieces]
        attend = CachedAttention(cache, starts, counts, config.sliding_window, config.scale)
        ids = torch.tensor([token for piece in pieces for token in piece], device=cache.own.device)
        hidden: Tensor = self.model(ids, attend.position, attend)
        return hidden[attend.last]

    def _choose(self, hidden: Tensor) -> list[int]:
        chosen: list[int] = self.model.logits(hidden).argmax(-1).tolist()
        return chosen
