"""`supervised_cross_entropy` over an embedding that is not at hand: a tile of words at a time for all positions.

Two rounds over the words: the first finds each position's log Σ exp, the second makes the gradient. Logits of a tile
are computed in both, a third product of size S · V · D against keeping S · V logits. Shapes: S positions, V words, D
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dozan.kernels.embedding import Rows
from dozan.kernels.precision import has_triton

TILE = 8192
"""Words at a time: 60 MiB of Gemma 3 12B's embedding in 16 bits."""


class _TiledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, words: Rows, target: Tensor, weight: Tensor) -> Tensor:
        most = torch.full((len(hidden),), float("-inf"), device=hidden.device)
        total, wanted = torch.zeros_like(most), torch.zeros_like(most)
        for begin, tile in tiles(words):
            fold(hidden @ tile.t(), most, total, wanted, target - begin)
            del tile  # or it would lie beside the next one
        log_sum = most + total.log()
        gradient = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device)
        for begin, tile in tiles(words):
            d_logits = tile_gradient(hidden @ tile.t(), log_sum, target - begin, weight)
            gradient += torch.mm(d_logits, tile)
            del d_logits, tile
        ctx.save_for_backward(gradient.to(hidden.dtype))
        return ((log_sum - wanted) * weight).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def tiles(words: Rows) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, words.shape[0], TILE):
        yield begin, words.tile(begin, min(begin + TILE, words.shape[0]))


def fold(logits: Tensor, most: Tensor, total: Tensor, wanted: Tensor, target: Tensor) -> None:
    """Take a tile's logits [S, N] into the running maximum, Σ exp(· - maximum) and logit of the target, fp32 [S];
    target int64 [S] counts from the tile's first word."""
    if has_triton(logits.device):
        from dozan.kernels.cross_entropy_triton import fold_tile

        return fold_tile(logits, most, total, wanted, target)
    wide = logits.float()
    higher = torch.maximum(most, wide.amax(1))
    total.mul_((most - higher).exp_()).add_((wide - higher[:, None]).exp_().sum(1))
    most.copy_(higher)
    inside = (target >= 0) & (target < wide.shape[1])
    found = wide.gather(1, target.clamp(0, wide.shape[1] - 1)[:, None])[:, 0]
    wanted.add_(torch.where(inside, found, 0.0))


def tile_gradient(logits: Tensor, log_sum: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """weight · (softmax - one at the target) of a tile, [S, N] in the logits' dtype and place."""
    if has_triton(logits.device):
        from dozan.kernels.cross_entropy_triton import gradient_of_tile

        return gradient_of_tile(logits, log_sum, target, weight)
    words = torch.arange(logits.shape[1], device=logits.device)
    d_logits = (logits.float() - log_sum[:, None]).exp_().sub_((words == target[:, None]).float())
    return d_logits.mul_(weight[:, None]).to(logits.dtype)


def tiled_cross_entropy(hidden: Tensor, words: Rows, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted SUM of the negative log-likelihoods, an fp32 scalar, as `supervised_cross_entropy`.

    hidden [S, D], words V rows of D, target int64 [S], weight fp32 [S].
    """
    loss: Tensor = _TiledCrossEntropy.apply(hidden, words, target, weight)
    return loss
