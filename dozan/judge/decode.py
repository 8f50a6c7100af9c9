"""Greedy decoding with a static cache: each token is the same operations on the same tensors, whatever the rows hold.

So a GPU captures one step as a CUDA graph and replays it: launching some hundred small kernels for each token would
take ten times as long as running them. What the host would know (which slots are taken, which rows have ended) is in
tensors; it looks at them every LOOK tokens, and at each token where rows are held to a grammar. A row that has ended is
computed on, to no effect, until its batch ends.
Shapes: B rows, M own slots, P shared slots, N tokens of an answer, L layers, K key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dozan.kernels.decode import DecodeAttention
from dozan.model.gemma3 import Gemma3

if TYPE_CHECKING:
    from dozan.judge.guide import Guide

LOOK = 8
"""Tokens between two looks of the host at whether all rows have ended."""

_LEAST = {"rows": 1, "own": 64, "shared": 128}
"""Sizes are multiples of these, and few."""


@dataclass(frozen=True)
class Shape:
    """Rows, own slots of each, and shared slots."""

    rows: int
    own: int
    shared: int


def few_shapes(shapes: Sequence[Shape], own_slots: int) -> list[Shape]:
    """For each batch a shape that holds it, of few different ones: one for all where it has at most `own_slots` own
    slots in all its rows, since a capture costs more than the padding."""
    if not shapes:
        return []
    sizes = {name: [_padded(getattr(shape, name), least) for shape in shapes] for name, least in _LEAST.items()}
    whole = Shape(*(max(sizes[name]) for name in _LEAST))
    if whole.rows * whole.own <= own_slots:
        return [whole] * len(shapes)
    return [Shape(*each) for each in zip(*(sizes[name] for name in _LEAST), strict=True)]


def _padded(count: int, least: int) -> int:
    """The next multiple of `least` and of a quarter of the power of two below."""
    step = max(least, 1 << max(0, count.bit_length() - 3))
    return -(-count // step) * step


@dataclass(frozen=True)
class State:
    """All that a step reads and writes.

    shared [L, 2, K, P, E]: keys and values of the prefix at the end of its slots, length int64 [1] of them;
    own [L, 2, B, K, M, E]. For each row: id int64 [B], its newest token; slot int64 [B], where that goes;
    limit int64 [B], the most tokens of its answer; ended bool [B]. answers int64 [B, N]; count int64 [1], how many of
    their columns are filled.
    """

    shared: Tensor
    own: Tensor
    length: Tensor
    id: Tensor
    slot: Tensor
    limit: Tensor
    ended: Tensor
    answers: Tensor
    count: Tensor


class Decoder:
    """Decodes batches of the given shapes one after the other; their tensors share memory, so do their graphs.

    `guided`: they will be decoded with guides.
    """

    def __init__(
        self, model: Gemma3, shapes: Collection[Shape], max_new_tokens: int, stops: Collection[int],
        guided: bool = False,
    ) -> None:  # fmt: skip
        self._model, self._width, self._keeps_logits = model, max_new_tokens, guided
        like, config = model.model.norm.weight, model.config
        slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        self._own = like.new_zeros(slot * max((s.rows * s.own for s in shapes), default=0))
        self._shared = like.new_zeros(slot * max((s.shared for s in shapes), default=0))
        self._stops = torch.tensor(sorted(stops), dtype=torch.int64, device=like.device)
        self._pool = torch.cuda.graph_pool_handle() if like.is_cuda else None
        self._states: dict[Shape, State] = {}
        self._steps: dict[Shape, Callable[[], None]] = {}
        self._logits: Tensor | None = None

    def state(self, shape: Shape) -> State:
        """The tensors of a shape, for the caller to fill `shared` and `own`."""
        if shape not in self._states:
            self._states[shape] = self._make(shape)
        return self._states[shape]

    def decode(
        self, shape: Shape, prefix: int, first: Tensor, slots: Sequence[int], limits: Sequence[int],
        guides: Sequence[Guide] | None = None,
    ) -> list[list[int]]:  # fmt: skip
        """The answers of as many rows as there are `slots`, without the stop id.

        prefix: the shared keys that are real. first int64: the rows' first tokens, not yet in the cache; slots: the
        own tokens that are; limits: the most tokens of each answer, at least 1 and at most N; guides: those of the
        rows, after their first tokens.
        """
        state = self._states[shape]
        self._begin(state, prefix, first, slots, limits)
        done = self._free(shape, max(limits)) if guides is None else self._guided(shape, limits, guides)
        stops = set(self._stops.tolist())
        found = state.answers[: len(slots), :done].tolist()
        return [_cut(answer[:limit], stops) for answer, limit in zip(found, limits, strict=True)]

    def _free(self, shape: Shape, longest: int) -> int:
        """Steps until all rows have ended; gives how many tokens their answers have with the first."""
        state, done = self._states[shape], 1
        while done < longest:
            for _ in range(min(LOOK, longest - done)):
                self._next(shape)
                done += 1
            if bool(state.ended.all()):
                break
        return done

    def _guided(self, shape: Shape, limits: Sequence[int], guides: Sequence[Guide]) -> int:
        """As `_free`; what a row's guide refuses is replaced before the next step."""
        from dozan.judge.guide import corrected

        state, stops, done = self._states[shape], set(self._stops.tolist()), 1
        first = state.id.tolist()
        running = [row for row, limit in enumerate(limits) if first[row] not in stops and limit > 1]
        while running:
            self._next(shape)
            assert self._logits is not None
            chosen = state.id.tolist()
            left = [limit - done for limit in limits]
            found = corrected(self._logits, chosen, running, guides, left)
            changed = [row for row in running if found[row] != chosen[row]]
            if changed:
                self._replace(state, changed, [found[row] for row in changed], done)
            done += 1
            running = [row for row in running if found[row] not in stops and done < limits[row]]
        return done

    def _replace(self, state: State, rows: list[int], tokens: list[int], column: int) -> None:
        """Puts other tokens in the place of the newest ones of some rows that have not ended before."""
        at, new = torch.tensor([rows, tokens], device=state.id.device)
        state.id[at] = new
        state.answers[at, column] = new
        state.ended[at] = self._stopped(new) | (state.limit[at] <= state.count)

    def _next(self, shape: Shape) -> None:
        """A step, on a GPU a replay of it, but for the first of a shape, which prepares the kernels."""
        state = self._states[shape]
        if not state.own.is_cuda:
            self.step(state)
        elif shape in self._steps:
            self._steps[shape]()
        else:
            self._steps[shape] = self._captured(state)

    def step(self, state: State) -> None:
        """One more token of every row."""
        config = self._model.config
        attend = DecodeAttention(state.shared, state.own, state.slot, state.length, config.sliding_window, config.scale)
        hidden = self._model(state.id, state.length + state.slot, attend)
        logits = self._model.logits(hidden)
        chosen = logits.argmax(-1)
        # A graph's memory for them is its own as long as they are kept.
        self._logits = logits if self._keeps_logits else None
        state.id.copy_(chosen)
        state.answers.index_copy_(1, state.count, chosen[:, None])
        state.count.add_(1)
        # A row that has ended stays in its slot, so it never leaves the cache.
        state.slot.add_(~state.ended)
        state.ended.logical_or_(self._stopped(chosen)).logical_or_(state.limit <= state.count)

    def _captured(self, state: State) -> Callable[[], None]:
        """Takes a step, and captures it as a CUDA graph, whose replays are the next ones.

        `torch.cuda.graph` would wait for the device and give all unused memory back first.
        """
        with torch.cuda.device(state.own.device):
            main, side, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                self.step(state)
                taken = self._logits
                graph.capture_begin(pool=self._pool)
                self.step(state)
                graph.capture_end()
            main.wait_stream(side)
        captured, self._logits = self._logits, taken

        def replay() -> None:
            graph.replay()
            self._logits = captured

        return replay

    def _begin(self, state: State, prefix: int, first: Tensor, slots: Sequence[int], limits: Sequence[int]) -> None:
        rows, device = len(slots), first.device
        for whole in (state.id, state.slot, state.limit, state.answers):
            whole.zero_()
        state.length.fill_(prefix)
        state.count.fill_(1)
        state.id[:rows] = first
        state.answers[:rows, 0] = first
        state.slot[:rows] = torch.tensor(slots, device=device)
        state.limit[:rows] = torch.tensor(limits, device=device)
        state.ended.copy_(self._stopped(state.id) | (state.limit <= 1))

    def _stopped(self, chosen: Tensor) -> Tensor:
        return (chosen[:, None] == self._stops).any(1)

    def _make(self, shape: Shape) -> State:
        config, device = self._model.config, self._model.device
        layers, heads, size = config.num_hidden_layers, config.num_key_value_heads, config.head_dim
        shared, own = (layers, 2, heads, shape.shared, size), (layers, 2, shape.rows, heads, shape.own, size)

        def integers(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int64, device=device)

        return State(
            shared=_front(self._shared, shared), own=_front(self._own, own), length=integers(1),
            id=integers(shape.rows), slot=integers(shape.rows), limit=integers(shape.rows),
            ended=torch.ones(shape.rows, dtype=torch.bool, device=device),
            answers=integers(shape.rows, self._width), count=integers(1),
        )  # fmt: skip


def _front(storage: Tensor, shape: Sequence[int]) -> Tensor:
    return storage[: torch.Size(shape).numel()].view(shape)


def _cut(answer: list[int], stops: set[int]) -> list[int]:
    return answer[: next((i for i, token in enumerate(answer) if token in stops), len(answer))]
