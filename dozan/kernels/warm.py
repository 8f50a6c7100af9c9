"""Compile a run's Triton kernels side by side while rows and weights are read: one after the other they take 11 s.

Each is launched once on a few rows of zeros, with the dtypes and sizes that the run will have; what a launch compiles
is kept by Triton for the process, and on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton, has_triton_attention

_TOKENS, _WORDS = 64, 8192
_EPS = 1e-6


@dataclass(frozen=True)
class Shapes:
    """What kernels are compiled for: sizes of a model, and the dtype of its frozen weights."""

    width: int
    heads: int
    key_heads: int
    head_dim: int
    feed_forward: int
    dtype: torch.dtype
    dora: bool


def start(shapes: Shapes, device: torch.device) -> list[Future[None]]:
    """Begin to compile; wait for the futures before the first pass. Nothing to do where Triton does not run."""
    if not has_triton(device):
        return []
    work = _elementwise(shapes, device)
    power = shapes.head_dim >= 16 and not shapes.head_dim & (shapes.head_dim - 1)
    if has_triton_attention(device) and power:
        work = [*_attention(shapes, device), *work]
    pool = ThreadPoolExecutor(len(work), thread_name_prefix="compile")
    futures = [pool.submit(_without_gradients, one) for one in work]
    pool.shutdown(wait=False)
    return futures


def _without_gradients(work: Callable[[], object]) -> None:
    with torch.no_grad():
        work()


def _attention(shapes: Shapes, device: torch.device) -> list[Callable[[], object]]:
    from dozan.kernels import attention_triton as triton_attention

    def zeros(heads: int) -> Tensor:
        return torch.zeros(_TOKENS, heads, shapes.head_dim, dtype=shapes.dtype, device=device)

    q, k = zeros(shapes.heads), zeros(shapes.key_heads)
    place = torch.zeros(_TOKENS, dtype=torch.int32, device=device)
    sums = torch.zeros(shapes.heads, _TOKENS, device=device)
    blocks = triton_attention.visible_blocks(place, place, _TOKENS, triton_attention.block_size(q))
    last, programs = (place, place, blocks, _TOKENS, 1.0), triton_attention.PROGRAMS
    return [
        lambda: triton_attention.keys_gradients(q, k, k, q, sums, sums, *last, programs),
        lambda: triton_attention.queries_gradient(q, k, k, q, q, sums, *last),
        lambda: triton_attention.attend(q, k, k, *last),
    ]


def _elementwise(shapes: Shapes, device: torch.device) -> list[Callable[[], object]]:
    from dozan.kernels import cross_entropy_triton, geglu_triton, low_rank_triton, norm_triton

    dtype = shapes.dtype
    stream = torch.float32 if dtype == torch.float16 else dtype

    def zeros(*size: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros(size, dtype=of, device=device)

    wide = torch.float32
    x, residual, weight = zeros(_TOKENS, shapes.width), zeros(_TOKENS, shapes.width, of=stream), zeros(shapes.width)
    inverse = zeros(_TOKENS * shapes.heads, of=wide)
    head, head_weight = zeros(_TOKENS, shapes.heads, shapes.head_dim), zeros(shapes.head_dim)
    table, gate = zeros(_TOKENS, 1, shapes.head_dim), zeros(_TOKENS, shapes.feed_forward)
    work: list[Callable[[], object]] = [
        lambda: norm_triton.forward(residual, weight, _EPS, None),
        lambda: norm_triton.forward(x, weight, _EPS, residual),
        lambda: norm_triton.backward(x, residual, weight, inverse),
        lambda: norm_triton.backward(x, residual, weight, inverse, residual),
        lambda: norm_triton.rotated_forward(head, head_weight, _EPS, table, table),
        lambda: norm_triton.rotated_backward(head, head, head_weight, inverse, table, table),
        lambda: geglu_triton.forward(gate, gate),
        lambda: geglu_triton.backward(gate, gate, gate),
        lambda: cross_entropy_triton.gradient_in_place(
            zeros(16, _WORDS), torch.zeros(16, dtype=torch.int64, device=device), zeros(16, of=wide)
        ),
    ]
    if stream != dtype:
        work.append(lambda: norm_triton.backward(residual, x, weight, inverse))
    if shapes.dora:
        factor, rank = zeros(shapes.feed_forward, of=wide), zeros(shapes.feed_forward, 16, of=wide)
        work += [
            lambda: geglu_triton.backward_with_dots(gate, gate, gate),
            lambda: low_rank_triton.folded(rank, factor, factor, dtype),
            lambda: low_rank_triton.factor_gradients(
                rank, low_rank_triton.column_dots(gate, gate), factor, factor
            ),
        ]
    return work
