"""Passes with the embedding in 8 bits or in host memory: those with the same numbers in the plain embedding."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from models import tiny_model, tree_rows

from dozan.kernels import cross_entropy_tiled
from dozan.model.adapter import adapter_parameters, attach
from dozan.model.gemma3 import Gemma3
from dozan.model.held import HeldEmbedding, hold_embedding
from dozan.pack import pack_rows
from dozan.recipe import AdapterRecipe, ModelRecipe
from dozan.train.passes import batch_loss

CPU = torch.device("cpu")


def gradients(model: Gemma3) -> tuple[float, dict[str, torch.Tensor]]:
    (batch,) = pack_rows(tree_rows(), "tries", 4096)
    loss = batch_loss(model, batch)
    names, parameters = zip(*adapter_parameters(model), strict=True)
    return float(loss.detach()), dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("place", ["int8", "cpu"])
def test_a_pass(place: Literal["int8", "cpu"], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy_tiled, "TILE", 128)
    model, plain = tiny_model(), tiny_model()
    hold_embedding(model, ModelRecipe(embedding=place), CPU)
    words = model.model.embed_tokens
    assert isinstance(words, HeldEmbedding)
    with torch.no_grad():
        plain.model.embed_tokens.weight.copy_(words.held.tile(0, 320))
    for one in (model, plain):
        attach(one, AdapterRecipe(rank=4, dora=True), 0)
        for _, parameter in adapter_parameters(one):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    (loss, found), (wanted_loss, wanted) = gradients(model), gradients(plain)
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    assert all((found[n] - wanted[n]).norm() <= 1e-5 * wanted[n].norm() + 1e-7 for n in wanted)
    assert model.logits(torch.ones(2, 32)).shape == (2, 320)


def test_a_cast_leaves_eight_bits_alone() -> None:
    model = tiny_model()
    hold_embedding(model, ModelRecipe(embedding="int8"), CPU)
    before = model.model.embed_tokens.held.tile(0, 320)
    model.to(torch.bfloat16)
    assert torch.equal(model.model.embed_tokens.held.tile(0, 320), before)


def test_the_default_changes_nothing() -> None:
    model = tiny_model()
    weight = model.embedding
    hold_embedding(model, ModelRecipe(), CPU)
    assert model.embedding is weight
