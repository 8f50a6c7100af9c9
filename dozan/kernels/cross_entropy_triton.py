"""Softmax cross-entropy in Triton: logits become their gradient in place, in two passes over them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 4096


def gradient_in_place(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The losses fp32 [S], weight · (logsumexp - logit of the target); `logits` [S, V] becomes d loss / d logits.

    logits: contiguous, 16 or 32 bit; target int64 [S], weight fp32 [S].
    """
    rows, words = logits.shape
    loss = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(_BLOCK, triton.next_power_of_2(words))
    _gradient[(rows,)](logits, target, weight, loss, words, BLOCK=block, num_warps=8)
    return loss


@triton.jit
def _gradient(LOGITS, TARGET, WEIGHT, LOSS, words, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    line = LOGITS + row * words
    target, weight = tl.load(TARGET + row), tl.load(WEIGHT + row)
    lane = tl.arange(0, BLOCK)
    most = float("-inf")
    total = 0.0
    for start in range(0, words, BLOCK):
        word = start + lane
        logit = tl.load(line + word, mask=word < words, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(logit, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(logit - higher), 0)
        most = higher
    log_sum = most + tl.log(total)
    wanted = tl.load(line + target).to(tl.float32)
    tl.store(LOSS + row, (log_sum - wanted) * weight)
    for start in range(0, words, BLOCK):
        word = start + lane
        inside = word < words
        logit = tl.load(line + word, mask=inside, other=float("-inf")).to(tl.float32)
        gradient = (tl.exp(logit - log_sum) - tl.where(word == target, 1.0, 0.0)) * weight
        tl.store(line + word, gradient.to(LOGITS.dtype.element_ty), mask=inside)


def fold_tile(logits: Tensor, most: Tensor, total: Tensor, wanted: Tensor, target: Tensor) -> None:
    """As `cross_entropy_tiled.fold`: logits [S, N] contiguous, the others [S]."""
    rows, words = logits.shape
    block = min(_BLOCK, triton.next_power_of_2(words))
    _fold[(rows,)](logits, most, total, wanted, target, words, BLOCK=block, num_warps=8)


def gradient_of_tile(logits: Tensor, log_sum: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """As `cross_entropy_tiled.tile_gradient`, in place."""
    rows, words = logits.shape
    block = min(_BLOCK, triton.next_power_of_2(words))
    _tile_gradient[(rows, triton.cdiv(words, block))](logits, log_sum, target, weight, words, BLOCK=block, num_warps=8)
    return logits


@triton.jit
def _fold(LOGITS, MOST, TOTAL, WANTED, TARGET, words, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    line, lane, target = LOGITS + row * words, tl.arange(0, BLOCK), tl.load(TARGET + row)
    most, total = tl.load(MOST + row), tl.load(TOTAL + row)
    for start in range(0, words, BLOCK):
        word = start + lane
        logit = tl.load(line + word, mask=word < words, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(logit, 0))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(logit - higher), 0)
        most = higher
    tl.store(MOST + row, most)
    tl.store(TOTAL + row, total)
    if (target >= 0) & (target < words):
        tl.store(WANTED + row, tl.load(line + target).to(tl.float32))


@triton.jit
def _tile_gradient(LOGITS, LOGSUM, TARGET, WEIGHT, words, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    word = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = word < words
    line = LOGITS + row * words + word
    logit = tl.load(line, mask=inside, other=float("-inf")).to(tl.float32)
    gradient = tl.exp(logit - tl.load(LOGSUM + row)) - tl.where(word == tl.load(TARGET + row), 1.0, 0.0)
    tl.store(line, (gradient * tl.load(WEIGHT + row)).to(LOGITS.dtype.element_ty), mask=inside)
