"""The fused ops of a layer, in PyTorch and in Triton's interpreter, against their plain references."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from dozan.kernels import geglu as geglu_op
from dozan.kernels import norm, reference
from dozan.kernels.low_rank import low_rank_linears

EPS = 1e-6
Op = Callable[..., Tensor]


@pytest.fixture(params=["torch", "triton"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory holds NaN, so that an element never written shows."""
    for module in (norm, geglu_op):
        monkeypatch.setattr(module, "has_triton", lambda device: request.param == "triton")
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _plain=plain, **k: _plain(*a, **k).fill_(float("nan")))


def outputs(op: Op, inputs: Sequence[Tensor], wanted: Sequence[int], outer: Tensor) -> list[Tensor]:
    """What the op gives, and the gradients of the inputs that `wanted` names."""
    leaves = [x.detach().requires_grad_(i in wanted) for i, x in enumerate(inputs)]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, [leaves[i] for i in wanted], outer.to(out.dtype))]


def require_as_good(op: Op, plain: Op, inputs: Sequence[Tensor], wanted: Sequence[int]) -> None:
    """In fp32 equal to the reference; in half precision no further from it than 1.5 times PyTorch's own error."""
    torch.manual_seed(1)
    outer = torch.randn_like(plain(*inputs))
    exact = outputs(plain, [x.double() for x in inputs], wanted, outer.double())
    for found, right in zip(outputs(op, inputs, wanted, outer), exact, strict=True):
        assert found.shape == right.shape
        assert (found - right).abs().max() <= 2e-6 * right.abs().max().clamp_min(1.0)
    # Triton's interpreter cuts numbers off where it should round them to bfloat16.
    for dtype in (torch.float16,) if norm.has_triton(outer.device) else (torch.bfloat16, torch.float16):
        halves = [x.to(dtype) for x in inputs]
        exact = outputs(plain, [x.double() for x in halves], wanted, outer.to(dtype).double())
        ours, theirs = (outputs(f, halves, wanted, outer.to(dtype)) for f in (op, plain))
        for found, own, right in zip(ours, theirs, exact, strict=True):
            assert found.dtype == own.dtype == dtype
            assert (found - right).norm() <= 1.5 * (own - right).norm() + 1e-7


@pytest.mark.parametrize("shape", [(1, 7), (5, 33), (3, 640), (2, 3, 6), (0, 8)])
def test_norm(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, residual = torch.randn(shape), torch.randn(shape[-1]) / 3, torch.randn(shape)
    if not x.numel():
        assert norm.rms_norm(x, weight, EPS).shape == shape
        return
    require_as_good(lambda x, w: norm.rms_norm(x, w, EPS), lambda x, w: _norm(x, w), (x, weight), (0, 1))
    require_as_good(
        lambda x, w, r: norm.rms_norm(x, w, EPS, r), lambda x, w, r: _norm(x, w, r), (x, weight, residual), (0, 1, 2)
    )


def _norm(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    if x.dtype != torch.float64:
        return reference.rms_norm(x, weight, EPS, residual)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * (1.0 + weight)
    return normed if residual is None else residual + normed


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 6), (17, 2, 64)])
def test_norm_and_rotation(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, weight, angle = torch.randn(shape), torch.randn(shape[-1]) / 3, 9 * torch.rand(shape[0], 1, shape[2] // 2)
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    require_as_good(
        lambda x, w, c, s: norm.rotated_norm(x, w, EPS, (c, s)),
        lambda x, w, c, s: reference.rotate(_norm(x, w), (c, s)), (x, weight, cos, sin), (0, 1),
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (3, 2048)])
def test_geglu(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    require_as_good(geglu_op.geglu, reference.geglu, (4 * torch.randn(shape), torch.randn(shape)), (0, 1))


@pytest.mark.parametrize("outputs_of", [(5,), (6, 2, 2)])
@pytest.mark.parametrize("tokens", [1, 9])
def test_low_rank_linears(tokens: int, outputs_of: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    n, scale = len(outputs_of), 0.7
    weights = [torch.randn(o, 11) for o in outputs_of]
    a, b = [torch.randn(3, 11) for _ in outputs_of], [torch.randn(o, 3) for o in outputs_of]

    def fast(x: Tensor, *t: Tensor) -> Tensor:
        return torch.cat(low_rank_linears(x, t[:n], t[n : 2 * n], t[2 * n :], scale), -1)

    def plain(x: Tensor, *t: Tensor) -> Tensor:
        return torch.cat([reference.low_rank(x, t[i], t[n + i], t[2 * n + i], scale) for i in range(n)], -1)

    inputs = [torch.randn(tokens, 11), *weights, *a, *b]
    leaves = [x.requires_grad_() for x in inputs]
    outer = torch.randn(tokens, sum(outputs_of))
    gradients = (torch.autograd.grad(f(*leaves), leaves, outer) for f in (fast, plain))
    assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in zip(*gradients, strict=True))


def test_dropped_inputs_reach_the_adapter_alone() -> None:
    torch.manual_seed(0)
    x, kept, weight, a, b = (torch.randn(s, requires_grad=True) for s in ((4, 6), (4, 6), (5, 6), (2, 6), (5, 2)))
    (found,) = low_rank_linears(x, [weight], [a], [b], 0.5, kept)
    wanted = x @ weight.T + kept @ a.T @ b.T * 0.5
    outer, leaves = torch.randn(4, 5), (x, kept, weight, a, b)
    assert torch.allclose(found, wanted, atol=1e-6)
    for pair in zip(*(torch.autograd.grad(y, leaves, outer) for y in (found, wanted)), strict=True):
        assert torch.allclose(*pair, atol=1e-5)
