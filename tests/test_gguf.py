"""GGUF files against our own logits through llama.cpp, against llama.cpp's own quantiser, and what is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from ship_models import TEMPLATE, VOCAB, make_folder

from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_model
from dozan.model.gemma3 import FULL, SLIDING
from dozan.ship import llamacpp
from dozan.ship.gguf import write_gguf
from dozan.ship.parity import certify, probe_rows
from dozan.ship.quants import KINDS

ROPE_8 = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "num_hidden_layers": 13}
SHAPES: dict[str, dict[str, Any]] = {
    "rope factor 8, two full layers": ROPE_8,
    "vision folder": {"architectures": ["Gemma3ForConditionalGeneration"], **ROPE_8},
    "ids beyond the embedding": {"extra": 2},
    "rows without a token": {"vocab_size": VOCAB + 64},
    "no tokenizer.model": {"sentencepiece": False},
    "wide heads": {"hidden_size": 128, "num_attention_heads": 2, "head_dim": 256, "query_pre_attn_scalar": 256},
    "27B's scale": {"num_hidden_layers": 62, "query_pre_attn_scalar": 16},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_model(make_folder(tmp_path_factory.mktemp("models") / "plain"))


@pytest.fixture(scope="module")
def f32(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(bundle, tmp_path_factory.mktemp("gguf") / "plain-f32.gguf", "f32")


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_computes_what_the_model_computes(bundle: Bundle, kind: str, tmp_path: Path) -> None:
    certificate = certify(bundle, write_gguf(bundle, tmp_path / f"{kind}.gguf", kind), kind)
    assert certificate.lines_equal == certificate.lines
    assert certificate.difference.positions > 200
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".gguf"] == [f"{kind}.gguf"]


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_in_f32(name: str, tmp_path: Path) -> None:
    shaped = open_model(make_folder(tmp_path / "model", **SHAPES[name]))
    certificate = certify(shaped, write_gguf(shaped, tmp_path / "model.gguf", "f32"), "f32")
    assert certificate.gate.difference == pytest.approx(5e-3 * max(1, shaped.config.num_hidden_layers / 18))


def test_an_independent_llama_cpp_chooses_the_same_tokens(bundle: Bundle, f32: Path) -> None:
    cyllama = pytest.importorskip("cyllama.llama.llama_cpp")
    cyllama.disable_logging()
    ids = probe_rows(bundle)[-1]
    params = cyllama.LlamaContextParams()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 256, 256
    context = cyllama.LlamaContext(cyllama.LlamaModel(str(f32), cyllama.LlamaModelParams()), params)
    batch = cyllama.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1)
    for i, token in enumerate(ids):
        batch.add(token, i, [0], True)
    context.decode(batch)
    sampler = cyllama.LlamaSampler(cyllama.LlamaSamplerChainParams())
    sampler.add_greedy()
    chosen = [sampler.sample(context, i) for i in range(len(ids))]
    logits = llamacpp.logits(f32, ids)
    below = logits.max(-1) - logits[np.arange(len(ids)), chosen]
    assert below.max() < 0.03, "f16 keys and values there, f32 here"
    assert (below == 0).mean() > 0.95


def test_q8_0_is_bit_identical_to_llama_cpps_quantiser(bundle: Bundle, f32: Path, tmp_path: Path) -> None:
    cyllama = pytest.importorskip("cyllama.llama.llama_cpp")
    params = cyllama.LlamaModelQuantizeParams()
    params.ftype, params.nthread, params.pure = 7, 1, True
    cyllama.model_quantize(str(f32), str(tmp_path / "theirs.gguf"), params)
    theirs = {t.name: t for t in GGUFReader(tmp_path / "theirs.gguf").tensors}
    ours = GGUFReader(write_gguf(bundle, tmp_path / "ours.gguf", "q8_0")).tensors
    assert {t.name for t in ours} == theirs.keys()
    for tensor in ours:
        assert tensor.tensor_type == theirs[tensor.name].tensor_type, tensor.name
        assert np.array_equal(tensor.data, theirs[tensor.name].data), tensor.name


def test_metadata_is_what_llama_cpps_converter_writes(bundle: Bundle, f32: Path) -> None:
    fields = {name: field.contents() for name, field in GGUFReader(f32).fields.items()}
    shape = {
        "general.architecture": "gemma3", "gemma3.context_length": 2048, "gemma3.embedding_length": 64,
        "gemma3.block_count": 7, "gemma3.feed_forward_length": 96, "gemma3.attention.head_count": 4,
        "gemma3.attention.head_count_kv": 1, "gemma3.attention.key_length": 32, "gemma3.attention.value_length": 32,
        "gemma3.rope.freq_base": 1e6, "gemma3.attention.sliding_window": 16, "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.eot_token_id": 106, "tokenizer.ggml.eom_token_id": 50,
        "tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": False,
        "tokenizer.ggml.add_space_prefix": False, "tokenizer.chat_template": TEMPLATE,
    }  # fmt: skip
    assert {name: fields[name] for name in shape} == shape
    assert fields["gemma3.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    types = fields["tokenizer.ggml.token_type"]
    assert [types[i] for i in (0, 1, 2, 46, 52, 105, 106)] == [TokenType.CONTROL] * 7
    assert types[3] == TokenType.UNKNOWN
    assert TokenType.BYTE in types and TokenType.NORMAL in types and TokenType.USER_DEFINED in types
    assert not [name for name in fields if "rope.scaling" in name]


def test_generation_ends_at_all_three_stop_ids_and_not_after_a_call(f32: Path) -> None:
    assert llamacpp.inspect(f32, ids=[1, 106, 50, 49, 48, 300]).ends == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query_pre_attn_scalar": 64.0}, "computes with 32"),
        ({"num_hidden_layers": 62}, "computes with 16"),
        ({"layer_types": (SLIDING, FULL) * 3 + (SLIDING,)}, "every sixth layer"),
        ({"rope_local_theta": 5e4}, "computes with 10000"),
    ],
)
def test_refuses_what_llama_cpp_would_compute_wrongly(
    bundle: Bundle, change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    other = dataclasses.replace(bundle, config=dataclasses.replace(bundle.config, **change))
    with pytest.raises(InputError, match=words):
        write_gguf(other, tmp_path / "no.gguf", "q8_0")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "kind", "words"), [(70000.0, "f16", "above f16"), (float("nan"), "q8_0", "holds nan")]
)
def test_refuses_values_that_do_not_fit_and_leaves_nothing(
    value: float, kind: str, words: str, bundle: Bundle, tmp_path: Path
) -> None:
    weight = bundle.model.get_submodule("model.layers.3.mlp.up_proj").weight
    assert isinstance(weight, torch.Tensor)
    before = weight[0, 0].item()
    with torch.no_grad():
        weight[0, 0] = value
        try:
            with pytest.raises(InputError, match=f"blk.3.ffn_up.weight .*{words}"):
                write_gguf(bundle, tmp_path / "no.gguf", kind)
        finally:
            weight[0, 0] = before
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_before_writing(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 1234))
    with pytest.raises(InputError, match=r"needs [\d,]+ bytes and the disk has 1,234 free"):
        write_gguf(bundle, tmp_path / "no.gguf", "f32")
    assert not list(tmp_path.iterdir())


def test_an_unknown_type_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nf4' is not one of f32, f16, bf16, q8_0, q6_k"):
        write_gguf(bundle, tmp_path / "no.gguf", "nf4")
