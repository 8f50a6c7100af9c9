"""The embedding in 8 bits or in host memory: rows, and the loss over tiles of it against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dozan.kernels import cross_entropy_tiled, reference
from dozan.kernels.cross_entropy_tiled import tiled_cross_entropy
from dozan.kernels.embedding import HostRows, Int8Rows, Rows

CPU = torch.device("cpu")


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setattr(cross_entropy_tiled, "has_triton", lambda device: request.param == "triton")


def held(kind: str, weight: Tensor) -> Rows:
    return Int8Rows.of(weight) if kind == "int8" else HostRows.of(weight, CPU)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("kind", ["int8", "cpu"])
@pytest.mark.parametrize(("positions", "words", "tile"), [(1, 5, 8), (7, 37, 8), (4, 64, 16), (3, 40, 64)])
def test_the_loss_is_the_reference_s(
    kind: str, positions: int, words: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy_tiled, "TILE", tile)
    torch.manual_seed(0)
    rows = held(kind, torch.randn(words, 12))
    dense = rows.tile(0, words)
    hidden = torch.randn(positions, 12, requires_grad=True)
    target, weight = torch.randint(words, (positions,)), torch.rand(positions)
    weight[0] = 0.0
    found = tiled_cross_entropy(hidden, rows, target, weight)
    wanted = reference.cross_entropy(hidden, dense, target, weight)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss * 3, hidden)[0] for loss in (found, wanted)]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("backend")
def test_no_position_at_all() -> None:
    hidden = torch.randn(0, 12, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    assert float(tiled_cross_entropy(hidden, held("cpu", torch.randn(9, 12)), none, none.float()).detach()) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_in_8_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(20000, 24).to(dtype)
    weight[3] = 0
    rows = Int8Rows.of(weight)
    bound = weight.float().abs().amax(1, keepdim=True) / 127 * (0.51 if dtype == torch.float32 else 1.01)
    assert rows.tile(0, 20000).dtype == dtype
    assert bool(((rows.tile(0, 20000).float() - weight.float()).abs() <= bound).all())
    ids = torch.tensor([5, 3, 19999, 5])
    assert torch.equal(rows.rows(ids), rows.tile(0, 20000)[ids])


@pytest.mark.parametrize("width", [1, 5, 1030])
def test_rows_of_host_memory_read_by_the_gpu(width: int) -> None:
    embedding_triton = pytest.importorskip("dozan.kernels.embedding_triton")
    table, ids = torch.randn(9, width), torch.tensor([8, 0, 3, 3])
    assert torch.equal(embedding_triton.gather(table, ids), table[ids])


def test_rows_of_host_memory_are_the_weight_s() -> None:
    weight = torch.randn(30, 4)
    rows = HostRows.of(weight, CPU)
    assert torch.equal(rows.rows(torch.tensor([7, 0])), weight[[7, 0]]) and torch.equal(rows.tile(3, 9), weight[3:9])
