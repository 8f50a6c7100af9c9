"""Gemma 3, text only: the architecture of all sizes in one file, with the checkpoint's own parameter names.

Tokens are flat: a forward pass takes [T] ids with their positions and a callable `attend` that alone knows who sees
whom (a pack of tries in training, a cache in generation). Everything is in the weights' dtype; only with float16
weights the residual stream and its gradient are fp32, because Gemma 3's passes 65,504. Shapes: T tokens, D model,
H query heads, K key/value heads, E head size, F feed-forward, V vocabulary. Checked against transformers'
Gemma3ForCausalLM (tests/test_gemma3.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels.embedding import Rows
from dozan.kernels.norm import rms_norm, rms_norm_branch, rotated_norm
from dozan.model.adapter import gated, project
from dozan.model.recompute import NOTHING, Keep, Recompute

FULL, SLIDING = "full_attention", "sliding_attention"


class Attend(Protocol):
    """Attention of one layer over flat tokens: q [T, H, E], k and v [T, K, E] after norm and rope -> [T, H, E]."""

    def __call__(self, layer: int, sliding: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Gemma3Config:
    """The shape of a Gemma 3 text model; names as in the checkpoint's config.json where it has them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    sliding_window: int
    query_pre_attn_scalar: float
    layer_types: tuple[str, ...]
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    rope_local_theta: float = 1e4
    rope_factor: float = 1.0
    max_position_embeddings: int = 32768
    vision: bool = False
    """The checkpoint also holds a vision tower (`Gemma3ForConditionalGeneration`)."""

    @property
    def scale(self) -> float:
        """Factor on the attention scores."""
        return float(self.query_pre_attn_scalar) ** -0.5

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> Gemma3Config:
        """Read a config.json's text part, in the old spelling (`rope_theta`, `rope_local_base_freq`, `rope_scaling`,
        `sliding_window_pattern`) or the new one (`rope_parameters`, `layer_types`). Raises InputError on what we cannot
        compute."""
        text = {**_DEFAULTS, **config.get("text_config", config)}
        layers = text["num_hidden_layers"]
        if text.get("attn_logit_softcapping") or text.get("final_logit_softcapping"):
            raise InputError(
                "config.json: softcapping is set, which Gemma 3 does not use: this is not a Gemma 3 checkpoint"
            )
        if text.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
            raise InputError(
                f"config.json: hidden_activation is {text['hidden_activation']!r}; Gemma 3 uses 'gelu_pytorch_tanh'"
            )
        pattern = text.get("sliding_window_pattern") or text.get("_sliding_window_pattern") or 6
        kinds = text.get("layer_types") or [FULL if (i + 1) % pattern == 0 else SLIDING for i in range(layers)]
        if len(kinds) != layers or set(kinds) - {FULL, SLIDING}:
            raise InputError(
                f"config.json: layer_types must name {layers} layers, each {FULL!r} or {SLIDING!r}; found {kinds}"
            )
        theta, local, factor = _rope(text)
        names = Gemma3Config.__dataclass_fields__
        plain = {k: text[k] for k in names if k in text and k not in ("layer_types", "rope_theta")}
        return Gemma3Config(
            **plain, layer_types=tuple(kinds), rope_theta=theta, rope_local_theta=local, rope_factor=factor
        )


_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262208, "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "sliding_window": 4096,
    "query_pre_attn_scalar": 256,
}  # fmt: skip
"""What transformers' Gemma3TextConfig assumes for a key that a config.json leaves out (the hub's 4B file does)."""


def _rope(text: Mapping[str, Any]) -> tuple[float, float, float]:
    """(theta of full layers, theta of sliding layers, linear factor of full layers)."""
    new = text.get("rope_parameters")
    if new and FULL in new:
        scaling, theta = new[FULL], new[FULL].get("rope_theta", 1e6)
        local = new.get(SLIDING, {}).get("rope_theta", 1e4)
    else:
        scaling = new or text.get("rope_scaling") or {}
        theta = text.get("rope_theta") or scaling.get("rope_theta", 1e6)
        local = text.get("rope_local_base_freq") or 1e4
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind not in ("default", "linear"):
        raise InputError(f"config.json: rope type {kind!r} is not one that Gemma 3 uses ('default' or 'linear')")
    return float(theta), float(local), float(scaling.get("factor", 1.0)) if kind == "linear" else 1.0


class RMSNorm(nn.Module):
    """x / rms(x) · (1 + weight), in fp32 over the last dimension; [residual +] it, in the residual's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return rms_norm(x, self.weight, self.eps, residual)

    def branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The norm of x, and x for the residual."""
        return rms_norm_branch(x, self.weight, self.eps)


def rope_table(position: Tensor, theta: float, factor: float, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine [T, 1, E] of the rotary angles position / factor · theta^(-2i/E), computed in fp32."""
    powers = torch.arange(0, size, 2, dtype=torch.float32, device=position.device) / size
    angle = position.float()[:, None] * (1.0 / (theta**powers * factor))
    angle = torch.cat((angle, angle), dim=-1)[:, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)


class Attention(nn.Module):
    def __init__(self, config: Gemma3Config) -> None:
        super().__init__()
        width, heads, shared = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, shared * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, shared * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, H, E], keys and values [T, K, E], in the table's dtype: x is wider in a layer that computes in
        float32 amid float16 (`train.islands`)."""
        narrow, table = rope[0].dtype, (rope[0].to(x.dtype), rope[1].to(x.dtype))
        projected = project(x, (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)) for y in projected)
        q, k = (rotated_norm(y, n.weight, n.eps, table) for y, n in ((q, self.q_norm), (k, self.k_norm)))
        return q.to(narrow), k.to(narrow), v.to(narrow)


class FeedForward(nn.Module):
    def __init__(self, config: Gemma3Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(gated(x, self.gate_proj, self.up_proj))
        return out


class Layer(nn.Module):
    is_sharded = False
    """Whether its trained weights lie over several ranks (`train.sharded`)."""

    def __init__(self, config: Gemma3Config, index: int) -> None:
        super().__init__()
        self.index, self.sliding = index, config.layer_types[index] == SLIDING
        self.self_attn, self.mlp = Attention(config), FeedForward(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        normed, x = self.input_layernorm.branch(x)
        attended = attend(self.index, self.sliding, *self.self_attn(normed, rope))
        normed, x = self.pre_feedforward_layernorm.branch(
            self.post_attention_layernorm(self.self_attn.o_proj(attended.flatten(-2).to(normed.dtype)), x)
        )
        out: Tensor = self.post_feedforward_layernorm(self.mlp(normed), x)
        return out

    def recomputed(self, x: Tensor, rope: tuple[Tensor, Tensor], attend: Attend, keep: Keep) -> Tensor:
        """The same, but only the input is kept; a sharded layer has its weights at hand within it."""
        return keep(self.forward, [p for p in self.parameters() if p.requires_grad], x, rope, attend)


class Backbone(nn.Module):
    def __init__(self, config: Gemma3Config) -> None:
        super().__init__()
        self.embed_tokens: Any = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Gemma3(nn.Module):
    """The causal language model; its head is the embedding."""

    computes_in: torch.dtype | None = None
    """Where its weights are held in another dtype than they are gathered in (`train.sharded`)."""

    def __init__(self, config: Gemma3Config) -> None:
        super().__init__()
        self.config, self.model = config, Backbone(config)

    @property
    def embedding(self) -> Tensor | Rows:
        """[V, D], also the head."""
        words = self.model.embed_tokens
        return words.weight if isinstance(words, nn.Embedding) else words.held

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What its linears compute in."""
        return self.computes_in or self.model.norm.weight.dtype

    def forward(self, ids: Tensor, position: Tensor, attend: Attend, recompute: Recompute = NOTHING) -> Tensor:
        """Hidden states [T, D] after the final norm, in the weights' dtype.

        ids, position: int64 [T]. recompute: the layers whose activations are computed again in the backward pass
        instead of being kept.
        """
        config, dtype = self.config, self.dtype
        # The checkpoint was trained with the factor rounded to the weights' dtype.
        factor = torch.tensor(config.hidden_size**0.5, dtype=dtype)
        x = self.model.embed_tokens(ids)
        x = (x.float() if dtype == torch.float16 else x) * factor
        full = rope_table(position, config.rope_theta, config.rope_factor, config.head_dim, dtype)
        local = rope_table(position, config.rope_local_theta, 1.0, config.head_dim, dtype)
        run = recompute.runner()
        for i, layer in enumerate(self.model.layers):
            x = run(i, layer, x, local if layer.sliding else full, attend)
        return self.model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        words = self.embedding
        whole = words if isinstance(words, Tensor) else words.tile(0, self.config.vocab_size)
        return hidden @ whole.T
