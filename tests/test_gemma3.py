"""Our Gemma 3 against transformers': logits at each size's structure, past the window, config in either spelling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from oracles import gemma3 as oracle

from dozan.errors import InputError
from dozan.kernels.attention import TrieAttention
from dozan.kernels.reference import DenseAttention
from dozan.model.gemma3 import Gemma3Config
from dozan.model.recompute import NOTHING, Recompute
from dozan.model.weights import load_model


@pytest.mark.parametrize("attention", [DenseAttention, TrieAttention])
@pytest.mark.parametrize("shape", oracle.SHAPES)
def test_logits_are_those_of_transformers(shape: str, attention: type) -> None:
    assert oracle.logits_error(shape, attention=attention) <= 1e-5


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("shape", oracle.SHAPES)
def test_a_folder_in_either_spelling_gives_the_same_logits(shape: str, spelling: str, tmp_path: Path) -> None:
    theirs = oracle.theirs(shape)
    ours = load_model(oracle.write(tmp_path, theirs, spelling))
    with torch.no_grad():
        found, expected = oracle.our_logits(ours, oracle.ids()), oracle.their_logits(theirs, oracle.ids())
    assert oracle.relative(found, expected) <= 1e-5


@pytest.mark.parametrize("shape", oracle.SHAPES)
def test_the_two_spellings_are_one_config(shape: str) -> None:
    new = json.loads(oracle.theirs(shape).config.to_json_string(use_diff=False))
    config = Gemma3Config.from_json(new)
    assert config == Gemma3Config.from_json(oracle.old_spelling(new))
    assert config.rope_factor == (8.0 if shape in ("12b", "27b") else 1.0)
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5]


@pytest.mark.parametrize("spelling", ["old", "new"])
def test_a_checkpoint_with_a_vision_tower_loads_its_text_model(spelling: str, tmp_path: Path) -> None:
    theirs = oracle.theirs("12b", vision=True)
    ours = load_model(oracle.write(tmp_path, theirs, spelling))
    with torch.no_grad():
        found, expected = oracle.our_logits(ours, oracle.ids()), oracle.their_logits(theirs, oracle.ids())
    assert ours.config.vision
    assert oracle.relative(found, expected) <= 1e-5


@pytest.mark.parametrize("shape", oracle.SHAPES)
def test_the_embedding_scale_is_rounded_to_the_weights_dtype(shape: str) -> None:
    assert oracle.embedded_equal_in_bfloat16(shape)


def test_bfloat16_is_as_close_to_float32_as_transformers_is() -> None:
    exact = oracle.theirs("270m")
    with torch.no_grad():
        truth = oracle.their_logits(exact, oracle.ids())
        half = exact.bfloat16()
        found = oracle.our_logits(oracle.rebuilt(half), oracle.ids())
        expected = oracle.their_logits(half, oracle.ids())
    assert found.dtype == torch.bfloat16
    assert oracle.relative(found.float(), truth) <= 1.5 * oracle.relative(expected.float(), truth)


def test_recomputing_changes_no_gradient() -> None:
    model = oracle.rebuilt(oracle.theirs("270m"))
    tokens = oracle.ids()
    position, attend = oracle.path_attention(model.config, len(tokens))
    gradients = []
    for recompute in (NOTHING, Recompute(len(model.model.layers))):
        model.zero_grad()
        model(tokens, position, attend, recompute).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"final_logit_softcapping": 30.0}, "softcapping"),
        ({"hidden_activation": "silu"}, "hidden_activation is 'silu'"),
        ({"layer_types": ["full_attention"]}, "layer_types must name 7 layers"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
    ],
)
def test_what_gemma3_does_not_have_is_refused(change: dict[str, object], named: str) -> None:
    new = json.loads(oracle.theirs("270m").config.to_json_string(use_diff=False))
    with pytest.raises(InputError, match=named):
        Gemma3Config.from_json({**oracle.old_spelling(new), **change})
