"""Every fast op against its plain reference: odd shapes, one token, nothing supervised, poisoned memory."""

from __future__ import annotations

import pytest
import torch
from models import tree_rows
from torch import Tensor

from dozan.kernels import TrieAttention, supervised_cross_entropy
from dozan.kernels import cross_entropy as fast_cross_entropy
from dozan.kernels.reference import DenseAttention, cross_entropy
from dozan.pack import pack_rows


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised tensors hold NaN (floats) or the largest number (integers), so that an element never written
    shows."""

    def poison(tensor: Tensor) -> Tensor:
        return tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _plain=plain, **k: poison(_plain(*a, **k)))


def forest(kind: str) -> tuple[Tensor, Tensor]:
    if kind == "one token":
        return torch.tensor([0]), torch.tensor([1])
    if kind == "one row":
        return torch.arange(300), torch.full((300,), 300)
    (batch,) = pack_rows(tree_rows(), "tries" if kind == "trie" else "paths", 10_000)
    return batch.position, batch.end


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.norm().clamp(min=1.0))


@pytest.mark.parametrize("kind", ["one token", "one row", "trie", "paths"])
@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("sliding", [False, True])
def test_trie_attention_equals_the_dense_reference(kind: str, heads: tuple[int, int], sliding: bool) -> None:
    position, end = forest(kind)
    torch.manual_seed(0)
    inputs = [torch.randn(len(end), h, 16, requires_grad=True) for h in (heads[0], heads[1], heads[1])]
    outer = torch.randn(len(end), heads[0], 16)
    results = []
    for attention in (TrieAttention, DenseAttention):
        out = attention(position, end, 11, 0.3)(0, sliding, *inputs)
        results.append([out, *torch.autograd.grad(out, inputs, outer)])
    for found, wanted in zip(*results, strict=True):
        assert found.shape == wanted.shape
        assert relative(found, wanted) < 2e-6


def test_attention_is_linear_in_the_pack() -> None:
    """Twice the branches gather twice the keys, and no more than the trunk and a block for each block of queries."""

    def gathered(branches: int) -> int:
        position = torch.cat([torch.arange(640), *[torch.arange(640, 704)] * branches])
        end = torch.cat(
            [torch.full((640,), 640 + 64 * branches), *[torch.full((64,), 704 + 64 * i) for i in range(branches)]]
        )
        return sum(keys.numel() for keys in TrieAttention(position, end, 64, 1.0)._plans[False].keys)

    # 704 keys a branch; groups of eight blocks share the padded length of their longest.
    assert gathered(40) - gathered(24) == 16 * 704


@pytest.mark.parametrize("supervised", [0, 1, 7, 130])
@pytest.mark.parametrize("chunk", [1, 64, 10**6])
def test_cross_entropy_equals_the_reference(supervised: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fast_cross_entropy.CHUNK_BYTES, "cpu", chunk * 4 * 37)
    torch.manual_seed(0)
    hidden = torch.randn(supervised, 24, requires_grad=True)
    embedding, weight = torch.randn(37, 24), torch.rand(supervised)
    target = torch.randint(37, (supervised,))
    results = []
    for function in (supervised_cross_entropy, cross_entropy):
        loss = function(hidden, embedding, target, weight) * 0.7
        results.append((loss.detach(), torch.autograd.grad(loss, hidden)[0]))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-6)
    assert relative(results[0][1], results[1][1]) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_in_half_precision_is_as_good_as_pytorch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    exact = torch.randn(65, 48, dtype=torch.float64, requires_grad=True)
    embedding, target, weight = torch.randn(501, 48, dtype=torch.float64), torch.randint(501, (65,)), torch.rand(65)
    (wanted,) = torch.autograd.grad(cross_entropy(exact, embedding, target, weight), exact)
    errors = []
    for function in (supervised_cross_entropy, cross_entropy):
        hidden = exact.detach().to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(function(hidden, embedding.to(dtype), target, weight), hidden)
        errors.append(relative(gradient.double(), wanted))
    assert errors[0] <= 1.5 * errors[1]


def test_no_logits_outlive_the_forward_pass() -> None:
    hidden = torch.randn(50, 8, requires_grad=True)
    loss = supervised_cross_entropy(hidden, torch.randn(4096, 8), torch.zeros(50, dtype=torch.int64), torch.ones(50))
    saved = loss.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert sum(t.numel() for t in saved) == hidden.numel()
