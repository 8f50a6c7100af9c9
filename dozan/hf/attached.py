"""Puts dozan's ops into a transformers Gemma 3, module by module, and takes them out again.

A module that is replaced gets a forward of its own; classes, other models and the library stay as they are. Weights,
names, saving and loading do not change.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MethodType
from typing import Any

from torch import nn

from dozan.errors import InputError
from dozan.hf import forwards
from dozan.hf.linears import NORMS, is_lora, linear_forward, why_not

Say = Callable[[str], None]
_MARK = "_dozan_forward"
_TEXT, _HEADS = "Gemma3TextModel", ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
_KNOWN = ("hidden_states", "position_embeddings", "attention_mask", "past_key_values", "kwargs")
"""What transformers' Gemma3Attention.forward takes in the versions that its replacement knows."""
_KINDS = {"Gemma3RMSNorm": "norms", "Gemma3MLP": "mlps", "Gemma3Attention": "attention",
          **dict.fromkeys(_HEADS, "loss")}  # fmt: skip
_NAMES = {"norms": "RMSNorms", "mlps": "feed-forwards", "attention": "projections with norm and rotary positions",
          "lora": "LoRA linears", "loss": "loss without logits in training"}  # fmt: skip


@dataclass(frozen=True)
class Attached:
    """replaced: the names of the modules by kind (norms, mlps, attention, lora, loss). left: by name, why a module that
    might have been replaced was not."""

    replaced: Mapping[str, tuple[str, ...]]
    left: Mapping[str, str]

    def __str__(self) -> str:
        done = ", ".join(f"{len(names)} {_NAMES[kind]}" for kind, names in self.replaced.items() if names)
        reasons: dict[str, list[str]] = {}
        for name, why in self.left.items():
            reasons.setdefault(why, []).append(name)
        lines = [f"dozan.hf: replaced {done or 'nothing'}; attention itself, embedding and sampling are transformers'"]
        lines += [f"dozan.hf: left {names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {why}"
                  for why, names in reasons.items()]  # fmt: skip
        return "\n".join(lines)


def attach(
    model: nn.Module, *, norms: bool = True, mlps: bool = True, attention: bool = True, lora: bool = True,
    loss: bool = True, say: Say | None = print,
) -> Attached:  # fmt: skip
    """Compute a transformers Gemma 3 with dozan's ops, in place, and say what was replaced and what was left.

    model: Gemma3ForCausalLM, Gemma3ForConditionalGeneration (its language model) or Gemma3TextModel, with PEFT around
    it or not. norms: RMSNorm. mlps: the gated activation, gate and up as one op where both have LoRA. attention:
    projections, their norms and rotary positions; attention itself stays as the model is set. lora: PEFT's LoRA, rsLoRA
    and DoRA linears over dense weights or bitsandbytes' NF4, whenever one adapter is active and unmerged. loss: in
    training with labels, without the logits of all positions; `logits` is None then. For trainers that read them (TRL's
    SFTTrainer does) give loss=False.

    Outputs and gradients are those of the originals up to rounding. Hooks on q_norm, k_norm and lm_head are not called.
    Attach after PEFT, in each process; torch's DataParallel is not for it. Raises InputError for another architecture,
    or a model that is attached already.
    """
    text, heads = _find(model)
    if any(_MARK in vars(module) for module in model.modules()):
        raise InputError("dozan.hf.attach: the model is attached already; call dozan.hf.detach(model) first")
    wanted = {"norms": norms, "mlps": mlps, "attention": attention, "lora": lora, "loss": loss}
    replaced: dict[str, list[str]] = {kind: [] for kind in wanted}
    left: dict[str, str] = {}
    prefix = next(name for name, module in model.named_modules() if module is text)
    inner = ((f"{prefix}.{name}".strip("."), module) for name, module in text.named_modules())
    named = [(name, module) for name, module in model.named_modules() if any(module is head for head in heads)]
    for name, module in [*inner, *named]:
        kind = _kind(module)
        if kind is None or not wanted[kind]:
            continue
        why = _why_left(kind, module)
        if why is None:
            _put(module, _FORWARDS[kind])
            replaced[kind].append(name)
        else:
            left[name or type(module).__name__] = why
    found = Attached({kind: tuple(names) for kind, names in replaced.items()}, left)
    if say is not None:
        say(str(found))
    return found


def detach(model: nn.Module) -> int:
    """Give the modules of a model their own forward passes back; how many had been replaced.

    What others wrapped around a replaced forward since (accelerate does for mixed precision) stays, around the
    original. Raises InputError when nothing is attached.
    """
    marked = [module for module in model.modules() if _MARK in vars(module)]
    if not marked:
        raise InputError("dozan.hf.detach: nothing is attached to this model")
    for module in marked:
        held = vars(module)
        if held.get("forward") is held[_MARK]:
            held.pop("forward")
        for name in (_MARK, NORMS):
            held.pop(name, None)
    return len(marked)


def _find(model: nn.Module) -> tuple[nn.Module, list[nn.Module]]:
    """The language model, and what has its head. Raises InputError for another architecture."""
    modules = list(model.modules())
    texts = [module for module in modules if type(module).__name__ == _TEXT]
    if len(texts) != 1:
        wrapper: Any = model
        name = type(wrapper.get_base_model() if hasattr(model, "get_base_model") else model).__name__
        raise InputError(f"dozan.hf.attach: {name} has no Gemma 3 language model; supported are {', '.join(_HEADS)} "
                         f"and {_TEXT} of transformers, with PEFT around them or not")  # fmt: skip
    return texts[0], [module for module in modules if type(module).__name__ in _HEADS]


def _kind(module: nn.Module) -> str | None:
    """What a module is to `attach`."""
    if is_lora(module):
        return "lora"
    return _KINDS.get(type(module).__name__)


_FORWARDS: Mapping[str, Callable[..., Any]] = {
    "norms": forwards.norm_forward, "mlps": forwards.mlp_forward, "attention": forwards.attention_forward,
    "lora": linear_forward, "loss": forwards.model_forward,
}  # fmt: skip


def _why_left(kind: str, module: Any) -> str | None:
    """Why a module keeps its forward, in words."""
    if "forward" in vars(module):
        return "its forward was replaced before, by accelerate or another"
    if kind == "lora":
        return why_not(module)
    if kind == "loss":
        return forwards.why_no_loss(module)
    if kind == "mlps" and module.config.hidden_activation != "gelu_pytorch_tanh":
        return f"activation {module.config.hidden_activation}"
    if kind == "attention":
        takes = tuple(inspect.signature(type(module).forward).parameters)[1:]
        if takes != _KNOWN:
            return f"this version of transformers calls it with {', '.join(takes)}"
        if not isinstance(module.head_dim, int) or module.attn_logit_softcapping:
            return "its scores are capped"
    return None


def _put(module: nn.Module, forward: Callable[..., Any]) -> None:
    """Give one module a forward, with the signature of its own, by which trainers know what it takes."""
    named = functools.wraps(type(module).forward)(functools.partial(_call, forward))
    vars(module)["forward"] = vars(module)[_MARK] = MethodType(named, module)


def _call(forward: Callable[..., Any], self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """The forward given, for as long as it is attached."""
    if _MARK not in vars(self):
        forward = type(self).forward
    return forward(self, *args, **kwargs)
