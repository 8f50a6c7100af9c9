"""What takes the place of the forward passes of transformers' Gemma 3 modules; each computes what its original does.

B sequences, T tokens, H query heads, K key and value heads, E head size, D model, F feed-forward, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from dozan.hf.linears import has_magnitude, project
from dozan.kernels import supervised_cross_entropy
from dozan.kernels.geglu import geglu
from dozan.kernels.norm import rms_norm, rotate, rotated_norm

IGNORED = -100
"""Labels that are not learned, as transformers has it."""


def norm_forward(self: Any, x: Tensor) -> Tensor:
    """RMSNorm over the last dimension: x [..., D] -> [..., D] in x's dtype."""
    weight = self.weight
    if weight.dtype not in (x.dtype, torch.float32):
        weight = weight.to(x.dtype)
    return rms_norm(x, weight, self.eps).to(x.dtype)


def mlp_forward(self: Any, x: Tensor) -> Tensor:
    """The gated feed-forward: x [B, T, D] -> [B, T, D]."""
    pair = (self.gate_proj, self.up_proj)
    dots: list[Tensor] | None = [] if all(map(has_magnitude, pair)) else None
    gate, up = project(pair, x, dots)
    out: Tensor = self.down_proj(geglu(gate, up, dots))
    return out


def attention_forward(
    self: Any, hidden_states: Tensor, position_embeddings: Any = None, attention_mask: Any = None,
    past_key_values: Any = None, **kwargs: Any,
) -> tuple[Tensor, Any]:  # fmt: skip
    """Projections, norms and rotary positions here, attention itself as the model is set: [B, T, D] -> [B, T, D]."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.gemma3.modeling_gemma3 import eager_attention_forward

    shape = hidden_states.shape[:-1]
    projected = project((self.q_proj, self.k_proj, self.v_proj), hidden_states)
    q, k, v = (y.reshape(shape.numel(), -1, self.head_dim) for y in projected)
    turns = tuple(t.to(q.dtype).expand(*shape, -1).reshape(shape.numel(), 1, -1) for t in position_embeddings)
    q, k = (_turned(y, norm, (turns[0], turns[1])) for y, norm in ((q, self.q_norm), (k, self.k_norm)))
    q, k, v = (y.view(*shape, -1, self.head_dim).transpose(1, 2) for y in (q, k, v))
    if past_key_values is not None:
        k, v = past_key_values.update(k, v, self.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
    dropout = self.attention_dropout if self.training else 0.0
    out, weights = attend(self, q, k, v, attention_mask, dropout=dropout, scaling=self.scaling,
                          sliding_window=self.sliding_window, **kwargs)  # fmt: skip
    return self.o_proj(out.reshape(*shape, -1).contiguous()), weights


def _turned(x: Tensor, norm: Any, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Norm and rotation of x [B · T, heads, E]."""
    if norm.weight.dtype == x.dtype:
        return rotated_norm(x, norm.weight, norm.eps, turns)
    return rotate(norm_forward(norm, x), turns)


def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """In training with labels the loss without the logits of all positions, `logits` None; else the original."""
    own = type(self).forward
    if not self.training or why_no_loss(self) is not None:
        return own(self, *args, **kwargs)
    given = inspect.signature(own).bind(self, *args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    labels, logits_to_keep = given.get("labels"), given.get("logits_to_keep", 0)
    shifted = given.pop("shift_labels", None)
    whole = isinstance(logits_to_keep, int) and logits_to_keep == 0
    if labels is None or not whole or given.get("return_dict") is False:
        return own(self, *args, **kwargs)
    given = {name: value for name, value in given.items() if name not in ("self", "logits_to_keep", "return_dict")}
    if not hasattr(self.config, "text_config"):
        given.pop("labels")
    outputs = self.model(**given, return_dict=True)
    if shifted is None:
        shifted = torch.nn.functional.pad(labels, (0, 1), value=IGNORED)[..., 1:]
    loss = _loss(outputs.last_hidden_state, self.lm_head.weight, shifted, given.get("num_items_in_batch"))
    return _output_class()(
        loss=loss, logits=None, past_key_values=outputs.past_key_values, hidden_states=outputs.hidden_states,
        attentions=outputs.attentions, image_hidden_states=getattr(outputs, "image_hidden_states", None),
    )  # fmt: skip


def _output_class() -> Any:
    from transformers.models.gemma3.modeling_gemma3 import Gemma3CausalLMOutputWithPast

    return Gemma3CausalLMOutputWithPast


def why_no_loss(model: Any) -> str | None:
    """Why a causal language model computes its loss itself, in words; None when it can be computed here."""
    head, config = model.lm_head, model.config
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return f"its head is {type(head).__name__}, not a plain linear"
    if getattr(getattr(config, "text_config", config), "final_logit_softcapping", None):
        return "its logits are capped"
    if getattr(model.loss_function, "__name__", "") != "ForCausalLMLoss":
        return "it has a loss function of its own"
    return None


def _loss(hidden: Tensor, words: Tensor, target: Tensor, items: Any) -> Tensor:
    """Cross-entropy over the labels that count, by their number or by `items`: hidden [B, T, D], words [V, D], target
    int64 [B, T]."""
    target = target.reshape(-1).to(hidden.device)
    at = (target != IGNORED).nonzero()[:, 0]
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    total = torch.as_tensor(len(at) if items is None else items, dtype=torch.float32, device=hidden.device)
    chosen, weight = hidden.flatten(0, 1).index_select(0, at), (1.0 / total).expand(len(at)).contiguous()
    with torch.autocast(device, enabled=False):
        loss = supervised_cross_entropy(chosen.to(dtype), words.to(dtype), target.index_select(0, at), weight)
    return loss + 0.0 / total if not len(at) else loss
