"""Low-rank adapters on the seven linears of a layer: LoRA, rsLoRA, DoRA and both.

    y = c ⊙ (x Wᵀ + s · (x Aᵀ) Bᵀ)        s = alpha / R, or alpha / √R with rsLoRA (arXiv:2312.03732)
    c = m / ‖W + s B A‖ per row            with DoRA (arXiv:2402.09353, section 4.3: the norm is detached), else 1

The norm depends on parameters alone, so `refresh` computes it once an optimiser step, without a dense B A:
‖W + s B A‖² = ‖w‖² + 2 s ⟨b, (W Aᵀ) row⟩ + s² · b (A Aᵀ) bᵀ.
Shapes: T tokens, I inputs, O outputs, R rank. W [O, I] is frozen, in any dtype or NF4; A [R, I], B [O, R], m [O] are
fp32.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels.geglu import geglu
from dozan.kernels.low_rank import LowRank, low_rank_linears, merged_row_norms, row_norms
from dozan.kernels.nf4 import NF4, dequantise
from dozan.model.gathered import each_gathered, is_part, is_sharded
from dozan.model.quantised import QuantisedLinear
from dozan.recipe import AdapterRecipe

PEFT_ROOT = "base_model.model."
"""What PEFT puts before a module's own name in an adapter file."""

_SMALLEST_NORM = 1e-18
_PEFT_SUFFIX = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


@dataclass(frozen=True)
class DropoutRows:
    """Which rows a forward pass holds: their ids, the index where each begins, and the optimiser step."""

    rows: tuple[str, ...]
    starts: tuple[int, ...]
    step: int


def stable_seed(*parts: object) -> int:
    """A 63-bit seed that depends on the parts' text alone: the same in every process and on every machine."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def scale_of(recipe: AdapterRecipe) -> float:
    """The factor s on B A."""
    return recipe.alpha / (math.sqrt(recipe.rank) if recipe.rslora else recipe.rank)


class AdaptedLinear(nn.Module):
    """A frozen linear (no bias) with an adapter; `weight` keeps the name that the checkpoint gives it, and is None over
    a quantised linear, which is `quantised` then."""

    weight: nn.Parameter | None
    quantised: QuantisedLinear | None
    lora_A: nn.Parameter
    lora_B: nn.Parameter
    magnitude: nn.Parameter | None
    norm: Tensor | None
    weight_norm: Tensor | None
    name: str
    seed: int
    dropout: float
    scale: float
    dropout_rows: DropoutRows | None

    def __init__(self, linear: nn.Linear | QuantisedLinear, recipe: AdapterRecipe, name: str, seed: int) -> None:
        super().__init__()
        assert linear.bias is None, f"{name} has a bias"
        self.name, self.seed, self.dropout, self.scale = name, seed, recipe.dropout, scale_of(recipe)
        self.quantised = linear if isinstance(linear, QuantisedLinear) else None
        self.weight = linear.weight if isinstance(linear, nn.Linear) else None
        (outputs, inputs), device = self.frozen.shape, self.frozen.device
        self.lora_A = nn.Parameter(_gaussian(recipe.rank, inputs, stable_seed(seed, name, "A")).to(device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, recipe.rank, device=device))
        norm = row_norms(self.frozen).clamp_min_(_SMALLEST_NORM) if recipe.dora else None
        self.magnitude = None if norm is None else nn.Parameter(norm.clone())
        self.register_buffer("norm", norm, persistent=False)
        self.register_buffer("weight_norm", None if norm is None else norm.clone(), persistent=False)
        self.dropout_rows = None

    @property
    def frozen(self) -> Tensor | NF4:
        """W [O, I], as it is held."""
        if self.quantised is not None:
            return self.quantised.nf4
        assert self.weight is not None and not is_part(self.weight), f"the layer of {self.name} must be gathered first"
        return self.weight

    @property
    def parts(self) -> LowRank:
        """What the op takes."""
        return LowRank(self.frozen, self.lora_A, self.lora_B, self.magnitude, self.norm)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., I] -> [..., O] in x's dtype; in training with dropout, x is the [T, I] that `set_dropout` told of."""
        dropped = x * self._mask(x) if self.dropout and self.training else None
        (y,) = low_rank_linears(x, [self.parts], self.scale, dropped)
        return y

    def _mask(self, x: Tensor) -> Tensor:
        """[T, I]: 0 or 1 / (1 - dropout), drawn for each row from (seed, step, row, module)."""
        told = self.dropout_rows
        assert told is not None and x.dim() == 2, f"{self.name}: set_dropout must precede a training forward on [T, I]"
        ends = (*told.starts[1:], x.shape[0])
        assert told.starts[0] == 0 and all(a <= b for a, b in zip(told.starts, ends, strict=True)), told.starts
        draws = []
        for row, start, end in zip(told.rows, told.starts, ends, strict=True):
            generator = torch.Generator(x.device).manual_seed(stable_seed(self.seed, told.step, row, self.name))
            draws.append(torch.rand(end - start, x.shape[1], device=x.device, generator=generator))
        return (torch.cat(draws) >= self.dropout).to(x.dtype) / (1.0 - self.dropout)

    @torch.no_grad()
    def refresh_norm(self) -> None:
        """Compute the row norms of W + s B A again, in fp32. Nothing to do without DoRA."""
        if self.norm is None or self.weight_norm is None:
            return
        merged_row_norms(
            self.frozen, self.weight_norm, self.lora_A, self.lora_B, self.scale, _SMALLEST_NORM, self.norm
        )


def project(x: Tensor, linears: Sequence[nn.Module], dots: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    """What each of the linears makes of x [..., I]; adapted ones are computed as one op. dots: see
    `low_rank_linears`."""
    together = [m for m in linears if isinstance(m, AdaptedLinear) and not (m.dropout and m.training)]
    if len(together) < max(2, len(linears)) or any(m.scale != together[0].scale for m in together):
        return tuple(linear(x) for linear in linears)
    return low_rank_linears(x, [m.parts for m in together], together[0].scale, dots=dots)


def gated(x: Tensor, gate: nn.Module, up: nn.Module) -> Tensor:
    """`geglu` of what the two linears make of x [..., I]: [..., F]."""
    dots: list[Tensor] | None = [] if all(getattr(m, "magnitude", None) is not None for m in (gate, up)) else None
    gates, ups = project(x, (gate, up), dots)
    return geglu(gates, ups, dots)


def _gaussian(rank: int, width: int, seed: int) -> Tensor:
    """fp32 [rank, width] with standard deviation 1 / rank, as PEFT's init_lora_weights="gaussian"."""
    return torch.randn(rank, width, generator=torch.Generator().manual_seed(seed)) / rank


def adapted(model: nn.Module) -> list[tuple[str, AdaptedLinear]]:
    """The adapted linears with their names, in the model's order."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, AdaptedLinear)]


def targets(model: nn.Module, recipe: AdapterRecipe) -> list[tuple[str, nn.Linear | QuantisedLinear | AdaptedLinear]]:
    """The linears that `recipe.targets` names, adapted or not."""
    kinds = (nn.Linear, QuantisedLinear, AdaptedLinear)
    linears = ((n, m) for n, m in model.named_modules() if isinstance(m, kinds) and not n.endswith(".quantised"))
    return [(name, module) for name, module in linears if name.rsplit(".", 1)[-1] in recipe.targets]


def attach(model: nn.Module, recipe: AdapterRecipe, seed: int) -> None:
    """Freeze the model and put an adapter on every target, in place; the output stays what it was, since B is zero.

    The same seed gives the same adapters whatever the base's dtype, its device or the other targets. Raises InputError
    when `recipe.targets` names no linear.
    """
    assert not adapted(model), "the model has adapters already"
    attach_each(model, {name: recipe for name in target_names(model, recipe)}, seed)


def target_names(model: nn.Module, recipe: AdapterRecipe) -> list[str]:
    """The names of what `targets` gives. Raises InputError when `recipe.targets` names no linear."""
    found = [name for name, _ in targets(model, recipe)]
    if not found:
        raise InputError(f"adapter.targets {list(recipe.targets)} names no linear of this model; try [q_proj, v_proj]")
    return found


def attach_each(model: nn.Module, recipes: Mapping[str, AdapterRecipe], seed: int) -> None:
    """Freeze the model and put an adapter of its own on each of some linears, by name, in place."""
    model.requires_grad_(False)
    for name, recipe in recipes.items():
        adapt(model, name, recipe, seed)


def adapt(model: nn.Module, name: str, recipe: AdapterRecipe, seed: int) -> None:
    """Put an adapter on one linear of a frozen model, in place."""
    linear, (parent, _, child) = model.get_submodule(name), name.rpartition(".")
    assert isinstance(linear, nn.Linear | QuantisedLinear), f"{name} has an adapter"
    setattr(model.get_submodule(parent), child, AdaptedLinear(linear, recipe, name, seed).train(linear.training))


def adapter_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The trained parameters with their names (`….q_proj.lora_A`, `….lora_B`, `….magnitude`), in a stable order."""
    return [
        (f"{name}.{part}", parameter)
        for name, module in adapted(model)
        for part, parameter in module.named_parameters(recurse=False)
        if part != "weight"
    ]


def refresh(model: nn.Module) -> None:
    """Compute DoRA's norms again: due after every optimiser step and whenever adapter parameters were set."""
    if all(module.norm is None for _, module in adapted(model)):
        return
    for part in each_gathered(model):
        for _, module in adapted(part):
            module.refresh_norm()


def refresh_alone(model: nn.Module) -> None:
    """The same for a rank on its own; of a base that is shared out nothing: all ranks must `refresh` together then."""
    if not is_sharded(model):
        refresh(model)


def set_dropout(model: nn.Module, rows: Sequence[str], row_starts: Sequence[int], step: int) -> None:
    """Tell the adapters which rows the next forward passes hold, so that each row draws its own dropout.

    rows: ids; row_starts: the packed index where each begins, ascending from 0 (the last one ends with the pack); step:
    the optimiser step. A row's mask depends only on (seed, step, row, module, position in the row): packing,
    accumulation and recomputation change nothing. Without dropout this does nothing.
    """
    assert len(rows) == len(row_starts) > 0
    told = DropoutRows(tuple(rows), tuple(row_starts), step)
    for _, module in adapted(model):
        module.dropout_rows = told if module.dropout else None


@torch.no_grad()
def merged_weight(linear: AdaptedLinear) -> Tensor:
    """The weight [O, I] in fp32 that does what the linear and its adapter do (without dropout)."""
    frozen = linear.frozen
    base = frozen.float() if isinstance(frozen, Tensor) else dequantise(frozen, torch.float32)
    return merged_onto(base, linear)


@torch.no_grad()
def merged_onto(weight: Tensor, linear: AdaptedLinear) -> Tensor:
    """`weight` fp32 [O, I] with the adapter of `linear` added: fp32 [O, I], of its own."""
    weight = torch.addmm(weight, linear.lora_B, linear.lora_A, alpha=linear.scale)
    if linear.magnitude is None:
        return weight
    norm = weight.norm(dim=1).clamp_min_(_SMALLEST_NORM)
    return weight.mul_((linear.magnitude / norm)[:, None])


def merged_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the checkpoint by its text-only name, one at a time: merged in fp32 where adapted, else as is."""
    modules = dict(adapted(model))
    trained = {name for name, _ in adapter_parameters(model)}
    for name, parameter in model.named_parameters():
        if name in trained:
            continue
        module = modules.get(name.removesuffix(".weight"))
        yield name, parameter.detach() if module is None else merged_weight(module)


def shape_of(linear: nn.Linear | QuantisedLinear | AdaptedLinear) -> tuple[int, int]:
    """(outputs, inputs)"""
    if isinstance(linear, nn.Linear | QuantisedLinear):
        return linear.out_features, linear.in_features
    return linear.lora_B.shape[0], linear.lora_A.shape[1]


def state_shapes(model: nn.Module, recipe: AdapterRecipe) -> dict[str, tuple[int, ...]]:
    """The names and shapes that PEFT's file holds for this recipe on this model, adapted or not."""
    return shapes_of_each(model, {name: recipe for name, _ in targets(model, recipe)})


def shapes_of_each(model: nn.Module, recipes: Mapping[str, AdapterRecipe]) -> dict[str, tuple[int, ...]]:
    """The same for linears that each have a recipe, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, recipe in recipes.items():
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear | QuantisedLinear | AdaptedLinear), name
        outputs, inputs = shape_of(linear)
        shapes[f"{PEFT_ROOT}{name}.lora_A.weight"] = (recipe.rank, inputs)
        shapes[f"{PEFT_ROOT}{name}.lora_B.weight"] = (outputs, recipe.rank)
        if recipe.dora:
            shapes[f"{PEFT_ROOT}{name}.lora_magnitude_vector"] = (outputs,)
    return shapes


def _peft_name(name: str) -> str:
    module, _, part = name.rpartition(".")
    return f"{PEFT_ROOT}{module}.{_PEFT_SUFFIX[part]}"


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters, fp32, detached, by PEFT's names (`base_model.model.model.layers.0.….lora_A.weight`)."""
    return {_peft_name(name): parameter.detach() for name, parameter in adapter_parameters(model)}


@torch.no_grad()
def set_adapter_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy what `adapter_state` gave back into the model, and refresh the norms (`refresh_alone`).

    Raises InputError that lists every missing, unexpected and mis-shaped tensor; then nothing was changed.
    """
    own = {_peft_name(name): parameter for name, parameter in adapter_parameters(model)}
    problems = compare_shapes(shapes_of(own), shapes_of(state))
    if problems:
        raise InputError("the adapter does not fit this model:\n  " + "\n  ".join(problems))
    for name, parameter in own.items():
        parameter.copy_(state[name])
    refresh_alone(model)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def compare_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line for each missing, unexpected or mis-shaped tensor, shapes included; empty when they agree."""
    lines = [f"missing: {name} {list(expected[name])}" for name in expected if name not in found]
    lines += [f"unexpected: {name} {list(found[name])}" for name in found if name not in expected]
    for name in expected:
        if name in found and found[name] != expected[name]:
            lines.append(f"shape: {name} is {list(found[name])}, must be {list(expected[name])}")
    return lines
