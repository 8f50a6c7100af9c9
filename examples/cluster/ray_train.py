"""One run on the GPUs of a Ray cluster: python examples/cluster/ray_train.py --data /shared/rows.jsonl --workers 8

Ray starts a worker a GPU, tells each which rank it is, and begins the process group; dozan reads both. Rows, base and
run folder lie where every worker sees them. When a worker is lost, Ray starts all again and the run goes on from its
newest checkpoint. Needs: pip install "ray[train]"
"""

from __future__ import annotations

import argparse
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer


def train_as_rank(given: dict[str, Any]) -> None:
    """What each worker runs."""
    import dozan

    dozan.train(given["data"], given["model"], given["out"], overrides=given["overrides"])


def main() -> None:
    parser = argparse.ArgumentParser(description="dozan train, as a Ray job")
    parser.add_argument("--data", required=True, help="rows, as a path that every worker sees")
    parser.add_argument("--model", help="a base, likewise")
    parser.add_argument("--out", required=True, help="the run's folder, likewise")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to try it out")
    given = parser.parse_args()
    trainer = TorchTrainer(
        train_as_rank,
        train_loop_config={name: getattr(given, name) for name in ("data", "model", "out", "overrides")},
        # dozan decides on the host and computes on the GPU: it needs both backends.
        torch_config=TorchConfig(backend="gloo" if given.cpu else "cpu:gloo,cuda:nccl"),
        scaling_config=ScalingConfig(num_workers=given.workers, use_gpu=not given.cpu),
        run_config=RunConfig(name="dozan", failure_config=FailureConfig(max_failures=3)),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
