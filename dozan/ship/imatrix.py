"""An importance matrix: how much each input column of each linear matters on the user's own rows.

llama.cpp's definition (tools/imatrix): the mean over tokens of the squared input of a linear, per column. The
quantisers weigh each column's error by it. The embedding has none, as in llama.cpp.
Shapes: T tokens, I inputs of a linear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.ship.source import Source

TOKENS = 16384
"""Tokens of the user's rows that are put through the model: the means settle well before that."""


@dataclass(frozen=True)
class Importance:
    """`columns`: fp32 [I] by the linear's name (`model.layers.0.self_attn.q_proj`); from how many rows and tokens, and
    where these came from."""

    columns: Mapping[str, np.ndarray]
    rows: int
    tokens: int
    source: str


def measure(source: Source, rows: Sequence[Sequence[int]], name: str) -> Importance:
    """The importance of every linear's columns over rows of token ids, evenly chosen up to TOKENS; `name` says whose.

    Raises InputError without rows, and for an input that is not finite.
    """
    chosen = spread(rows)
    if not chosen:
        raise InputError(f"{name}: no rows to measure an importance matrix on; give --data FILE")
    sums: dict[str, Tensor] = {}

    def watch(linear: str, x: Tensor) -> None:
        squares = torch.linalg.vector_norm(x, dim=0, dtype=torch.float64).square_()
        sums[linear] = sums[linear] + squares if linear in sums else squares

    source.run(chosen, watch)
    tokens = sum(map(len, chosen))
    columns = {linear: (total / tokens).float().numpy() for linear, total in sums.items()}
    broken = [linear for linear, values in columns.items() if not np.isfinite(values).all()]
    if broken:
        raise InputError(f"{name}: inputs of {len(broken)} linears are not finite, e.g. {broken[0]}")
    return Importance(columns, len(chosen), tokens, name)


def spread(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """As many whole rows as TOKENS hold (one at least), evenly from the first to the last."""
    total = sum(map(len, rows))
    count = len(rows) if total <= TOKENS else max(1, len(rows) * TOKENS // total)
    chosen = [rows[i * len(rows) // count] for i in range(count)] if rows else []
    while len(chosen) > 1 and sum(map(len, chosen)) > TOKENS:
        chosen.pop()
    return chosen
