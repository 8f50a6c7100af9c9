"""Linear cross-entropy over supervised positions alone; the gradient of the hidden states is made in the forward pass.

loss = Σ w_i (logsumexp(h_i Eᵀ) - h_i·E[y_i]);  dh_i = w_i (softmax(h_i Eᵀ) E - E[y_i]). Where the head is frozen no
gradient of E is due, and nothing of size V outlives its chunk: the backward pass is one multiplication. Keeping the
logits would cost S · V · 4 bytes (4 GiB for 4,096 positions of Gemma's vocabulary).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dozan.kernels.cross_entropy_tiled import tiled_cross_entropy
from dozan.kernels.cross_entropy_trained import trained_cross_entropy
from dozan.kernels.embedding import Rows
from dozan.kernels.precision import has_triton

CHUNK_BYTES = {"cpu": 2 * 2**20, "cuda": 512 * 2**20}
"""Of fp32 logits at a time: what a CPU's caches hold, what keeps a GPU busy."""


def softmax_gradient(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted losses fp32 [S] and the gradient [S, V] of their sum; `logits` [S, V] may be overwritten."""
    if has_triton(logits.device):
        from dozan.kernels.cross_entropy_triton import gradient_in_place

        return gradient_in_place(logits, target, weight), logits
    logits = logits.float()
    wanted, scale = target[:, None], weight[:, None]
    # In place from here on: a temporary of this size costs more than what is computed with it.
    logits -= logits.amax(-1, keepdim=True)
    right = logits.gather(1, wanted)
    total = logits.exp_().sum(-1, keepdim=True)
    losses = (total.log() - right) * scale
    return losses, logits.mul_(scale / total).scatter_add_(1, wanted, -scale)


class _SupervisedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, embedding: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        rows = max(1, CHUNK_BYTES[hidden.device.type] // (4 * len(embedding)))
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(hidden), rows):
            chunk = slice(start, start + rows)
            logits = hidden[chunk] @ embedding.T
            losses, d_logits = softmax_gradient(logits, target[chunk], weight[chunk])
            loss += losses.sum()
            torch.mm(d_logits.to(embedding.dtype), embedding, out=gradient[chunk])
            del logits, d_logits  # or they would lie beside the next chunk's
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None


def supervised_cross_entropy(hidden: Tensor, embedding: Tensor | Rows, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted SUM of the negative log-likelihoods, an fp32 scalar (the caller divides by the step's total weight).

    hidden [S, D] are the states at supervised positions, embedding [V, D] the head, target int64 [S], weight fp32 [S].
    An embedding that is not at hand is taken a tile of words at a time (`cross_entropy_tiled`), and so is one that is
    trained itself (`cross_entropy_trained`).
    """
    if not isinstance(embedding, Tensor):
        return tiled_cross_entropy(hidden, embedding, target, weight)
    if embedding.requires_grad and torch.is_grad_enabled():
        return trained_cross_entropy(hidden, embedding, target, weight)
    loss: Tensor = _SupervisedCrossEntropy.apply(hidden, embedding, target, weight)
    return loss
