"""`supervised_cross_entropy` with a head that is trained: gradients of the states and of the words.

    dh_i = w_i (softmax(h_i Eᵀ) E - E[y_i])        dE = Σ_i w_i (softmax(h_i Eᵀ) - one at y_i)ᵀ h_i

A tile of words at a time for all positions, so that each row of dE is written once and S · V logits are never there.
The forward pass keeps log Σ exp alone; the backward pass makes each tile's logits again. Chunks of positions, as with
a frozen head, would go over all of dE once a chunk. Shapes: S positions, V words, D model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dozan.kernels import cross_entropy_tiled as tiled


class _TrainedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, words: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        most = torch.full((len(hidden),), float("-inf"), device=hidden.device)
        total, wanted = torch.zeros_like(most), torch.zeros_like(most)
        for begin in range(0, len(words), tiled.TILE):
            tiled.fold(hidden @ words[begin : begin + tiled.TILE].t(), most, total, wanted, target - begin)
        log_sum = most + total.log()
        ctx.save_for_backward(hidden, words, target, weight, log_sum)
        return ((log_sum - wanted) * weight).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden, words, target, weight, log_sum = ctx.saved_tensors
        weight = weight * outer[0]
        d_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        d_words = torch.empty_like(words)
        for begin in range(0, len(words), tiled.TILE):
            tile = words[begin : begin + tiled.TILE]
            d_logits = tiled.tile_gradient(hidden @ tile.t(), log_sum, target - begin, weight)
            torch.mm(d_logits.t(), hidden, out=d_words[begin : begin + tiled.TILE])
            d_hidden += torch.mm(d_logits, tile)
            del d_logits  # or it would lie beside the next one
        return d_hidden.to(hidden.dtype), d_words, None, None


def trained_cross_entropy(hidden: Tensor, words: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted SUM of the negative log-likelihoods, an fp32 scalar, as `supervised_cross_entropy`.

    hidden [S, D], words [V, D] in the same dtype, target int64 [S], weight fp32 [S]. Gradients of hidden and words are
    in their dtype, sums over positions in fp32.
    """
    loss: Tensor = _TrainedCrossEntropy.apply(hidden, words, target, weight)
    return loss
