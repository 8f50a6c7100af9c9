"""The memory plan on a GPU: predictions beside the allocator, the dial on a card that is made small, the rehearsal."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from bench.memory import CASES, Case, build, measure, pack, setup_of, trainee_of
from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.model.adapter import adapter_parameters
from dozan.model.gemma3 import Gemma3Config
from dozan.pack import Batch
from dozan.recipe import Recipe
from dozan.train.memory import MARGIN
from dozan.train.memory_fit import fit
from dozan.train.memory_run import budget_of_device, rehearse
from dozan.train.plan import make_plan
from dozan.train.shapes import shape_of

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
DEVICE = torch.device("cuda", 0)
ROW = Tokens("a", (2, 3, 4), (0.0, 1.0, 1.0))


def build_config(case: Case) -> Gemma3Config:
    config = shape_of(case.size)
    assert config is not None
    return config


@contextmanager
def card_of(size: int) -> Iterator[None]:
    """The card with so many bytes free: the rest is taken by the driver, past PyTorch's allocator, whose own limit
    (`set_per_process_memory_fraction`) counts a request whole although part of it is mapped already."""
    gc.collect()
    torch.cuda.empty_cache()
    driver, taken = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64()
    ballast = ctypes.c_size_t(torch.cuda.mem_get_info(DEVICE)[0] - size)
    assert driver.cuMemAlloc_v2(ctypes.byref(taken), ballast) == 0
    try:
        yield
    finally:
        gc.collect()
        torch.cuda.empty_cache()
        assert driver.cuMemFree_v2(taken) == 0


@pytest.mark.parametrize("case", [case for case in CASES if case.size == "270m"], ids=lambda case: case.name)
def test_the_peak_is_as_predicted(case: Case) -> None:
    found = measure(case, DEVICE)
    assert abs(found["off"]) <= 0.05, (found["predicted"], found["measured"])


@pytest.mark.parametrize(
    "case",
    [Case("270m", 32, 8192, 1024), Case("1b", 32, 8192, 1024), Case("1b", 64, 4096, 512, dora=True, graphs=False)],
    ids=lambda case: case.name,
)
@pytest.mark.parametrize("part", [0.7, 0.5])
def test_what_is_promised_to_fit_fits(case: Case, part: float) -> None:
    """On a card with a part of what keeping everything takes, the dial is turned, and the steps are made."""
    free = setup_of(case, build_config(case), DEVICE)
    with card_of(int(fit(free, 2**60).table.total * part)):
        found = fit(free, budget_of_device(DEVICE))
        assert found.fits and found.setup.recompute > 0
        share = found.setup.recompute / found.setup.config.num_hidden_layers
        chosen = replace(case, recompute=share, offload=found.setup.offload,
                         graphs=case.graphs and not found.setup.offload)  # fmt: skip
        run = measure(chosen, DEVICE)
        assert run["reserved"] <= found.table.allocated + found.table.apart + MARGIN * found.budget


def test_the_rehearsal_leaves_nothing_and_names_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("270m", 8, 2048, 256, graphs=False)
    setup = setup_of(case, build_config(case), DEVICE)
    trainee = trainee_of(case, setup, build(setup, DEVICE))
    before = {name: p.detach().clone() for name, p in trainee.parameters}
    batch = pack(case, setup.config.vocab_size)

    def longest(plan: object) -> Batch:
        return batch

    monkeypatch.setattr("dozan.train.memory_run._longest", longest)
    plan = make_plan(Recipe(), [ROW])
    assert rehearse(trainee, plan) is batch
    for name, parameter in adapter_parameters(trainee.model):
        assert torch.equal(parameter, before[name])
        assert parameter.grad is not None and not parameter.grad.any()
    with card_of(32 * 2**20), pytest.raises(InputError, match="2,048 tokens.*does not fit"):
        rehearse(trainee, plan)
