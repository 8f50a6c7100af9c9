"""Training every weight over several ranks, none of which holds them all: PyTorch's FSDP2 over fp32 masters.

Each rank has its rows of every weight, in fp32, with their gradients and moments. A pass gathers a layer's weights in
the dtype that the model computes in, lets go of them, and leaves the sum of the ranks' gradients, reduced in fp32, with
the ranks whose rows they are. What a pack adds is added up in fp32 there. Rows are cut as torch.chunk does: all ranks
have as many, the last ones fewer or none. Bytes on a rank for each weight: 16 over the ranks (weight, gradient, two
moments), and for the embedding and one or two layers what the model computes in.

All ranks run the same number of passes at a time: the one whose packs are fewer runs `idle` ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels.adamw8 import BLOCK
from dozan.model.full_format import KIND
from dozan.model.gemma3 import Gemma3
from dozan.model.sealed import require_intact
from dozan.model.shards import Cut, Seals, opened_rows, write_shards
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.train.optim import MOMENTS, STEP, AdamW
from dozan.world import World


class ShardedMasters:
    """What the optimiser moves of this rank: its rows of every weight of a model on whatever device, which are put on
    `device`, a layer at a time. parameters: fp32, by text-only name, each with a gradient; some may be empty. dtype:
    what the model computes in."""

    is_sharded = True

    def __init__(self, model: Gemma3, world: World, device: torch.device | None = None) -> None:
        self.dtype, self.world, self._model = model.dtype, world, model
        self.device = device or model.device
        self.cuts = {name: Cut.of(tuple(p.shape), world.size) for name, p in model.named_parameters()}
        model.requires_grad_(True)
        model.computes_in = self.dtype
        self._groups = _sharded(model, self.device, world.size)
        self._shards = dict(model.named_parameters())
        self.parameters = [(name, _local(shard)) for name, shard in self._shards.items()]
        assert all(tuple(p.shape) == self.cuts[name].part(world.rank) for name, p in self.parameters)

    @property
    def size(self) -> int:
        """Trained parameters, of all ranks."""
        return sum(math.prod(cut.shape) for cut in self.cuts.values())

    def publish(self) -> None:
        """Have the next pass gather the weights as they are now."""
        for group in self._groups:
            group.reshard()

    def sum_squares(self) -> Tensor:
        """The sum of the squares of all gradients over all ranks, fp64 scalar on the device."""
        gradients = [p.grad for _, p in self.parameters if p.grad is not None and p.numel()]
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        if gradients:
            total += torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        self.world.sum_([total])
        return total

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within it every rank has all weights, in the dtype that the model computes in, and a forward pass needs no
        other rank."""
        for group in self._groups:
            group.set_reshard_after_forward(False, recurse=False)
            group.unshard()
        try:
            yield
        finally:
            for group in self._groups:
                group.set_reshard_after_forward(group is not self._model, recurse=False)
            self.publish()

    @contextmanager
    def gathered(self) -> Iterator[Mapping[str, Tensor]]:
        """Within it the first rank has every whole weight by name, fp32 on the device, gathered when it is asked for;
        the others serve it, and go on with nothing when it is done."""
        if self.world.first:
            try:
                yield _Gathered(self._shards, self.world)
            finally:
                self.world.agree([_DONE])
            return
        shards = list(self._shards.values())
        while (asked := self.world.agree([_DONE])[0]) != _DONE:
            _whole(shards[asked])
        yield {}

    def save(self, folder: Path, held: Mapping[str, Tensor] | None = None) -> Seals:
        """Write this rank's rows, or those of `held`, as every rank does; what was written."""
        own = {name: p.detach() for name, p in self.parameters} if held is None else held
        return write_shards(folder, KIND, own, self.cuts, self.world.rank)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Take this rank's rows from what any number of ranks wrote. Raises InputError, before anything changes, when
        it does not fit."""
        if self.world.first:
            require_intact(folder)
        with opened_rows(folder, KIND) as shards:
            shards.require({name: cut.shape for name, cut in self.cuts.items()})
            for name, p in self.parameters:
                p.copy_(shards.read(name, *self.cuts[name].rows(self.world.rank)))
        self.publish()

    def save_moments(self, folder: Path, optimizer: AdamW, held: Mapping[str, Tensor]) -> Seals:
        """Write this rank's part of what the optimiser's `tensors` gave, as every rank does; what was written."""
        return write_shards(folder, MOMENTS, held, self._cuts_of(optimizer), self.world.rank)

    def load_moments(self, folder: Path, optimizer: AdamW) -> None:
        """Have the optimiser go on from what any number of ranks wrote. Raises InputError when it does not fit."""
        with opened_rows(folder, MOMENTS) as shards:
            cuts = self._cuts_of(optimizer) if shards.shapes else {}
            optimizer.load(shards.own(cuts, self.world.rank))

    def _cuts_of(self, optimizer: AdamW) -> dict[str, Cut]:
        """How the optimiser's state is cut: as the weights, and codes of 8 bits as their numbers and blocks."""
        found = {}
        for name, tensor in optimizer.moments().items():
            weight, _, part = name.rpartition(".")
            cut = self.cuts[weight]
            is_narrow = tensor.dtype == torch.uint8 or part.endswith("_scale")
            found[name] = cut.flat(BLOCK if part.endswith("_scale") else 1) if is_narrow else cut
        return found | {f"{name}.{STEP}": Cut.of((), self.world.size) for name in self.cuts}


_DONE = -1


class _Gathered(Mapping[str, Tensor]):
    """Whole weights, for the first rank; the others must be serving it."""

    def __init__(self, shards: Mapping[str, Any], world: World) -> None:
        self._shards, self._world, self._places = shards, world, {name: i for i, name in enumerate(shards)}

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        self._world.agree([place])
        return _whole(self._shards[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@torch.no_grad()
def _whole(shard: Any) -> Tensor:
    found: Tensor = shard.full_tensor()
    return found


@torch.no_grad()
def _local(shard: Any) -> nn.Parameter:
    """The rows of a rank as a parameter of its own, and FSDP2's accumulated gradient as its gradient."""
    shard.grad = torch.zeros_like(shard)
    parameter = nn.Parameter(shard.to_local())
    parameter.grad = shard.grad.to_local()
    return parameter


def _sharded(model: Gemma3, device: torch.device, ranks: int) -> list[Any]:
    """Cut a model, layer by layer; its modules that are gathered together, the model itself last."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    narrow = None if model.dtype == torch.float32 else model.dtype
    mesh = init_device_mesh(device.type, (ranks,))
    # The residual stream is wider than float16 weights, and stays so.
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    layers: list[Any] = list(model.model.layers)
    for layer in layers:
        layer.to(device, torch.float32)
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
        register_fsdp_forward_method(layer, "recomputed")
        layer.is_sharded = True
    for module in (model.model.embed_tokens, model.model.norm):
        module.to(device, torch.float32)
    # The head is the embedding, which the loss reads after the model's own forward pass.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    groups: list[Any] = [*layers, model]
    for group in groups:
        # A step's loss is divided by the weights of all ranks already: gradients are summed, never averaged.
        group.set_gradient_divide_factor(1.0)
        group.set_force_sum_reduction_for_comms(True)
        # The whole tensors are made once: made in inference mode, autograd would refuse them for ever.
        with torch.inference_mode(False):
            group.unshard()
            group.reshard()
    return groups


def is_wanted(recipe: Recipe, world: World) -> bool:
    """Whether every weight is trained, over ranks of which none is to hold them all."""
    return world.size > 1 and recipe.train.weights == "full" and recipe.train.fsdp is True


def require_blocks(model: Gemma3, world: World) -> None:
    """Raises InputError when moments of 8 bits would be cut within a block: another number of ranks would then give
    another result."""
    cuts = {name: Cut.of(tuple(p.shape), world.size) for name, p in model.named_parameters() if p.dim() > 1}
    odd = [name for name, cut in cuts.items() if not cut.keeps(BLOCK)]
    if odd:
        raise InputError(
            f"train.optimizer = adamw_8bit: over {world.size} ranks {odd[0]} and {len(odd) - 1} more would be "
            f"cut within their blocks of {BLOCK} numbers, and the result would depend on the number of ranks; set "
            "train.optimizer=adamw, or another number of ranks"
        )


def idle() -> Batch:
    """A pack of one token that nothing is learnt from: for a rank that has no more packs where others have."""
    zero = torch.zeros(1, dtype=torch.int64)
    return Batch(zero, zero, zero + 1, zero, zero, torch.zeros(1), ("idle",), (0,), 0)
