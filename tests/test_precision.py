"""The dtype of training: bfloat16 only where it is the faster one."""

from __future__ import annotations

import pytest
import torch

from dozan.kernels import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("gain", "dtype"), [(0.2, torch.float32), (1.4, torch.float32), (1.6, torch.bfloat16), (4.0, torch.bfloat16)]
)
def test_a_cpu_trains_in_bfloat16_only_where_it_gains(
    monkeypatch: pytest.MonkeyPatch, gain: float, dtype: torch.dtype
) -> None:
    seconds = {torch.float32: gain, torch.bfloat16: 1.0}
    monkeypatch.setattr(precision, "_product_seconds", seconds.__getitem__)
    precision._cpu_gain.cache_clear()
    try:
        assert precision.training_dtype(CPU) == dtype
    finally:
        precision._cpu_gain.cache_clear()


def test_the_products_of_both_dtypes_are_timed() -> None:
    assert precision._product_seconds(torch.float32) > 0
    assert precision._product_seconds(torch.bfloat16) > 0


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_a_gpu_is_asked_for_its_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "_own_capability", lambda device: capability)
    assert precision.training_dtype(torch.device("cuda")) == dtype
