"""`python -m bench.ablation --out FILE`: LoRA, rsLoRA, DoRA and both at several ranks, each at a rate of its own.

The embedded base on its Arabic rows. Alpha is the same everywhere, so the methods differ in the scale on B A, which the
record tells: alpha / rank, or alpha / sqrt(rank) with rsLoRA. A method's learning rate is the best of `RATES` at
`TUNED_RANK` (with `--tune-each` at every rank) with one seed, by strict on the development rows, then by their loss.
The grid then trains every rank with every seed, scored on the test rows. Several processes share a GPU, each trains one
run after another on rows that it encodes once. The record is written again after each run, with strict and loss over
rank drawn beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.depth import standalone
from bench.processes import Json, Processes, over_seeds, serve
from dozan.html.charts import Line, line_chart

METHODS = {"LoRA": (False, False), "rsLoRA": (True, False), "DoRA": (False, True), "rsLoRA + DoRA": (True, True)}
"""Name -> (rslora, dora)."""
RANKS, SEEDS, RATES = (8, 32, 64, 128), (0, 1, 2), (1e-3, 2e-3, 4e-3)
TUNED_RANK, ALPHA = 32, 64.0
LAST_STEPS = 20
"""The final training loss is the mean of so many steps."""
FIGURES = ("strict", "loss", "final training loss")
_KEY_TOP = 130
_PASSED = ("rows", "batch", "epochs", "scored")


@dataclass(frozen=True)
class Variant:
    """One run, and the rows that score it: "dev" or "test"."""

    method: str
    rank: int
    rate: float
    seed: int
    on: str

    @property
    def settings(self) -> list[str]:
        """What it changes in the recipe."""
        rslora, dora = METHODS[self.method]
        return [f"adapter.rank={self.rank}", f"adapter.rslora={str(rslora).lower()}",
                f"adapter.dora={str(dora).lower()}", f"train.learning_rate={self.rate!r}",
                f"train.seed={self.seed}"]  # fmt: skip

    @property
    def scale(self) -> float:
        """The factor on B A."""
        return ALPHA / (math.sqrt(self.rank) if METHODS[self.method][0] else self.rank)


@dataclass(frozen=True)
class Group:
    """Ranks of a method that train at the rate that was best at the rank `tuned`."""

    method: str
    tuned: int
    ranks: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """What is tried. each: a rate is chosen for each rank, not at `TUNED_RANK` for all."""

    ranks: Sequence[int] = RANKS
    seeds: Sequence[int] = SEEDS
    rates: Sequence[float] = RATES

    each: bool = False

    def groups(self, method: str) -> list[Group]:
        """Ranks that share a rate."""
        if self.each:
            return [Group(method, rank, (rank,)) for rank in self.ranks]
        return [Group(method, TUNED_RANK, tuple(self.ranks))]

    def tuning(self, group: Group) -> list[Variant]:
        """The runs that choose a group's rate."""
        return [Variant(group.method, group.tuned, rate, self.seeds[0], "dev") for rate in self.rates]

    def scored(self, group: Group, rate: float) -> list[Variant]:
        """The runs of a group at its rate."""
        return [Variant(group.method, rank, rate, seed, "test") for rank in group.ranks for seed in self.seeds]


Found = dict[Variant, Json]


def main() -> None:
    options = _options()
    if options.serve:
        return serve_runs(options)
    begun, grid = time.time(), Grid(options.ranks, options.seeds, options.rates, options.tune_each)
    found: Found = {}
    arguments = ["--serve", *(f"--{key}={getattr(options, key)}" for key in _PASSED)]
    with Processes("bench.ablation", arguments, options.together) as processes:
        for variant, answer in runs(processes, grid):
            found[variant] = answer
            write(options, grid, found, time.time() - begun)
    print(json.dumps({method: {rank: {key: known.get(key) for key in ("rate", "strict", "loss")}
                               for rank, known in told["ranks"].items()}
                      for method, told in record(options, grid, found, 0.0)["methods"].items()}))  # fmt: skip


def runs(processes: Processes, grid: Grid) -> Iterable[tuple[Variant, Json]]:
    """Every run with its figures. A group's runs are asked for when its rate is known, while others are tuned."""

    def asked(variants: Sequence[Variant]) -> list[tuple[Variant, Future[Json]]]:
        return [(variant, processes.submit(asdict(variant))) for variant in variants]

    groups = [group for method in METHODS for group in grid.groups(method)]
    tuning = [(group, asked(grid.tuning(group))) for group in groups]
    scored: list[tuple[Variant, Future[Json]]] = []
    for group, tried in tuning:
        found = {variant: answer.result() for variant, answer in tried}
        yield from found.items()
        rate = best_rate(found)
        if rate is not None:
            scored += asked(grid.scored(group, rate))
    for variant, answer in scored:
        yield variant, answer.result()


def best_rate(found: Found) -> float | None:
    """The rate with the best strict, of equal ones that with the lower loss; None when every run failed."""
    ended = [(-answer["strict"], answer["loss"], variant.rate)
             for variant, answer in found.items() if "error" not in answer]  # fmt: skip
    return min(ended)[2] if ended else None


def serve_runs(options: argparse.Namespace) -> None:
    """Train and score the variants that are asked for, one after the other."""
    from dozan.demo import ROWS, TRAIN
    from dozan.rows.readers import read_rows
    from dozan.train.prepare import prepare

    sides = {name: read_rows(ROWS / f"{name}.jsonl")[: options.scored] for name in ("dev", "test")}
    rows = read_rows(TRAIN)[: options.rows]
    # With DoRA, so that its kernels are compiled as well; every run sets its own adapter.
    settings = [f"train.epochs={options.epochs}", f"train.batch_size={options.batch}", f"adapter.alpha={ALPHA}",
                "adapter.dora=true", "train.recompute=none", "train.save_steps=1000000",
                "train.eval_steps=1000000"]  # fmt: skip
    job = prepare(rows, None, "mobile-actions", settings, [*sides["dev"], *sides["test"]])
    serve(lambda asked: one(job, sides, Variant(**asked)))


def one(job: Any, sides: dict[str, list[Any]], variant: Variant) -> Json:
    """Train a variant as `dozan train` does, and score the run that it left.

    job: on the training rows, with the development and then the test rows held out. strict: of the answers to the
    scored side; loss: a supervised token's there; a run that `train` gave up is {"error": ...}.
    """
    import dozan
    from dozan.errors import InputError
    from dozan.recipe import override
    from dozan.train.loop import fit
    from dozan.train.plan import make_plan

    begun = time.time()
    said: list[Json] = []
    first = 0 if variant.on == "dev" else len(sides["dev"])
    heldout = job.plan.heldout[first : first + len(sides[variant.on])]
    plan = make_plan(override(job.plan.recipe, variant.settings), job.plan.rows, heldout)
    model = replace(job, plan=plan).open_model()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        try:
            result = fit(model, plan, run, job.base, said.append)
        except InputError as error:
            return {"error": str(error)}
        trained = time.time()
        strict = dozan.evaluate(run, sides[variant.on]).summary()["strict"]
    steps = [event for event in said if event["event"] == "step"]
    figures = {
        "strict": strict, "loss": result.eval_loss, "first training loss": steps[0]["train/loss"],
        "final training loss": statistics.mean(event["train/loss"] for event in steps[-LAST_STEPS:]),
        "steps": result.steps, "skipped steps": result.skipped_steps, "trainable": result.trainable_parameters,
        "median step s": statistics.median(event["train/seconds"] for event in steps),
        "training s": trained - begun, "scoring s": time.time() - trained,
    }  # fmt: skip
    rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in figures.items()}
    return {**rounded, "device": device_name(), "dtype": str(model.dtype).removeprefix("torch.")}


def device_name() -> str:
    """The GPU's name, or CPU."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def record(options: argparse.Namespace, grid: Grid, found: Found, seconds: float) -> Json:
    """What was done, how the rates were chosen, and for each method and rank the figures over the seeds.

    A run without figures is counted in `failed`, with its error.
    """
    told = next((answer for answer in found.values() if "error" not in answer), {})
    where = "each rank" if grid.each else f"rank {TUNED_RANK}"
    command = ["python -m bench.ablation", *(f"--{key} {getattr(options, key)}" for key in _PASSED)]
    return {
        "what": f"{options.rows} Arabic rows, {options.epochs:g} epochs, {options.batch} a step, the embedded base; "
        f"strict and loss of {options.scored} test rows for seeds {', '.join(map(str, grid.seeds))}; final training "
        f"loss: the mean of the last {LAST_STEPS} steps",
        "scales": f"alpha is {ALPHA:g} for all; the scale on B A is alpha / rank, with rsLoRA alpha / sqrt(rank); A "
        "starts with a deviation of 1 / rank, B at zero",
        "rates": f"the best of {', '.join(map(str, grid.rates))} at {where} with seed {grid.seeds[0]}, by strict of "
        f"{options.scored} development rows, then by their loss",
        "command": " ".join(command + ["--tune-each"] * grid.each),
        "device": f"{told.get('device')}, {told.get('dtype')}, {options.together} runs at a time",
        "steps": told.get("steps"), "seconds": round(seconds, 1), "runs": len(found),
        "methods": {method: _of_method(method, grid, found) for method in METHODS},
    }  # fmt: skip


def _of_method(method: str, grid: Grid, found: Found) -> Json:
    tuning: Json = {}
    ranks: Json = {}
    for group in grid.groups(method):
        tried = {variant: found[variant] for variant in grid.tuning(group) if variant in found}
        tuning[str(group.tuned)] = {
            f"{variant.rate:g}": {key: answer[key] for key in ("error", *FIGURES) if key in answer}
            for variant, answer in tried.items()
        }
        rate = best_rate(tried)
        if rate is None:
            continue
        at_edge = len(grid.rates) > 1 and rate in (min(grid.rates), max(grid.rates))
        for rank in group.ranks:
            seeds = [variant for variant in grid.scored(group, rate) if variant.rank == rank and variant in found]
            if seeds:
                figures = _of_seeds([found[variant] for variant in seeds])
                ranks[str(rank)] = {"scale": round(seeds[0].scale, 4), "rate": rate,
                                    "rate is the least or greatest tried": at_edge, **figures}  # fmt: skip
    return {"tuning": tuning, "ranks": ranks}


def _of_seeds(answers: Sequence[Json]) -> Json:
    ended = [answer for answer in answers if "error" not in answer]
    errors = [answer["error"] for answer in answers if "error" in answer]
    summary: Json = {}
    if ended:
        summary["trainable"] = ended[0]["trainable"]
        summary |= {key: over_seeds([answer[key] for answer in ended]) for key in FIGURES}
        summary["median step s"] = statistics.median(answer["median step s"] for answer in ended)
    return summary | ({"failed": len(errors), "errors": errors} if errors else {})


def write(options: argparse.Namespace, grid: Grid, found: Found, seconds: float) -> None:
    """The record and its drawings, of what is known so far."""
    known = record(options, grid, found, seconds)
    options.out.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for kind, svg in drawings(known["methods"]).items():
        options.out.with_name(f"{options.out.stem}{kind}.svg").write_text(svg, encoding="utf-8")


def drawings(methods: Json) -> dict[str, str]:
    """Mean strict and mean loss over rank, a line a method, each as an SVG that stands alone; none without a run."""
    drawn = {}
    for kind, figure, factor, title in (
        ("", "strict", 100.0, "Test rows answered exactly, in %, by rank"),
        ("-loss", "loss", 1.0, "Loss of a supervised token of the test rows by rank"),
    ):
        lines = [
            Line(f"{method}, {_rates(found['ranks'])}", _points(found["ranks"], figure, factor), colour, dots=True)
            for colour, (method, found) in enumerate(methods.items(), 1)
            if found["ranks"]
        ]
        if any(line.points for line in lines):
            svg = line_chart(lines, title, "rank")
            drawn[kind] = standalone(svg, lines, left=430, top=_KEY_TOP)
    return drawn


def _points(ranks: Json, figure: str, factor: float) -> tuple[tuple[float, float], ...]:
    return tuple((float(rank), factor * known[figure]["mean"]) for rank, known in ranks.items() if figure in known)


def _rates(ranks: Json) -> str:
    rates = {known["rate"] for known in ranks.values()}
    return f"rate {rates.pop():g}" if len(rates) == 1 else "a rate each rank"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.ablation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("ablation.json"), help="a JSON file; drawings go beside it")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32, help="rows a step")
    parser.add_argument("--epochs", type=float, default=1.5)
    parser.add_argument("--scored", type=int, default=400, help="development and test rows that are scored")
    parser.add_argument("--together", type=int, default=8, help="runs at a time")
    parser.add_argument("--ranks", type=_numbers(int), default=RANKS, help="with commas")
    parser.add_argument("--seeds", type=_numbers(int), default=SEEDS, help="with commas")
    parser.add_argument("--rates", type=_numbers(float), default=RATES, help="with commas")
    parser.add_argument("--tune-each", action="store_true", help="choose a rate for each rank")
    parser.add_argument("--serve", action="store_true", help="answer jobs from stdin, for the runs side by side")
    return parser.parse_args()


def _numbers(kind: type[int] | type[float]) -> Any:
    return lambda text: tuple(map(kind, text.split(",")))


if __name__ == "__main__":
    main()
