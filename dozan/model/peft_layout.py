"""Which linears a PEFT adapter is on, each with its rank and alpha, by its adapter_config.json.

PEFT's own rules (peft 0.21, `tuners_utils.check_target_module_exists` and `get_pattern_key`): target_modules is a list
of names or paths, of which a module's path must end in one, a pattern that must match the whole path, or "all-linear";
exclude_modules takes away; layers_to_transform keeps some layers, of a list; rank_pattern and alpha_pattern give other
values to paths that end so. Paths are spelt as transformers' class has them, text-only or under `language_model`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from dozan.errors import InputError
from dozan.model import adapter
from dozan.recipe import ALL_TARGETS, AdapterRecipe

ALL_LINEAR = "all-linear"
Layout = dict[str, AdapterRecipe]
"""What each adapted linear has, by its text-only name."""


def spellings(name: str) -> tuple[str, ...]:
    """A linear's path in transformers' classes: text-only, and with a vision tower in its two spellings."""
    inner = name.removeprefix("model.")
    return name, f"model.language_model.{inner}", f"language_model.model.{inner}"


def read_layout(path: Path, raw: Mapping[str, Any], recipe: AdapterRecipe, model: nn.Module, held: Iterable[str]
                ) -> Layout:  # fmt: skip
    """The layout that a config describes on a model. Where its pattern matches no linear of ours (it was written for
    other paths), the linears that the file holds, `held`, count. Raises InputError for a pattern that is none.

    path: of adapter_config.json; recipe: what it says of linears that no pattern names.
    """
    linears = [name for name, _ in adapter.targets(model, AdapterRecipe(targets=ALL_TARGETS))]
    try:
        chosen = [name for name in linears if any(_is_target(raw, spelt) for spelt in spellings(name))]
        named = chosen or [name for name in linears if name in set(held)]
        return {name: _recipe_of(path, raw, recipe, name) for name in named}
    except re.error as error:
        raise InputError(f"{path}: {error.pattern!r} is no pattern ({error})") from error


def _ends_in(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _is_target(raw: Mapping[str, Any], path: str) -> bool:
    """Whether PEFT would adapt the linear of this path."""
    targets, excluded = raw.get("target_modules"), raw.get("exclude_modules")
    if isinstance(excluded, str) and re.fullmatch(excluded, path):
        return False
    if isinstance(excluded, list) and _ends_in(path, excluded):
        return False
    if isinstance(targets, str):
        return targets == ALL_LINEAR or bool(re.fullmatch(targets, path))
    if not isinstance(targets, list) or not _ends_in(path, [str(target) for target in targets]):
        return False
    layers = raw.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    return _layer_of(path, raw.get("layers_pattern")) in (layers if isinstance(layers, list) else [layers])


def _layer_of(path: str, pattern: Any) -> int | None:
    patterns = [pattern] if isinstance(pattern, str) else list(pattern or ())
    found = (re.match(rf"(?:^|.*?\.){each}\.(\d+)\.", path) for each in patterns or [r"[^.]*"])
    return next((int(match[1]) for match in found if match), None)


def _recipe_of(path: Path, raw: Mapping[str, Any], recipe: AdapterRecipe, name: str) -> AdapterRecipe:
    given: dict[str, Any] = {}
    for key, field in (("rank_pattern", "rank"), ("alpha_pattern", "alpha")):
        patterns = raw.get(key) or {}
        found = [patterns[p] for p in patterns if any(re.match(rf"(.*\.)?({p})$", s) for s in spellings(name))]
        given |= {field: found[0]} if found else {}
    try:
        if "alpha" in given:
            given["alpha"] = float(given["alpha"])
        return AdapterRecipe.model_validate({**recipe.model_dump(), **given}) if given else recipe
    except (TypeError, ValueError, ValidationError) as error:
        raise InputError(f"{path}: rank_pattern or alpha_pattern of {name} is not usable: {error}") from error


def described(model: nn.Module, recipe: AdapterRecipe) -> dict[str, Any]:
    """What adapter_config.json must say of a model's adapters beyond the recipe: `target_modules`, `rank_pattern` and
    `alpha_pattern`."""
    linears = dict(adapter.adapted(model))
    whole = {name for name, _ in adapter.targets(model, recipe)} == set(linears)
    ranks = {name: linear.lora_A.shape[0] for name, linear in linears.items()}
    alphas = {name: linears[name].scale * (math.sqrt(rank) if recipe.rslora else rank) for name, rank in ranks.items()}
    paths = [name.removeprefix("model.") for name in linears]
    return {
        "target_modules": sorted(recipe.targets) if whole or not linears else paths,
        "rank_pattern": {_suffix(n): rank for n, rank in ranks.items() if rank != recipe.rank},
        "alpha_pattern": {_suffix(n): a for n, a in alphas.items() if not math.isclose(a, recipe.alpha, rel_tol=1e-9)},
    }  # fmt: skip


def _suffix(name: str) -> str:
    """A pattern for one linear, whichever class spells its path."""
    return re.escape(name.removeprefix("model."))
