"""Attention over keys that all rows share and over each row's own, for generation.

Own slots count from 0 in each row; a shared key's slot is negative, -1 the last: so a distance between slots is one
between positions, whatever the length of the shared prefix. Softmax in fp32.
Shapes: B rows, N new tokens a row, K key/value heads, G query heads for each (H = K·G), E head size, P shared keys,
M own keys of a row, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dozan.kernels.precision import has_triton_attention


def attended(query: Tensor, shared: Tensor, own: Tensor, hidden: Tensor, scale: float) -> Tensor:
    """query [B, K, G·N, E], shared keys and values [2, K, P, E], own ones [2, B, K, M, E] -> [B, K, G·N, E].

    hidden: bool [B, 1, 1, N, P + M], what a query may not see; never all of a row. The shared keys are one product.
    """
    (key, value), (own_key, own_value) = shared, own
    scores = torch.cat((_of_all(query, key.mT), query @ own_key.mT), dim=-1).float() * scale
    grouped = scores.unflatten(2, (-1, hidden.shape[3])).masked_fill(hidden, float("-inf"))
    weights = grouped.softmax(-1).to(value.dtype).flatten(2, 3)
    split = key.shape[1]
    return _of_all(weights[..., :split], value) + weights[..., split:] @ own_value


def _of_all(rows: Tensor, shared: Tensor) -> Tensor:
    """rows [B, K, X, Y] times shared [K, Y, Z] -> [B, K, X, Z], as one product a head."""
    product = rows.transpose(0, 1).flatten(1, 2) @ shared  # [K, B·X, Z]
    return product.unflatten(1, (rows.shape[0], -1)).transpose(0, 1)


def hidden_keys(slot: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Which keys, by their slots [S], come after a query's slot [B, N] or before its window: bool [B, 1, 1, N, S]."""
    distance = slot[..., None] - key
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    return hidden[:, None, None]


class DecodeAttention:
    """Attention of one new token a row, whose key and value are written to its slot; `model.gemma3.Attend`.

    shared [L, 2, K, P, E], of which the last `length` keys are real; own [L, 2, B, K, M, E], zero or finite where
    nothing was written; slot int64 [B], below M; length int64 [1]. No shape depends on data and nothing is asked of
    the host: a GPU can capture it.
    """

    def __init__(self, shared: Tensor, own: Tensor, slot: Tensor, length: Tensor, window: int, scale: float) -> None:
        self.shared, self.own, self.slot, self.length = shared, own, slot, length
        self.window, self.scale = window, scale
        prefix, capacity, device = shared.shape[3], own.shape[4], slot.device
        self.low = {False: 0, True: max(0, prefix - window + 1)}
        self.row = torch.arange(len(slot), device=device)
        self.fused = has_triton_attention(device)
        if self.fused:
            return
        self.hidden = {}
        for sliding, low in self.low.items():
            key = torch.arange(low - prefix, capacity, device=device)
            self.hidden[sliding] = hidden_keys(slot[:, None], key, window if sliding else None) | (key < -length)

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [B, H, E], k, v [B, K, E] -> [B, H, E]."""
        shared, own = self.shared[layer], self.own[layer]
        if self.fused:
            from dozan.kernels import decode_triton

            window = self.window if sliding else None
            return decode_triton.decode(q, k, v, shared, own, self.slot, self.length, window, self.scale)
        own[0][self.row, :, self.slot] = k
        own[1][self.row, :, self.slot] = v
        query = q.unflatten(1, (k.shape[1], -1))
        return attended(query, shared[:, :, self.low[sliding] :], own, self.hidden[sliding], self.scale).flatten(1, 2)
