"""The decoding that a GPU captures, run op by op: equal to the answers computed token by token without a cache."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dozan.judge import decode
from dozan.judge import generate as module
from dozan.judge.decode import LOOK, Decoder, Shape, State, few_shapes
from dozan.judge.generate import Effort, generate_ids
from tests.test_generate import WINDOW, cut, dense_logits, freely, make, naive, ragged


@pytest.fixture(autouse=True)
def static(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "decodes_statically", lambda device: True)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Shape]:
    """The shape of every step taken."""
    taken: list[Shape] = []
    plain = Decoder.step

    def counted(self: Decoder, state: State) -> None:
        taken.append(Shape(state.own.shape[2], state.own.shape[4], state.shared.shape[3]))
        plain(self, state)

    monkeypatch.setattr(Decoder, "step", counted)
    return taken


@pytest.mark.parametrize(("kv_heads", "shared"), [(1, 3), (1, 128), *((2, n) for n in (0, 3, WINDOW, 40, 128))])
@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_static_equals_naive(shared: int, batch_rows: int, kv_heads: int, steps: list[Shape]) -> None:
    model = make(shared=kv_heads)
    prompts, free = ragged(7, shared), list(freely(shared, kv_heads, 24))
    stops = {free[0][2], free[1][7], free[2][15]}
    expected = [cut(answer, stops) for answer in free]
    assert len({len(answer) for answer in expected}) > 2
    some = slice(3 if batch_rows == 1 else 7)
    assert generate_ids(model, prompts[some], 24, set(), batch_rows=batch_rows) == free[some]
    assert len(steps) == 23 * -(-len(prompts[some]) // batch_rows)
    assert generate_ids(model, prompts[some], 24, stops, batch_rows=batch_rows) == expected[some]


@pytest.mark.parametrize("cache_bytes", [1, 40_000, 2**30])
def test_batches_of_several_shapes_share_memory(
    cache_bytes: int, steps: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "effort", lambda device: Effort(64, cache_bytes, 50, 500))
    model = make()
    prompts = ragged(5, 150, seed=1) + ragged(4, 25, seed=2) + [[7]] + [ragged(1, 5, seed=3)[0]] * 2
    prompts += [prompt + ragged(1, 70, seed=i)[0] for i, prompt in enumerate(ragged(3, 2, seed=4))]
    expected = [naive(model, prompt, 12, {5, 50}) for prompt in prompts]
    assert generate_ids(model, prompts, 12, {5, 50}) == expected
    assert (len(set(steps)) == 1) == (cache_bytes == 2**30)


def test_a_row_ends_with_the_context() -> None:
    model = make(context=64)
    trunk = ragged(1, 20)[0]
    prompts = [(trunk * 4)[:60], (trunk * 4)[:63], (trunk * 4)[:10]]
    expected = [naive(model, prompt, 64 - len(prompt), set()) for prompt in prompts]
    assert generate_ids(model, prompts, 100, set()) == expected
    assert [len(answer) for answer in expected] == [4, 1, 54]


def test_steps_end_soon_after_the_last_row(steps: list[Shape]) -> None:
    model = make()
    prompts = ragged(4, 10)
    free = [naive(model, prompt, 40, set()) for prompt in prompts]
    assert generate_ids(model, prompts, 40, {answer[2] for answer in free}) == [
        cut(a, {b[2] for b in free}) for a in free
    ]
    assert len(steps) == LOOK
    assert generate_ids(model, prompts, 40, {answer[0] for answer in free}) == [[]] * 4
    assert len(steps) == 2 * LOOK
    assert generate_ids(model, prompts, 1, set()) == [answer[:1] for answer in free]
    assert len(steps) == 2 * LOOK


def test_progress_is_told_of_every_row() -> None:
    seen: list[tuple[int, int]] = []
    generate_ids(make(), ragged(5, 10), 3, set(), lambda done, rows: seen.append((done, rows)), batch_rows=2)
    assert seen == [(i + 1, 5) for i in range(5)]


class Watch(TorchDispatchMode):
    """Every operation with the shapes of its tensors; those that wait for a device or make a shape of data fail."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "repeat_interleave", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in self.WAITING, name
        if name in ("index", "index_put", "index_put_"):
            assert all(index is None or index.dtype != torch.bool for index in args[1]), "a mask as an index"
        self.seen.append((name, *(arg.shape if isinstance(arg, Tensor) else repr(arg) for arg in args)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("guided", [False, True])
@torch.inference_mode()
def test_a_step_asks_nothing_of_the_host_and_never_changes(guided: bool) -> None:
    model, shape = make(), Shape(4, 64, 128)
    decoder = Decoder(model, [shape], 30, {5}, guided)
    state = decoder.state(shape)
    recorded = []
    for slots in ([1, 2, 3, 4], [9, 40, 3, 33]):
        state.slot.copy_(torch.tensor(slots))
        state.length.fill_(slots[0] * 10)
        with Watch() as watch:
            decoder.step(state)
        # What is printed of a tensor inside a list of arguments is its data.
        recorded.append([call for call in watch.seen if call[0] not in ("cat", "index_put", "index_put_")])
    assert recorded[0] == recorded[1] and len(recorded[0]) > 100


def test_the_watch_sees_what_waits() -> None:
    for waits in (lambda x: x[x > 1], lambda x: x.nonzero(), lambda x: bool(x.any()), lambda x: x.sum().item()):
        with pytest.raises(AssertionError), Watch():
            waits(torch.arange(3))


@torch.inference_mode()
def test_slots_that_hold_nothing_yet_are_not_seen() -> None:
    model, shape = make(), Shape(3, 64, 128)
    decoder = Decoder(model, [shape], 10, set())
    state = decoder.state(shape)
    torch.nn.init.normal_(state.own)
    torch.nn.init.normal_(state.shared)
    first, own, shared = torch.tensor([3, 4, 5]), state.own.clone(), state.shared.clone()
    answers = decoder.decode(shape, 11, first, [2, 0, 7], [10, 10, 10])
    for row, slot in enumerate([2, 0, 7]):
        own[:, :, row, :, slot:] = 1e6
    shared[:, :, :, : 128 - 11] = -1e6
    state.own.copy_(own)
    state.shared.copy_(shared)
    assert decoder.decode(shape, 11, first, [2, 0, 7], [10, 10, 10]) == answers
    assert decoder.decode(shape, 12, first, [2, 0, 7], [10, 10, 10]) != answers


class Odd:
    """A guide that takes only odd tokens at some places of a row."""

    def __init__(self, row: int, often: int) -> None:
        self.row, self.often, self.at = row, often, 0

    def refuses(self, token: int) -> bool:
        return (7 * self.at + 3 * self.row + 1) % self.often == 0 and token % 2 == 0

    def take(self, tokens: list[int], left: int) -> int:
        start = self.at
        for token in tokens:
            if self.refuses(token):
                break
            self.at += 1
        return self.at - start

    def allowed(self, left: int, size: int) -> np.ndarray:
        return np.array([not self.refuses(token) for token in range(size)])

    def force(self, token: int) -> None:
        assert self.take([token], 1) == 1


class Odds:
    def __init__(self, often: int) -> None:
        self.often = often

    def check_limits(self, limits: list[int]) -> None:
        assert len(set(limits)) == 1

    def begin(self, row: int) -> Any:
        return Odd(row, self.often)


@lru_cache
def masked(often: int) -> tuple[list[list[int]], set[int]]:
    """(answers by masks alone, token by token without a cache; the stops), once for all that are compared with them."""
    model, free = make(), freely(40, 2, 40)
    stops = {free[0][30], free[4][21]}
    answers = []
    for row, prompt in enumerate(ragged(7, 40)):
        guide, answer = Odd(row, often), list[int]()
        while len(answer) < 40:
            logits = dense_logits(model, [*prompt, *answer])
            mask = torch.from_numpy(guide.allowed(1, len(logits)))
            token = int(logits.masked_fill(~mask, -torch.inf).argmax())
            guide.force(token)
            if token in stops:
                break
            answer.append(token)
        answers.append(answer)
    return answers, stops


@pytest.mark.parametrize("often", [1, 5, 23, 10**9])
@pytest.mark.parametrize(("batch_rows", "at_once"), [(1, 0), (3, 64), (64, 0), (64, 64)])
def test_what_a_guide_refuses_is_replaced(
    often: int, batch_rows: int, at_once: int, steps: list[Shape], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against masks alone, token by token without a cache; rows end at stops, at refused stops not."""
    monkeypatch.setattr(decode, "AT_ONCE", at_once)
    model, prompts = make(), ragged(7, 40)
    expected, stops = masked(often)
    some = slice(3 if batch_rows == 1 else 7)
    expected, prompts = expected[some], prompts[some]
    found = generate_ids(model, prompts, 40, stops, batch_rows=batch_rows, guides=Odds(often))  # type: ignore[arg-type]
    assert found == expected and (often == 1 or len({len(answer) for answer in expected}) > 1)
    assert (expected == [cut(answer, stops) for answer in freely(40, 2, 40)[some]]) == (often == 10**9)
    # Where nothing is refused, the host is two tokens behind.
    longest = max(map(len, expected))
    assert often != 10**9 or batch_rows != 64 or len(steps) <= longest + (2 if at_once else 4)


def test_shapes_are_few_and_hold_their_batches() -> None:
    sizes = [Shape(rows, own, shared) for rows in range(1, 70) for own in (1, 64, 170, 700) for shared in (0, 800, 803)]
    for slots in (1, 10**6):
        found = few_shapes(sizes, slots)
        pairs = zip(sizes, found, strict=True)
        assert all(b.rows >= a.rows and b.own >= a.own and b.shared >= a.shared for a, b in pairs)
        assert len(set(found)) == 1 if slots > 1 else 50 < len(set(found)) < len(sizes) / 3
    assert few_shapes([Shape(70, 700, 803)], 10**6) == [Shape(80, 768, 896)]
    assert few_shapes([Shape(1, 5, 0)], 0) == [Shape(1, 64, 0)]
    assert few_shapes([], 5) == []
