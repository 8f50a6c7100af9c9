"""`python -m bench.order --out FILE`: do rows that share more teach as much? Scores of the options for it.

The embedded base on its Arabic rows, each with some of the 12 tools drawn and shuffled for it alone: as published sets
do. Trained as given, with tools by name, with the date behind the tools as well, and with rows of 8 steps dealt so that
those that begin alike meet; three seeds each. Scored on the 400 test rows laid out in the same way, and, to show what
the options cost, models trained with them on rows as given. Runs share a GPU; on a CPU one after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.processes import Processes, over_seeds, serve

VARIANTS = {
    "as given": [],
    "tools by name": ["data.tool_order=canonical"],
    "tools by name, date behind": ["data.tool_order=canonical", "data.now=after_tools"],
    "the same, 8 steps ahead": ["data.tool_order=canonical", "data.now=after_tools", "train.lookahead=8"],
}
SEEDS = (0, 1, 2)
FEWEST_TOOLS = 4


def main() -> None:
    options = _options()
    if options.serve:
        return serve(lambda job: one(job["variant"], job["seed"], options.rows, options.epochs))
    jobs = [(name, seed) for name in VARIANTS for seed in SEEDS]
    arguments = ["--serve", "--rows", str(options.rows), "--epochs", str(options.epochs)]
    with Processes("bench.order", arguments, options.together) as processes:
        asked = [processes.submit({"variant": name, "seed": seed}) for name, seed in jobs]
        found = [answer.result() for answer in asked]
    record = {
        "what": f"{options.rows} Arabic rows, {options.epochs:g} epochs, 32 a step, the embedded base; strict of 400 "
        "test rows for seeds 0, 1, 2",
        "command": f"python -m bench.order --rows {options.rows} --epochs {options.epochs:g}",
        "variants": {name: _summary([f for (n, _), f in zip(jobs, found, strict=True) if n == name])
                     for name in VARIANTS},
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record["variants"], indent=1))


def one(variant: str, seed: int, count: int, epochs: float) -> dict[str, Any]:
    """Train and score one variant: strict on rows laid out as trained and as given, and what was shared."""
    import torch

    import dozan
    from dozan.chat import chat_format
    from dozan.demo import TEST, TRAIN
    from dozan.model.bundle import open_model
    from dozan.rows.readers import read_rows

    rows = [sampled(row) for row in read_rows(TRAIN)[:count]]
    test = [sampled(row) for row in read_rows(TEST)]
    said: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        settings = [*VARIANTS[variant], f"train.seed={seed}", f"train.epochs={epochs}", "train.save_steps=100000"]
        dozan.train(rows, None, run, "mobile-actions", settings, eval_data=test, on_event=said.append)
        bundle = open_model(run)
    bundle.model.to("cuda" if torch.cuda.is_available() else "cpu")
    as_given = replace(bundle, chat=chat_format("functiongemma"))
    plan = next(event for event in said if event["event"] == "plan")
    steps = [event for event in said if event["event"] == "step"]
    return {
        "strict": dozan.evaluate(bundle, test).summary()["strict"],
        "strict as given": dozan.evaluate(as_given, test).summary()["strict"] if VARIANTS[variant] else None,
        "sharing": round(plan["sharing"], 2), "steps": len(steps),
        "median step s": statistics.median(event["train/seconds"] for event in steps),
    }  # fmt: skip


def sampled(row: Any) -> Any:
    """The row with some of its tools, those that it calls among them, in an order of its own."""
    rng = random.Random(row.id)
    calls = row.messages[-1].get("tool_calls") or ()
    called = {call["function"]["name"] for call in calls}
    needed = [tool for tool in row.tools if tool["function"]["name"] in called]
    others = [tool for tool in row.tools if tool["function"]["name"] not in called]
    wanted = rng.randint(max(FEWEST_TOOLS, len(needed)), len(row.tools))
    tools = needed + rng.sample(others, wanted - len(needed))
    rng.shuffle(tools)
    return replace(row, tools=tuple(tools))


def _summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean and spread over seeds of what a variant came to."""
    summary: dict[str, Any] = {"sharing": found[0]["sharing"], "steps": found[0]["steps"]}
    for key in ("strict", "strict as given"):
        scores = [one[key] for one in found if one[key] is not None]
        if scores:
            summary[key] = over_seeds(scores)
    return summary


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.order", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("order.json"))
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--together", type=int, default=6, help="runs at a time")
    parser.add_argument("--serve", action="store_true", help="answer jobs from stdin, for the runs side by side")
    return parser.parse_args()


if __name__ == "__main__":
    main()
