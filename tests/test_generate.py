"""Batched generation equals decoding one row at a time with everything computed again at each token."""

from __future__ import annotations

import random
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.judge.generate import Cache, CachedAttention, Effort, generate, generate_ids, group_prompts
from dozan.kernels.reference import DenseAttention
from dozan.model.gemma3 import FULL, SLIDING, Gemma3, Gemma3Config

VOCABULARY, WINDOW = 97, 8


def make(heads: int = 4, shared: int = 2, context: int = 512) -> Gemma3:
    torch.manual_seed(0)
    config = Gemma3Config(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=heads,
        num_key_value_heads=shared, head_dim=8, intermediate_size=48, sliding_window=WINDOW, query_pre_attn_scalar=8,
        layer_types=(SLIDING, FULL, SLIDING, SLIDING), max_position_embeddings=context,
    )  # fmt: skip
    model = Gemma3(config)
    for name, weight in model.named_parameters():
        # Strong layers, or the tied head would only repeat the last token.
        torch.nn.init.normal_(weight, mean=2.0 if "post_" in name else 0.0, std=0.3)
    return model


def dense_logits(model: Gemma3, ids: list[int]) -> Tensor:
    """Logits of the last token, everything computed from the start."""
    length = len(ids)
    position = torch.arange(length)
    attend = DenseAttention(position, torch.full((length,), length), model.config.sliding_window, model.config.scale)
    with torch.inference_mode():
        return model.logits(model(torch.tensor(ids), position, attend)[-1])


def cut(answer: list[int], stops: set[int]) -> list[int]:
    return answer[: next((i for i, token in enumerate(answer) if token in stops), len(answer))]


def naive(model: Gemma3, prompt: list[int], limit: int, stops: set[int]) -> list[int]:
    answer: list[int] = []
    while len(answer) < limit:
        token = int(dense_logits(model, prompt + answer).argmax())
        if token in stops:
            break
        answer.append(token)
    return answer


@lru_cache
def freely(shared: int, kv_heads: int, limit: int) -> tuple[list[int], ...]:
    """The naive answers to seven ragged prompts, computed once for all that are compared with them."""
    model = make(shared=kv_heads)
    return tuple(naive(model, prompt, limit, set()) for prompt in ragged(7, shared))


def ragged(count: int, shared: int, seed: int = 0) -> list[list[int]]:
    """Prompts with `shared` first tokens in common and 1 to 20 of their own."""
    draw = random.Random(seed)
    trunk = [draw.randrange(VOCABULARY) for _ in range(shared)]
    return [trunk + [draw.randrange(VOCABULARY) for _ in range(draw.randint(1, 20))] for _ in range(count)]


@pytest.mark.parametrize(("kv_heads", "shared"), [(1, 0), (1, 40), *((2, n) for n in (0, 3, WINDOW, 40))])
@pytest.mark.parametrize("batch_rows", [1, 3, 64])
def test_batched_equals_naive(shared: int, batch_rows: int, kv_heads: int) -> None:
    model = make(shared=kv_heads)
    prompts, free = ragged(7, shared), list(freely(shared, kv_heads, 24))
    stops = {free[0][2], free[1][7], free[2][15]}
    expected = [cut(answer, stops) for answer in free]
    assert len({len(answer) for answer in expected}) > 2
    some = slice(3 if batch_rows == 1 else 7)
    assert generate_ids(model, prompts[some], 24, set(), batch_rows=batch_rows) == free[some]
    assert generate_ids(model, prompts[some], 24, stops, batch_rows=batch_rows) == expected[some]


def test_rows_with_different_prefixes() -> None:
    model = make()
    prompts = ragged(5, 30, seed=1) + ragged(4, 25, seed=2) + [[7]] + [ragged(1, 5, seed=3)[0]] * 2
    random.Random(0).shuffle(prompts)
    expected = [naive(model, prompt, 12, {5, 50}) for prompt in prompts]
    assert generate_ids(model, prompts, 12, {5, 50}) == expected


@pytest.mark.parametrize("shared", [0, 1, 5, 30])
def test_cached_logits_are_close(shared: int) -> None:
    model = make()
    prompts = sorted(ragged(6, shared + 1), key=len, reverse=True)
    rests = [prompt[shared:] for prompt in prompts]
    with torch.inference_mode():
        trunk = Cache.empty(model, None, 1, max(1, shared))
        if shared:
            extend(model, trunk, [prompts[0][:shared]], [0])
        cache = Cache.empty(model, trunk.own[:, :, 0, :, :shared], len(prompts), 64)
        hidden = extend(model, cache, [rest[:4] for rest in rests], [0] * 6)
        longer = [rest[4:] for rest in rests if len(rest) > 4]
        hidden[: len(longer)] = extend(model, cache, longer, [4] * len(longer))
        for length in range(14):
            expected = torch.stack([dense_logits(model, prompt) for prompt in prompts])
            assert torch.allclose(model.logits(hidden), expected, atol=1e-4, rtol=1e-4)
            prompts = [[*prompt, length] for prompt in prompts]
            hidden = extend(model, cache, [[length]] * 6, [len(rest) + length for rest in rests])


def extend(model: Gemma3, cache: Cache, pieces: list[list[int]], starts: list[int]) -> Tensor:
    attend = CachedAttention(cache, starts, [len(p) for p in pieces], model.config.sliding_window, model.config.scale)
    return model(torch.tensor(sum(pieces, [])), attend.position, attend)[attend.last]


def test_long_prompts_are_prefilled_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    prompts = [prompt + ragged(1, 60, seed=i)[0] for i, prompt in enumerate(ragged(3, 50))]
    expected = [naive(model, prompt, 5, set()) for prompt in prompts]
    monkeypatch.setattr("dozan.judge.generate.effort", lambda device: Effort(64, 2**30, 17, 500))
    assert generate_ids(model, prompts, 5, set()) == expected


def test_a_small_cache_makes_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    prompts = ragged(6, 10)
    expected = generate_ids(model, prompts, 8, {3})
    monkeypatch.setattr("dozan.judge.generate.effort", lambda device: Effort(64, 1, 2048, 500))
    assert generate_ids(model, prompts, 8, {3}) == expected


def test_grouping_shares_long_prefixes_and_covers_every_row_once() -> None:
    first, second, lone = ragged(10, 400, seed=1), ragged(10, 300, seed=2), ragged(3, 0, seed=3)
    prompts = first + second + lone
    groups = group_prompts(prompts, 8, 64, 10**6, 500)
    assert sorted(row for group in groups for row in group.rows) == list(range(23))
    assert {group.shared for group in groups} >= {400, 300} and len(groups) == 3
    for group in groups:
        heads = {tuple(prompts[row][: group.shared]) for row in group.rows}
        assert len(heads) == 1 and all(len(prompts[row]) > group.shared for row in group.rows)
    assert [len(group.rows) for group in group_prompts(first, 8, 4, 10**6, 500)] in ([4, 4, 2], [2, 4, 4], [4, 2, 4])
    assert [len(group.rows) for group in group_prompts(first, 8, 64, 1, 500)] == [1] * 10
    assert [group.shared for group in group_prompts([[1, 2, 3]] * 3, 8, 64, 10**6, 500)] == [2]
    assert group_prompts([], 8, 64, 10**6, 500) == []


def bundle(model: Gemma3, stops: dict[str, int]) -> Any:
    tokenizer = SimpleNamespace(id=stops.__getitem__, has=stops.__contains__)
    return SimpleNamespace(model=model, tokenizer=tokenizer, chat=SimpleNamespace(stop_tokens=(*stops, "<absent>")))


def test_stop_ids_come_from_the_chat_format_and_progress_is_told() -> None:
    model = make()
    prompts = ragged(5, 10)
    model.train()
    seen: list[tuple[int, int]] = []
    free = generate_ids(model, prompts, 10, set())
    stop = free[0][3]
    answers = generate(bundle(model, {"<stop>": stop}), prompts, 10, lambda done, rows: seen.append((done, rows)))
    assert answers == [cut(answer, {stop}) for answer in free] and len(answers[0]) <= 3
    assert seen == [(i + 1, 5) for i in range(5)] and model.training


def test_a_row_ends_with_the_context() -> None:
    model = make(context=20)
    assert [len(answer) for answer in generate_ids(model, [[1] * 15, [1] * 19], 50, set())] == [5, 1]


def test_unusable_prompts_are_named() -> None:
    model = make(context=20)
    with pytest.raises(InputError, match=r"without a token: 1;"):
        generate_ids(model, [[1], []], 4, set())
    with pytest.raises(InputError, match=r"context of 20 tokens: 0 \(20\)"):
        generate_ids(model, [[1] * 20, [1]], 4, set())
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        generate_ids(model, [[1]], 0, set())
    assert generate_ids(model, [], 4, set()) == []
