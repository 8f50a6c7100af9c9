"""Recomputation: the same loss and gradients bit for bit, fewer bytes kept, copies that may come at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_model, tree_rows
from torch import Tensor

from bench import depth
from dozan.errors import InputError
from dozan.model import recompute
from dozan.model.adapter import adapter_parameters, attach, refresh
from dozan.model.gemma3 import Gemma3
from dozan.model.recompute import NOTHING, HostMemory, Recompute
from dozan.pack import Batch, pack_rows
from dozan.recipe import Recipe, override
from dozan.train import passes

CPU = torch.device("cpu")
BOTH = ["adapter.rank=4", "adapter.alpha=8", "adapter.rslora=true", "adapter.dora=true"]
DIALS = [
    ["train.recompute=0"], ["train.recompute=1"], ["train.recompute=3"], ["train.recompute=7"],
    ["train.recompute=layers"], ["train.recompute=3", "train.offload=true"],
    ["train.recompute=layers", "train.offload=true"],
]  # fmt: skip


def recipe(*changes: str) -> Recipe:
    return override(Recipe(), [*BOTH, *changes])


def trained(chosen: Recipe, **shape: Any) -> Gemma3:
    """A model with adapters that are not where they began."""
    model = tiny_model(**shape)
    attach(model, chosen.adapter, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    refresh(model)
    return model.train()


def batches(how: str = "paths") -> list[Batch]:
    """Two packs or more, paths of 128 and 256 tokens when padded; the rows are several windows long."""
    packs = pack_rows(tree_rows(), how, 150 if how == "paths" else 80)  # type: ignore[arg-type]
    assert len(packs) > 1 and max(int(batch.position.max()) for batch in packs) > 40
    return packs


def gradients(model: Gemma3, run: passes.Passes, packs: list[Batch]) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of the packs and the gradients that they leave together."""
    model.zero_grad()
    losses = [float(run(batch, 3.0, 5)) for batch in packs]
    return losses, {name: parameter.grad.clone() for name, parameter in adapter_parameters(model)}


def require_equal(found: tuple[list[float], dict[str, Tensor]], right: tuple[list[float], dict[str, Tensor]]) -> None:
    assert found[0] == right[0]
    assert all(torch.equal(found[1][name], right[1][name]) for name in right[1])
    assert all(gradient.abs().max() > 0 for gradient in right[1].values())


@pytest.mark.parametrize(("how", "extra"), [("tries", ()), ("paths", ("adapter.dropout=0.3",))])
@pytest.mark.parametrize("dial", DIALS, ids=" ".join)
def test_loss_and_gradients_are_those_without(dial: list[str], how: str, extra: tuple[str, ...]) -> None:
    kept, again = recipe(*extra), recipe(*extra, *dial)
    model, packs = trained(kept), batches(how)
    right = gradients(model, passes.make_passes(model, kept), packs)
    run = passes.make_passes(model, again)
    for _ in range(2):
        require_equal(gradients(model, run, packs), right)


@pytest.mark.parametrize("offload", [False, True])
def test_gradients_of_the_base_itself(offload: bool) -> None:
    model, (batch, *_) = tiny_model(), batches()
    found = []
    for dial in (NOTHING, Recompute(4, HostMemory(CPU) if offload else None)):
        model.zero_grad()
        passes.batch_loss(model, batch, 0, dial).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def layer_calls(model: Gemma3, backward: bool, dial: Recompute) -> list[int]:
    """How often each layer is computed in a pass."""
    calls = [0] * len(model.model.layers)

    def count(layer: Any, inputs: Any) -> None:
        calls[layer.index] += 1

    hooks = [layer.register_forward_pre_hook(count) for layer in model.model.layers]
    with torch.set_grad_enabled(backward):
        loss = passes.batch_loss(model, batches()[0], 0, dial)
    if backward:
        loss.backward()
    for hook in hooks:
        hook.remove()
    return calls


def test_the_first_layers_are_computed_twice_and_in_evaluation_none() -> None:
    model = trained(recipe())
    assert layer_calls(model, True, Recompute(3)) == [2, 2, 2, 1, 1, 1, 1]
    assert layer_calls(model, True, Recompute(7, HostMemory(CPU))) == [2] * 7
    memory = LateMemory()
    assert layer_calls(model, False, Recompute(7, memory)) == [1] * 7 and not memory.asked


def kept_bytes(model: Gemma3, batch: Batch, dial: Recompute) -> int:
    """What autograd keeps between the forward and the backward pass, each piece of memory once; without parameters."""
    storages = {p.untyped_storage().data_ptr(): 0 for p in model.parameters()}

    def seen(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
        loss = passes.batch_loss(model, batch, 0, dial)
    total = sum(storages.values())
    loss.backward()
    return total


def test_fewer_bytes_are_kept_the_further_the_dial_is_turned() -> None:
    model, batch = trained(recipe()), batches()[0]
    dials = [Recompute(n) for n in (0, 1, 3, 5, 7)] + [Recompute(7, HostMemory(CPU))]
    kept = [kept_bytes(model, batch, dial) for dial in dials]
    assert kept == sorted(set(kept), reverse=True)
    assert kept[0] > 20 * kept[-2]


@pytest.mark.parametrize("offload", [False, True])
def test_depth_adds_one_input_a_layer_or_nothing(offload: bool) -> None:
    batch, kept = batches()[0], []
    for layers in (3, 4, 7):
        model = trained(recipe(), num_hidden_layers=layers)
        kept.append(kept_bytes(model, batch, Recompute(layers, HostMemory(CPU) if offload else None)))
    tokens = passes.padded_length(len(batch), 128)
    one = 0 if offload else tokens * model.config.hidden_size * 4
    assert [kept[1] - kept[0], kept[2] - kept[0]] == [one, 4 * one]


class LateMemory(HostMemory):
    """Copies at the last moment that a stream may: when one is waited for, with those asked for before it."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.asked: list[tuple[Tensor, Tensor]] = []
        self.done = 0

    def copy(self, target: Tensor, source: Tensor) -> int:
        target.view(torch.uint8).fill_(255)  # NaN, as far as what is not copied yet goes
        self.asked.append((target, source))
        return len(self.asked)

    def wait(self, copied: int) -> None:
        for target, source in self.asked[self.done : copied]:
            target.copy_(source)
        self.done = max(self.done, copied)


def test_copies_may_end_as_late_as_they_are_waited_for() -> None:
    model, packs = trained(recipe()), batches()
    right = gradients(model, passes.EagerPasses(model, Recompute(0)), packs)
    memory = LateMemory()
    found = gradients(model, passes.EagerPasses(model, Recompute(5, memory)), packs)
    require_equal(found, right)
    assert memory.done == len(memory.asked) == 2 * 5 * len(packs)


def test_an_input_comes_while_the_layer_above_is_computed() -> None:
    model, (batch, *_), memory, order = trained(recipe()), batches(), LateMemory(), []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(lambda layer, _: order.append((layer.index, len(memory.asked), memory.done)))
    passes.EagerPasses(model, Recompute(3, memory))(batch, 1.0, 0)
    # Layer, copies asked for, copies waited for: out beside the layer itself; back the layer's own, done, and the next.
    assert order[:3] == [(0, 1, 0), (1, 2, 1), (2, 3, 2)]
    assert order[7:] == [(2, 5, 4), (1, 6, 5), (0, 6, 6)]


@pytest.fixture
def buffers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of the buffers in host memory that are made."""
    made: list[int] = []
    plain: Callable[..., Tensor] = torch.empty

    def empty(*size: Any, **options: Any) -> Tensor:
        if options.get("dtype") == torch.uint8:
            made.append(*size)
        return plain(*size, **options)

    monkeypatch.setattr(recompute.torch, "empty", empty)
    yield made


def test_buffers_serve_every_pass_and_every_shorter_pack(buffers: list[int]) -> None:
    model, chosen = trained(recipe()), recipe("train.recompute=layers", "train.offload=true")
    long, short = pack_rows(tree_rows(), "paths", 200)[0], pack_rows(tree_rows(), "paths", 60)[0]
    run = passes.make_passes(model, chosen)
    gradients(model, run, [short])
    assert buffers == [128 * 32 * 4] * 7
    gradients(model, run, [long, short, long])
    assert buffers == [128 * 32 * 4] * 7 + [256 * 32 * 4] * 7


def test_a_pass_that_is_never_back_propagated_harms_no_other() -> None:
    model, packs = trained(recipe()), batches()
    right = gradients(model, passes.EagerPasses(model, Recompute(0)), packs)
    dial = Recompute(7, HostMemory(CPU))
    lost = passes.batch_loss(model, packs[0], 0, dial)
    require_equal(gradients(model, passes.EagerPasses(model, dial), packs), right)
    del lost
    require_equal(gradients(model, passes.EagerPasses(model, dial), packs), right)


def test_offloaded_inputs_come_back_once() -> None:
    model = trained(recipe())
    loss = passes.batch_loss(model, batches()[0], 0, Recompute(2, HostMemory(CPU)))
    loss.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="back-propagated once"):
        loss.backward()


@pytest.mark.parametrize("value", ["all", "-1", "true", "1.5", "null"])
def test_a_value_that_is_no_place_on_the_dial_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="train.recompute = .*'none', 'layers' .all. or a number .* that works: auto"):
        recipe(f"train.recompute={value}")


def test_more_layers_than_the_model_has_are_refused() -> None:
    model = trained(recipe())
    with pytest.raises(InputError, match="train.recompute = 8: this model has 7 layers"):
        passes.make_passes(model, recipe("train.recompute=8"))


@pytest.mark.parametrize("dial", ["none", "0"])
def test_offload_without_recomputation_is_refused(dial: str) -> None:
    with pytest.raises(InputError, match="train.offload = true: .* set it to layers"):
        recipe("train.offload=true", f"train.recompute={dial}")


def test_dropout_alone_is_never_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "attends_in_triton", lambda device, head_dim: True)
    monkeypatch.setattr(passes, "GraphedPasses", lambda model, recompute, scale: "graphed")
    model = tiny_model()
    for change in ("train.recompute=3", "train.offload=true"):
        assert passes.make_passes(model, recipe("train.recompute=3", change)) == "graphed"
    assert isinstance(passes.make_passes(model, recipe("adapter.dropout=0.1")), passes.EagerPasses)


def test_the_benchmark_of_depth(tmp_path: Path) -> None:
    depth.main(["--tiny", "--out", str(tmp_path / "depth.json")])
    record = json.loads((tmp_path / "depth.json").read_text(encoding="utf-8"))
    grown = {mode: [run["bytes"] for run in record["runs"] if run["mode"] == mode] for mode in depth.MODES}
    one = record["tokens"] * record["hidden_size"] * record["element_bytes"]
    assert grown["layers"][1] - grown["layers"][0] == one * (record["depths"][1] - record["depths"][0])
    assert len(set(grown["offload"])) == 1 and grown["none"][0] > grown["layers"][0] > grown["offload"][0]
    assert all(run["equal"] for run in record["runs"])
    assert (tmp_path / "depth.svg").read_text(encoding="utf-8").startswith('<svg xmlns="http://www.w3.org/2000/svg"')


def test_no_buffer_is_ever_let_go() -> None:
    """A captured graph copies to the addresses that it saw, also after a longer pack asked for longer buffers."""
    memory = HostMemory(CPU)
    small = [memory.take(100) for _ in range(3)]
    for buffer in small:
        memory.give(buffer)
    large = [memory.take(1000) for _ in range(3)]
    assert not {b.data_ptr() for b in small} & {b.data_ptr() for b in large}
    for buffer in large:
        memory.give(buffer)
    again = {memory.take(100).data_ptr() for _ in range(3)}
    assert again == {b.data_ptr() for b in small}, "short inputs go into short buffers"
