"""`python -m bench.curve --out FILE`: our loss against TRL's over 200 steps on real rows, and both against their seeds.

The embedded base and its Arabic rows, 16 a step, the same rows in the same order from the same adapter: ours in bf16
and in fp32, TRL in bf16, and both again from another adapter. `--set dora`: the same with DoRA, ours against PEFT's in
TRL's trainer. What two seeds of one program differ by is the measure for what two programs may differ by. Draws the
curves beside the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.depth import standalone
from bench.workloads import SPARE_STEPS, Row, Workload
from dozan.html.charts import Line, line_chart

ROOT = Path(__file__).parents[1]
BASE = ROOT / "dozan" / "assets" / "base"
NAME, BATCH, STEPS = "arabic-16", 16, 200
SMOOTHED = 20


@dataclass(frozen=True)
class Runs:
    """What is compared: the runs' module, seed of the adapter and options by name; pairs of them; what all are given,
    the writing of the adapters included."""

    runs: dict[str, tuple[str, int, list[str]]]
    pairs: list[tuple[str, str]]
    common: list[str]


_HALF, _WIDE, _TRL = ["--dtype", "bfloat16"], ["--dtype", "float32"], ["--impl", "trl"]
SETS = {
    "lora": Runs(
        {"ours, bf16": ("bench.ours", 0, _HALF), "ours, fp32": ("bench.ours", 0, _WIDE),
         "ours, bf16, seed 1": ("bench.ours", 1, _HALF), "TRL, bf16": ("bench.peers", 0, _TRL),
         "TRL, bf16, seed 1": ("bench.peers", 1, _TRL)},
        [("ours, bf16", "TRL, bf16"), ("ours, bf16", "ours, fp32"), ("ours, bf16", "ours, bf16, seed 1"),
         ("TRL, bf16", "TRL, bf16, seed 1")],
        [],
    ),
    "dora": Runs(
        {"ours, DoRA": ("bench.ours", 0, _HALF), "ours, DoRA, fp32": ("bench.ours", 0, _WIDE),
         "ours, DoRA, seed 1": ("bench.ours", 1, _HALF), "PEFT, DoRA": ("bench.peers", 0, _TRL)},
        [("ours, DoRA", "PEFT, DoRA"), ("ours, DoRA", "ours, DoRA, fp32"), ("ours, DoRA", "ours, DoRA, seed 1")],
        ["--dora"],
    ),
}  # fmt: skip


def main() -> None:
    options = _options()
    chosen: Runs = SETS[options.set]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        arabic_rows(options.steps).write(folder / f"{NAME}.jsonl")
        for seed in (0, 1):
            adapter = ["--adapter", str(folder / f"a{seed}"), "--seed", str(seed)]
            _run("bench.ours", ["--model", str(BASE), *adapter, "--init", *chosen.common])
        curves = {name: curve(folder, name, chosen, options.steps) for name in chosen.runs}
    record = {
        "what": f"losses of {options.steps} steps, {BATCH} Arabic rows each, the embedded base",
        "command": f"python -m bench.curve --set {options.set}",
        "differences": {f"{a} / {b}": apart(curves[a], curves[b]) for a, b in chosen.pairs}, "curves": curves,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for kind, svg in drawings(curves, chosen.pairs).items():
        options.out.with_name(f"{options.out.stem}{kind}.svg").write_text(svg, encoding="utf-8")
    print(json.dumps(record["differences"], indent=1))


def arabic_rows(steps: int) -> Workload:
    """The first rows of the embedded training set, each cut after its last trained token."""
    from dozan.chat import Tokenizer, detect_chat
    from dozan.chat.encode import encode_rows
    from dozan.rows.readers import read_rows

    count = BATCH * (steps + SPARE_STEPS)
    tokenizer = Tokenizer.load(BASE)
    rows = read_rows(ROOT / "dozan" / "assets" / "mobile_actions_ar" / "train.jsonl.gz")[:count]
    made = []
    for tokens in encode_rows(rows, detect_chat(tokenizer), tokenizer, 4096):
        trained, _ = tokens.supervised
        first, last = int(trained[0]), int(trained[-1])
        assert len(trained) == last - first + 1, f"{tokens.row}: what is trained is not of one piece"
        made.append(Row(tokens.ids[: last + 1], len(trained)))
    return Workload(NAME, BATCH, tuple(made))


def curve(folder: Path, name: str, chosen: Runs, steps: int) -> list[float]:
    """The loss of every step of one run."""
    module, seed, extra = chosen.runs[name]
    out = folder / "run.json"
    _run(module, ["--model", str(BASE), "--adapter", str(folder / f"a{seed}"), "--rows", str(folder), "--works", NAME,
                  "--steps", str(steps), "--out", str(out), "--curve", *chosen.common, *extra])  # fmt: skip
    figures: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))["works"][NAME]
    losses: list[float] = figures["curve"]
    print(f"{name}: {losses[0]:.4f} to {statistics.mean(losses[-SMOOTHED:]):.4f}", file=sys.stderr, flush=True)
    return losses


def apart(a: list[float], b: list[float]) -> dict[str, float]:
    """How far two curves are apart: the mean and largest difference of a step, and of the last steps' mean."""
    steps = [abs(x - y) for x, y in zip(a, b, strict=True)]
    last = statistics.mean(a[-SMOOTHED:]) - statistics.mean(b[-SMOOTHED:])
    return {"mean": round(statistics.mean(steps), 6), "largest": round(max(steps), 6), "last steps": round(last, 6)}


def drawings(curves: dict[str, list[float]], pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The smoothed losses, and how far the pairs are apart, each as an SVG that stands alone."""
    losses = [Line(name, _smooth(curve), i) for i, (name, curve) in enumerate(curves.items())]
    apart = []
    for i, (a, b) in enumerate(pairs):
        steps = [1000 * abs(x - y) for x, y in zip(curves[a], curves[b], strict=True)]
        apart.append(Line(f"{a} / {b}", _smooth(steps), i + 1))
    return {
        "": standalone(line_chart(losses, "Loss of each step, smoothed", "step"), losses, left=450),
        "-apart": standalone(line_chart(apart, "Differences of losses in thousandths", "step"), apart, left=390),
    }


def _smooth(values: list[float]) -> tuple[tuple[float, float], ...]:
    """The running mean of the last `SMOOTHED` steps."""
    means = (statistics.mean(values[max(0, i - SMOOTHED) : i + 1]) for i in range(len(values)))
    return tuple((float(step), mean) for step, mean in enumerate(means, 1))


def _run(module: str, arguments: list[str]) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.curve", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a JSON file; the curves go beside it as .svg")
    parser.add_argument("--set", choices=SETS, default="lora", help="which runs")
    parser.add_argument("--steps", type=int, default=STEPS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
