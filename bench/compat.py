"""What the familiar API costs: processor time of SFTTrainer and of dozan.train with the equal recipe, in turns.

`python -m bench.compat [pairs]`: the embedded base, 128 Arabic phone commands as messages, 16 steps of 8 rows a run.
Both have the rows in memory, train, and write their run; the losses must be equal to the bit. Processor seconds of all
threads are counted. On a machine that does other work too these differ by some per cent from run to run, so what the
layer does before and after it calls dozan.train is counted apart: all else is the same code.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dozan
from dozan.compat import trainer
from dozan.recipe import parse_recipe
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.train.loop import train

Run = Callable[[Sequence[Example], Path], float]

ROWS, STEPS, PAIRS = 128, 16, 5
_FILE = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "dev.jsonl"


def familiar(rows: Sequence[Example], out: Path) -> float:
    """The rows by the familiar API; processor seconds outside of dozan.train."""
    made = [{"messages": list(row.messages), "tools": list(row.tools)} for row in rows]
    begun = time.process_time()
    model, tokenizer = dozan.FastModel.from_pretrained()
    model = dozan.FastModel.get_peft_model(model, r=32, lora_alpha=64)
    args = dozan.SFTConfig(str(out), learning_rate=2e-3, lr_scheduler_type="cosine", max_steps=STEPS, seed=0)
    sft = dozan.SFTTrainer(model, args, made, processing_class=tokenizer)
    inside = [0.0]

    def timed(*given: Any, **named: Any) -> Any:
        entered = time.process_time()
        result = train(*given, **named)
        inside[0] += time.process_time() - entered
        return result

    trainer.train = timed  # type: ignore[assignment]
    sft.train()
    return time.process_time() - begun - inside[0]


def plain(rows: Sequence[Example], out: Path) -> float:
    """The same rows by the engine's own names."""
    recipe = parse_recipe({
        "chat": "functiongemma", "data": {"holdout": 0.0},
        "train": {"max_steps": STEPS, "batch_size": 8, "learning_rate": 2e-3, "warmup_steps": 0, "seed": 0,
                  "eval_steps": 10, "save_steps": 500, "log_steps": 10},
    })  # fmt: skip
    train(rows, None, out, recipe)
    return 0.0


def measured(run: Run, rows: Sequence[Example], out: Path) -> tuple[float, float, list[float]]:
    """Processor seconds of a run, those outside of dozan.train, and its losses."""
    begun = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        outside = run(rows, out)
    seconds = time.process_time() - begun
    lines = map(json.loads, (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return seconds, outside, [line["train/loss"] for line in lines if "train/loss" in line]


def main(pairs: int) -> None:
    rows = read_rows(_FILE)[:ROWS]
    with TemporaryDirectory(prefix="dozan-compat-") as folder:
        for warm in (plain, familiar):  # imports
            measured(warm, rows, Path(folder) / f"warm-{warm.__name__}")
        shares, apart = [], []
        for i in range(pairs):
            order: tuple[Run, ...] = (plain, familiar) if i % 2 else (familiar, plain)
            found = {run.__name__: measured(run, rows, Path(folder) / f"{run.__name__}-{i}") for run in order}
            (theirs, _, losses), (ours, outside, same) = found["plain"], found["familiar"]
            assert losses == same and len(losses) == STEPS, "the losses differ"
            shares.append(ours / theirs - 1)
            apart.append(outside / theirs)
            print(f"dozan.train {theirs:.2f} s   SFTTrainer {ours:.2f} s ({outside:.3f} s outside)", flush=True)
        print(f"median {statistics.median(shares):+.1%} processor time, {statistics.median(apart):.1%} of it beside "
              f"it; losses equal to the bit in {pairs} pairs")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PAIRS)
