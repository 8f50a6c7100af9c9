"""A frozen base shared out over ranks with PyTorch's FSDP2: each holds a part of every weight, and gathers a layer's
when it computes it.

A group is a decoder layer; the embedding, which is the head as well, and the last norm are the group of the model
itself, whole from the beginning of a pass to its end. What is trained is left whole on every rank, and its gradients
to `train.reduce`. A group is gathered as bytes, so 4-bit codes lie beside 16-bit norms; the kernels find plain tensors
of the shapes that they know. Bytes that a rank holds: the base over the ranks; in a pass the embedding, the layer
at hand, and of the next one what arrives and what it is copied to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from dozan.model import adapter
from dozan.model.gathered import gathered, is_group, is_sharded
from dozan.model.gemma3 import Gemma3
from dozan.model.half import beyond_float16, refuse_beyond
from dozan.model.held import hold_embedding
from dozan.model.quantised import QuantisedLinear
from dozan.model.weights import Source, empty_model
from dozan.recipe import Recipe
from dozan.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule

__all__ = ["gathered", "is_sharded", "load_sharded", "shard_base", "take_part"]


def shard_base(model: Gemma3, world: World) -> None:
    """Share the frozen weights of a model out over the ranks, in place, on the device where they are; alone, nothing.

    What requires a gradient stays as it is. Afterwards a weight can be read in its layer's forward and backward passes
    and within `gathered`, which all ranks enter together.
    """
    assert not is_sharded(model), "the model is shared out already"
    if world.size == 1:
        return
    mesh = _mesh(model.device, world)
    for layer in model.model.layers:
        _share(layer, mesh)
    _share(model, mesh)


def load_sharded(
    folder: str | Path, dtype: str | torch.dtype, recipe: Recipe, world: World, device: torch.device
) -> Gemma3:  # fmt: skip
    """The model of a Hugging Face folder shared out over the ranks, with fresh adapters, in evaluation mode.

    What `load_model`, `hold_embedding`, `attach` and `shard_base` give together, but that a layer is read, adapted and
    cut before the next one: a rank's device holds its parts and the layer at hand, and the embedding in the end. Every
    rank reads the whole file. Raises InputError as those do, and as `require_float16`.
    """
    source = Source.of(folder, dtype, recipe.model.quantise)
    model = empty_model(source.config).requires_grad_(False).eval()
    names = adapter.target_names(model, recipe.adapter)
    mesh = _mesh(device, world) if world.size > 1 else None
    beyond: list[str] = []

    def read(part: str, place: torch.device) -> nn.Module:
        module = model.get_submodule(part)
        source.fill(model, part, place)
        if source.dtype == torch.float16:
            beyond.extend(beyond_float16(module, part))
        return module

    for index in range(source.config.num_hidden_layers):
        part = f"model.layers.{index}"
        layer = read(part, device)
        for name in names:
            if name.startswith(f"{part}."):
                adapter.adapt(model, name, recipe.adapter, recipe.train.seed)
        if mesh is not None:
            _share(layer, mesh)
    read("model.norm", device)
    # What is held in 8 bits or in host memory goes there without lying on the device before.
    read("model.embed_tokens", device if recipe.model.embedding in ("auto", "gpu") else torch.device("cpu"))
    refuse_beyond(beyond, folder)
    hold_embedding(model, recipe.model, device)
    if mesh is not None:
        _share(model, mesh)
    return model


def take_part(model: Gemma3, backward: bool = True) -> None:
    """Gather what the other ranks gather in one pass, for a rank that has none to make. backward: whether they also
    back-propagate it. Nothing where the model is not shared out."""
    if not is_group(model):
        return
    layers, whole = list(model.model.layers), cast("FSDPModule", model)
    whole.unshard()
    for layer in [*layers, *(reversed(layers) if backward else ())]:
        with gathered(layer):
            pass
    if backward:
        whole.reshard()


def _mesh(device: torch.device, world: World) -> DeviceMesh:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (world.size,))


def _share(module: nn.Module, mesh: DeviceMesh) -> None:
    """Make a group of a module's frozen weights, but for those of groups within it."""
    from torch.distributed.fsdp import fully_shard

    for inner in module.modules():
        if isinstance(inner, QuantisedLinear):
            inner.divide()
    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    whole = isinstance(module, Gemma3)  # the head is read after the forward pass
    fully_shard(module, mesh=mesh, reshard_after_forward=not whole, ignored_params=trained)
    # The whole tensors are made once and used again; made in inference mode, autograd would refuse them for ever.
    with torch.inference_mode(False), gathered(module):
        pass
