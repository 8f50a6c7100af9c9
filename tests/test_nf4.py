"""NF4 against bitsandbytes: codes, scales and values bit for bit; Triton's kernel, interpreted, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dozan.kernels import nf4
from dozan.kernels.nf4 import NF4

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def spread(*shape: int) -> Tensor:
    torch.manual_seed(sum(shape))
    return torch.randn(shape) * 0.03


def outliers(*shape: int) -> Tensor:
    weight = spread(*shape)
    weight.view(-1)[::97] *= 400
    return weight


WEIGHTS: dict[str, Callable[[], Tensor]] = {
    "one block": lambda: spread(1, 64),
    "255 blocks": lambda: spread(5, 51 * 64),
    "256 blocks": lambda: spread(4, 64 * 64),
    "257 blocks": lambda: spread(257, 64),
    "many": lambda: spread(384, 640),
    "several pieces": lambda: spread(4100, 1024),
    "outliers": lambda: outliers(96, 320),
    "constant": lambda: torch.full((8, 192), 0.37),
    "zero": lambda: torch.zeros(8, 192),
    "zero blocks": lambda: spread(64, 128) * (torch.arange(64) % 3 > 0)[:, None],
    "tiny": lambda: spread(64, 128) * 1e-36,
    "below the smallest normal": lambda: spread(64, 128) * 1e-40,
    "huge": lambda: spread(64, 128) * 1e37,
    "the midpoints": lambda: ((torch.tensor(nf4.CODE)[1:] + torch.tensor(nf4.CODE)[:-1]) / 2).repeat(64, 64) * 0.5,
}


@pytest.fixture
def oracle() -> object:
    return pytest.importorskip("bitsandbytes.functional")


def theirs(oracle: object, weight: Tensor, nested: bool = True) -> tuple[Tensor, object]:
    return oracle.quantize_4bit(weight, blocksize=64, compress_statistics=nested, quant_type="nf4")  # type: ignore[attr-defined]


def of_theirs(codes: Tensor, state: object) -> NF4:
    """Their result as an NF4."""
    shape, second = tuple(state.shape), state.state2  # type: ignore[attr-defined]
    if second is None:
        return NF4(codes.view(-1), state.absmax, None, None, None, shape)  # type: ignore[attr-defined, arg-type]
    return NF4(codes.view(-1), state.absmax, second.absmax, second.code, state.offset, shape)  # type: ignore[attr-defined, arg-type]


def require_same(found: NF4, wanted: NF4) -> None:
    assert found.shape == wanted.shape and found.tensors().keys() == wanted.tensors().keys()
    for name, tensor in found.tensors().items():
        other = wanted.tensors()[name]
        assert tensor.dtype == other.dtype and tensor.shape == other.shape, name
        assert torch.equal(tensor.view(-1).view(torch.uint8), other.contiguous().view(-1).view(torch.uint8)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_quantised_as_by_bitsandbytes(oracle: object, kind: str, dtype: torch.dtype) -> None:
    weight = WEIGHTS[kind]().to(dtype)
    if not weight.isfinite().all():
        pytest.skip("beyond float16")
    kept = weight.clone()
    require_same(nf4.quantise(weight), of_theirs(*theirs(oracle, weight)))
    assert torch.equal(weight, kept), "the weight must stay as it was"


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", WEIGHTS)
def test_dequantised_as_by_bitsandbytes(oracle: object, kind: str, dtype: torch.dtype, nested: bool) -> None:
    codes, state = theirs(oracle, WEIGHTS[kind](), nested)
    state.dtype = dtype  # type: ignore[attr-defined]
    wanted = oracle.dequantize_4bit(codes, state)  # type: ignore[attr-defined]
    found = nf4.dequantise(of_theirs(codes, state), dtype)
    # The CPU's own instruction for bfloat16, which bitsandbytes uses where there is one, has no subnormal numbers.
    flushed = (wanted == 0) & (found.abs() <= torch.finfo(dtype).tiny) if dtype == torch.bfloat16 else wanted != wanted
    assert found.dtype == dtype and torch.equal(found.masked_fill(flushed, 0), wanted)


def test_a_weight_that_is_not_contiguous(oracle: object) -> None:
    weight = spread(320, 128).t()
    require_same(nf4.quantise(weight), of_theirs(*theirs(oracle, weight.contiguous())))


def test_rows_are_multiplied_before_the_rounding() -> None:
    weight, rows = nf4.quantise(spread(37, 192)), 1 + torch.rand(37)
    wide = nf4.dequantise(weight, torch.float32)
    for dtype in DTYPES:
        found = nf4.dequantise(weight, dtype, rows)
        assert torch.equal(found, (wide * rows[:, None]).to(dtype))
    late = nf4.dequantise(weight, torch.bfloat16) * rows[:, None].bfloat16()
    assert not torch.equal(late, nf4.dequantise(weight, torch.bfloat16, rows))


def test_out_is_written_whole() -> None:
    weight = nf4.quantise(spread(37, 192))
    out = torch.full((37, 192), torch.nan)
    assert nf4.dequantise(weight, torch.float32, out=out) is out
    assert torch.equal(out, nf4.dequantise(weight, torch.float32))


def test_a_slice_and_the_row_norms() -> None:
    weight = nf4.quantise(spread(5000, 1024))
    wide = nf4.dequantise(weight, torch.float32)
    assert torch.equal(nf4.dequantise(nf4.row_slice(weight, 3, 30), torch.float32), wide[3:30])
    assert torch.allclose(nf4.row_norms(weight), wide.double().norm(dim=1).float(), rtol=1e-6)


def test_bytes() -> None:
    weight = nf4.quantise(spread(256, 640))
    assert weight.nbytes == 256 * 640 // 2 + 2560 + 4 * 10 + 4 * 256 + 4
    assert weight.to("meta").device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("factors", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 64), (65, 128), (7, 704), (130, 640)])
def test_triton_equals_pytorch(shape: tuple[int, int], factors: bool, nested: bool, dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    from dozan.kernels.nf4_triton import dequantise

    weight = nf4.quantise(outliers(*shape))
    rows = 1 + torch.rand(shape[0]) if factors else None
    guarded, room = poisoned(weight if nested else nf4.row_slice(weight, 0, shape[0]), dtype)
    dequantise(guarded, room[1], None if rows is None else surrounded(rows, torch.nan))
    assert torch.equal(room[1], nf4.dequantise(weight, dtype, rows))
    assert room[0].isnan().all() and room[2].isnan().all()


def surrounded(tensor: Tensor, poison: float) -> Tensor:
    """The same values, with poison in the memory on both sides."""
    room = torch.full((3, max(tensor.numel(), 64)), poison).to(tensor.dtype)
    place = room[1, : tensor.numel()].view(tensor.shape)
    return place.copy_(tensor)


def poisoned(weight: NF4, dtype: torch.dtype) -> tuple[NF4, Tensor]:
    """The weight with poison around each of its tensors, and three outputs of NaN, of which the middle one counts."""
    parts = {name: surrounded(t, torch.nan if t.is_floating_point() else 255) for name, t in weight.tensors().items()}
    return NF4(**{**vars(weight), **parts}), torch.full((3, *weight.shape), torch.nan, dtype=dtype)
