"""What a device can do: the dtype it computes fastest in, and which kernels run there.

Everything asks `capability`, so that a card can be treated as an older one (`emulated`).
"""

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

# Parts of a long sum would otherwise be added in float16, whose numbers end at 65,504.
torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

_TOKENS, _WIDTH, _OUTPUTS = 1024, 256, 384
_TRIES = 7
_GAIN = 1.5


Capability = tuple[int, int]
T4: Capability = (7, 5)
_AMPERE: Capability = (8, 0)
_emulated: Capability | None = None


def capability(device: torch.device) -> Capability:
    """(major, minor) of an NVIDIA GPU, or what it is treated as."""
    own = _own_capability(device)
    return own if _emulated is None else min(own, _emulated)


@contextmanager
def emulated(wanted: Capability | None) -> Iterator[None]:
    """Within it, every GPU counts as one of at most this capability; None changes nothing."""
    global _emulated
    before = _emulated
    _emulated = wanted or before
    try:
        yield
    finally:
        _emulated = before


@functools.cache
def _own_capability(device: torch.device) -> Capability:
    return torch.cuda.get_device_capability(device)


def training_dtype(device: torch.device) -> torch.dtype:
    """The 16-bit dtype that the hardware multiplies in: bfloat16, on a GPU below capability 8.0 float16; else float32.

    A GPU says so by its capability (`is_bf16_supported` is true where bf16 is emulated); on a CPU one small product is
    timed in both, for emulated bf16 is several times slower than float32 and real bf16 several times faster.
    """
    if device.type == "cuda":
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float16
    return torch.bfloat16 if _cpu_gain() >= _GAIN else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a GPU has bfloat16 in hardware: from capability 8.0. A CPU has it, fast or slow."""
    return device.type != "cuda" or capability(device) >= _AMPERE


@contextmanager
def determinism(wanted: bool) -> Iterator[None]:
    """Within it, sums on a GPU have one order if `wanted`, at a price in speed; PyTorch's own switch."""
    if not wanted or torch.are_deterministic_algorithms_enabled():
        yield  # the switch imports torch's compiler: 1.3 s
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def has_triton(device: torch.device) -> bool:
    """Whether Triton's elementwise kernels run there: an NVIDIA GPU of capability 7.5 or higher, and the package
    (torch's own)."""
    return device.type == "cuda" and _triton_is_there() and capability(device) >= T4


def has_triton_attention(device: torch.device) -> bool:
    """Whether Triton's attention runs there, in training and in decoding: from capability 8.0, for its tiles fill more
    than the 64 KiB of shared memory that a T4 has."""
    return has_triton(device) and capability(device) >= _AMPERE


@functools.cache
def _triton_is_there() -> bool:
    return importlib.util.find_spec("triton") is not None


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
