"""The loss of each held-out row apart, so that two models can be compared row by row. Shapes: T tokens, S supervised,
D model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dozan.chat.encode import Tokens, encode_rows
from dozan.kernels import pack_attention, pack_multiple, supervised_cross_entropy
from dozan.pack import Batch, pack_rows
from dozan.rows.example import Example

if TYPE_CHECKING:
    from dozan.model.bundle import Bundle

_PACK_TOKENS = 4096


@dataclass(frozen=True)
class RowLoss:
    """One row's mean loss over its answer's tokens, in nats a token, and how many these are."""

    loss: float
    tokens: int


@torch.no_grad()
def row_losses(
    bundle: Bundle, examples: Sequence[Example], on_progress: Callable[[int, int], None] | None = None
) -> list[RowLoss]:
    """Each row's loss as in training (every assistant turn, stop tokens too), in order.

    Rows lie one after another in packs, where they do not see each other. Raises InputError for rows that cannot be
    rendered or are longer than the model's context.
    """
    rows = encode_rows(examples, bundle.chat, bundle.tokenizer, bundle.config.max_position_embeddings)
    training = bundle.model.training
    bundle.model.eval()
    found: list[RowLoss] = []
    for batch in pack_rows(rows, "paths", _PACK_TOKENS):
        found += _pack_losses(bundle, batch, rows[len(found) : len(found) + len(batch.rows)])
        if on_progress:
            on_progress(len(found), len(rows))
    bundle.model.train(training)
    return found


def _pack_losses(bundle: Bundle, batch: Batch, rows: Sequence[Tokens]) -> list[RowLoss]:
    """The pack's rows in its order: one forward pass, then each row's supervised states by themselves."""
    assert tuple(row.row for row in rows) == batch.rows, "paths keep the order of the rows"
    model, config = bundle.model, bundle.config
    multiple = pack_multiple(model.device)
    batch = batch.padded(-(-len(batch) // multiple) * multiple).to(model.device)
    attend = pack_attention(batch.position, batch.end, config.sliding_window, config.scale, config.head_dim)
    hidden: Tensor = model(batch.ids, batch.position, attend).index_select(0, batch.at)  # [S, D]
    found, start = [], 0
    for row in rows:
        part = slice(start, start + len(row.supervised[0]))
        weight = batch.weight[part]
        loss = supervised_cross_entropy(hidden[part], model.embedding, batch.target[part], weight)
        found.append(RowLoss(float(loss) / float(weight.sum()), part.stop - part.start))
        start = part.stop
    return found
