"""Adapters on disk, in PEFT's format: adapter_config.json and adapter_model.safetensors, strict both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from dozan.errors import InputError
from dozan.model import adapter
from dozan.model.files import inside, opened, read_json, write_whole
from dozan.model.gemma3 import Gemma3
from dozan.model.peft_layout import ALL_LINEAR, described, read_layout
from dozan.model.sealed import require_intact
from dozan.recipe import ALL_TARGETS, AdapterRecipe

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PEFT_TEXT, _PEFT_VISION = f"{adapter.PEFT_ROOT}model.", f"{adapter.PEFT_ROOT}model.language_model."
_PEFT_OLD_VISION = f"{adapter.PEFT_ROOT}language_model.model."
_TENSOR = re.compile(r"\.(\w+)\.lora_(?:A\.weight|B\.weight|magnitude_vector)$")
_HARMLESS = {
    "r", "lora_alpha", "use_rslora", "use_dora", "lora_dropout", "target_modules", "peft_type", "task_type", "revision",
    "auto_mapping", "base_model_name_or_path", "inference_mode", "init_lora_weights", "exclude_modules", "peft_version",
    "megatron_core", "qalora_group_size", "runtime_config", "ephemeral_gpu_offload", "layers_pattern",
    "layers_to_transform", "rank_pattern", "alpha_pattern",
}  # fmt: skip
"""Settings of adapter_config.json that we honour or that change nothing once the adapter is trained."""
_MERGE_IT = "merge it with PEFT (model.merge_and_unload()) and give the folder that it saves"
_REMEDIES = {
    "modules_to_save": f"the adapter holds whole modules beside its low ranks: {_MERGE_IT}",
    "bias": f"Gemma 3 has no biases to train: {_MERGE_IT}",
    "fan_in_fan_out": "Gemma 3's linears are not transposed; set it to false if the weights are as PEFT saves them",
    "trainable_token_indices": f"the adapter holds rows of the embedding: {_MERGE_IT}",
}  # fmt: skip
_PLAIN_INITIALISATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base's weights alone (PiSSA, OLoRA and others change them)."""


def save_adapter(
    folder: str | Path, model: Gemma3, recipe: AdapterRecipe, base_name: str, held: Mapping[str, Tensor] | None = None
) -> None:
    """Write `model`'s adapters to a folder in PEFT's format, fp32; each file appears whole or not at all.

    `base_name` is what adapter_config.json names as the base model. Over a checkpoint with a vision tower the keys
    carry the module path of transformers' class for it, so that PEFT finds them. held: what `adapter_state` gave
    earlier, to be written instead.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    root = _PEFT_VISION if model.config.vision else _PEFT_TEXT
    named = (adapter.adapter_state(model) if held is None else held).items()
    state = {name.replace(_PEFT_TEXT, root, 1): tensor.cpu().contiguous() for name, tensor in named}
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name, "inference_mode": True,
        "r": recipe.rank, "lora_alpha": recipe.alpha, "use_rslora": recipe.rslora, "use_dora": recipe.dora,
        "lora_dropout": recipe.dropout, "bias": "none",
        "fan_in_fan_out": False, "exclude_modules": r".*vision_tower.*" if model.config.vision else None,
        "init_lora_weights": "gaussian", "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None,
        **described(model, recipe),
    }  # fmt: skip
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / ADAPTER_WEIGHTS, lambda path: save_file(state, path, metadata={"format": "pt"}))
    write_whole(folder / ADAPTER_CONFIG, lambda path: _put(path, text))


def _put(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_adapter_recipe(folder: str | Path, modules: set[str] | None = None) -> AdapterRecipe:
    """What adapter_config.json describes; InputError naming every setting that we cannot honour.

    modules: the linears that the weights hold, needed where target_modules is a pattern or a list of paths.
    """
    path = Path(folder) / ADAPTER_CONFIG
    raw = read_json(path)
    active = {key: value for key, value in raw.items() if key not in _HARMLESS and value and value != "none"}
    problems = [f"{key} is {value!r}, which is not supported{': ' if key in _REMEDIES else ''}{_REMEDIES.get(key, '')}"
                for key, value in active.items()]  # fmt: skip
    if raw.get("peft_type") != "LORA":
        problems.append(f"peft_type is {raw.get('peft_type')!r}, must be 'LORA'")
    if raw.get("init_lora_weights") not in _PLAIN_INITIALISATIONS:
        problems.append(f"init_lora_weights {raw['init_lora_weights']!r} changes the base: convert the adapter first")
    named = raw.get("target_modules")
    listed = set(named) if isinstance(named, list) else set()
    heads = sorted(target for target in map(str, listed) if target.rsplit(".", 1)[-1] in ("lm_head", "embed_tokens"))
    if heads:
        problems.append(f"target_modules names {', '.join(heads)}, which has no adapter here: {_MERGE_IT}")
    targets = listed if listed and listed <= set(ALL_TARGETS) else modules or set()
    targets = set(ALL_TARGETS) if named == ALL_LINEAR and not targets else targets
    if not targets or not targets <= set(ALL_TARGETS):
        problems.append(f"target_modules {named!r} must be among {list(ALL_TARGETS)}")
    if problems:
        raise InputError(f"{path}:\n  " + "\n  ".join(problems))
    try:
        return AdapterRecipe(
            rank=raw["r"], alpha=float(raw["lora_alpha"]), rslora=raw.get("use_rslora", False),
            dora=raw.get("use_dora", False), dropout=float(raw.get("lora_dropout", 0.0)),
            targets=tuple(target for target in ALL_TARGETS if target in targets),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise InputError(f"{path}: r, lora_alpha or another setting is not usable: {error}") from error


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter file by PEFT's text-only names, fp32, whichever of the three spellings it uses."""
    path = inside(folder, ADAPTER_WEIGHTS)
    if not path.is_file():
        raise InputError(f"{path}: no such file; an adapter folder holds {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}")
    state: dict[str, Tensor] = {}
    with opened(path) as file:
        for name in file.keys():  # noqa: SIM118
            prefix = next((p for p in (_PEFT_VISION, _PEFT_OLD_VISION) if name.startswith(p)), "")
            text = _PEFT_TEXT + name.removeprefix(prefix) if prefix else name
            if ".vision_tower." in name or ".multi_modal_projector." in name:
                raise InputError(f"{path}: adapts the vision tower ({name}), which is not run here: {_MERGE_IT}")
            if text in state:
                raise InputError(f"{path}: {text} is there twice, in two spellings")
            state[text] = file.get_tensor(name).float()
    return state


def load_adapter(folder: str | Path, model: Gemma3, seed: int = 0) -> AdapterRecipe:
    """Put a PEFT adapter on the model (attached first if it has none) and return what it is.

    Strict both ways: InputError lists every key that is missing or unexpected and every wrong shape; then the model is
    unchanged. Where the folder has a manifest, a file that is not as written is refused. Adapters that the model has
    already must be of the same kind. `seed` is that of a new adapter's dropout.
    """
    folder = Path(folder)
    require_intact(folder)
    state = read_adapter(folder)
    modules = {match[1] for name in state if (match := _TENSOR.search(name))}
    recipe = read_adapter_recipe(folder, modules)
    held = {name.removeprefix(adapter.PEFT_ROOT).partition(".lora_")[0] for name in state}
    path = folder / ADAPTER_CONFIG
    layout = read_layout(path, read_json(path), recipe, model, held)
    expected = adapter.shapes_of_each(model, layout)
    problems = adapter.compare_shapes(expected, adapter.shapes_of(state))
    if problems:
        matched = any(name in state for name in expected)
        raise InputError(f"{folder}: the adapter does not fit this model{'' if matched else ' (nothing matched)'}:\n  "
                         + "\n  ".join(problems))  # fmt: skip
    if not adapter.adapted(model):
        adapter.attach_each(model, layout, seed)
    if {n: m.scale for n, m in adapter.adapted(model)} != {n: adapter.scale_of(r) for n, r in layout.items()}:
        raise InputError(f"{folder}: alpha, rank or rsLoRA differ from those of the model's adapters")
    adapter.set_adapter_state(model, state)
    return recipe
