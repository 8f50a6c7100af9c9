"""A base shared out over ranks: the losses and gradients of a whole one, in a part of its memory."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
import torch.distributed.fsdp
from models import tree_rows
from nf4_models import change, quantised_copy
from ranks import results
from shard_models import BOTH, LAYERS, LORA, base, checkpoint, furthest, made, moved, packs, recipe, step
from torch import Tensor

from dozan.errors import InputError
from dozan.kernels import nf4
from dozan.model import adapter, shard
from dozan.model.adapter import adapted, adapter_parameters, adapter_state, attach, refresh, set_adapter_state
from dozan.model.gathered import gathers, is_part
from dozan.model.gemma3 import Gemma3
from dozan.model.held import hold_embedding
from dozan.model.quantised import QuantisedLinear
from dozan.model.shard import gathered, is_sharded, load_sharded, shard_base, take_part
from dozan.model.weights import load_model
from dozan.pack import pack_rows
from dozan.train import passes
from dozan.world import ALONE, World

pytestmark = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                                reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip

CPU = torch.device("cpu")
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lora": ("float32", LORA), "rslora and dora": ("float32", BOTH),
    "recomputed": ("float32", (*BOTH, "train.recompute=layers")),
    "some recomputed": ("float32", (*BOTH, "train.recompute=2", "train.offload=true")),
    "some linears": ("float32", (*LORA, "adapter.targets=[q_proj]")), "bfloat16": ("bfloat16", BOTH),
    "nf4": ("nf4", BOTH), "nf4 recomputed": ("nf4", (*BOTH, "train.recompute=layers")), "plain scales": ("plain", LORA),
    "dropout": ("float32", (*BOTH, "adapter.dropout=0.2")),
}  # fmt: skip


def test_loss_and_gradients_are_those_of_a_whole_base() -> None:
    """Every rank makes the same passes here, so each must find what one process does."""
    how = {name: "paths" if "dropout" in name else "tries" for name in CASES}
    own = {name: pack_rows(tree_rows(), how[name], 150)[:2] for name in CASES}  # type: ignore[arg-type]
    right = {name: step(made(recipe(*changes), kind), recipe(*changes), own[name])
             for name, (kind, changes) in CASES.items()}  # fmt: skip

    def work(world: World) -> dict[str, float]:
        far = {}
        for name, (kind, changes) in CASES.items():
            chosen = recipe(*changes)
            model = made(chosen, kind)
            shard_base(model, world)
            assert is_sharded(model)
            far[name] = max(furthest(step(model, chosen, own[name]), right[name]) for _ in range(1 + (name == "nf4")))
        return far

    for far in results(2, work):
        assert max(far.values()) <= 1e-6, far


def test_parts_need_not_be_equal() -> None:
    """Three ranks, some of which have nothing of a short weight."""
    shape = {"head_dim": 4, "vocab_size": 331}
    right = step(made(recipe(), **shape), recipe(), packs())

    def work(world: World) -> list[Any]:
        model = made(recipe(), **shape)
        shard_base(model, world)
        sizes = [p.to_local().shape[0] for p in (model.model.layers[0].self_attn.q_norm.weight, model.embedding)]
        return [furthest(step(model, recipe(), packs()), right), *sizes]

    given = results(3, work)
    assert max(far for far, *_ in given) <= 1e-6
    assert [sizes for _, *sizes in given] == [[2, 111], [2, 111], [0, 109]]


def test_ranks_with_unequal_work_take_part_in_each_others_passes() -> None:
    """One rank makes two passes and the other one; a measurement without gradients comes between, of one alone."""
    chosen = recipe(*BOTH, "train.recompute=2")
    right = step(made(chosen), chosen, packs())

    def work(world: World) -> float:
        model = made(chosen)
        shard_base(model, world)
        for _ in range(2):
            if world.first:
                with torch.no_grad():
                    passes.batch_loss(model, packs()[0])
            else:
                take_part(model, backward=False)
            own = packs()[world.rank :: 2]
            losses, gradients = step(model, chosen, own)
            for _ in range(2 - len(own)):
                take_part(model)
            world.sum_(gradients.values())
        given = [each[i] for i in range(2) for each in world.gathered(losses) if i < len(each)]
        return furthest((given, gradients), right)

    assert max(results(2, work)) <= 1e-6
    take_part(made(chosen))  # alone it is nothing


def test_answers_before_the_first_pass_leave_it_possible() -> None:
    """Answers are computed in inference mode, whose tensors autograd refuses."""
    right = step(made(recipe()), recipe(), packs()[:1])

    def work(world: World) -> float:
        model = made(recipe())
        shard_base(model, world)
        with torch.inference_mode():
            passes.batch_loss(model, packs()[0])
        return furthest(step(model, recipe(), packs()[:1]), right)

    assert max(results(2, work)) <= 1e-6


def tensor_bytes() -> int:
    """What the tensors hold that were made since `gc.freeze`."""
    time.sleep(0.1)  # gloo's own thread lets go of what it has sent a moment later
    gc.collect()
    tensors = (each for each in gc.get_objects() if issubclass(type(each), Tensor))
    storages = (t.untyped_storage() for t in tensors if not is_part(t) and t.device.type == "cpu")
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def frozen_bytes(module: torch.nn.Module) -> int:
    """What of a module is shared out."""
    inner = [each for each in module.modules() if isinstance(each, QuantisedLinear)]
    return sum(p.nbytes for p in module.parameters() if not p.requires_grad) + sum(
        each.codes.nbytes + each.absmax.nbytes for each in inner)  # fmt: skip


@contextmanager
def watched(model: Gemma3) -> Iterator[list[int]]:
    """How many layers are whole, whenever one begins to be computed or back-propagated."""
    seen: list[int] = []
    whole: dict[int, list[Tensor]] = {}

    def count() -> None:
        seen.append(sum(any(t.untyped_storage().nbytes() for t in held) for held in whole.values()))

    def before(index: int) -> Callable[..., None]:
        def begin(layer: torch.nn.Module, args: Any) -> None:
            whole[index] = [p.detach() for p in layer.parameters() if not p.requires_grad]
            assert not any(is_part(tensor) for tensor in whole[index])
            count()

        return begin

    def after(layer: torch.nn.Module, args: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(lambda gradient: count())

    layers = list(enumerate(model.model.layers))
    hooks = [hook for i, layer in layers
             for hook in (layer.register_forward_pre_hook(before(i)), layer.register_forward_hook(after))]  # fmt: skip
    yield seen
    for hook in hooks:
        hook.remove()


def held_in_a_step(world: World, kind: str, changes: Sequence[str], keeps: str = "") -> list[float]:
    """Bytes of the base between two steps, relative to a whole one's, and the most layers that were whole at once.
    keeps: what is not cut again."""
    chosen = recipe(*changes)
    gc.freeze()
    model = made(chosen, kind)
    size = frozen_bytes(model)
    others = tensor_bytes() - size
    shard_base(model, world)
    for group in model.modules():
        if isinstance(group, torch.distributed.fsdp.FSDPModule):
            group.set_reshard_after_forward(keeps != "forward" and group is not model, recurse=False)
            group.set_reshard_after_backward(keeps != "backward", recurse=False)
    with watched(model) as seen:
        step(model, chosen, packs()[:2])
    refresh(model) if keeps != "backward" else None
    model.zero_grad()
    assert len(seen) >= 4 * LAYERS["num_hidden_layers"]
    return [(tensor_bytes() - others) / size, max(seen)]


HELD = [("float32", (*BOTH, "train.recompute=layers")), ("nf4", (*BOTH, "train.recompute=1"))]


def test_a_rank_holds_its_part() -> None:
    for case in HELD:
        for part, most in results(2, lambda world: held_in_a_step(world, *case)):  # noqa: B023
            assert 0.5 <= part <= 0.53 and most == 1, case


@pytest.mark.parametrize("keeps", ["forward", "backward"])
def test_and_more_is_seen(keeps: str) -> None:
    """What the test above would say if nothing were cut again after a pass."""
    part, most = results(2, lambda world: held_in_a_step(world, "float32", LORA, keeps))[0]
    assert (part > 0.9 if keeps == "backward" else part <= 0.53) and most == 3


def test_a_weight_is_read_within_gathered_alone() -> None:
    whole = made(recipe(), "plain")
    dense = made(recipe())

    def work(world: World) -> list[Any]:
        found = []
        for model, right in ((made(recipe(), "plain"), whole), (made(recipe()), dense)):
            shard_base(model, world)
            layer, own = model.model.layers[0], right.model.layers[0]
            linear, same = layer.mlp.down_proj, own.mlp.down_proj
            assert isinstance(linear, adapter.AdaptedLinear) and isinstance(same, adapter.AdaptedLinear)
            with pytest.raises(AssertionError, match="gathered"):
                linear.refresh_norm()
            assert adapter.shape_of(linear) == adapter.shape_of(same)
            assert model.dtype == right.dtype and model.device == right.device and gathers(model)
            with gathered(layer):
                held, expected = linear.frozen, same.frozen
            assert isinstance(held, Tensor) or all(not is_part(tensor) for tensor in held.tensors().values())
            with gathered(layer):
                if isinstance(held, Tensor):
                    assert torch.equal(held, expected)
                else:
                    assert all(torch.equal(t, expected.tensors()[n]) and t.is_contiguous() and t.data_ptr() % 16 == 0
                               for n, t in held.tensors().items())  # fmt: skip
                    assert torch.equal(nf4.dequantise(held, torch.float32), nf4.dequantise(expected, torch.float32))
            with gathered(model):
                assert torch.equal(model.embedding, right.embedding)
            assert is_part(model.embedding)
            assert model.to(CPU) is model and model.half() is model
            scales = getattr(linear.quantised, "absmax", None)
            assert scales is None or scales.dtype == torch.float32  # NF4 knows of no cast
            found.append(True)
        return found

    assert results(2, work) == [[True, True]] * 2
    with gathered(dense):
        assert dense.model.layers[0].mlp.down_proj.frozen is not None


def test_adapters_are_set_and_given_as_on_a_whole_base() -> None:
    right = made(recipe())
    state = adapter_state(right)
    refresh(right)
    norms = [module.norm for _, module in adapted(right)]

    def work(world: World) -> bool:
        model = base()
        attach(model, recipe().adapter, 3)
        shard_base(model, world)
        if world.first:  # as a run goes on from a checkpoint
            set_adapter_state(model, state)
        world.broadcast_(parameter.detach() for _, parameter in adapter_parameters(model))
        refresh(model)
        given = adapter_state(model)
        assert all(torch.equal(given[name], state[name]) and not is_part(given[name]) for name in state)
        return all(torch.equal(m.norm, n) for (_, m), n in zip(adapted(model), norms, strict=True))

    assert results(2, work) == [True, True]


def test_alone_nothing_is_shared_out() -> None:
    model = made(recipe())
    shard_base(model, ALONE)
    assert not is_sharded(model) and step(model, recipe(), packs())[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    sixteen = checkpoint(root / "sixteen", torch.bfloat16)
    return {"sixteen": sixteen, "nf4": quantised_copy(sixteen, root / "nf4")}


@pytest.mark.parametrize(("folder", "dtype", "changes"), [
    ("sixteen", "float32", BOTH), ("nf4", "float32", BOTH),
    ("sixteen", "bfloat16", (*LORA, "model.quantise=nf4", "model.embedding=int8")),
    ("sixteen", "float32", (*BOTH, "model.embedding=cpu")),
])  # fmt: skip
def test_read_layer_by_layer_it_is_the_same(
    folder: str, dtype: str, changes: tuple[str, ...], folders: dict[str, Path]
) -> None:
    chosen = recipe(*changes)
    right = load_model(folders[folder], dtype, chosen.model.quantise)
    embedding = 0.5 * right.embedding.nbytes
    hold_embedding(right, chosen.model, CPU)
    attach(right, chosen.adapter, chosen.train.seed)
    layers = sum(map(frozen_bytes, right.model.layers))
    if not isinstance(right.embedding, Tensor):
        embedding = sum(t.nbytes for t in vars(right.embedding).values() if isinstance(t, Tensor))
    others = sum(p.nbytes for p in right.parameters() if p.requires_grad) + sum(
        t.nbytes for n, t in right.named_buffers() if not n.endswith(("codes", "absmax")))  # fmt: skip
    moved(right)
    expected, state = step(right, chosen, packs()[:1]), adapter_state(right)

    def work(world: World) -> list[Any]:
        held, share = list[int](), shard._share

        def watching(module: torch.nn.Module, mesh: Any) -> None:
            held.append(tensor_bytes())
            share(module, mesh)

        shard._share = watching
        gc.freeze()
        model = load_sharded(folders[folder], dtype, chosen, world, CPU)
        held.append(tensor_bytes())
        trained = [[n for n, p in each.named_parameters() if p.requires_grad] for each in (model, right)]
        assert trained[0] == trained[1] and not model.training
        moved(model)
        assert all(torch.equal(tensor, state[n]) for n, tensor in adapter_state(model).items())
        return [furthest(step(model, chosen, packs()[:1]), expected), *held]

    for far, *held in results(2, work):
        assert far <= 1e-6
        # One layer whole, the parts of those before it; in the end parts alone.
        assert all(found <= (k + 2) / 2 * layers / 3 + 1.05 * others for k, found in enumerate(held[:3])), held
        assert held[4] <= 1.03 * (layers / 2 + embedding) + 1.05 * others, (held, layers, embedding, others)
    alone = load_sharded(folders[folder], dtype, chosen, ALONE, CPU)
    moved(alone)
    assert not is_sharded(alone) and furthest(step(alone, chosen, packs()[:1]), expected) == 0


def test_what_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, torch.float32)
    change(folder, lambda held: held["model.layers.1.mlp.up_proj.weight"].fill_(1e6))
    with pytest.raises(InputError, match=r"1 tensors hold .* model\.layers\.1\.mlp\.up_proj\.weight"):
        load_sharded(folder, "float16", recipe(), ALONE, CPU)
