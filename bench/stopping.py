"""`python -m bench.stopping --out FILE`: is the checkpoint with the best calls better than that with the lowest loss?

The embedded base on its Arabic rows for more epochs than are good for it, evaluated on the development rows every so
many steps by loss and by generated answers. The checkpoint that each picks is scored on the test rows; three seeds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
SCORED = 120
"""Development rows answered at each evaluation."""


def main() -> None:
    options = _options()
    record: dict[str, Any] = {
        "what": f"{options.rows} Arabic rows, {options.epochs:g} epochs, evaluated every {options.every} steps on the "
        f"development rows ({SCORED} of them answered); strict of the test rows at what each criterion picks",
        "command": "python -m bench.stopping "
        f"--rows {options.rows} --epochs {options.epochs:g} --every {options.every}",
        "seeds": [],
    }  # fmt: skip
    for seed in SEEDS[: options.seeds]:
        record["seeds"].append(one(seed, options.rows, options.epochs, options.every, options.test))
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(record["seeds"][-1]), flush=True)


def one(seed: int, rows: int, epochs: float, every: int, test: int) -> dict[str, Any]:
    """A run, what either criterion picks, and how these do on the test rows."""
    import dozan
    from dozan.demo import TEST, TRAIN
    from dozan.rows.readers import read_rows

    events: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = [
            f"train.seed={seed}", f"train.epochs={epochs}", f"train.eval_steps={every}", f"train.save_steps={every}",
            "train.keep_checkpoints=1000", f"score.rows={SCORED}", f"score.steps={every}", "score.by=strict",
        ]  # fmt: skip
        dozan.train(read_rows(TRAIN)[:rows], None, out, "mobile-actions", settings,
                    eval_data=read_rows(TEST.with_name("dev.jsonl")), on_event=events.append)  # fmt: skip
        losses = {e["step"]: e["eval/loss"] for e in events if e["event"] == "eval"}
        calls = {e["step"]: e["score/strict"] for e in events if e["event"] == "score"}
        places = {int(p.name.rpartition("-")[2]): p for p in (out / "checkpoints").iterdir()}
        picked = {"calls": max(calls, key=lambda s: (calls[s], -s)), "loss": min(losses, key=lambda s: losses[s]),
                  "last": max(losses)}  # fmt: skip
        data = read_rows(TEST)[:test]
        scores = {step: dozan.evaluate(places[step], data).summary()["strict"] for step in set(picked.values())}
    return {"seed": seed, "picked": picked, "test strict": {name: scores[step] for name, step in picked.items()},
            "dev loss": losses, "dev strict": calls}  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stopping", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("stopping.json"))
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--every", type=int, default=47)
    parser.add_argument("--test", type=int, default=400, help="test rows scored")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    return parser.parse_args()


if __name__ == "__main__":
    main()
