"""Packs: the trie's shape, and equal loss and gradients however the rows are packed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch
from models import row, tiny_model, tree_rows
from torch import Tensor

from dozan.chat.encode import Tokens
from dozan.kernels import TrieAttention
from dozan.kernels.reference import DenseAttention, cross_entropy, visible
from dozan.model.gemma3 import Attend, Gemma3
from dozan.pack import Batch, Packing, pack_rows

Attention = Callable[[Tensor, Tensor, int, float], Attend]


def loss_and_gradients(
    model: Gemma3, batches: Sequence[Batch], attention: Attention
) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    total = sum(float(batch.weight.sum()) for batch in batches)
    loss = torch.zeros(())
    for batch in batches:
        attend = attention(batch.position, batch.end, model.config.sliding_window, model.config.scale)
        hidden = model(batch.ids, batch.position, attend)
        loss = loss + cross_entropy(hidden[batch.at], model.embedding, batch.target, batch.weight) / total
    loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(found: tuple[float, dict[str, Tensor]], wanted: tuple[float, dict[str, Tensor]]) -> None:
    assert abs(found[0] - wanted[0]) < 1e-6 * max(1.0, abs(wanted[0]))
    for name, gradient in wanted[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-5 * gradient.norm(), name


@pytest.mark.parametrize("how", ["tries", "paths", "none"])
@pytest.mark.parametrize("attention", [DenseAttention, TrieAttention])
@pytest.mark.parametrize("budget", [70, 10_000])
def test_packing_changes_neither_loss_nor_gradients(how: Packing, attention: Attention, budget: int) -> None:
    model, rows = tiny_model(), tree_rows()
    alone = [pack_rows([each], "none", budget)[0] for each in rows]
    assert_equal(
        loss_and_gradients(model, pack_rows(rows, how, budget), attention),
        loss_and_gradients(model, alone, DenseAttention),
    )


def test_a_window_over_packed_indices_would_be_wrong() -> None:
    """The guard above sees a flat-index window: with it, the branches' gradients differ."""

    def flat(position: Tensor, end: Tensor, window: int, scale: float) -> Attend:
        return DenseAttention(torch.arange(len(end)), end, window, scale)

    model, rows = tiny_model(), tree_rows()
    alone = loss_and_gradients(model, pack_rows(rows, "none", 999), DenseAttention)
    with pytest.raises(AssertionError):
        assert_equal(loss_and_gradients(model, pack_rows(rows, "tries", 999), flat), alone)


def test_a_trie_stores_each_prefix_once_and_keeps_every_row() -> None:
    rows = tree_rows()
    (batch,) = pack_rows(rows, "tries", 10_000)
    prefixes = {each.ids[:n] for each in rows for n in range(1, len(each.ids) + 1)}
    assert len(batch) == len(prefixes)
    assert sorted(batch.rows) == sorted(each.row for each in rows)
    assert batch.tokens == sum(len(each.ids) for each in rows)
    assert len(batch.at) == sum(w > 0 for each in rows for w in each.weights)
    assert torch.isclose(batch.weight.sum(), torch.tensor(sum(sum(each.weights) for each in rows)))


def test_what_a_token_sees_is_its_own_path() -> None:
    rows = tree_rows()
    (batch,) = pack_rows(rows, "tries", 10_000)
    mask = visible(batch.position, batch.end, None)
    paths = {tuple(batch.ids[mask[q]].tolist()) for q in range(len(batch))}
    assert paths == {each.ids[:n] for each in rows for n in range(1, len(each.ids) + 1)}
    near = visible(batch.position, batch.end, 8)
    assert near.sum(1).tolist() == [min(8, position + 1) for position in batch.position.tolist()]


def test_paths_keep_the_order_and_none_keeps_rows_alone() -> None:
    rows = tree_rows()
    (paths,) = pack_rows(rows, "paths", 10_000)
    assert paths.ids.tolist() == [token for each in rows for token in each.ids]
    assert paths.rows == tuple(each.row for each in rows)
    assert [batch.rows for batch in pack_rows(rows, "none", 10_000)] == [(each.row,) for each in rows]


def test_the_budget_holds_except_for_a_longer_row() -> None:
    rows = tree_rows() + [row("long", [2] + [5] * 200, random.Random(1))]
    batches = pack_rows(rows, "tries", 60)
    assert all(len(batch) <= 60 or len(batch.rows) == 1 for batch in batches)
    assert sorted(name for batch in batches for name in batch.rows) == sorted(each.row for each in rows)


def test_no_rows_make_no_packs() -> None:
    empty: list[Tokens] = []
    assert pack_rows(empty, "tries", 100) == []


def test_padding_sees_only_itself_and_trains_nothing() -> None:
    rows = [Tokens("a", (1, 2, 3), (0.0, 0.0, 1.0)), Tokens("b", (1, 2, 4, 5), (0.0, 0.0, 1.0, 1.0))]
    (batch,) = pack_rows(rows, "tries", 100)
    padded = batch.padded(8, 7)
    assert len(batch) == 5 and len(padded) == 8 and padded.padded(8) is padded
    assert len(padded.at) == 7 and padded.weight.tolist() == [*batch.weight.tolist(), *[0.0] * (7 - len(batch.at))]
    seen = visible(padded.position, padded.end, None)
    assert torch.equal(seen[:5, :5], visible(batch.position, batch.end, None)) and not seen[:5, 5:].any()
    assert torch.equal(seen[5:], torch.eye(8, dtype=torch.bool)[5:])
    assert padded.rows == ("a", "b", "padding") and padded.row_starts == (*batch.row_starts, 5)
    assert torch.equal(padded.at[:3], batch.at) and padded.tokens == batch.tokens
