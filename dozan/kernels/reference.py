"""The specification: each op in its plainest form, against which every fast one is tested in fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def visible(position: Tensor, end: Tensor, window: int | None) -> Tensor:
    """Who sees whom in a forest of tries: bool [T queries, T keys]; `window` is None in full layers."""
    index = torch.arange(len(end), device=end.device)
    seen = (index[None] <= index[:, None]) & (index[:, None] < end[None])
    return seen if window is None else seen & (position[:, None] - position[None] < window)


@dataclass(frozen=True)
class DenseAttention:
    """Attention over a whole T x T mask; `model.gemma3.Attend`."""

    position: Tensor
    end: Tensor
    window: int
    scale: float

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [T, H, E], k, v [T, K, E] -> [T, H, E]; softmax in fp32."""
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scores = torch.einsum("qhe,khe->hqk", q, k).float() * self.scale
        mask = visible(self.position, self.end, self.window if sliding else None)
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype)
        return torch.einsum("hqk,khe->qhe", weights, v)


def cross_entropy(hidden: Tensor, embedding: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted sum of -log p(target) in fp32: hidden [S, D], embedding [V, D], target and weight [S]."""
    logits = (hidden @ embedding.T).float()
    return (weight * torch.nn.functional.cross_entropy(logits, target, reduction="none")).sum()


def rms_norm(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None = None) -> Tensor:
    """[residual +] x / rms(x) · (1 + weight): the norm in fp32, rounded before the sum to the residual's dtype, without
    one to the weight's."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * (1.0 + weight.float())
    return normed.to(weight.dtype) if residual is None else residual + normed.to(residual.dtype)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [T, heads, E] turned by cosine and sine [T, 1, E]; the halves are the pairs."""
    first, second = x.chunk(2, dim=-1)
    return x * table[0] + torch.cat((-second, first), dim=-1) * table[1]


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate), approximated by tanh, times up."""
    return torch.nn.functional.gelu(gate, approximate="tanh") * up


def low_rank(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """x Wᵀ + scale · (x Aᵀ) Bᵀ in x's dtype."""
    return x @ weight.T + (x @ a.to(x.dtype).T * scale) @ b.to(x.dtype).T
