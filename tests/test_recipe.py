"""Recipes: overrides, refusals that name a value that works, and the shipped files."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from dozan.errors import InputError
from dozan.recipe import ALL_TARGETS, Recipe, dump, load_recipe, override, recipe_names


@pytest.mark.parametrize("name", ["functiongemma-ar", "gemma3-12b-trinity", "embedded"])
def test_shipped_recipe_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    assert name in recipe_names() and recipe.name == name
    assert load_recipe(str(path)) == recipe


def test_trinity_states_its_three_parts() -> None:
    recipe = load_recipe("gemma3-12b-trinity")
    adapter = recipe.adapter
    assert (adapter.rank, adapter.alpha, adapter.rslora, adapter.dora) == (64, 32.0, True, True)
    assert (recipe.train.batch_size, recipe.train.micro_batch_size, recipe.train.learning_rate) == (4, 1, 2e-4)
    assert recipe.chat == "gemma3" and adapter.targets == ALL_TARGETS


def test_overrides_are_yaml_scalars() -> None:
    changes = ["train.max_steps=5", "train.learning_rate=3e-4", "adapter.dora=true", "adapter.targets=[q_proj, v_proj]"]
    recipe = load_recipe("embedded", [*changes, "train.eval_steps=null", "pack=paths"])
    assert recipe.train.max_steps == 5 and recipe.train.learning_rate == 3e-4 and recipe.adapter.dora is True
    assert recipe.adapter.targets == ("q_proj", "v_proj") and recipe.train.eval_steps is None and recipe.pack == "paths"


def test_override_of_a_value_leaves_the_original() -> None:
    recipe = load_recipe("embedded")
    assert override(recipe, ["train.seed=7"]).train.seed == 7 and recipe.train.seed == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ("train.max_step=5", ["'train.max_step'", "did you mean 'max_steps'?"]),
        ("trian.max_steps=5", ["'trian'", "did you mean 'train'?"]),
        ("adapter.rnak=5", ["'adapter.rnak'", "did you mean 'rank'?"]),
        ("train.learning_rate=-1", ["train.learning_rate", "-1", "0.001"]),
        ("train.epochs=true", ["train.epochs", "True", "3.0"]),
        ("train.epochs=.nan", ["train.epochs", "nan"]),
        ("adapter.rank=1.5", ["adapter.rank", "1.5", "32"]),
        ("pack=trie", ["pack", "'trie'", "'tries'"]),
        ("adapter.targets=[qproj]", ["adapter.targets", "'qproj'", "'q_proj'"]),
        ("adapter.targets=[q_proj, q_proj]", ["adapter.targets", "repeated"]),
        ("train.betas=[0.9, 1.5]", ["train.betas", "1.5", "0.999"]),
        ("train.min_learning_rate=1.0", ["train.min_learning_rate", "1.0", "0.002"]),
        ("train=5", ["train", "5"]),
        ("pack.x=1", ["'pack'"]),
        ("train.max_steps", ["train.max_steps", "section.key=value"]),
        ("train.max_steps=[", ["train.max_steps=[", "not valid YAML"]),
    ],
)
def test_refusal_names_key_value_and_a_way_out(change: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("embedded", [change])
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("embedded", ["train.max_step=5", "adapter.rank=0"])
    assert "max_steps" in str(caught.value) and "adapter.rank" in str(caught.value)


def test_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(InputError, match="did you mean 'embedded'"):
        load_recipe("embeded")


def test_repeated_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("train:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(InputError, match="'seed' is given twice"):
        load_recipe(str(path))


def test_recipe_is_frozen_and_not_coerced() -> None:
    with pytest.raises(ValidationError):
        Recipe().train.seed = 1  # type: ignore[misc]
    with pytest.raises(InputError, match=r"train.epochs = '3'"):
        load_recipe("embedded", ["train.epochs='3'"])
