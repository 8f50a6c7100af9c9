"""A model to ship whose weights are never in memory together: read from base and adapter, merged, and let go.

At 12B's shape that is a few gigabytes where the model in fp32 takes 48. What a certificate compares with, the adapter
beside its base, and the inputs that an importance matrix is made of are computed from it layer by layer.
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
from dozan.model.files import read_json
from dozan.model.nf4_format import StoredNF4
from dozan.model.peft_format import load_adapter, read_adapter
from dozan.model.stored import DTYPES, Stored
from dozan.model.weights import checked_inventory, linear_shapes, read_nf4, require_blocks
from dozan.ship.streamed import Watch, streamed_hidden, streamed_logits
from dozan.train.run import hash_base

PACK_TOKENS = 8192
"""Tokens that go through the layers together: at 12B's shape their activations take 2 GB."""
PIECE_ELEMENTS = 1 << 26
"""Numbers of the embedding read at a time: 256 MiB of fp32."""
CODES_BYTES = 1 << 30
"""Memory for weights that were quantised once: all of 1B."""
_EMBEDDING = "model.embed_tokens"


@dataclass(frozen=True)
class Source:
    """`bundle` has the shape, tokenizer and chat format, and a model without memory; `stored` the base's tensors by
    text-only name, `adapters` the adapters by linear, `quantised` the linears that the run quantised as it read them,
    `base_sha256` what `train.run.hash_base` says of the base, "" without an adapter.
    """

    bundle: Bundle
    stored: Mapping[str, Stored | StoredNF4]
    adapters: Mapping[str, AdaptedLinear]
    quantised: frozenset[str]
    base_sha256: str = ""
    _codes: dict[str, NF4] = field(default_factory=dict)

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """A tensor of the merged model in fp32 by its text-only name (`model.layers.0.self_attn.q_proj.weight`)."""
        linear, base = name.removesuffix(".weight"), self.base_weight(name)
        return merged_onto(base, self.adapters[linear]) if linear in self.adapters else base

    @torch.no_grad()
    def base_weight(self, name: str) -> Tensor:
        """A tensor of the base in fp32, as the adapter was trained beside it."""
        stored = self.stored[name]
        if name.removesuffix(".weight") in self.quantised:
            return dequantise(self._quantised(name), torch.float32)
        if isinstance(stored, StoredNF4):
            return dequantise(stored.read("cpu"), torch.float32)
        return stored.read(torch.float32)

    def dtype(self, name: str) -> torch.dtype:
        """What a tensor is written in: what it is stored in, or was before it was quantised."""
        return DTYPES[self.stored[name].dtype]

    def _quantised(self, name: str) -> NF4:
        """Quantised once as far as there is room for the codes, which take an eighth of fp32."""
        if name in self._codes:
            return self._codes[name]
        made = read_nf4(self.stored[name])
        if sum(each.codes.nbytes for each in self._codes.values()) + made.codes.nbytes <= CODES_BYTES:
            self._codes[name] = made
        return made

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
        """fp32 [min(T, tail), V] of each row's last positions, of the merged model."""
        for pack in packs(rows):
            yield from streamed_logits(self.bundle.config, self.weight, self.embedding, pack, tail)

    def trained_logits(self, rows: Sequence[Sequence[int]], tail: int) -> Iterator[np.ndarray]:
        """The same of the model as it was trained: the adapter beside its base, nothing merged."""
        for pack in packs(rows):
            yield from streamed_logits(
                self.bundle.config, self.base_weight, self.embedding, pack, tail, self.adapters
            )

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
    """A run, an adapter, a checkpoint folder or a hub id. Raises InputError as `open_model` does, and for a base that
    is not the one that the adapter was trained on."""
    shell, quantise = open_shell(path)
    stored = checked_inventory(shell.base_folder, shell.config)
    check_rows(shell.base_folder, shell.tokenizer, shell.chat, shell.config.vocab_size)
    linears = linear_shapes(shell.model)
    quantised: frozenset[str] = frozenset()
    if quantise == "nf4" and not any(isinstance(tensor, StoredNF4) for tensor in stored.values()):
        require_blocks(shell.base_folder, linears)
        quantised = frozenset(linears)
    if shell.adapter_folder is None:
        return Source(shell, stored, {}, quantised)
    adapters = _adapters(path, shell)
    return Source(shell, stored, adapters, quantised, _same_base(shell))


def _same_base(shell: Bundle) -> str:
    """The base's hash, which must be what the run's record says if there is one."""
    assert shell.adapter_folder is not None
    folders = (shell.adapter_folder.parent, shell.adapter_folder.parent.parent)
    records = [folder / "run.json" for folder in folders if (folder / "run.json").is_file()]
    expected, found = None, hash_base(shell.base_folder)
    if records:
        expected = read_json(records[0]).get("base_sha256")
    if expected not in (None, found):
        raise InputError(f"{shell.base_folder}: not the base that {records[0].parent} was trained on: its SHA-256 is "
                         f"{found[:12]}…, run.json says {str(expected)[:12]}…; put that base there again")  # fmt: skip
    return found


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
