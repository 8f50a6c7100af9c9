"""NF4 on a GPU, compiled: equal to plain PyTorch bit for bit, no byte beyond its place, and how fast.

Without a GPU, or with Triton interpreted, these are skipped.
"""

from __future__ import annotations

import os

import pytest
import torch

from dozan.kernels import nf4
from dozan.kernels.nf4 import NF4
from dozan.model.quantised import QuantisedLinear

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 64), (3, 64), (65, 128), (7, 704), (257, 640), (1000, 5376)]


def weight_of(*shape: int, nested: bool = True) -> NF4:
    torch.manual_seed(sum(shape))
    values = torch.randn(shape) * 0.03
    values.view(-1)[::97] *= 400
    whole = nf4.quantise(values)
    return whole if nested else nf4.row_slice(whole, 0, shape[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_to_the_cpus(shape: tuple[int, int], nested: bool, factors: bool, dtype: torch.dtype) -> None:
    weight, rows = weight_of(*shape, nested=nested), 1 + torch.rand(shape[0]) if factors else None
    room = torch.full((3, *shape), torch.nan, dtype=dtype, device="cuda")
    nf4.dequantise(weight.to("cuda"), dtype, None if rows is None else rows.cuda(), room[1])
    assert torch.equal(room[1].cpu(), nf4.dequantise(weight, dtype, rows))
    assert room[0].isnan().all() and room[2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantised_there_as_on_the_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = (torch.randn(1536, 640) * 0.03).to(dtype)
    here, there = nf4.quantise(values).tensors(), nf4.quantise(values.cuda()).tensors()
    assert here.keys() == there.keys() and all(torch.equal(here[name], there[name].cpu()) for name in here)


def test_the_row_norms() -> None:
    weight = weight_of(5000, 1024)
    assert torch.allclose(nf4.row_norms(weight.to("cuda")).cpu(), nf4.row_norms(weight), rtol=1e-6)


def test_a_linear_and_its_gradient() -> None:
    weight = weight_of(384, 640)
    module, wide = QuantisedLinear(weight).cuda(), nf4.dequantise(weight, torch.float32).cuda()
    x, outer = torch.randn(33, 640, device="cuda", requires_grad=True), torch.randn(33, 384, device="cuda")
    out = module(x)
    (found,) = torch.autograd.grad(out, x, outer)
    assert torch.allclose(out, x @ wide.t(), rtol=1e-4, atol=1e-3)
    assert torch.allclose(found, outer @ wide, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("factors", [True, False])
def test_how_fast_it_is(factors: bool) -> None:
    """Prints GB/s at the 12B's widest weight; what it must be belongs to bench, and here only that it works there."""
    shape, times = (15360, 3840), 50
    weight = weight_of(*shape).to("cuda")
    rows = torch.rand(shape[0], device="cuda") if factors else None
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out = torch.empty(shape, dtype=dtype, device="cuda")
        for _ in range(5):
            nf4.dequantise(weight, dtype, rows, out)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            nf4.dequantise(weight, dtype, rows, out)
        end.record()
        torch.cuda.synchronize()
        seconds = begin.elapsed_time(end) / times / 1e3
        moved = weight.nbytes + out.nbytes
        print(f"\nnf4 -> {dtype}, factors {factors}: {seconds * 1e6:.0f} us, {moved / seconds / 1e9:.0f} GB/s")
        assert torch.isfinite(out).all()
