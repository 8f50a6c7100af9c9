"""Small random Gemma 3 folders with a trained SentencePiece tokenizer, for the tests of dozan.ship."""

from __future__ import annotations

import io
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dozan.model.adapter import adapted, attach
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.weights import load_model, save_adapter
from dozan.recipe import AdapterRecipe

os.environ.setdefault("OMP_NUM_THREADS", "1")  # llama.cpp's threads spin: on a busy machine two are slower than one

GOLDEN = Path(__file__).parent / "golden"
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>"]
NAMED = {
    46: "<start_function_declaration>", 47: "<end_function_declaration>", 48: "<start_function_call>",
    49: "<end_function_call>", 50: "<start_function_response>", 51: "<end_function_response>", 52: "<escape>",
    105: "<start_of_turn>", 106: "<end_of_turn>",
}  # fmt: skip
VOCAB = 2048
TEMPLATE = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>{% endfor %}"

SHAPE: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "vocab_size": VOCAB, "hidden_size": 64,
    "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 96,
    "sliding_window": 16, "query_pre_attn_scalar": 32, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0, "max_position_embeddings": 2048, "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True, "attention_bias": False, "torch_dtype": "float32",
}  # fmt: skip


def arabic_lines() -> list[str]:
    """The 1,000 sentences of golden/arabic_lines.txt."""
    lines = (GOLDEN / "arabic_lines.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in lines if not line.startswith("#")]


@lru_cache
def sentencepiece_model() -> bytes:
    """A tokenizer.model laid out as Gemma's: control ids, <unusedN>, byte fallback, no prefix space."""
    import sentencepiece

    named = [NAMED.get(i, f"<unused{i}>") for i in range(4, 107)] + ["\n", "\n\n", "\u2581\u2581"]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(arabic_lines()), model_writer=out, vocab_size=VOCAB, model_type="bpe",
        byte_fallback=True, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=named,
        normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, split_digits=True, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return out.getvalue()


@lru_cache
def tokenizer_json(extra: int = 0) -> str:
    """The same tokenizer in Hugging Face's form; `extra` more control tokens beyond the vocabulary."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    vocab = {model.IdToPiece(i): i for i in range(model.GetPieceSize())}
    ranked = sorted((i for i in vocab.values() if i > 106 and not model.IsByte(i)), key=lambda i: -model.GetScore(i))
    merges = [
        [piece[:k], piece[k:]]
        for piece in map(model.IdToPiece, ranked)
        for k in range(1, len(piece))
        if piece[:k] in vocab and piece[k:] in vocab
    ]
    added = [(i, model.IdToPiece(i)) for i in range(110)] + [(VOCAB + i, f"<unused{900 + i}>") for i in range(extra)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "added_tokens": [{"id": i, "content": piece, "special": i < 4 or i in (50, 105, 106), **flags}
                         for i, piece in added],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }, ensure_ascii=False)  # fmt: skip


def random_model(config: Gemma3Config, seed: int = 0) -> Gemma3:
    """fp32 weights whose logits spread over a normal range and whose norms are not 1."""
    torch.manual_seed(seed)
    model = Gemma3(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            norm = parameter.ndim == 1
            deviation = 0.2 if norm else 1.0 / parameter.shape[-1] ** 0.5
            parameter.normal_(0.0, deviation)
            if name == "model.embed_tokens.weight":
                parameter.mul_(2.0)
    return model.eval()


def make_folder(out: Path, seed: int = 0, sentencepiece: bool = True, extra: int = 0, **changes: Any) -> Path:
    """A checkpoint folder of SHAPE with `changes`; text_config and prefixed names when the architecture asks for it."""
    out.mkdir(parents=True, exist_ok=True)
    shape = {**SHAPE, **changes}
    multimodal = shape["architectures"] == ["Gemma3ForConditionalGeneration"]
    text = {key: value for key, value in shape.items() if key != "architectures"}
    outer = {"architectures": shape["architectures"], "model_type": "gemma3", "text_config": text}
    config = outer if multimodal else shape
    (out / "config.json").write_text(json.dumps(config))
    weights = random_model(Gemma3Config.from_json(config), seed).state_dict()
    if multimodal:
        weights = {name.replace("model.", "language_model.model.", 1): value for name, value in weights.items()}
        weights["vision_tower.vision_model.post_layernorm.weight"] = torch.ones(8)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    (out / "tokenizer.json").write_text(tokenizer_json(extra), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"}))
    (out / "chat_template.jinja").write_text(TEMPLATE)
    if sentencepiece:
        (out / "tokenizer.model").write_bytes(sentencepiece_model())
    return out


def make_run(out: Path, base: Path, seed: int = 1, **recipe: Any) -> Path:
    """A finished run's folder: run.json and a trained-looking adapter over `base`."""
    settings = AdapterRecipe(rank=4, alpha=8.0, **recipe)
    model = load_model(base)
    attach(model, settings, seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for _, linear in adapted(model):
            linear.lora_B.normal_(0.0, 0.1)
            if linear.magnitude is not None:
                linear.magnitude.mul_(1 + 0.2 * torch.randn_like(linear.magnitude))
    out.mkdir(parents=True)
    save_adapter(out / "adapter", model, settings, str(base))
    (out / "run.json").write_text(json.dumps({"base": str(base)}))
    return out
