"""The forward pass of a model whose weights are made layer by layer: a few gigabytes for any size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dozan.kernels import TrieAttention
from dozan.kernels.low_rank import row_norms
from dozan.model.adapter import AdaptedLinear
from dozan.model.gemma3 import Gemma3Config
from dozan.model.weights import empty_model

_HEAD_ROWS = 8192
"""Rows of the embedding multiplied at a time."""


Watch = Callable[[str, Tensor], None]
"""Called with the name of a linear and its input [T, I]."""
Weight = Callable[[str], Tensor]
"""A tensor in fp32 by its text-only name, anything but the embedding."""


class Words(Protocol):
    """An embedding [V, D] of which some rows are read at a time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def rows(self, which: Sequence[int]) -> Tensor: ...
    def row_range(self, first: int, last: int) -> Tensor: ...


@torch.no_grad()
def streamed_logits(
    config: Gemma3Config, weight: Weight, embedding: Words, rows: Sequence[Sequence[int]], tail: int,
    adapters: Mapping[str, AdaptedLinear] | None = None,
) -> list[np.ndarray]:  # fmt: skip
    """Logits [at most `tail`, V] of each row's last positions, on the CPU in fp32; see `streamed_hidden`."""
    tails = [hidden[-tail:] for hidden in streamed_hidden(config, weight, embedding, rows, adapters=adapters)]
    logits = _times_embedding(torch.cat(tails), embedding)
    return [part.numpy() for part in logits.split([len(part) for part in tails])]


@torch.no_grad()
def streamed_hidden(
    config: Gemma3Config, weight: Weight, embedding: Words, rows: Sequence[Sequence[int]],
    watch: Watch | None = None, adapters: Mapping[str, AdaptedLinear] | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """The final hidden states [T, D] of each row, on the CPU in fp32.

    weight: is asked once for each tensor, and a layer's are let go before those of the next are made. rows: token ids,
    all in one pass, none seeing another. adapters: by linear, whose base weights have no memory: they compute beside
    what `weight` gives.
    """
    model = empty_model(config).eval()
    for name, linear in (adapters or {}).items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, linear.eval())
    known = sorted({token for row in rows for token in row})
    place = {token: i for i, token in enumerate(known)}
    _put(model.model.embed_tokens, "weight", embedding.rows(known).float())
    _put(model.model.norm, "weight", weight("model.norm.weight"))
    for index, layer in enumerate(model.model.layers):
        _borrow(layer, f"model.layers.{index}.", weight)
    if watch is not None:
        _watch(model, watch)
    ends = np.cumsum([len(row) for row in rows]).tolist()
    ids = torch.tensor([place[token] for row in rows for token in row])
    position = torch.cat([torch.arange(len(row)) for row in rows])
    end = torch.cat([torch.full((len(row),), last) for row, last in zip(rows, ends, strict=True)])
    hidden: Tensor = model(ids, position, TrieAttention(position, end, config.sliding_window, config.scale))
    return hidden.split([len(row) for row in rows])


def _watch(model: nn.Module, watch: Watch) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs, name=name: watch(name, inputs[0]))


def _times_embedding(hidden: Tensor, embedding: Words) -> Tensor:
    """[P, D] -> [P, V] with the embedding read some rows at a time."""
    size = embedding.shape[0]
    out = torch.empty(len(hidden), size)
    for first in range(0, size, _HEAD_ROWS):
        last = min(first + _HEAD_ROWS, size)
        torch.mm(hidden, embedding.row_range(first, last).float().t(), out=out[:, first:last])
    return out


def _borrow(layer: nn.Module, prefix: str, weight: Weight) -> None:
    """Have what the layer lacks made before its forward pass and let go after it."""
    held = dict(layer.named_parameters())
    names = [(name, *name.rpartition(".")[::2]) for name, value in held.items() if value.is_meta]
    linears = [linear for linear in layer.modules() if isinstance(linear, AdaptedLinear)]

    def make(*_: Any) -> None:
        for name, owner, attribute in names:
            _put(layer.get_submodule(owner), attribute, weight(prefix + name))
        for linear in linears:
            _measure_rows(linear)

    def let_go(*_: Any) -> None:
        for name, owner, attribute in names:
            _put(layer.get_submodule(owner), attribute, held[name])

    layer.register_forward_pre_hook(make)
    layer.register_forward_hook(let_go)


def _measure_rows(linear: AdaptedLinear) -> None:
    """DoRA's norms over a base weight that has just been made."""
    if linear.magnitude is not None:
        linear.weight_norm = row_norms(linear.frozen)
        linear.norm = torch.empty_like(linear.weight_norm)
        linear.refresh_norm()


def _put(owner: nn.Module, attribute: str, value: Tensor) -> None:
    setattr(owner, attribute, nn.Parameter(value, requires_grad=False))
