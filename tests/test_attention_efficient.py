"""Attention by PyTorch's memory-efficient kernels: the reference's results, linear work, nothing hidden is read."""

from __future__ import annotations

import pytest
import torch
from test_kernels import forest, poisoned_memory, relative
from torch import Tensor

from dozan.kernels import attention_efficient
from dozan.kernels.attention_efficient import BLOCK, EfficientTrieAttention
from dozan.kernels.reference import DenseAttention
from dozan.pack import pack_rows

__all__ = ["poisoned_memory"]


def results(attention: object, sliding: bool, inputs: list[Tensor], outer: Tensor) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attention(0, sliding, *leaves)  # type: ignore[operator]
    return [out.detach(), *torch.autograd.grad(out, leaves, outer)]


def random_inputs(tokens: int, heads: tuple[int, int], size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(tokens, h, size).to(dtype) for h in (heads[0], heads[1], heads[1], heads[0])]


@pytest.mark.parametrize("rows", [1, 300, 1 << 16])
@pytest.mark.parametrize("kind", ["one token", "one row", "trie", "paths"])
@pytest.mark.parametrize(("heads", "size"), [((4, 1), 16), ((4, 2), 12), ((3, 3), 24)])
@pytest.mark.parametrize("sliding", [False, True])
def test_it_equals_the_dense_reference(
    sliding: bool, heads: tuple[int, int], size: int, kind: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_efficient, "ROWS", rows)
    position, end = forest(kind)
    *inputs, outer = random_inputs(len(end), heads, size)
    place = (position, end, 11, 0.3)
    both = (results(op(*place), sliding, inputs, outer) for op in (EfficientTrieAttention, DenseAttention))
    for found, wanted in zip(*both, strict=True):
        assert found.shape == wanted.shape and relative(found, wanted) < 2e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sliding", [False, True])
def test_half_precision_is_as_good_as_pytorch(sliding: bool, dtype: torch.dtype) -> None:
    position, end = forest("trie")
    *inputs, outer = random_inputs(len(end), (4, 2), 16, dtype)
    place = (position, end, 11, 0.3)
    exact = results(DenseAttention(*place), sliding, [x.double() for x in inputs], outer.double())
    found, own = (results(attention(*place), sliding, inputs, outer)
                  for attention in (EfficientTrieAttention, DenseAttention))  # fmt: skip
    for ours, theirs, right in zip(found, own, exact, strict=True):
        assert ours.dtype == dtype and relative(ours.double(), right) <= 1.5 * relative(theirs.double(), right)


def test_many_blocks_that_add_to_one_key_are_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trunk's keys get a part of their gradient from every branch."""
    monkeypatch.setattr(attention_efficient, "ROWS", 1)
    branches = 60
    position = torch.cat([torch.arange(64), *[torch.arange(64, 128)] * branches])
    total = len(position)
    end = torch.cat([torch.full((64,), total), *[torch.full((64,), 128 + 64 * i) for i in range(branches)]])
    *inputs, outer = random_inputs(total, (2, 1), 16, torch.float16)
    place = (position, end, 1000, 0.25)
    exact = results(DenseAttention(*place), False, [x.double() for x in inputs], outer.double())
    found, own = (results(op(*place), False, inputs, outer) for op in (EfficientTrieAttention, DenseAttention))
    for ours, theirs, right in zip(found[2:], own[2:], exact[2:], strict=True):
        ours, theirs, right = (x[:64].double() for x in (ours, theirs, right))
        assert relative(ours, right) <= 1.2 * relative(theirs, right)


def test_hidden_keys_that_hold_anything_reach_no_query() -> None:
    position, end = forest("trie")
    position, end = torch.cat((position, torch.zeros(50).long())), torch.cat((end, len(end) + torch.arange(1, 51)))
    *inputs, outer = random_inputs(len(end), (4, 2), 16)
    real, outer[-50:] = len(end) - 50, 0
    attention = EfficientTrieAttention(position, end, 11, 0.3)
    clean = results(attention, False, inputs, outer)
    for x in inputs:
        kept = x.clone()
        x[-50:] = 1e30
        spoilt = results(attention, False, inputs, outer)
        assert all(torch.equal(a[:real], b[:real]) for a, b in zip(spoilt, clean, strict=True))
        x.copy_(kept)


def test_what_is_kept_and_gathered_is_linear_in_the_pack() -> None:
    """A window's blocks gather a window and a block; no weights are kept."""
    gathered = {}
    for tokens in (4096, 8192):
        position, end = torch.arange(tokens), torch.full((tokens,), tokens)
        attention = EfficientTrieAttention(position, end, 512, 0.25)
        leaves = [torch.randn(tokens, h, 8, requires_grad=True) for h in (2, 1, 1)]
        out = attention(0, True, *leaves)
        kept = sum(t.numel() for t in out.grad_fn.saved_tensors)
        assert kept <= sum(x.numel() for x in (*leaves, out)) + 2 * tokens
        (calls,) = attention._kinds.values()
        gathered[tokens] = sum(len(call.keys) for call in calls.calls)
    assert gathered[8192] - gathered[4096] == 4096 // BLOCK * (512 + BLOCK)


def test_the_gpus_kernel_takes_what_we_give_and_gives_what_we_take() -> None:
    """Its signature, shapes and dtypes, without a GPU: nothing is computed."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        query, key, bias = (torch.empty(shape, dtype=torch.float16, device="cuda")
                            for shape in ((2, 512, 2, 64), (2, 384, 2, 64), (2, 1, 512, 384)))  # fmt: skip
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        call = attention_efficient._Call(slice(0, 2), torch.empty(768, dtype=torch.int64, device="cuda"), bias)
        out, *kept = attention_efficient._forward(query, key, key, call, 0.1)
        grads = attention_efficient._backward(out, query, key, key, out, kept, call, 0.1)
        assert out.shape == query.shape and [x.shape for x in grads] == [query.shape, key.shape, key.shape]
        assert {x.dtype for x in (out, *grads)} == {torch.float16} and out.is_cuda


def test_a_window_of_a_pack_of_rows_runs_in_few_calls() -> None:
    from test_train import some_rows

    (batch,) = pack_rows(some_rows(200), "paths", 10**9)
    attention = EfficientTrieAttention(batch.position, batch.end, 8, 0.25)
    attention(0, True, *(torch.randn(len(batch), h, 8) for h in (2, 1, 1)))
    (calls,) = attention._kinds.values()
    assert len(batch) > 20 * BLOCK and len(calls.calls) <= 2
