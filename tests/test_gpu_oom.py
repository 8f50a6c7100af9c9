"""Memory taken away in mid-run on a GPU: the step is computed again in smaller packs, op by op and with graphs."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.model.adapter import attach
from dozan.model.gemma3 import Gemma3
from dozan.recipe import Recipe, override
from dozan.train import loop, passes, update
from dozan.train.live import Event
from dozan.train.loop import TrainResult, fit
from dozan.train.passes import GraphedPasses
from dozan.train.plan import Plan, make_plan
from dozan.train.prepare import Base
from dozan.train.retry import make_room
from dozan.train.shapes import shape_of
from dozan.train.state import Trainee

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
DEVICE = torch.device("cuda", 0)
BASE = Base("270m", "0" * 64, "gemma3")
STEPS, TAKEN_AT = 8, 3
EAGER = ("adapter.dropout=0.1", "pack=paths")
"""With dropout nothing is captured."""


class Ballast:
    """What is free but for some bytes, taken by the driver past PyTorch's allocator."""

    def __init__(self) -> None:
        self._driver, self._taken = ctypes.CDLL("libcuda.so.1"), list[ctypes.c_uint64]()

    def take(self, left: int) -> None:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        place, size = ctypes.c_uint64(), torch.cuda.mem_get_info(DEVICE)[0] - left
        assert size > 0 and self._driver.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(size)) == 0
        self._taken.append(place)

    def give(self) -> None:
        while self._taken:
            assert self._driver.cuMemFree_v2(self._taken.pop()) == 0


@contextmanager
def ballast() -> Iterator[Ballast]:
    held = Ballast()
    try:
        yield held
    finally:
        held.give()
        gc.collect()
        torch.cuda.empty_cache()


def rows_of(count: int, tokens: int) -> list[Tokens]:
    """Rows that share nothing, a quarter supervised."""
    draw, rows = random.Random(1), []
    for i in range(count):
        ids = (2, *(draw.randrange(10, 200_000) for _ in range(tokens - 1)))
        rows.append(Tokens(f"row{i}", ids, tuple(float(at % 4 == 3) for at in range(tokens))))
    return rows


def plan_of(*changes: str, tokens: int = 512) -> Plan:
    """Steps of 16 rows in one pack; their first rows are short, so that a pack is the largest only after `TAKEN_AT`."""
    settings = [f"train.max_steps={STEPS}", "train.batch_size=16", "train.pack_tokens=16384", "train.recompute=none",
                "train.learning_rate=0.001", "adapter.rank=8", "train.warmup_steps=0", *changes]  # fmt: skip
    chosen = override(Recipe(), settings)
    plan = make_plan(chosen, rows_of(16 * STEPS, tokens))
    early = {row.row for step in range(TAKEN_AT + 2) for row in plan.rows_of(step)}
    short = {row.row: row for row in rows_of(16 * STEPS, 64)}
    return make_plan(chosen, [short[row.row] if row.row in early else row for row in plan.rows])


def model_of(plan: Plan, dtype: torch.dtype) -> Gemma3:
    """The 270M with weights from a seed."""
    config = shape_of("270m")
    assert config is not None
    torch.manual_seed(0)
    with DEVICE:
        model = Gemma3(config).to(dtype)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)
    attach(model, plan.recipe.adapter, 0)
    return model


def trained(
    out: Path, plan: Plan, dtype: torch.dtype, held: Ballast | None = None, left: int = 0
) -> tuple[TrainResult, list[Event]]:
    """The run; with `held`, only `left` bytes stay free after step `TAKEN_AT`."""
    events: list[Event] = []

    def told(event: Event) -> None:
        events.append(event)
        if held is not None and event["event"] == "step" and event["step"] == TAKEN_AT:
            held.take(left)

    return fit(model_of(plan, dtype), plan, out, BASE, told), events


def losses(out: Path) -> list[float]:
    return [json.loads(line)["train/loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out: Path) -> torch.Tensor:
    found = load_file(out / "adapter" / "adapter_model.safetensors")
    return torch.cat([found[name].double().flatten() for name in sorted(found)])


@pytest.fixture(autouse=True)
def unrehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rehearsal would take the memory of the largest pack before it is taken away."""
    monkeypatch.setattr(loop, "rehearse", lambda trainee, plan: None)


@pytest.mark.parametrize("changes", [(), EAGER], ids=["graphs", "op by op"])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-3)], ids=["fp32", "bf16"])
def test_the_run_goes_on_with_the_same_losses(
    changes: tuple[str, ...], dtype: torch.dtype, near: float, tmp_path: Path
) -> None:
    plan = plan_of(*changes)
    whole, _ = trained(tmp_path / "whole", plan, dtype)
    gc.collect()
    torch.cuda.empty_cache()
    with ballast() as held:
        cut, events = trained(tmp_path / "cut", plan, dtype, held, 1200 * 2**20)
    notes = "\n".join(event["text"] for event in events if event["event"] == "note")
    assert whole.oom_retries == 0 and cut.oom_retries > 0, notes
    assert cut.steps == STEPS and "out of memory in a pack of" in notes
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=near)
    if dtype == torch.float32:
        one, other = weights(tmp_path / "cut"), weights(tmp_path / "whole")
        assert float((one - other).norm() / other.norm()) < 1e-3  # Adam divides rounding by rounding
    if not changes:
        assert "captured as CUDA graphs" in notes


def test_a_row_that_never_fits_stops_the_run_with_its_state(tmp_path: Path) -> None:
    """Op by op, for graphs that are given up would leave room enough; with all of the dial it needs 320 MiB."""
    plan = plan_of(*EAGER, tokens=8192)
    with ballast() as held, pytest.raises(InputError, match=r"row row\d+ \(8,192 tokens.*Stopped after step") as caught:
        trained(tmp_path / "run", plan, torch.bfloat16, held, 200 * 2**20)
    assert "inputs in host memory" in str(caught.value)
    assert list((tmp_path / "run" / "checkpoints").iterdir())
    rest, _ = trained(tmp_path / "run", plan, torch.bfloat16)
    assert rest.resumed_from is not None and rest.resumed_from >= TAKEN_AT and rest.steps == STEPS


def test_graphs_that_are_given_up_give_their_memory_back() -> None:
    plan = plan_of()
    trainee = Trainee.of(model_of(plan, torch.bfloat16), plan.recipe, BASE.name)
    assert isinstance(trainee.passes, GraphedPasses)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(DEVICE)
    prepared = plan.prepare(STEPS - 1)
    loop.accumulate(trainee, prepared, STEPS - 1)
    held = torch.cuda.memory_reserved(DEVICE)
    make_room(trainee, replace(plan, most_tokens=1024))
    left = torch.cuda.memory_reserved(DEVICE)
    assert held > before + 2**30 and left - before < 0.1 * (held - before)


@pytest.mark.parametrize("place", ["captured update", "captured pass"])
def test_memory_ends_while_a_graph_is_recorded(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    trained(tmp_path / "whole", plan, torch.float32)
    module, name = (update, "clip") if place == "captured update" else (passes, "_loss")
    real, raised = getattr(module, name), list[bool]()

    def failing(*args: object, **named: object) -> object:
        if torch.cuda.is_current_stream_capturing() and not raised:
            raised.append(True)
            raise torch.OutOfMemoryError("out of memory while a graph is recorded")
        return real(*args, **named)

    monkeypatch.setattr(module, name, failing)
    cut, _ = trained(tmp_path / "cut", plan, torch.float32)
    assert raised and cut.oom_retries == 1
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
