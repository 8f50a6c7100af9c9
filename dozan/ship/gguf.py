"""Writes a GGUF straight from a base and its adapter: no merged copy on disk, no compiler, a tensor at a time.

Keys and names as llama.cpp's converter writes them for Gemma 3 (convert_hf_to_gguf.py, Gemma3Model). llama.cpp fixes
some of the architecture in code instead of reading it from the file (llama-model.cpp, LLM_ARCH_GEMMA3): every sixth
layer sees all, sliding layers rotate with base 10,000, the score scale follows from the shape. A model that differs
there is refused, because its file would load and answer wrongly.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
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
from dozan.ship.vocab import chat_template, read_vocabulary, special_ids

KINDS: dict[str, tuple[Type, gguf.LlamaFileType]] = {
    "f32": (Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}
"""The types we write, by the name a user gives."""

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
CHUNK_ELEMENTS = 1 << 24
"""Elements converted at once: 64 MiB of fp32."""
METADATA_BYTES = 64 << 20
"""Room kept for the metadata, of which the vocabulary is most."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the file."""

    name: str
    module: nn.Module
    kind: Type
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return prod(self.shape) // block * size


def write_gguf(bundle: Bundle, out: str | Path, kind: str) -> Path:
    """Write `bundle` (adapter merged in fp32, if it has one) as the GGUF file `out`; `kind` is one of KINDS.

    The file appears whole or not at all. Raises InputError when llama.cpp would not compute this model, a value does
    not fit the type, or the disk is too full.
    """
    path = Path(out)
    _refuse(bundle.config, kind)
    entries = list(_entries(bundle, KINDS[kind][0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_space(path, sum(entry.bytes for entry in entries) + METADATA_BYTES)
    with _written_whole(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "gemma3")
        try:
            _metadata(writer, bundle, kind)
            _tensors(writer, entries)
        finally:
            writer.close()
    return path


def _refuse(config: Gemma3Config, kind: str) -> None:
    """Raise InputError for every property that llama.cpp would not honour."""
    if kind not in KINDS:
        raise InputError(f"GGUF type {kind!r} is not one of {', '.join(KINDS)}")
    wrong = []
    fixed = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else config.head_dim
    if not isclose(config.query_pre_attn_scalar, fixed):
        wrong.append(f"query_pre_attn_scalar is {config.query_pre_attn_scalar:g}; llama.cpp computes with {fixed}")
    full = tuple((i + 1) % 6 == 0 for i in range(config.num_hidden_layers))
    if tuple(layer == FULL for layer in config.layer_types) != full:
        wrong.append("layer_types differ from llama.cpp's, where every sixth layer (5, 11, ...) has full attention")
    if config.rope_local_theta != 1e4:
        wrong.append(f"the sliding layers' rope theta is {config.rope_local_theta:g}; llama.cpp computes with 10000")
    widths = {config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim}
    block = gguf.GGML_QUANT_SIZES[KINDS[kind][0]][0]
    odd = [width for width in sorted(widths) if width % block]
    wrong += [f"a width of {width} is no multiple of {kind}'s block of {block}" for width in odd]
    if wrong:
        raise InputError(f"this model cannot be a {kind} GGUF: {'; '.join(wrong)}")


def _entries(bundle: Bundle, kind: Type) -> Iterator[Entry]:
    """Every tensor in the file's order; vectors stay fp32."""
    modules = [("token_embd.weight", "model.embed_tokens"), ("output_norm.weight", "model.norm")]
    for layer in range(bundle.config.num_hidden_layers):
        modules += [(f"blk.{layer}.{theirs}.weight", f"model.layers.{layer}.{ours}") for ours, theirs in LAYER.items()]
    for name, module_name in modules:
        module = bundle.model.get_submodule(module_name)
        shape = _shape(module)
        yield Entry(name, module, kind if len(shape) == 2 else Type.F32, shape)


def weights_in(bundle: Bundle) -> int:
    """Numbers in the exported model: adapters are merged away."""
    return sum(prod(entry.shape) for entry in _entries(bundle, Type.F32))


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


def _tensors(writer: gguf.GGUFWriter, entries: list[Entry]) -> None:
    """Announce every tensor, then convert and write one after the other."""
    for entry in entries:
        block, size = gguf.GGML_QUANT_SIZES[entry.kind]
        stored = (*entry.shape[:-1], entry.shape[-1] // block * size)
        writer.add_tensor_info(entry.name, stored, np.dtype(np.uint8), entry.bytes, raw_dtype=entry.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    wrong: list[str] = []
    for entry in entries:
        weight = gguf_weight(entry.module)
        wrong += _misfits(entry, weight)
        if not wrong:
            writer.write_tensor_data(convert(weight, entry.kind))
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
    if entry.kind is Type.F16 and largest > LARGEST_F16:
        return [f"{entry.name} reaches {largest:g}, above f16's {LARGEST_F16:g}; use bf16 or q8_0"]
    return []


@torch.no_grad()
def convert(weight: Tensor, kind: Type) -> np.ndarray:
    """`weight` in the file's bytes (uint8, rows as in `weight`), through fp32, a chunk of rows at a time."""
    rows = weight.reshape(-1, weight.shape[-1])
    block, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.empty((rows.shape[0], rows.shape[1] // block * size), np.uint8)
    step = max(1, CHUNK_ELEMENTS // rows.shape[1])
    for at in range(0, rows.shape[0], step):
        values = rows[at : at + step].float().cpu().contiguous().numpy()
        out[at : at + step] = gguf.quants.quantize(values, kind).view(np.uint8)
    return out


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise InputError(f"{path}: the file needs {needed:,} bytes and the disk has {free:,} free; give another folder")


@contextmanager
def _written_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, synced and renamed to it at the end, removed on an error."""
    temporary = path.with_name(path.name + ".partial")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
