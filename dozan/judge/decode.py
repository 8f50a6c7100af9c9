"""Greedy decoding with a static cache: each token is the same operations on the same tensors, whatever the rows hold.

So a GPU captures one step as a CUDA graph and replays it: launching some hundred small kernels for each token would
take ten times as long as running them. What the host would know (which slots are taken, which rows have ended) is in
tensors; it looks at them every LOOK tokens. A row that has ended is computed on, to no effect, until its batch ends.
Where rows are held to a grammar, the host reads a token or two while the next ones are computed. A row whose token is
refused is taken back to it and chooses among what is allowed; the others go on.
Shapes: B rows, M own slots, P shared slots, N tokens of an answer, L layers, K key/value heads, E head size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dozan.kernels.capture import OWN_THREAD, uncollected
from dozan.kernels.decode import DecodeAttention
from dozan.model.gathered import is_sharded
from dozan.model.gemma3 import Gemma3

if TYPE_CHECKING:
    from dozan.judge.guide import Guide

LOOK = 8
"""Tokens between two looks of the host."""

AT_ONCE = 64
"""Up to so many rows that are held to a grammar are read token by token; more are read two tokens at a time, for the
host needs 4 microseconds for each. A row that is refused loses two to four steps."""

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
    limit int64 [B], the most tokens of its answer; ended bool [B]; count int64 [B], the tokens of its answer so far,
    with the stop id. answers int64 [B, N + 1]: what a row that has ended goes on with stands after its tokens.
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


@dataclass(frozen=True)
class _Captured:
    """A step as a graph, and the logits [B, V] that its replays write, where they are needed."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor | None


class Decoder:
    """Decodes batches of the given shapes one after the other; their tensors share memory, so do their graphs.

    `guided`: they will be decoded with guides.
    """

    def __init__(
        self, model: Gemma3, shapes: Collection[Shape], max_new_tokens: int, stops: Collection[int],
        guided: bool = False,
    ) -> None:  # fmt: skip
        self._model, self._width, self._guides = model, max_new_tokens, guided
        like, config = torch.empty(0, dtype=model.dtype, device=model.device), model.config
        slot = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        self._own = like.new_zeros(slot * max((s.rows * s.own for s in shapes), default=0))
        self._shared = like.new_zeros(slot * max((s.shared for s in shapes), default=0))
        self._stops = torch.tensor(sorted(stops), dtype=torch.int64, device=like.device)
        self._pool = torch.cuda.graph_pool_handle() if like.is_cuda else None
        self._states: dict[Shape, State] = {}
        self._logits: Tensor | None = None
        self._steps: dict[Shape, _Captured] = {}

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
        done = self._free(shape, max(limits)) if guides is None else self._guided(shape, slots, limits, guides)
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

    def _guided(self, shape: Shape, slots: Sequence[int], limits: Sequence[int], guides: Sequence[Guide]) -> int:
        """As `_free`; what a row's guide refuses is replaced before the row goes on."""
        first = self._states[shape].id[: len(slots)].tolist()
        held = Held(guides, limits, set(self._stops.tolist()), first)
        steps = 1 if len(slots) <= AT_ONCE else 2
        earlier = self._stretch(shape, steps)
        while held.running:
            later = self._stretch(shape, steps)
            held.read(earlier())
            back = held.back()
            if back:
                self._take_back(shape, held, back, [slots[row] for row in back])
            earlier = later
        return max(held.taken)

    def _stretch(self, shape: Shape, steps: int) -> Callable[[], list[list[int]]]:
        """So many steps; gives what waits for them and reads each row's newest tokens, one more than the steps, and
        behind them the count of all."""
        state = self._states[shape]
        for _ in range(steps):
            self._next(shape)
        count = state.count[:, None]
        newest = count + torch.arange(-steps - 1, 0, device=count.device)
        found = torch.cat((state.answers.gather(1, newest.clamp(min=0)), count), dim=1)
        if not found.is_cuda:
            return found.tolist
        copy = torch.empty(found.shape, dtype=found.dtype, pin_memory=True).copy_(found, non_blocking=True)
        event = torch.cuda.Event()
        event.record()

        def read() -> list[list[int]]:
            event.synchronize()
            return copy.tolist()

        return read

    def _take_back(self, shape: Shape, held: Held, rows: list[int], slots: list[int]) -> None:
        """A step in which these rows choose the token after those taken among what their guides allow. Nothing waits
        for it, or for what was launched before."""
        state = self._states[shape]

        def moved(host: Tensor) -> Tensor:
            return host.pin_memory().to(state.id.device, non_blocking=True) if state.id.is_cuda else host

        row, slot, count = moved(torch.tensor([rows, slots, [held.taken[row] for row in rows]]))
        state.slot[row] = slot + count - 1
        state.count[row] = count
        state.id[row] = state.answers[row, count - 1]
        state.ended.index_fill_(0, row, False)
        self._next(shape)
        assert self._logits is not None
        allowed = moved(torch.from_numpy(np.stack([held.allowed(row, self._logits.shape[-1]) for row in rows])))
        chosen = self._logits[row].masked_fill(~allowed, float("-inf")).argmax(-1)
        state.id[row] = chosen
        state.answers[row, count] = chosen
        state.ended[row] = self._stopped(chosen) | (state.limit[row] <= count + 1)

    def _next(self, shape: Shape) -> None:
        """A step, on a GPU a replay of it, but for the first of a shape, which prepares the kernels."""
        state = self._states[shape]
        if not state.own.is_cuda or is_sharded(self._model):
            self.step(state)
        elif shape in self._steps:
            captured = self._steps[shape]
            captured.graph.replay()
            self._logits = captured.logits
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
        self._logits = logits if self._guides else None
        state.id.copy_(chosen)
        state.answers.scatter_(1, state.count[:, None], chosen[:, None])
        # A row that has ended stays in its slot, so it never leaves the cache.
        running = ~state.ended
        state.slot.add_(running)
        state.count.add_(running)
        state.ended.logical_or_(self._stopped(chosen)).logical_or_(state.limit <= state.count)

    def _captured(self, state: State) -> _Captured:
        """Takes a step, and captures it as a CUDA graph, whose replays are the next ones.

        `torch.cuda.graph` would wait for the device and give all unused memory back first.
        """
        with torch.cuda.device(state.own.device):
            main, side, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                self.step(state)
                taken = self._logits
                with uncollected():
                    graph.capture_begin(pool=self._pool, capture_error_mode=OWN_THREAD)
                    self.step(state)
                    graph.capture_end()
            main.wait_stream(side)
        captured, self._logits = self._logits, taken
        return _Captured(graph, captured)

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
            answers=integers(shape.rows, self._width + 1), count=integers(shape.rows),
        )  # fmt: skip


class Held:
    """What the host knows of rows that are held to a grammar.

    taken: for each row the tokens of its answer that its guide has taken, the first among them; running: the rows that
    have not ended.
    """

    def __init__(self, guides: Sequence[Guide], limits: Sequence[int], stops: set[int], first: Sequence[int]) -> None:
        self._guides, self._limits, self._stops = guides, limits, stops
        self.taken = [1] * len(limits)
        self.running = [row for row, limit in enumerate(limits) if first[row] not in stops and limit > 1]
        self._refused: list[int] = []
        self._behind, self._chosen = set[int](), set[int]()

    def read(self, newest: Sequence[Sequence[int]]) -> None:
        """Gives the guides what was written after them: for each row its newest tokens, and then their count."""
        ended, behind = set(), self._behind
        self._behind = set()
        for row in self.running:
            *tokens, count = newest[row]
            before = self.taken[row]
            if row in behind or count == before:
                continue
            tokens = tokens[before - count :]
            assert len(tokens) == count - before, "a row was not read in time"
            guide, taken = self._guides[row], 0
            if row in self._chosen:
                self._chosen.remove(row)
                guide.force(tokens[0])
                taken = 1
            taken += guide.take(tokens[taken:], self._limits[row] - before - taken)
            self.taken[row] += taken
            if taken < len(tokens):
                self._refused.append(row)
            elif tokens[-1] in self._stops or count == self._limits[row]:
                ended.add(row)
        if ended:
            self.running = [row for row in self.running if row not in ended]

    def back(self) -> list[int]:
        """The refused rows, which choose again; what was launched before is not read of them."""
        rows, self._refused = self._refused, []
        self._behind.update(rows)
        self._chosen.update(rows)
        return rows

    def allowed(self, row: int, size: int) -> np.ndarray:
        """Which of `size` tokens may come next in a row, bool [V]."""
        return self._guides[row].allowed(self._limits[row] - self.taken[row], size)


def _front(storage: Tensor, shape: Sequence[int]) -> Tensor:
    return storage[: torch.Size(shape).numel()].view(shape)


def _cut(answer: list[int], stops: set[int]) -> list[int]:
    return answer[: next((i for i, token in enumerate(answer) if token in stops), len(answer))]
