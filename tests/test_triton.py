"""Triton's kernels in its interpreter: equal to the reference in fp32, on odd shapes, with poisoned padding."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from dozan.chat.encode import Tokens
from dozan.kernels import reference
from dozan.kernels.attention_triton import PADDED, TritonTrieAttention, visible_blocks
from dozan.kernels.cross_entropy_triton import gradient_in_place
from dozan.pack import Batch, pack_rows

WINDOW, SCALE = 37, 0.2


def forest(seed: int, branches: int, trunk: int) -> Batch:
    """A pack of rows that share parts of one trunk."""
    rng = random.Random(seed)
    stem = [rng.randrange(50) for _ in range(trunk)]
    rows = []
    for i in range(branches):
        ids = stem[: rng.randrange(trunk + 1)] + [rng.randrange(5) for _ in range(rng.randrange(1, 60))]
        rows.append(Tokens(str(i), tuple(ids), (0.0,) * (len(ids) - 1) + (1.0,)))
    (batch,) = pack_rows(rows, "tries", 10**9)
    return batch.padded(-(-len(batch) // PADDED) * PADDED)


def close(found: Tensor, wanted: Tensor) -> bool:
    return bool((found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp_min(1.0))


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("branches", "trunk", "heads", "shared"), [(1, 1, 1, 1), (5, 130, 4, 2), (7, 90, 4, 1)])
def test_attention_and_its_gradients(
    branches: int, trunk: int, heads: int, shared: int, deterministic: bool, sliding: bool
) -> None:
    batch = forest(3, branches, trunk)
    torch.manual_seed(0)
    q, k, v = (torch.randn(len(batch), n, 16, requires_grad=True) for n in (heads, shared, shared))
    outer = torch.randn(len(batch), heads, 16)
    fast = TritonTrieAttention(batch.position, batch.end, WINDOW, SCALE, deterministic)
    plain = reference.DenseAttention(batch.position, batch.end, WINDOW, SCALE)
    found, wanted = fast(0, sliding, q, k, v), plain(0, sliding, q, k, v)
    assert close(found, wanted)
    gradients = zip(torch.autograd.grad(found, (q, k, v), outer), torch.autograd.grad(wanted, (q, k, v), outer),
                    strict=True)  # fmt: skip
    assert all(close(a, b) for a, b in gradients)


def test_padding_that_holds_infinities_reaches_no_row() -> None:
    batch = forest(4, 3, 40)
    real = batch.row_starts[-1] if batch.rows[-1] == "padding" else len(batch)
    assert real < len(batch)
    q, k, v = (torch.randn(len(batch), 1, 16) for _ in range(3))
    attention = TritonTrieAttention(batch.position, batch.end, WINDOW, SCALE)
    clean = attention(0, False, q, k, v)
    for poisoned in (q, k, v):
        poisoned[real:] = 1e30
    assert torch.equal(attention(0, False, q, k, v)[:real], clean[:real])


@pytest.mark.parametrize("window", [5, 37, 10**9])
def test_no_visible_key_lies_in_a_block_left_out(window: int) -> None:
    for seed in range(20):
        batch = forest(seed, 6, 150)
        seen = reference.visible(batch.position, batch.end, window).view(-1, 32, len(batch) // 32, 32)
        blocks = visible_blocks(batch.position.int(), batch.end.int(), window, 32)
        for query, (whole, count) in enumerate(blocks.key_counts.tolist()):
            listed = blocks.keys[query].tolist()
            assert {key for key in range(seen.shape[2]) if seen[query, :, key].any()} <= set(listed[:count])
            assert all(seen[query, :, key].all() for key in listed[:whole])
        for which in (0, 1):
            pairs = {(q, int(k)) for q, n in enumerate(blocks.key_counts.tolist()) for k in blocks.keys[q, : n[which]]}
            turned = {(int(q), k) for k, n in enumerate(blocks.query_counts.tolist())
                      for q in blocks.queries[k, : n[which]]}  # fmt: skip
            assert pairs == turned


def test_a_pack_that_is_not_padded_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of 64"):
        TritonTrieAttention(torch.arange(65), torch.full((65,), 65), WINDOW, SCALE)


@pytest.mark.parametrize("words", [1, 7, 4096, 9001])
def test_cross_entropy_and_its_gradient(words: int) -> None:
    torch.manual_seed(0)
    logits, target, weight = 5 * torch.randn(9, words), torch.randint(0, words, (9,)), torch.rand(9)
    weight[3] = 0.0
    wanted = logits.clone().requires_grad_()
    losses = torch.nn.functional.cross_entropy(wanted, target, reduction="none") * weight
    losses.sum().backward()
    assert wanted.grad is not None
    gradient = logits.clone()
    assert close(gradient_in_place(gradient, target, weight), losses) and close(gradient, wanted.grad)
