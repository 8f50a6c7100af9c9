"""Triton's decode attention in its interpreter: equal to the dense one in fp32, and blind to what is not real."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from dozan.kernels import decode_triton
from dozan.kernels.decode import DecodeAttention

SIZE, CAPACITY, WINDOW, SCALE = 16, 128, 37, 0.2
SLOTS = [0, 1, 31, 32, 33, 36, 37, 38, 90, 127, 64]


def both(
    heads: int, key_heads: int, prefix: int, length: int, sliding: bool, poison: float, slots: list[int]
) -> tuple[Tensor, Tensor]:
    """(the fused output, the dense one), after a check that both left the same cache; `poison` where nothing is."""
    torch.manual_seed(0)
    rows = len(slots)
    q, k, v = (torch.randn(rows, n, SIZE) for n in (heads, key_heads, key_heads))
    shared, own = torch.randn(2, key_heads, prefix, SIZE), torch.randn(2, rows, key_heads, CAPACITY, SIZE)
    slot, real = torch.tensor(slots), torch.tensor([length])
    dense_own = own.clone()
    wanted = DecodeAttention(shared[None], dense_own[None], slot, real, WINDOW, SCALE)(0, sliding, q, k, v)
    shared[:, :, : prefix - length] = poison
    for row, first in enumerate(slots):
        own[:, row, :, first:] = poison
    window = WINDOW if sliding else None
    found = decode_triton.decode(q, k, v, shared, own, slot, real, window, SCALE)
    for row, last in enumerate(slots):
        assert torch.equal(own[:, row, :, : last + 1], dense_own[:, row, :, : last + 1])
    return found, wanted


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(
    ("heads", "key_heads", "prefix", "length"),
    [
        *((4, 2, *held) for held in ((0, 0), (128, 0), (128, 1), (128, 128), (1280, 1270))),
        *((*heads, 384, 300) for heads in ((1, 1), (4, 1), (4, 2), (3, 3))),
    ],
)
def test_equals_dense(heads: int, key_heads: int, prefix: int, length: int, sliding: bool) -> None:
    found, wanted = both(heads, key_heads, prefix, length, sliding, float("nan"), SLOTS)
    assert (found - wanted).abs().max() <= 1e-5


def test_many_rows_of_queries() -> None:
    found, wanted = both(4, 1, 128, 100, False, 1e30, SLOTS * 3)
    assert (found - wanted).abs().max() <= 1e-5
