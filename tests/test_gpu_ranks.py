"""Two GPUs over NCCL, the passes captured as graphs: what one GPU trains; skipped with fewer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

needs_two = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or os.environ.get("TRITON_INTERPRET") == "1", reason="needs two GPUs"
)
STEPS, RATE = 12, 1e-3


def train(out: Path, overlapped: bool, *changes: str) -> None:
    """Some steps on the ranks of this environment; the first one writes what came of them."""
    from test_gpu import adapted, rows

    from dozan.kernels.precision import determinism
    from dozan.train.plan import make_plan
    from dozan.train.ranks import Ranks, dealt_plan
    from dozan.train.reduce import Reducer
    from dozan.train.signals import StopRequest
    from dozan.train.state import Trainee
    from dozan.train.step import optimiser_step
    from dozan.world import joined

    with joined() as world, determinism(True), StopRequest() as stop:
        torch.cuda.set_device(world.local_rank)
        model, recipe = adapted(*changes)
        trainee = Trainee.of(model.to(f"cuda:{world.local_rank}"), recipe, "tiny")
        if trainee.reducer is not None:
            trainee.reducer = Reducer(trainee.parameters, 4096)  # many buffers
            trainee.reducer._overlaps &= overlapped
            trainee.passes = type(trainee.passes)(model, trainee.passes._recompute)  # type: ignore[attr-defined,call-arg]
        plan = dealt_plan(make_plan(recipe, rows(24, 40)), world, model.config)
        ranks = Ranks(world, trainee, stop, lambda: False)
        found = [optimiser_step(trainee, plan.prepare(s % plan.steps), RATE, s, ranks).read()[:2] for s in range(STEPS)]
        digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for _, p in trainee.parameters))
        held = world.gathered(digest.hexdigest())
        if world.first:
            out.write_text(json.dumps({"steps": found, "held": held,
                                       "buffers": len(trainee.reducer.buffers) if trainee.reducer else 0}))


def launched(ranks: int, out: Path, overlapped: bool, *changes: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__,
               str(out), str(int(overlapped)), *changes]  # fmt: skip
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@needs_two
@pytest.mark.parametrize("changes", [(), ("adapter.dora=true",)], ids=["lora", "dora"])
def test_two_gpus_train_what_one_does(changes: tuple[str, ...], tmp_path: Path) -> None:
    alone = launched(1, tmp_path / "alone.json", True, *changes)
    beside = launched(2, tmp_path / "beside.json", True, *changes)
    after = launched(2, tmp_path / "after.json", False, *changes)
    assert beside["buffers"] > 3 and beside["held"][0] == beside["held"][1]
    # The sum that begins during the pass is the sum after it, to the bit: nothing is read before it is there.
    assert beside["steps"] == after["steps"] and beside["held"] == after["held"]
    # In bfloat16 the order of a sum shows; in float32 tests/test_ranks.py finds 1e-6.
    for (loss, norm), (other, other_norm) in zip(alone["steps"], beside["steps"], strict=True):
        assert other == pytest.approx(loss, rel=1e-2) and other_norm == pytest.approx(norm, rel=0.1)


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2] == "1", *sys.argv[3:])
