"""A model to export whose weights are never in memory together: read from base and adapter, merged, and let go.

At 12B's shape that is a few gigabytes where the model in fp32 takes 48. The logits that a certificate compares with and
the inputs that an importance matrix is made of come from the same weights, layer by layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels.nf4 import NF4, dequantise
from dozan.model.adapter import PEFT_ROOT, AdaptedLinear, adapted, merged_onto
from dozan.model.bundle import Bundle, check_rows, open_shell
from dozan.model.nf4_format import StoredNF4
from dozan.model.peft_format import load_adapter, read_adapter
from dozan.model.stored import Stored
from dozan.model.weights import checked_inventory, linear_shapes, read_nf4, require_blocks
from dozan.ship.streamed import Watch, streamed_hidden, streamed_logits

PACK_TOKENS = 8192
"""Tokens that go through the layers together: at 12B's shape their activations take 2 GB."""
PIECE_ELEMENTS = 1 << 26
"""Numbers of the embedding read at a time: 256 MiB of fp32."""
_EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True)
class Source:
    """`bundle` has the shape, tokenizer and chat format, and a model without memory; `stored` the base's tensors by
    text-only name, `adapters` the adapters by linear, `quantised` the linears that the run quantised as it read them.
    """

    bundle: Bundle
    stored: Mapping[str, Stored | StoredNF4]
    adapters: Mapping[str, AdaptedLinear]
    quantised: frozenset[str]
    _codes: dict[str, NF4] = field(default_factory=dict)

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """A tensor of the merged model in fp32 by its text-only name (`model.layers.0.self_attn.q_proj.weight`)."""
        linear, stored = name.removesuffix(".weight"), self.stored[name]
        if linear in self.quantised:
            base = dequantise(self._quantised(name), torch.float32)
        elif isinstance(stored, StoredNF4):
            base = dequantise(stored.read("cpu"), torch.float32)
        else:
            base = stored.read(torch.float32)
        return merged_onto(base, self.adapters[linear]) if linear in self.adapters else base

    def _quantised(self, name: str) -> NF4:
        """Quantised once: that takes longer than all else, and the codes an eighth of fp32."""
        if name not in self._codes:
            self._codes[name] = read_nf4(self.stored[name])
        return self._codes[name]

    def pieces(self, module: str) -> Iterator[Tensor]:
        """A module's weight as `ship.gguf.gguf_weight` gives it, the embedding's rows some at a time."""
        if module != _EMBEDDING:
            weight = self.weight(f"{module}.weight")
            yield weight if weight.ndim == 2 else weight + 1.0
            return
        words = self.embedding
        step = max(1, PIECE_ELEMENTS // words.shape[1])
        for first in range(0, words.shape[0], step):
            yield words.row_range(first, min(first + step, words.shape[0])).float()

    @property
    def embedding(self) -> Stored:
        """[V, D], which is never quantised."""
        stored = self.stored[f"{_EMBEDDING}.weight"]
        assert isinstance(stored, Stored)
        return stored

    def logits(self, rows: Sequence[Sequence[int]], tail: int) -> Iterator[np.ndarray]:
        """fp32 [min(T, tail), V] of each row's last positions."""
        for pack in packs(rows):
            yield from streamed_logits(self.bundle.config, self.weight, self.embedding, pack, tail)

    def run(self, rows: Sequence[Sequence[int]], watch: Watch) -> None:
        """Put rows through the model, telling `watch` the inputs [T, I] of every linear, a pack at a time."""
        for pack in packs(rows):
            streamed_hidden(self.bundle.config, self.weight, self.embedding, pack, watch)


def packs(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """The rows in order, together up to PACK_TOKENS; a longer one alone."""
    pack: list[Sequence[int]] = []
    for row in rows:
        if pack and sum(map(len, pack)) + len(row) > PACK_TOKENS:
            yield pack
            pack = []
        pack.append(row)
    if pack:
        yield pack


def open_source(path: str | Path) -> Source:
    """A run, an adapter, a checkpoint folder or a hub id. Raises InputError as `open_model` does."""
    shell, quantise = open_shell(path)
    stored = checked_inventory(shell.base_folder, shell.config)
    check_rows(shell.base_folder, shell.tokenizer, shell.chat, shell.config.vocab_size)
    linears = linear_shapes(shell.model)
    quantised: frozenset[str] = frozenset()
    if quantise == "nf4" and not any(isinstance(tensor, StoredNF4) for tensor in stored.values()):
        require_blocks(shell.base_folder, linears)
        quantised = frozenset(linears)
    return Source(shell, stored, {} if shell.adapter_folder is None else _adapters(path, shell), quantised)


def _adapters(path: str | Path, shell: Bundle) -> dict[str, AdaptedLinear]:
    """The adapters by linear, checked against the model without memory, which they are attached to."""
    folder = shell.adapter_folder
    assert folder is not None
    if not folder.is_dir():
        raise InputError(f"{path}: the run has no adapter/ yet; let it finish, or give one of its checkpoints/")
    load_adapter(folder, shell.model)
    state = read_adapter(folder)
    linears = dict(adapted(shell.model))
    for name, linear in linears.items():
        linear.lora_A = _frozen(state[f"{PEFT_ROOT}{name}.lora_A.weight"])
        linear.lora_B = _frozen(state[f"{PEFT_ROOT}{name}.lora_B.weight"])
        if linear.magnitude is not None:
            linear.magnitude = _frozen(state[f"{PEFT_ROOT}{name}.lora_magnitude_vector"])
    return linears


def _frozen(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value, requires_grad=False)
