"""Why a step was skipped: whose rows, and in which module the first number that is not finite came about.

Asked only after such a step, so it may be slow: the passes run again, op by op, with every module watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dozan.chat.encode import Tokens
from dozan.model.gathered import is_sharded
from dozan.model.gemma3 import Gemma3
from dozan.train import passes
from dozan.train.plan import Plan, Prepared
from dozan.train.retry import GoBack, is_out_of_memory
from dozan.train.scale import LEAST
from dozan.train.state import Trainee

_GRADIENT, _NORM = "the gradient of", "the norm of the gradients"
LOWER = 0.5
"""Of the rate with which to try again."""

_NO_MEMORY = "a place that was not found: memory does not do for the search"

MOST_SKIPPED = 3
"""Steps in a row that are not finite stop the run; fewer are skipped."""

_JOINED = {"down_proj": ("gelu(gate) · up", ("gate_proj", "up_proj")),
           "o_proj": ("attention", ("q_proj", "k_proj", "v_proj"))}  # fmt: skip
"""What a linear's input comes from where no module gives it, and the linears before that, which may run as one op."""


Beat = Callable[[], None]
"""Called between passes: each is slow, and a watchdog ends a run that gives no sign of life."""


@dataclass(frozen=True)
class Skipped:
    """A step without an update. rows: whose loss is not finite, or all of the step where only gradients are not;
    place: where it began, in words; scale: the loss scale that a smaller one may mend, else None; began: the module or
    what else `place` tells of, "" where it was not found."""

    rows: list[str]
    place: str
    scale: float | None
    began: str = ""

    def text(self, step: int) -> str:
        """A line for whoever watches the run; `step` counts from 1."""
        return f"step {step}: {self.why()}"

    def why(self) -> str:
        """The same without the step, as metrics.jsonl keeps it."""
        if self.scale is not None:
            what = f"gradients beyond float16 at loss scale {self.scale:,.0f}, now halved"
            return f"{what}; update skipped; {self.place}"
        return f"not finite, update skipped; rows: {', '.join(self.rows)}; {self.place}"


def silent() -> None:
    """The beat where nobody listens."""


def explain(
    trainee: Trainee, plan: Plan, prepared: Prepared, step: int, loss: float, scale: float | None, beat: Beat = silent
) -> Skipped:
    """Why `step` (from 0), whose loss was `loss` at the loss scale `scale` if any, was skipped; gradients are left
    zero."""
    mended = scale if scale is not None and scale > LEAST and math.isfinite(loss) else None
    try:
        return _explained(trainee, plan, prepared, step, scale, mended, beat)
    except RuntimeError as error:
        if not is_out_of_memory(error) or is_sharded(trainee.model):  # other ranks wait amid this very pass
            raise
    return Skipped([row.row for row in prepared.rows], f"it began in {_NO_MEMORY}", mended)


def _explained(
    trainee: Trainee, plan: Plan, prepared: Prepared, step: int, scale: float | None, mended: float | None, beat: Beat
) -> Skipped:
    """`mended`: the scale that a smaller one may mend, else None."""
    if mended is not None:
        rows, began = [row.row for row in prepared.rows], begins_in(trainee, prepared, step, scale, beat)
        return Skipped(rows, _place(trainee, began), scale, began)
    guilty = _not_finite_rows(trainee.model, plan, prepared.rows, step, beat)
    alone = [row for row in prepared.rows if row.row == guilty[0]] if len(guilty) < len(prepared.rows) else []
    shown = Prepared(alone, plan.pack(alone), prepared.weight) if alone else prepared
    began = begins_in(trainee, shown, step, scale, beat)
    return Skipped(guilty, _place(trainee, began), None, began)


def require_few_skipped(
    in_a_row: int, skipped: Skipped, rate: float, step: int, mending: Callable[[], tuple[int, ...]] = tuple
) -> None:
    """Raises GoBack when the next step has little hope; `step` counts from 1. mending: asked then for the layers that
    must compute in float32 for it to be finite, if that helps: the rate stays what it is."""
    if in_a_row >= MOST_SKIPPED:
        text = (
            f"the loss or its gradient was not finite in {in_a_row} steps in a row, last in rows "
            f"{', '.join(skipped.rows)}; {skipped.place}; no update was made from them. Look at these rows, or lower "
            f"train.learning_rate (now {rate:g})"
        )
        layers = mending()
        raise GoBack(text, step, in_a_row, 1.0 if layers else LOWER, layers)


@torch.no_grad()
def _not_finite_rows(model: Gemma3, plan: Plan, rows: Sequence[Tokens], step: int, beat: Beat) -> list[str]:
    """The rows whose own loss is not finite; all of them when the fault shows only in the gradients."""
    guilty = []
    for row in rows:
        for batch in plan.pack([row]):
            beat()
            guilty += [] if torch.isfinite(passes.batch_loss(model, batch, step)) else [row.row]
    return guilty or [row.row for row in rows]


def begins_in(trainee: Trainee, prepared: Prepared, step: int, scale: float | None, beat: Beat = silent) -> str:
    """Where the packs' first number that is not finite comes about: a module, or what is said of one; "" if nowhere.
    Gradients are left zero."""
    held = None if trainee.scale is None else trainee.scale.state()
    if trainee.scale is not None and held is not None and scale is not None:
        trainee.scale.load(held | {"value": scale})
    found: list[str] = []
    try:
        with _watched(trainee.model, found):
            for batch in prepared.batches:
                beat()
                loss = passes.op_by_op(trainee.passes)(batch, prepared.weight, step)
                if not torch.isfinite(loss) and (not found or found[0].startswith(_GRADIENT)):
                    found.insert(0, "the logits")
                if found:
                    break
        found += [f"{_GRADIENT} {name}" for name, p in trainee.parameters if not _finite(p.grad)]
        found += [] if found else _overflowing_norm(trainee)
    finally:
        trainee.optimizer.zero_grad()
        if trainee.scale is not None and held is not None:
            trainee.scale.load(held)
    return found[0] if found else ""


def is_of_gradients(began: str) -> bool:
    """Whether `begins_in` found the backward pass at fault."""
    return began.startswith(_GRADIENT) or began.startswith(_NORM)


def _place(trainee: Trainee, began: str) -> str:
    if not began:
        return "found nowhere when computed again"
    limit = " (float16 ends at 65,504)" if trainee.model.dtype == torch.float16 else ""
    return f"it began in {began}{limit}"


def _overflowing_norm(trainee: Trainee) -> list[str]:
    """Gradients that are finite, and so large that the sum of their squares is not."""
    norms = [(float(p.grad.double().norm()), name) for name, p in trainee.parameters if p.grad is not None]
    norm, largest = math.hypot(*(size for size, _ in norms)), max(norms, default=(0.0, ""))
    if norm * norm <= torch.finfo(torch.float32).max:
        return []
    return [f"{_NORM}, {norm:.1e}, whose square is beyond float32; the largest is {largest[1]}'s"]


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Within it, passes add to `found` where something that is not finite appears, the first one first."""
    inputs: dict[str, Tensor] = {}
    handles = []
    for name, module in model.named_modules():
        if name:
            before, after = _watchers(model, name, inputs, found)
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watchers(model: nn.Module, name: str, inputs: dict[str, Tensor], found: list[str]) -> tuple[Any, Any]:
    """What watches a module's inputs, its outputs, and the gradients of these."""
    parent, _, last = name.rpartition(".")

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        if found or not args or not isinstance(args[0], Tensor):
            return
        if last in ("mlp", "self_attn"):
            inputs[name] = args[0]
        if not _finite(args[0]):
            found.append(_joined(model, parent, last, inputs) if last in _JOINED else f"what {name} takes")

    def after(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
        tensors = [x for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor)]
        if not found and not all(map(_finite, tensors)):
            found.append(_joined(model, name, "o_proj", inputs, name) if last == "self_attn" else name)
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(watch_gradient)

    def watch_gradient(gradient: Tensor) -> None:
        if not found and not _finite(gradient):
            found.append(f"{_GRADIENT} what {name} gives")

    return before, after


def _joined(model: nn.Module, block: str, joined: str, inputs: dict[str, Tensor], otherwise: str = "") -> str:
    """Which linear of a block, or what follows them, gives what is not finite, from the block's input."""
    what, linears = _JOINED[joined]
    for child in linears:
        if not _finite(model.get_submodule(f"{block}.{child}")(inputs[block])):
            return f"{block}.{child}"
    return otherwise or f"{block}: {what}"


def _finite(x: Tensor | None) -> bool:
    return x is None or not x.is_floating_point() or bool(torch.isfinite(x).all())
