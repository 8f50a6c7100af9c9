"""AdamW with 8-bit moments: near AdamW in fp32, in Triton as in PyTorch, nothing lost when skipped."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dozan.kernels import adamw8
from dozan.kernels.adamw8 import Moments, Scalars

RATE, BETAS, EPSILON = 1e-3, (0.9, 0.999), 1e-8


def scalars(step: int, skip: float = 0.0, rate: float = RATE) -> Scalars:
    return Scalars(torch.tensor(rate), torch.tensor(float(step)), torch.tensor(skip), BETAS, EPSILON)


def trained(size: int, steps: int, decay: float = 0.0) -> tuple[Tensor, Moments]:
    torch.manual_seed(0)
    parameter = torch.randn(size)
    moments = Moments.zeros(parameter)
    for step in range(steps):
        gradient = torch.randn(size) * 10 ** torch.empty(size).uniform_(-4, 0)
        adamw8.update(parameter, gradient, moments, scalars(step + 1), decay)
    return parameter, moments


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_follows_adamw_in_fp32(decay: float) -> None:
    torch.manual_seed(0)
    size, steps = 5000, 60
    start = torch.randn(size)
    ours, plain = start.clone(), torch.nn.Parameter(start.clone())
    moments = Moments.zeros(ours)
    optimizer = torch.optim.AdamW([plain], lr=RATE, betas=BETAS, eps=EPSILON, weight_decay=decay)
    target = torch.randn(size)
    for step in range(steps):
        plain.grad = plain.detach() - target
        optimizer.step()
        adamw8.update(ours, ours - target, moments, scalars(step + 1), decay)
    moved, apart = (plain.detach() - start).norm(), (plain.detach() - ours).norm()
    # Eight bits cost some percent of the way, in bitsandbytes as well.
    assert apart < 0.05 * moved


def test_codes_are_the_nearest() -> None:
    torch.manual_seed(0)
    for table in adamw8.tables(torch.device("cpu")):
        values, low = table[0], float(table[0].min())
        assert len(values.unique()) == 256 and 0.0 in values and float(values.max()) == 1.0
        x = torch.cat((torch.empty(1000).uniform_(low, 1.0), values))
        code = torch.bucketize(x, table[1])
        assert torch.equal((values[code] - x).abs(), (values[None] - x[:, None]).abs().amin(1))


def test_a_skipped_update_changes_nothing() -> None:
    parameter, moments = trained(700, 3)
    before = [t.clone() for t in (parameter, *vars(moments).values())]
    adamw8.update(parameter, torch.full((700,), float("nan")), moments, scalars(4, skip=1.0), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (parameter, *vars(moments).values()), strict=True))


def test_moments_take_two_bytes() -> None:
    moments = Moments.zeros(torch.zeros(300, 512))
    held = sum(t.nbytes for t in vars(moments).values())
    assert held == 300 * 512 * 2 + 2 * 4 * 600


@pytest.mark.parametrize("size", [1, 256, 700, 5003])
def test_triton(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    plain, moments = trained(size, 4, 0.1)
    monkeypatch.setattr(adamw8, "has_triton", lambda device: True)
    fast, fast_moments = trained(size, 4, 0.1)
    assert torch.allclose(plain, fast, rtol=1e-5, atol=1e-6)
    for name in ("first", "second"):
        # A rounding may tip a number over a border.
        codes = (getattr(m, name).int() for m in (moments, fast_moments))
        assert (next(codes) - next(codes)).abs().max() <= 1
        assert torch.allclose(*(getattr(m, f"{name}_scale") for m in (moments, fast_moments)), rtol=1e-4)


def test_triton_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setattr(adamw8, "has_triton", lambda device: True)
    test_a_skipped_update_changes_nothing()
