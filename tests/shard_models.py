"""Small models whose base can be shared out over ranks, and one step of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models import TINY, tiny_model, tree_rows
from safetensors.torch import save_file
from torch import Tensor

from dozan.kernels import nf4
from dozan.model.adapter import adapter_parameters, attach, refresh
from dozan.model.gemma3 import Gemma3
from dozan.model.quantised import QuantisedLinear
from dozan.pack import Batch, pack_rows
from dozan.recipe import Recipe, override
from dozan.train import passes

LORA = ("adapter.rank=4", "adapter.alpha=8")
BOTH = (*LORA, "adapter.rslora=true", "adapter.dora=true")
LINEARS = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
"""Sizes whose rows are blocks of 64 weights."""
LAYERS = {"num_hidden_layers": 3, "sliding_window_pattern": 2}
Found = tuple[list[float], dict[str, Tensor]]


def recipe(*changes: str) -> Recipe:
    return override(Recipe(), changes or BOTH)


def base(kind: str = "float32", **changes: Any) -> Gemma3:
    """A small model, its weights in float32, in bfloat16, or its linears in NF4; `plain`: with scales in float32."""
    changes = {**LAYERS, **changes}
    if kind in ("float32", "bfloat16"):
        return tiny_model(**changes).to(getattr(torch, kind))
    model = tiny_model(**{**LINEARS, **changes})
    for name, linear in list(model.named_modules()):
        if isinstance(linear, torch.nn.Linear):
            weight = nf4.quantise(linear.weight.detach())
            held = nf4.row_slice(weight, 0, linear.out_features) if kind == "plain" else weight
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, QuantisedLinear(held))
    return model


def made(chosen: Recipe, kind: str = "float32", **changes: Any) -> Gemma3:
    """Such a model with adapters that are not where they began."""
    model = base(kind, **changes)
    attach(model, chosen.adapter, 0)
    moved(model)
    return model.train()


def moved(model: Gemma3) -> None:
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(torch.randn_like(parameter), alpha=0.05)


def packs() -> list[Batch]:
    found = pack_rows(tree_rows(), "tries", 80)
    assert len(found) == 3
    return found


def step(model: Gemma3, chosen: Recipe, own: Sequence[Batch]) -> Found:
    """The losses of some packs and the gradients that they leave together, as after an update."""
    refresh(model)
    run = passes.EagerPasses(model, passes.Recompute.of(chosen.train, model.config.num_hidden_layers, model.device))
    model.zero_grad()
    losses = [float(run(batch, 3.0, 5)) for batch in own]
    return losses, {name: p.grad.clone() for name, p in adapter_parameters(model) if p.grad is not None}


def furthest(found: Found, right: Found) -> float:
    """The largest difference in a loss or in a tensor of gradients, relative to its largest number."""
    assert found[1].keys() == right[1].keys() and len(found[0]) == len(right[0])
    losses = [abs(a - b) / abs(b) for a, b in zip(*(each[0] for each in (found, right)), strict=True)]
    norms = [float((found[1][n] - right[1][n]).norm() / right[1][n].norm()) for n in right[1]]
    return max(*losses, *norms)


def checkpoint(folder: Path, dtype: torch.dtype, **changes: Any) -> Path:
    """A base on disk, without a tokenizer."""
    shape = {**LINEARS, **LAYERS, **changes}
    config = {**TINY, **shape, "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = tiny_model(**shape).to(dtype).state_dict()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
