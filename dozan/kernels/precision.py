"""What a device can do: the dtype it computes fastest in, and whether kernels can be compiled for it."""

from __future__ import annotations

import functools
import importlib.util
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Packs differ in length, and oneDNN would keep 1,024 kinds of products: 3 GiB more after 200 steps in bfloat16.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
# Packs of several lengths leave gaps that no other fits into: twice the memory reserved that is used.
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
# cuBLAS adds in one order only with a workspace that it knows beforehand; this is the size it takes anyway.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

_TOKENS, _WIDTH, _OUTPUTS = 1024, 256, 384
_TRIES = 7
_GAIN = 1.5


def training_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it, else float32.

    A GPU says so by its capability (`is_bf16_supported` is true where bf16 is emulated); on a CPU one small product is
    timed in both, for emulated bf16 is several times slower than float32 and real bf16 several times faster.
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if _cpu_gain() >= _GAIN else torch.float32


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Within it, sums on a GPU have one order if `wanted`, at a price in speed; PyTorch's own switch."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@functools.cache
def has_triton(device: torch.device) -> bool:
    """Whether Triton's kernels run there: an NVIDIA GPU of capability 8.0 or higher, and the package (torch's own)."""
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _cpu_gain() -> float:
    """How many times faster than in float32 a CPU multiplies in bfloat16."""
    return _product_seconds(torch.float32) / _product_seconds(torch.bfloat16)


def _product_seconds(dtype: torch.dtype) -> float:
    left, right = torch.ones(_TOKENS, _WIDTH, dtype=dtype), torch.ones(_WIDTH, _OUTPUTS, dtype=dtype)
    times = []
    for _ in range(_TRIES):
        begun = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - begun)
    return min(times)
