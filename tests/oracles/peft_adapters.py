"""PEFT's LoRA, rsLoRA, DoRA and both over transformers' Gemma 3, with every adapter parameter random.

The adapters are smaller than the weights: with larger ones transformers' own two attention implementations give
gradients that differ by 2e-5, and a comparison to 1e-5 says nothing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from oracles import gemma3
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import Tensor

from dozan.model import adapter as ours
from dozan.recipe import ALL_TARGETS, AdapterRecipe

KINDS = {"lora": (False, False), "rslora": (True, False), "dora": (False, True), "both": (True, True)}


def recipe(kind: str, **changes: Any) -> AdapterRecipe:
    """Rank 4, so that √r matters; alpha 6."""
    rslora, dora = KINDS[kind]
    return AdapterRecipe(**{"rank": 4, "alpha": 6.0, "rslora": rslora, "dora": dora, **changes})


def theirs(model: torch.nn.Module, kind: str, seed: int = 5, **changes: Any) -> Any:
    """PEFT's adapters on transformers' model; B is random too, and the magnitudes are off the norms."""
    rslora, dora = KINDS[kind]
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=rslora, use_dora=dora, target_modules=list(ALL_TARGETS),
                        init_lora_weights="gaussian", task_type="CAUSAL_LM", **changes)  # fmt: skip
    return randomised(get_peft_model(model, config), seed)


def randomised(model: Any, seed: int = 5) -> Any:
    """PEFT's model in evaluation mode, B random too, and the magnitudes off the norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand(parameter.shape, generator=generator))
            elif "lora_" in name:
                parameter.normal_(std=0.1, generator=generator)
    return model.eval()


def state(model: Any) -> dict[str, Tensor]:
    """What PEFT would save."""
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def gradients(model: Any) -> dict[str, Tensor]:
    """PEFT's gradients by the names of its file."""
    return {
        name.replace(".default.weight", "" if "magnitude" in name else ".weight"): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def errors(kind: str, implementation: ModuleType = ours, shape: str = "270m") -> tuple[float, float]:
    """Relative difference from PEFT of the logits, and the worst of any adapter tensor's gradient."""
    base = gemma3.theirs(shape)
    own = gemma3.rebuilt(base)
    implementation.attach(own, recipe(kind), seed=0)
    model = theirs(base, kind)
    implementation.set_adapter_state(own, state(model))
    tokens = gemma3.ids()
    found, expected = gemma3.our_logits(own, tokens), gemma3.their_logits(model, tokens)
    for logits in (found, expected):
        torch.nn.functional.cross_entropy(logits[:-1], tokens[1:]).backward()
    theirs_by_name = gradients(model)
    own_by_name = {
        implementation._peft_name(name): torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in implementation.adapter_parameters(own)
    }
    assert own_by_name.keys() == theirs_by_name.keys()
    worst = max(gemma3.relative(own_by_name[name], theirs_by_name[name]) for name in own_by_name)
    return gemma3.relative(found, expected), worst
