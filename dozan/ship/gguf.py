"""Writes a GGUF straight from a base and its adapter: no merged copy on disk, no compiler, a tensor at a time.

Which type each tensor gets, and the quantisers, are in quants.py.

Keys and names as llama.cpp's converter writes them for Gemma 3 (convert_hf_to_gguf.py, Gemma3Model). llama.cpp fixes
some of the architecture in code instead of reading it from the file (llama-model.cpp, LLM_ARCH_GEMMA3): every sixth
layer sees all, sliding layers rotate with base 10,000, the score scale follows from the shape. A model that differs
there is refused, because its file would load and answer wrongly.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose, prod
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor, nn

from dozan.chat.arranged import arrangement_of
from dozan.errors import InputError
from dozan.kernels.nf4 import dequantise
from dozan.model.adapter import AdaptedLinear, merged_weight, shape_of
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import FULL, Gemma3Config
from dozan.model.quantised import QuantisedLinear
from dozan.ship.imatrix import Importance
from dozan.ship.quants import (
    EMBEDDING,
    FLOATS,
    KINDS,
    Choice,
    Mix,
    TypeRow,
    choose,
    quantise,
    row_bytes,
    type_table,
)
from dozan.ship.vocab import chat_template, read_vocabulary, special_ids

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "post_feedforward_layernorm": "post_ffw_norm",
}
"""Module of a layer -> llama.cpp's name for its weight."""

LARGEST_F16 = 65504.0
ARRANGEMENT_KEY = "dozan."
"""Before the name of each option of `chat.arranged.Arrangement`: keys of ours, which llama.cpp passes over."""
METADATA_BYTES = 64 << 20
"""Room kept for the metadata, of which the vocabulary is most."""


Pieces = Callable[[str], Iterator[Tensor]]
"""Text-only name of a module -> its weight as `gguf_weight` gives it, rows in order, some at a time."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the file: its name there, its module's, its part in a layer, its type and shape."""

    name: str
    module: str
    role: str
    choice: Choice
    shape: tuple[int, ...]

    @property
    def stored(self) -> tuple[int, ...]:
        """Its shape in bytes."""
        return (*self.shape[:-1], row_bytes(self.choice.kind, self.shape[-1]))

    @property
    def bytes(self) -> int:
        return prod(self.stored)


def write_gguf(
    bundle: Bundle, out: str | Path, kind: str, importance: Importance | None = None, embedding: Type | None = None,
    pieces: Pieces | None = None,
) -> Path:  # fmt: skip
    """Write `bundle` (adapter merged in fp32, if it has one) as the GGUF file `out`; `kind` is one of KINDS.

    importance: weighs the columns as they are quantised. embedding: the type of the embedding, which is the head too.
    pieces: where the weights come from when `bundle` holds none (`open_shell`). The file appears whole or not at all.
    Raises InputError when llama.cpp would not compute this model, a value does not fit the type, or the disk is too
    full.
    """
    path = Path(out)
    entries = plan_entries(bundle, kind, importance is not None, embedding)
    check_space(path.parent, file_bytes(entries))
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "gemma3")
        try:
            _metadata(writer, bundle, kind)
            if importance is not None:
                _importance_metadata(writer, importance)
            _tensors(writer, entries, pieces or held_by(bundle), importance)
        finally:
            writer.close()
    return path


def plan_entries(bundle: Bundle, kind: str, importance: bool = False, embedding: Type | None = None) -> list[Entry]:
    """Every tensor of the file in its order, vectors in fp32. Raises InputError for every property of the model that
    llama.cpp or the type would not honour."""
    if kind not in KINDS:
        raise InputError(f"GGUF type {kind!r} is not one of {', '.join(KINDS)}")
    config = bundle.config
    shared = config.num_attention_heads // config.num_key_value_heads
    mix = Mix(kind, config.num_hidden_layers, shared, importance, embedding)
    entries, wrong = [], _refused(config)
    # Shapes are those of the model's own layers, which a configuration that is refused need not have.
    for name, module, role, layer in () if wrong else _names(config.num_hidden_layers):
        shape = _shape(bundle.model.get_submodule(module))
        choice = Choice(Type.F32, Type.F32)
        try:
            choice = choose(mix, role, layer, shape[-1]) if len(shape) == 2 else choice
        except InputError as error:
            wrong.append(str(error))
        entries.append(Entry(name, module, role, choice, shape))
    if wrong:
        raise InputError(f"this model cannot be a {kind} GGUF: {'; '.join(dict.fromkeys(wrong))}")
    return entries


def file_bytes(entries: Iterable[Entry]) -> int:
    """At most what the file takes."""
    return sum(entry.bytes for entry in entries) + METADATA_BYTES


def types_of(entries: Iterable[Entry]) -> list[TypeRow]:
    """The table of types in the file: roles with their real bits a weight, vectors left out."""
    return type_table((entry.role, entry.choice, entry.shape) for entry in entries if len(entry.shape) == 2)


def _refused(config: Gemma3Config) -> list[str]:
    """Every property that llama.cpp would not honour."""
    wrong = []
    fixed = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else config.head_dim
    if not isclose(config.query_pre_attn_scalar, fixed):
        wrong.append(f"query_pre_attn_scalar is {config.query_pre_attn_scalar:g}; llama.cpp computes with {fixed}")
    full = tuple((i + 1) % 6 == 0 for i in range(config.num_hidden_layers))
    if tuple(layer == FULL for layer in config.layer_types) != full:
        wrong.append("layer_types differ from llama.cpp's, where every sixth layer (5, 11, ...) has full attention")
    if config.rope_local_theta != 1e4:
        wrong.append(f"the sliding layers' rope theta is {config.rope_local_theta:g}; llama.cpp computes with 10000")
    return wrong


def tensor_names(config: Gemma3Config) -> list[tuple[str, str]]:
    """(name in the file, module) of every tensor, in the file's order."""
    return [(name, module) for name, module, _, _ in _names(config.num_hidden_layers)]


def _names(layers: int) -> Iterator[tuple[str, str, str, int]]:
    """(name in the file, module, role, layer) of every tensor, in the file's order."""
    yield f"{EMBEDDING}.weight", "model.embed_tokens", EMBEDDING, 0
    yield "output_norm.weight", "model.norm", "output_norm", 0
    for layer in range(layers):
        for ours, theirs in LAYER.items():
            yield f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}", theirs, layer


def weights_in(bundle: Bundle) -> int:
    """Numbers in the exported model: adapters are merged away."""
    modules = (module for _, module, _, _ in _names(bundle.config.num_hidden_layers))
    return sum(prod(_shape(bundle.model.get_submodule(module))) for module in modules)


def _shape(module: nn.Module) -> tuple[int, ...]:
    if isinstance(module, AdaptedLinear | QuantisedLinear):
        return shape_of(module)
    return tuple(_base_weight(module).shape)


def _base_weight(module: nn.Module) -> Tensor:
    if isinstance(module, QuantisedLinear):
        return dequantise(module.nf4, torch.float32)
    assert isinstance(module.weight, Tensor)
    return module.weight


def _metadata(writer: gguf.GGUFWriter, bundle: Bundle, kind: str) -> None:
    config = bundle.config
    writer.add_type("model")
    writer.add_name(bundle.base_folder.name)
    writer.add_file_type(KINDS[kind][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_sliding_window(config.sliding_window)
    if config.rope_factor != 1.0:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_factor)
    _tokenizer(writer, bundle)
    for option, value in arrangement_of(bundle.chat).values().items():
        writer.add_string(ARRANGEMENT_KEY + option, value)


def _tokenizer(writer: gguf.GGUFWriter, bundle: Bundle) -> None:
    vocabulary = read_vocabulary(bundle.tokenizer, bundle.config.vocab_size)
    ids = special_ids(bundle.tokenizer, bundle.chat.stop_tokens)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in vocabulary.pieces])
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_bos_token_id(ids.begin)
    writer.add_eos_token_id(ids.end)
    writer.add_unk_token_id(ids.unknown)
    writer.add_pad_token_id(ids.pad)
    writer.add_eot_token_id(ids.end_of_turn)
    if ids.end_of_message is not None:
        writer.add_eom_token_id(ids.end_of_message)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    template = chat_template(bundle.tokenizer)
    if template:
        writer.add_chat_template(template)


def _importance_metadata(writer: gguf.GGUFWriter, importance: Importance) -> None:
    """The keys that llama-quantize writes."""
    writer.add_string("quantize.imatrix.dataset", importance.source)
    writer.add_uint32("quantize.imatrix.entries_count", len(importance.columns))
    writer.add_uint32("quantize.imatrix.chunks_count", importance.rows)


def held_by(bundle: Bundle) -> Pieces:
    """The weights of a bundle that holds them."""

    def pieces(module: str) -> Iterator[Tensor]:
        yield gguf_weight(bundle.model.get_submodule(module))

    return pieces


def _tensors(writer: gguf.GGUFWriter, entries: list[Entry], pieces: Pieces, importance: Importance | None) -> None:
    """Announce every tensor, then convert and write one after the other."""
    for entry in entries:
        writer.add_tensor_info(entry.name, entry.stored, np.dtype(np.uint8), entry.bytes, raw_dtype=entry.choice.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    wrong: list[str] = []
    for entry in entries:
        columns = importance.columns.get(entry.module) if importance is not None else None
        out, at = np.empty((prod(entry.shape[:-1]), entry.stored[-1]), np.uint8), 0
        for piece in pieces(entry.module):
            rows = piece.reshape(-1, entry.shape[-1])
            wrong += _misfits(entry, rows)
            if not wrong:
                out[at : at + len(rows)] = convert(rows, entry.choice.kind, columns)
            at += len(rows)
        assert at == len(out), (entry.name, at)
        if not wrong:
            writer.write_tensor_data(out)
    if wrong:
        raise InputError("values that the file cannot hold: " + "; ".join(wrong))


@torch.no_grad()
def gguf_weight(module: nn.Module) -> Tensor:
    """A module's weight as llama.cpp wants it: merged with its adapter (fp32), norms with the 1 added (fp32)."""
    if isinstance(module, AdaptedLinear):
        return merged_weight(module)
    weight = _base_weight(module)
    return weight if weight.ndim == 2 else weight.float() + 1.0


def _misfits(entry: Entry, weight: Tensor) -> list[str]:
    largest = float(weight.detach().abs().max())
    if not np.isfinite(largest):
        return [f"{entry.name} holds {largest}"]
    if entry.choice.kind is Type.F16 and largest > LARGEST_F16:
        return [f"{entry.name} reaches {largest:g}, above f16's {LARGEST_F16:g}; use bf16 or q8_0"]
    return []


@torch.no_grad()
def convert(rows: Tensor, kind: Type, importance: np.ndarray | None = None) -> np.ndarray:
    """Rows [O, I] in the file's bytes: uint8 [O, bytes of a row]. importance: fp32 [I], for quantised types."""
    if kind in FLOATS:
        return rows.to(FLOATS[kind]).cpu().contiguous().view(torch.uint8).numpy()
    return quantise(rows.float().cpu().contiguous().numpy(), kind, importance)


def check_space(folder: Path, needed: int) -> None:
    """Raise InputError when the disk of a folder, which need not be there yet, has less room than `needed` bytes."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise InputError(f"{folder}: needs {needed:,} bytes and the disk has {free:,} free; free some, or give a "
                         "folder on another disk")  # fmt: skip


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """For a file that appears whole or not at all: a temporary name beside `path`, synced and renamed to it at the
    end, removed on an error."""
    temporary = path.with_name(path.name + ".partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
