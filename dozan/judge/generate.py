"""Greedy generation in batches: a prefix that prompts share is computed and kept once; a row keeps its own rest.

Shapes: T new tokens of all rows (flat), B rows, N new tokens a row (padded), M own cached tokens, P shared tokens,
L layers, K key/value heads, G query heads for each of them (H = K·G), E head size, D model, V vocabulary.
Attention over the shared keys is one dense product for all rows; a row's own keys are a padded batch. On a CPU, rows
that have ended leave their batch; a GPU, which waits for launches rather than for work, decodes as in judge.decode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.judge.decode import Decoder, Shape, few_shapes
from dozan.kernels.decode import attended, hidden_keys
from dozan.model.gemma3 import Gemma3

if TYPE_CHECKING:
    from dozan.chat.grammar import Grammar
    from dozan.judge.guide import Guide, Guides
    from dozan.model.bundle import Bundle

Progress = Callable[[int, int], None]


_SCORES = 2**28
"""Attention scores of a layer computed at once: 1 GiB in fp32."""


@dataclass(frozen=True)
class Effort:
    """What suits a device: rows of a batch, bytes of a batch's cache, prompt tokens computed at once, and what one more
    batch costs beyond its tokens (its decoding steps), in prompt tokens: it decides the grouping."""

    batch_rows: int
    cache_bytes: int
    prefill_tokens: int
    batch_cost: int


def effort(device: torch.device) -> Effort:
    """A GPU takes large batches, for its steps are bound by launches; an eighth of its memory is for the cache."""
    if device.type != "cuda":
        return Effort(64, 2**30, 2048, 500)
    return Effort(256, torch.cuda.get_device_properties(device).total_memory // 8, 2**14, 30_000)


def decodes_statically(device: torch.device) -> bool:
    """Whether the shapes of a batch are fixed from its first token to its last, so that a step can be captured."""
    return device.type == "cuda"


def generate(
    bundle: Bundle,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    on_progress: Progress | None = None,
    batch_rows: int | None = None,
    grammars: Sequence[Grammar] | None = None,
) -> list[list[int]]:
    """The greedy answer to each prompt, in order, without the stop id that ended it.

    Prompts hold their own <bos>. `on_progress(rows done, rows)` is called as rows end. A row also ends where the
    model's context does. Without `batch_rows` the device decides. With `grammars`, one a prompt, each token is the most
    likely that its grammar allows, and every answer is checked against it. Raises InputError for an empty or too long
    prompt, a limit below 1, and a grammar that cannot be used or ended within the limit.
    """
    stops = {bundle.tokenizer.id(token) for token in bundle.chat.stop_tokens if bundle.tokenizer.has(token)}
    if grammars is None:
        return generate_ids(bundle.model, prompts, max_new_tokens, stops, on_progress, batch_rows)
    from dozan.judge.guide import Guides

    guides = Guides(bundle.tokenizer, stops, grammars)
    answers = generate_ids(bundle.model, prompts, max_new_tokens, stops, on_progress, batch_rows, guides)
    guides.check_answers(answers)
    return answers


@torch.inference_mode()
def generate_ids(
    model: Gemma3,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: set[int],
    on_progress: Progress | None = None,
    batch_rows: int | None = None,
    guides: Guides | None = None,
) -> list[list[int]]:
    """`generate` for a bare model; `stops` are the ids that end a row, `guides` hold the rows to their grammars."""
    context = model.config.max_position_embeddings
    require_answerable(prompts, max_new_tokens, context)
    if guides is not None:
        guides.check_limits([min(max_new_tokens, context - len(prompt)) for prompt in prompts])
    answers: list[list[int]] = [[] for _ in prompts]
    training = model.training
    model.eval()
    for done, (row, answer) in enumerate(_answers(model, prompts, max_new_tokens, stops, batch_rows, guides), 1):
        answers[row] = answer
        if on_progress:
            on_progress(done, len(prompts))
    model.train(training)
    return answers


def _answers(
    model: Gemma3, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: set[int], batch_rows: int | None,
    guides: Guides | None,
) -> Iterator[tuple[int, list[int]]]:  # fmt: skip
    """Each row and its answer, batch by batch."""
    device = model.device
    means = effort(device)
    own_slots = means.cache_bytes // (_slot_values(model) * model.dtype.itemsize)
    groups = group_prompts(prompts, max_new_tokens, batch_rows or means.batch_rows, own_slots, means.batch_cost)
    orders = [sorted(group.rows, key=lambda row: -len(prompts[row])) for group in groups]
    batches = [
        Answering(
            model, [prompts[row] for row in rows], group.shared, max_new_tokens, stops, means.prefill_tokens,
            None if guides is None else [guides.begin(row) for row in rows],
        )  # fmt: skip
        for group, rows in zip(groups, orders, strict=True)
    ]
    if decodes_statically(device):
        shapes = few_shapes([batch.shape for batch in batches], own_slots)
        decoder = Decoder(model, set(shapes), max_new_tokens, stops, guided=guides is not None)
        ended = (batch.run_static(decoder, shape) for batch, shape in zip(batches, shapes, strict=True))
    else:
        ended = (batch.run() for batch in batches)
    for rows, batch, slots in zip(orders, batches, ended, strict=True):
        yield from ((rows[slot], batch.answers[slot]) for slot in slots)


@dataclass(frozen=True)
class Group:
    """Rows generated together, and how many first tokens of their prompts are computed once."""

    rows: tuple[int, ...]
    shared: int


def group_prompts(
    prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_rows: int, own_slots: int, batch_cost: int
) -> list[Group]:
    """Cuts the sorted prompts into batches so that the tokens to compute and the batches' own costs are least.

    A batch has at most `batch_rows` rows and `own_slots` padded own tokens (a single row always goes) and costs
    `batch_cost` tokens beyond its own. Each row keeps at least its last token as its own. O(rows · batch_rows).
    """
    order = sorted(range(len(prompts)), key=lambda row: list(prompts[row]))
    lengths = np.array([len(prompts[row]) for row in order], dtype=np.int64)
    shared = np.array([_common_prefix(prompts[a], prompts[b]) for a, b in pairwise(order)], dtype=np.int64)
    cost = np.zeros(len(order) + 1)  # of the first prompts
    last = [(0, 0)]  # of the batches of the first prompts the last one's start and prefix
    for stop in range(1, len(order) + 1):
        first = max(0, stop - batch_rows)
        length = lengths[first:stop][::-1]  # from here on, each start from stop - 1 down to first
        prefix = np.minimum.accumulate(length - 1)
        prefix[1:] = np.minimum(prefix[1:], np.minimum.accumulate(shared[first : stop - 1][::-1]))
        rows = np.arange(1, len(length) + 1)
        slots = rows * (np.maximum.accumulate(length) - prefix + max_new_tokens)
        total = cost[first:stop][::-1] + batch_cost + prefix + length.cumsum() - rows * prefix
        total[1:][slots[1:] > own_slots] = np.inf
        best = len(total) - 1 - int(total[::-1].argmin())  # of equals the largest batch
        cost[stop] = total[best]
        last.append((stop - 1 - best, int(prefix[best])))
    groups, end = [], len(order)
    while end:
        start, common = last[end]
        groups.append(Group(tuple(order[start:end]), common))
        end = start
    return groups[::-1]


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """By halving: comparing slices is much faster than comparing items one by one."""
    low, high = 0, min(len(left), len(right))
    while low < high:
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _slot_values(model: Gemma3) -> int:
    config = model.config
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim


def require_answerable(prompts: Sequence[Sequence[int]], max_new_tokens: int, context: int) -> None:
    """InputError that names prompts without a token and those that fill the context, or no new token asked for."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {max_new_tokens}; it must be at least 1 (256 is the default)")
    empty = [str(i) for i, prompt in enumerate(prompts) if not prompt]
    long = [f"{i} ({len(prompt)})" for i, prompt in enumerate(prompts) if len(prompt) >= context]
    if empty:
        raise InputError(f"prompts without a token: {', '.join(empty[:20])}; each must at least hold <bos>")
    if long:
        raise InputError(f"prompts that fill the context of {context} tokens: {', '.join(long[:20])}; shorten them")


@dataclass(frozen=True)
class Cache:
    """Keys and values of B rows: `shared` [L, 2, K, P, E] for all of them and `own` [L, 2, B, K, M, E]."""

    shared: Tensor
    own: Tensor

    @staticmethod
    def empty(model: Gemma3, shared: Tensor | None, rows: int, capacity: int) -> Cache:
        """Own slots of zeros; without `shared`, nothing is shared."""
        config, like = model.config, torch.empty(0, dtype=model.dtype, device=model.device)
        layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        if shared is None:
            shared = like.new_empty(layers, 2, heads, 0, size)
        return Cache(shared, like.new_zeros(layers, 2, rows, heads, capacity, size))

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
        return hidden_keys(slot, key, self.window if sliding else None)

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]; softmax in fp32."""
        own = self.cache.own[layer]
        own[0][self.row, :, self.slot] = k
        own[1][self.row, :, self.slot] = v
        shared_low, own_low = self.low[sliding]
        own = own[:, : self.batch, :, own_low : self.used]
        shared = self.cache.shared[layer][:, :, shared_low:]
        query = self._pad(q, k.shape[1])
        return self._flatten(attended(query, shared, own, self.mask[sliding], self.scale))

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


class Answering:
    """A batch of rows that share their first `shared` tokens, from prompt to answer; the longest prompt comes first.

    `run` fills `answers`, the new ids of each row without the stop token that ended it.
    """

    def __init__(
        self, model: Gemma3, prompts: Sequence[Sequence[int]], shared: int, max_new_tokens: int, stops: set[int],
        prefill_tokens: int, guides: list[Guide] | None = None,
    ) -> None:  # fmt: skip
        self.guides = guides
        self.model, self.stops, self.prefill_tokens = model, stops, prefill_tokens
        self.answers: list[list[int]] = [[] for _ in prompts]
        context = model.config.max_position_embeddings
        self.limits = [min(max_new_tokens, context - len(prompt)) for prompt in prompts]
        self.trunk = list(prompts[0][:shared])
        self.rests = [list(prompt[shared:]) for prompt in prompts]

    @property
    def shape(self) -> Shape:
        """What the batch needs at most."""
        longest = max(len(rest) + limit for rest, limit in zip(self.rests, self.limits, strict=True))
        return Shape(len(self.rests), longest, len(self.trunk))

    def run(self) -> list[int]:
        """Fills `answers`; gives the rows in the order in which they ended."""
        ended: list[int] = []
        rows, lengths = list(range(len(self.rests))), [len(rest) for rest in self.rests]
        trunk = Cache.empty(self.model, None, 1, len(self.trunk))
        self._compute_trunk(trunk)
        cache = Cache.empty(self.model, trunk.own[:, :, 0], self.shape.rows, self.shape.own)
        chosen: list[int] = self._choose(self._prefill(cache, self.rests), rows).tolist()
        while rows:
            for slot in reversed(range(len(rows))):
                if self._ends(rows[slot], chosen[slot]):
                    ended.append(rows[slot])
                    cache.move(len(rows) - 1, slot)
                    for column in (rows, lengths, chosen):
                        column[slot] = column[-1]
                        column.pop()
            if rows:
                chosen = self._choose(self._extend(cache, [[token] for token in chosen], lengths), rows).tolist()
                lengths = [length + 1 for length in lengths]
        return ended

    def run_static(self, decoder: Decoder, shape: Shape) -> Iterable[int]:
        """As `run`, in the decoder's tensors of `shape`, which holds the batch."""
        state, prefix = decoder.state(shape), len(self.trunk)
        shared = state.shared[:, :, :, shape.shared - prefix :]
        self._compute_trunk(Cache(shared[:, :, :, :0], shared[:, :, None]))
        rows = range(len(self.rests))
        first = self._choose(self._prefill(Cache(shared, state.own), self.rests), rows)
        lengths = [len(rest) for rest in self.rests]
        self.answers = decoder.decode(shape, prefix, first, lengths, self.limits, self.guides)
        return range(len(self.answers))

    def _ends(self, row: int, token: int) -> bool:
        """Takes a chosen token; says whether it was the row's last."""
        if token in self.stops:
            return True
        self.answers[row].append(token)
        return len(self.answers[row]) == self.limits[row]

    def _compute_trunk(self, cache: Cache) -> None:
        """Fills the own slots of a cache of one row with the shared tokens."""
        if self.trunk:
            self._prefill(cache, [self.trunk])

    def _prefill(self, cache: Cache, prompts: list[list[int]]) -> Tensor:
        """Each row's last hidden state [B, D], computed a stretch at a time."""
        keys = cache.shared.shape[3] + len(prompts[0])
        tokens = min(self.prefill_tokens, _SCORES // (self.model.config.num_attention_heads * keys))
        step = max(16, tokens // len(prompts))
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

    def _choose(self, hidden: Tensor, rows: Sequence[int]) -> Tensor:
        """[B, D] of these rows -> their most likely tokens, of those that their guides allow, int64 [B]."""
        logits = self.model.logits(hidden)
        if self.guides is None:
            return logits.argmax(-1)
        from dozan.judge.guide import guided

        left = [self.limits[row] - len(self.answers[row]) for row in rows]
        return torch.tensor(guided(logits, [self.guides[row] for row in rows], left), device=logits.device)
