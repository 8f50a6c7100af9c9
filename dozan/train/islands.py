"""Layers that compute in float32 amid a run in float16: what is done where activations pass 65,504.

Such a layer holds its frozen weights in float32 and computes its norms, linears and gated product in it; queries, keys
and values are rounded to float16 again, so that attention and caches are those of every layer. On a T4 the layer takes
several times as long, and twice the memory for its weights. It changes no other layer by a bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dozan.errors import InputError
from dozan.model.gathered import is_sharded
from dozan.model.gemma3 import Gemma3
from dozan.train.health import Beat, Skipped, begins_in, is_of_gradients, silent
from dozan.train.plan import Prepared
from dozan.train.retry import is_out_of_memory
from dozan.train.state import Trainee

_LAYER = re.compile(r"\bmodel\.layers\.(\d+)\b")
_MOST = 8
"""Layers in float32 that one fault may ask for; a model that needs more is not one for float16."""


def widen(model: Gemma3, layers: Sequence[int]) -> None:
    """Have these layers compute in float32 from now on; captured passes and updates must be made anew. Where memory
    does not do for all of them, none is changed. Raises InputError for a base that is shared out."""
    if layers and is_sharded(model):
        raise InputError("the run has layers in float32 amid float16, which a base in shares has not; go on with --set "
                         "train.fsdp=false")  # fmt: skip
    done: list[nn.Parameter] = []
    try:
        for index in layers:
            for parameter in _narrow(model.model.layers[index]):
                parameter.data = parameter.data.float()
                done.append(parameter)
    except RuntimeError:
        for parameter in done:
            parameter.data = parameter.data.half()
        raise


def widened(model: Gemma3, layers: Sequence[int]) -> bool:
    """The same; False where memory does not do for it."""
    try:
        widen(model, layers)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def islands_of(run: Mapping[str, Any] | None) -> list[int]:
    """The layers that the last recovery in a run.json left in float32."""
    recoveries = (run or {}).get("recoveries") or ()
    return list(recoveries[-1].get("fp32_layers", ())) if recoveries else []


def layers_that_mend(
    trainee: Trainee, prepared: Prepared, step: int, skipped: Skipped, beat: Beat = silent
) -> tuple[int, ...]:
    """The layers, one after the other, that must compute in float32 for a step's packs to be finite; none when that or
    memory does not do, where the model is not in float16, and where its weights are trained, or shared out."""
    if trainee.model.dtype != torch.float16 or trainee.masters is not None or is_sharded(trainee.model):
        return ()
    try:
        return _searched(trainee, prepared, step, skipped, beat)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    return ()


def _searched(trainee: Trainee, prepared: Prepared, step: int, skipped: Skipped, beat: Beat) -> tuple[int, ...]:
    model = trainee.model
    wide: list[int] = []
    began = skipped.began
    with _tried(model):
        while began:
            found = _LAYER.search(began)
            if found is None or is_of_gradients(began) or int(found[1]) in wide or len(wide) == _MOST:
                return ()
            wide.append(int(found[1]))
            widen(model, wide[-1:])
            began = begins_in(trainee, prepared, step, None, beat)
    return tuple(wide)


@contextmanager
def _tried(model: Gemma3) -> Iterator[None]:
    """Within it layers may be widened; afterwards every weight is what it was."""
    before = [(parameter, parameter.data) for parameter in _narrow(model)]
    try:
        yield
    finally:
        for parameter, data in before:
            parameter.data = data


def _narrow(module: nn.Module) -> list[nn.Parameter]:
    """Its frozen parameters in float16."""
    return [p for p in module.parameters() if p.dtype == torch.float16 and not p.requires_grad]
