"""Every weight trained over two GPUs, each with half of them: the losses of one GPU, in much less memory.

Skipped with fewer than two GPUs, or with Triton interpreted.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_model
from ranks import free_port
from safetensors.torch import load_file
from ship_models import make_folder
from test_full import rows
from torch import nn

from dozan.errors import Interrupted
from dozan.model.bundle import open_model
from dozan.recipe import Recipe, TrainRecipe, override
from dozan.train.live import Event
from dozan.train.loop import fit
from dozan.train.optim import AdamW, clip
from dozan.train.passes import EagerPasses
from dozan.train.plan import make_plan
from dozan.train.prepare import Base
from dozan.train.ranks import Ranks, dealt_plan
from dozan.train.signals import StopRequest
from dozan.train.state import Trainee
from dozan.train.step import optimiser_step
from dozan.train.update import GraphedUpdate
from dozan.world import ALONE, World, joined

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1", reason="needs a GPU"
)
needs_two = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or os.environ.get("TRITON_INTERPRET") == "1", reason="needs two GPUs"
)
STEPS = 16
SETTINGS = ["train.weights=full", "train.fsdp=true", "train.batch_size=8", "train.learning_rate=1e-3",
            f"train.max_steps={STEPS}", "train.pack_tokens=96", "train.weight_decay=0.1", "train.clip_norm=0.5",
            "train.warmup_steps=1", "train.save_steps=5", "train.eval_steps=8", "train.stall_minutes=0"]  # fmt: skip
SHAPE = {"hidden_size": 640, "intermediate_size": 2048, "head_dim": 256, "num_attention_heads": 4,
         "num_key_value_heads": 1, "num_hidden_layers": 6, "query_pre_attn_scalar": 256}  # fmt: skip


def _rank(rank: int, port: int, work: Callable[..., Any], given: tuple[Any, ...], out: Path) -> None:
    os.environ.update({
        "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    })  # fmt: skip
    with joined() as world:
        (out / f"given-{rank}.json").write_text(json.dumps(work(world, *given)))


def on_two(out: Path, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What `work` gives on two ranks, each with a GPU; raises what one of them raises."""
    out.mkdir()
    torch.multiprocessing.spawn(_rank, (free_port(), work, given, out), nprocs=2)
    return [json.loads((out / f"given-{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "small", **SHAPE)


def run(world: World, base: Path, out: Path, dtype: str, changes: tuple[str, ...], stop: int = 0) -> Any:
    """The run's lines; what it says where it is asked to stop after a step."""
    chosen, taken = override(Recipe(), [*SETTINGS, *changes]), rows(count=40, words=2048)

    def act(event: Event) -> None:
        if event["event"] == "step" and event["step"] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    model = open_model(base, dtype, device=torch.device("cuda", world.local_rank)).model
    try:
        fit(model, make_plan(chosen, taken[8:], taken[:8]), out, Base(str(base), "0" * 64, "functiongemma"), act)
    except Interrupted as error:
        return str(error)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(lines: list[Event], kind: str = "train/loss") -> list[float]:
    return [line[kind] for line in lines if kind in line]


@needs_two
@pytest.mark.parametrize(("dtype", "changes"), [
    ("float32", ()), ("bfloat16", ()), ("bfloat16", ("train.recompute=4", "train.offload=true")), ("float16", ()),
    ("bfloat16", ("train.optimizer=adamw_8bit",)),
], ids=["float32", "bfloat16", "offload", "float16", "8 bits"])  # fmt: skip
def test_two_gpus_train_what_one_does(dtype: str, changes: tuple[str, ...], base: Path, tmp_path: Path) -> None:
    """Stopped, and gone on with; checkpoints are written behind the run's back."""
    alone = run(ALONE, base, tmp_path / "alone", dtype, changes)
    said = on_two(tmp_path / "first", run, base, tmp_path / "run", dtype, changes, 7)
    assert all("saved in" in each for each in said)
    (newest,) = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1:]
    assert len(list(newest.glob("weights-*"))) == len(list(newest.glob("optimizer-*"))) == 2
    first, second = on_two(tmp_path / "second", run, base, tmp_path / "run", dtype, changes)
    assert first == second and [line["step"] for line in first] == [line["step"] for line in alone]
    near = 1e-3 if dtype == "float32" else 2e-2
    for kind in ("train/loss", "eval/loss"):
        assert losses(first, kind) == pytest.approx(losses(alone, kind), rel=near)
    assert losses(first)[-1] < 0.9 * losses(first)[0]
    found, expected = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("run", "alone"))
    begun = load_file(base / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        moved = (expected[name].float() - begun[name].float()).norm()
        assert (tensor.float() - expected[name].float()).norm() < 0.5 * moved, name


@needs_two
def test_one_gpu_goes_on_where_two_stopped(base: Path, tmp_path: Path) -> None:
    alone = run(ALONE, base, tmp_path / "alone", "bfloat16", ())
    on_two(tmp_path / "first", run, base, tmp_path / "run", "bfloat16", (), 7)
    lines = run(ALONE, base, tmp_path / "run", "bfloat16", ())
    assert losses(lines) == pytest.approx(losses(alone), rel=2e-2) and len(lines) == len(alone)


DEEP = {**SHAPE, "num_hidden_layers": 24, "hidden_size": 1024, "intermediate_size": 4096, "vocab_size": 32768}


def peak(world: World) -> Any:
    """Bytes at the most while steps are made, how they are made, and the losses."""
    device = torch.device("cuda", world.local_rank)
    chosen = override(Recipe(), SETTINGS)
    with StopRequest() as stop:
        model = tiny_model(**DEEP).to(device, torch.bfloat16)
        trainee = Trainee.of(model, chosen, "deep")
        plan = dealt_plan(make_plan(chosen, rows(count=40, words=2048)), world, model.config)
        ranks = Ranks(world, trainee, stop, lambda: False)
        torch.cuda.reset_peak_memory_stats(device)
        found = [optimiser_step(trainee, plan.prepare(s), 1e-4, s, ranks).read()[0] for s in range(3)]
        eager = isinstance(trainee.passes, EagerPasses) and not isinstance(trainee.update, GraphedUpdate)
    return torch.cuda.max_memory_allocated(device), eager, found


@needs_two
def test_each_gpu_holds_half(tmp_path: Path) -> None:
    alone, _, expected = peak(ALONE)
    for most, eager, found in on_two(tmp_path / "ranks", peak):
        assert eager and most < 0.65 * alone, (most, alone)
        assert found == pytest.approx(expected, rel=2e-2)


@needs_gpu
@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_a_rank_without_rows_of_a_weight_updates_the_others(optimizer: str) -> None:
    """Empty parameters beside others, first and last, in one fused update."""
    def made(sizes: tuple[int, ...]) -> AdamW:
        torch.manual_seed(0)
        named = [(str(size), nn.Parameter(torch.zeros(size, 256, device="cuda"))) for size in sizes]
        for _, parameter in named:
            parameter.grad = torch.full_like(parameter, 0.5) + torch.arange(len(parameter), device="cuda")[:, None]
        return AdamW(named, TrainRecipe(optimizer=optimizer, weight_decay=0.1))  # type: ignore[arg-type]

    found, expected = made((0, 5, 0, 3, 0)), made((5, 3))
    for each in (found, expected):
        clip(each.parameters, 1.0)
        each.step()
        each.zero_grad()
    full = [(name, parameter) for name, parameter in found.parameters if len(parameter)]
    for (name, parameter), (_, right) in zip(full, expected.parameters, strict=True):
        assert torch.allclose(parameter, right, rtol=1e-5, atol=0) and parameter.abs().min() > 0, name
    assert all(not gradient.any() for _, p in found.parameters if (gradient := p.grad) is not None)
