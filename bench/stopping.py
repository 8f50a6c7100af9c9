"""`python -m bench.stopping --out FILE`: is the checkpoint with the best calls as good as that with the lowest loss?

The embedded base on its Arabic rows for more epochs than are good for it, evaluated on the development rows every so
many steps by loss and by generated answers. The checkpoint that each picks is scored on the test rows. Each seed is a
process of its own; all run at once (`--at-once`), on one GPU too. The exit status is 1 when calls picked worse.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.processes import Json, Processes, serve


def main() -> None:
    options = _options()
    if options.serve:
        serve(lambda job: one(options, int(job["seed"])))
        return
    if options.device != "auto":
        known = {"cpu": "", "cuda": "0"}
        os.environ["CUDA_VISIBLE_DEVICES"] = known.get(options.device, options.device.removeprefix("cuda:"))
    begun, found = time.perf_counter(), []
    arguments = ["--serve", *sys.argv[1:]]
    with Processes("bench.stopping", arguments, min(options.at_once, len(options.seeds))) as processes:
        for answer in [processes.submit({"seed": seed}) for seed in options.seeds]:
            found.append(answer.result())
            record = summed(options, found, time.perf_counter() - begun)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: record[key] for key in ("device", "seconds", "calls against loss")}, indent=1))
    if not record["calls against loss"]["at least as good"]:
        sys.exit("calls picked a worse checkpoint than the loss")


def summed(options: argparse.Namespace, found: Sequence[Json], seconds: float) -> Json:
    """The record: what was done, each seed, and over all seeds how the two picks compare on the test rows."""
    from dozan.judge.paired import mcnemar

    wins, losses = (sum(seed["calls against loss"][key] for seed in found) for key in ("wins", "losses"))
    differences = [seed["test"]["calls"]["strict"] - seed["test"]["loss"]["strict"] for seed in found]
    return {
        "what": f"{options.rows} Arabic rows, {options.epochs:g} epochs, every {options.every} steps the loss of all "
        f"development rows and {options.dev} of them answered; the test rows at what each picks, and at the last step",
        "command": f"python -m bench.stopping --rows {options.rows} --epochs {options.epochs:g} "
        f"--every {options.every} --dev {options.dev} --test {options.test}",
        "device": found[0]["device"], "seconds": round(seconds, 1),
        "calls against loss": {
            "strict, difference": [round(difference, 4) for difference in differences],
            "wins": wins, "losses": losses, "p": round(mcnemar(wins, losses), 4),
            "at least as good": wins >= losses, "seeds at least as good": sum(d >= 0 for d in differences),
        },
        "seeds": list(found),
    }  # fmt: skip


def one(options: argparse.Namespace, seed: int) -> Json:
    """A run, what either criterion picks, and how these do on the test rows."""
    import torch

    import dozan
    from dozan.demo import TEST, TRAIN
    from dozan.rows.readers import read_rows

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"--device {options.device}: torch sees no GPU")
    begun, events = time.perf_counter(), list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = [
            f"train.seed={seed}", f"train.epochs={options.epochs}", f"train.eval_steps={options.every}",
            f"train.save_steps={options.every}", "train.keep_checkpoints=1000", f"score.rows={options.dev}",
            f"score.steps={options.every}", "score.by=strict",
        ]  # fmt: skip
        data, dev = read_rows(TRAIN)[: options.rows], read_rows(TEST.with_name("dev.jsonl"))
        dozan.train(data, None, out, "mobile-actions", settings, eval_data=dev, on_event=events.append)
        trained = time.perf_counter() - begun
        losses = {e["step"]: e["eval/loss"] for e in events if e["event"] == "eval"}
        calls = {e["step"]: e["score/strict"] for e in events if e["event"] == "score"}
        picked = {
            "calls": max(calls, key=lambda step: (calls[step], -step)),
            "loss": min(losses, key=lambda step: (losses[step], step)), "last": max(losses),
        }  # fmt: skip
        places = {int(path.name.rpartition("-")[2]): path for path in (out / "checkpoints").glob("[!.]*")}
        test = read_rows(TEST)[: options.test]
        scores = {step: dozan.evaluate(places[step], test) for step in sorted(set(picked.values()))}
    right = {name: [row.strict for row in scores[step].rows] for name, step in picked.items()}
    pairs = list(zip(right["calls"], right["loss"], strict=True))
    return {
        "seed": seed, "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "seconds": {"training": round(trained, 1), "all": round(time.perf_counter() - begun, 1)}, "picked": picked,
        "test": {
            name: {key: scores[step].summary()[key] for key in ("n", "strict", "normalised", "parse_failures")}
            for name, step in picked.items()
        },
        "calls against loss": {"wins": sum(a > b for a, b in pairs), "losses": sum(a < b for a, b in pairs)},
        "dev loss": losses, "dev strict": calls,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stopping", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("stopping.json"))
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--every", type=int, default=25, help="steps between evaluations")
    parser.add_argument("--dev", type=int, default=400, help="development rows answered at each evaluation")
    parser.add_argument("--test", type=int, default=400, help="test rows scored")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=3, help="seeds that run at the same time")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
