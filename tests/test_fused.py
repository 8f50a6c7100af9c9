"""The fused ops of a layer, in PyTorch and in Triton's interpreter, against their plain references."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from dozan.kernels import geglu as geglu_op
from dozan.kernels import low_rank, nf4, norm, reference
from dozan.kernels.low_rank import LowRank, low_rank_linears
from dozan.model.adapter import AdaptedLinear, gated
from dozan.recipe import AdapterRecipe

EPS = 1e-6
Op = Callable[..., Tensor]


def poisoned(x: Tensor) -> Tensor:
    return x.fill_(float("nan")) if x.is_floating_point() else x


@pytest.fixture(params=["torch", "triton"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uninitialised memory holds NaN, so that an element never written shows."""
    for module in (norm, geglu_op):
        monkeypatch.setattr(module, "has_triton", lambda device: request.param == "triton")
    for name in ("empty", "empty_like"):
        plain = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _plain=plain, **k: poisoned(_plain(*a, **k)))


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
    require_as_good(
        lambda x, w: torch.cat(norm.rms_norm_branch(x, w, EPS), -1), lambda x, w: torch.cat((_norm(x, w), x), -1),
        (x, weight), (0, 1),
    )  # fmt: skip


def _norm(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensor:
    if x.dtype != torch.float64:
        return reference.rms_norm(x, weight, EPS, residual)
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * (1.0 + weight)
    return normed if residual is None else residual + normed


@pytest.mark.parametrize("shape", [(1, 7), (5, 33), (3, 640)])
def test_norms_between_float16_and_a_wide_residual(shape: tuple[int, ...]) -> None:
    """A stream beyond 65,504 goes into a norm in fp32 and comes out in float16; the way back is as wide as it came."""
    torch.manual_seed(0)
    stream, narrow, weight = 1e5 * torch.randn(shape), torch.randn(shape).half(), (torch.randn(shape[-1]) / 3).half()
    for x, residual, dtype in ((stream, None, torch.float16), (narrow, stream, torch.float32)):
        leaves = [y.detach().requires_grad_() for y in (x, residual) if y is not None]
        out = norm.rms_norm(leaves[0], weight, EPS, *leaves[1:])
        exact = [y.detach().double().requires_grad_() for y in leaves]
        right = _norm(exact[0], weight.double(), *exact[1:])
        outer = torch.randn(shape).to(dtype)
        assert out.dtype == dtype and torch.isfinite(out).all()
        assert (out - right).norm() <= torch.finfo(dtype).eps * right.norm()
        grads, wanted = torch.autograd.grad(out, leaves, outer), torch.autograd.grad(right, exact, outer.double())
        for found, truth, leaf in zip(grads, wanted, leaves, strict=True):
            assert found.dtype == leaf.dtype
            assert (found - truth).norm() <= max(torch.finfo(leaf.dtype).eps, 1e-6) * truth.norm() + 1e-12


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


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("outputs_of", [(5,), (6, 2, 2)])
@pytest.mark.parametrize("tokens", [1, 9])
def test_low_rank_linears(tokens: int, outputs_of: tuple[int, ...], dora: bool) -> None:
    torch.manual_seed(0)
    n, scale = len(outputs_of), 0.7
    weights = [torch.randn(o, 11) for o in outputs_of]
    a, b = [torch.randn(3, 11) for _ in outputs_of], [torch.randn(o, 3) for o in outputs_of]
    m = [torch.rand(o) + 0.5 for o in outputs_of] if dora else []
    norms = [(w + scale * right @ left).norm(dim=1) for w, left, right in zip(weights, a, b, strict=True)]

    def one(i: int, t: tuple[Tensor, ...]) -> LowRank:
        doras = (t[3 * n + i], norms[i]) if dora else (None, None)
        return LowRank(t[i], t[n + i], t[2 * n + i], *doras)

    def fast(x: Tensor, *t: Tensor) -> Tensor:
        return torch.cat(low_rank_linears(x, [one(i, t) for i in range(n)], scale), -1)

    def plain(x: Tensor, *t: Tensor) -> Tensor:
        found = [reference.low_rank(x, one(i, t).weight, t[n + i], t[2 * n + i], scale) for i in range(n)]
        return torch.cat([y * t[3 * n + i] / norms[i] if dora else y for i, y in enumerate(found)], -1)

    inputs = [torch.randn(tokens, 11), *weights, *a, *b, *m]
    leaves = [x.requires_grad_() for x in inputs]
    outer = torch.randn(tokens, sum(outputs_of))
    gradients = (torch.autograd.grad(f(*leaves), leaves, outer) for f in (fast, plain))
    assert all(torch.allclose(*pair, rtol=1e-5, atol=1e-5) for pair in zip(*gradients, strict=True))


def test_low_rank_over_nf4_is_that_over_the_dequantised_weight() -> None:
    torch.manual_seed(0)
    weight = nf4.quantise(torch.randn(6, 128))
    x, a, b, m = (torch.randn(s, requires_grad=True) for s in ((4, 128), (3, 128), (6, 3), (6,)))
    dense, norm = nf4.dequantise(weight, torch.float32), torch.rand(6) + 0.5
    (found,) = low_rank_linears(x, [LowRank(weight, a, b, m, norm)], 0.5)
    (wanted,) = low_rank_linears(x, [LowRank(dense, a, b, m, norm)], 0.5)
    assert torch.allclose(found, wanted, atol=1e-5)
    outer = torch.randn(4, 6)
    for pair in zip(*(torch.autograd.grad(y, (x, a, b, m), outer) for y in (found, wanted)), strict=True):
        assert torch.allclose(*pair, rtol=1e-5, atol=1e-4)


def test_dropped_inputs_reach_the_adapter_alone() -> None:
    torch.manual_seed(0)
    x, kept, weight, a, b = (torch.randn(s, requires_grad=True) for s in ((4, 6), (4, 6), (5, 6), (2, 6), (5, 2)))
    (found,) = low_rank_linears(x, [LowRank(weight, a, b)], 0.5, kept)
    wanted = x @ weight.T + kept @ a.T @ b.T * 0.5
    outer, leaves = torch.randn(4, 5), (x, kept, weight, a, b)
    assert torch.allclose(found, wanted, atol=1e-6)
    for pair in zip(*(torch.autograd.grad(y, leaves, outer) for y in (found, wanted)), strict=True):
        assert torch.allclose(*pair, atol=1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (33, 65), (700, 130)])
def test_column_dots_in_triton(rows: int, columns: int) -> None:
    low_rank_triton = pytest.importorskip("dozan.kernels.low_rank_triton")
    torch.manual_seed(0)
    left, right = torch.randn(rows, columns), torch.randn(rows, columns)
    assert torch.allclose(low_rank_triton.column_dots(left, right).sum(0), (left * right).sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (33, 65), (700, 130)])
def test_geglus_gradients_with_their_dots(rows: int, columns: int) -> None:
    geglu_triton = pytest.importorskip("dozan.kernels.geglu_triton")
    torch.manual_seed(0)
    grad, gate, up = (torch.randn(rows, columns) for _ in range(3))
    d_gate, d_up, dots = geglu_triton.backward_with_dots(grad, gate, up)
    assert all(map(torch.equal, (d_gate, d_up), geglu_triton.backward(grad, gate, up)))
    for found, gradient, value in zip(dots, (d_gate, d_up), (gate, up), strict=True):
        assert torch.allclose(found.sum(0), (gradient * value).sum(0), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("outputs", "rank"), [(1, 1), (33, 5), (40, 16)])
def test_folded(outputs: int, rank: int) -> None:
    low_rank_triton = pytest.importorskip("dozan.kernels.low_rank_triton")
    torch.manual_seed(0)
    b, magnitude, norm = (torch.rand(s) + 0.1 for s in ((outputs, rank), outputs, outputs))
    found, factor = low_rank_triton.folded(b, magnitude, norm, torch.float16)
    assert torch.equal(factor, magnitude / norm) and torch.equal(found, (b * factor[:, None]).half())


@pytest.mark.parametrize(("strips", "outputs", "rank"), [(1, 1, 1), (3, 33, 5), (16, 40, 16)])
def test_factor_gradients(strips: int, outputs: int, rank: int) -> None:
    low_rank_triton = pytest.importorskip("dozan.kernels.low_rank_triton")
    torch.manual_seed(0)
    d_b, dots, factor, magnitude = (torch.rand(s) + 0.1 for s in ((outputs, rank), (strips, outputs), outputs, outputs))
    wanted = d_b * factor[:, None]
    found = low_rank_triton.factor_gradients(d_b, dots, factor, magnitude)
    assert torch.equal(d_b, wanted) and torch.allclose(found, dots.sum(0) / magnitude, rtol=1e-6)


def test_dora_through_the_gate_is_that_of_two_linears(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Where the gated activation leaves sums for the magnitudes, and where it does not."""
    monkeypatch.setattr(low_rank, "has_triton", lambda device: request.node.callspec.params["backend"] == "triton")
    torch.manual_seed(0)
    recipe = AdapterRecipe(rank=3, dora=True)
    both = [AdaptedLinear(torch.nn.Linear(11, 33, bias=False), recipe, name, 0) for name in ("gate_proj", "up_proj")]
    for one in both:
        torch.nn.init.normal_(one.lora_B)
        one.refresh_norm()
    x, outer = torch.randn(50, 11), torch.randn(50, 33)
    leaves = [p for one in both for p in (one.lora_A, one.lora_B, one.magnitude)]
    found = torch.autograd.grad(gated(x, *both), leaves, outer)
    plain = [x @ (m.magnitude / m.norm)[:, None].mul(m.weight + m.scale * m.lora_B @ m.lora_A).T for m in both]
    wanted = torch.autograd.grad(reference.geglu(*plain), leaves, outer)
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-4) for pair in zip(found, wanted, strict=True))


@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(1, 1, 1), (33, 20, 5), (40, 64, 16), (17, 30, 24)])
def test_merged_row_norms(outputs: int, inputs: int, rank: int, monkeypatch: pytest.MonkeyPatch,
                          request: pytest.FixtureRequest) -> None:  # fmt: skip
    monkeypatch.setattr(low_rank, "has_triton", lambda device: request.node.callspec.params["backend"] == "triton")
    torch.manual_seed(0)
    weight, a, b = torch.randn(outputs, inputs), torch.randn(rank, inputs), torch.randn(outputs, rank)
    found = torch.empty(outputs)
    low_rank.merged_row_norms(weight, low_rank.row_norms(weight), a, b, 0.3, 1e-6, found)
    assert torch.allclose(found, (weight + 0.3 * b @ a).norm(dim=1), rtol=1e-5)
    low_rank.merged_row_norms(b @ a, low_rank.row_norms(b @ a), a, b, -1.0, 1e-6, found)
    assert bool((found <= 1e-2 * (b @ a).norm(dim=1)).all()) and bool((found >= 1e-6).all())
    low_rank.merged_row_norms(weight, low_rank.row_norms(weight), a, b, 0.3, 1e6, found)
    assert bool((found == 1e6).all())


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(("outputs", "inputs", "rank"), [(1, 64, 1), (70, 320, 24), (130, 64, 64), (3, 832, 16)])
def test_products_with_nf4(outputs: int, inputs: int, rank: int, nested: bool) -> None:
    """In parts, with what lies beside rows and columns poisoned."""
    nf4_triton = pytest.importorskip("dozan.kernels.nf4_triton")
    torch.manual_seed(0)
    whole = nf4.quantise(torch.randn(outputs, inputs))
    weight = whole if nested else nf4.row_slice(whole, 0, outputs)
    room = torch.full((rank + 2, inputs), torch.nan, dtype=torch.float16)
    a = room[1:-1].copy_(torch.randn(rank, inputs))
    shuffled = torch.full_like(room, torch.nan)
    shuffled[1:-1] = a.view(rank, -1, 2).transpose(1, 2).reshape(rank, inputs)
    found = nf4_triton.products(weight, shuffled[1:-1])
    assert len(found) == {64: 1, 320: 1, 832: 3}[inputs]
    wanted = nf4.dequantise(weight, torch.float16).float() @ a.float().T
    assert torch.allclose(found.sum(0), wanted, rtol=1e-4, atol=1e-3 * float(wanted.abs().max()))
