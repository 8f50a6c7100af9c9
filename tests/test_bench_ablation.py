"""The ablation at a tiny size: real runs of a few steps in processes side by side, how a rate is chosen, and a record
that tells what each method did. DoRA's curve: the adapter that everyone starts from."""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import dozan
from bench import ablation, curve, ours
from bench.ablation import METHODS, Grid, Variant, best_rate, record
from bench.processes import Processes, over_seeds
from bench.workloads import read
from dozan.model.adapter import adapted, scale_of
from dozan.recipe import Recipe, override

GRID = Grid(ranks=(4, 32), seeds=(0, 1), rates=(1e-3, 2e-3, 4e-3))
OPTIONS = argparse.Namespace(rows=64, batch=32, epochs=1.0, scored=4, together=2)


def answer(strict: float, loss: float = 0.5) -> dict[str, Any]:
    return {"strict": strict, "loss": loss, "final training loss": 2 * loss, "trainable": 9, "median step s": 0.1,
            "steps": 2, "device": "GPU", "dtype": "bfloat16"}  # fmt: skip


def test_a_variant_is_the_recipe_that_it_says() -> None:
    for method in METHODS:
        variant = Variant(method, 8, 2e-3, 1, "dev")
        recipe = override(Recipe(), [*variant.settings, f"adapter.alpha={ablation.ALPHA}"])
        assert (recipe.adapter.rank, recipe.train.learning_rate, recipe.train.seed) == (8, 2e-3, 1)
        assert recipe.adapter.rslora == ("rsLoRA" in method) and recipe.adapter.dora == ("DoRA" in method)
        assert variant.scale == scale_of(recipe.adapter)


def test_the_best_rate_is_by_strict_then_by_loss_and_a_failed_run_has_none() -> None:
    (group,) = GRID.groups("DoRA")
    tried = GRID.tuning(group)
    assert [variant.rate for variant in tried] == [1e-3, 2e-3, 4e-3] and {variant.on for variant in tried} == {"dev"}

    def chosen(*answers: dict[str, Any]) -> float | None:
        return best_rate(dict(zip(tried, answers, strict=True)))

    assert chosen(answer(0.7), answer(0.9, loss=0.8), answer(0.8)) == 2e-3
    assert chosen(answer(0.9, loss=0.6), answer(0.8), answer(0.9, loss=0.5)) == 4e-3
    assert chosen({"error": "diverged"}, answer(0.1), {"error": "diverged"}) == 2e-3
    assert chosen(*[{"error": "diverged"}] * 3) is None


class Answers:
    """Processes that answer at once; `asked` are the jobs in their order."""

    def __init__(self, failing: str = "") -> None:
        self.asked: list[Variant] = []
        self.failing = failing

    def submit(self, job: dict[str, Any]) -> Future[dict[str, Any]]:
        variant = Variant(**job)
        self.asked.append(variant)
        done: Future[dict[str, Any]] = Future()
        failed = variant.method == self.failing
        strict = 0.5 + variant.rate + variant.rank / 1000 + variant.seed / 100
        done.set_result({"error": "diverged"} if failed else answer(strict, 1 / variant.rank))
        return done


def every(failing: str = "", grid: Grid = GRID) -> tuple[Answers, dict[Variant, dict[str, Any]]]:
    processes = Answers(failing)
    return processes, dict(ablation.runs(processes, grid))  # type: ignore[arg-type]


def test_rates_are_tuned_on_development_rows_and_the_grid_runs_at_the_best() -> None:
    processes, found = every()
    assert list(found) == processes.asked and len(found) == 4 * 3 + 4 * 4
    tuning, grid = processes.asked[:12], processes.asked[12:]
    assert all((run.on, run.rank, run.seed) == ("dev", ablation.TUNED_RANK, 0) for run in tuning)
    assert all((run.on, run.rate) == ("test", 4e-3) for run in grid)
    assert len(set(grid)) == 16 and {run.method for run in grid} == set(METHODS)


def test_each_rank_may_have_a_rate_of_its_own() -> None:
    grid = replace(GRID, each=True)
    processes, found = every(grid=grid)
    assert len(found) == 4 * 2 * 3 + 4 * 4 and {run.rank for run in processes.asked[:24]} == {4, 32}
    tuned = [variant for variant in found if variant.on == "dev" and variant.rank == 4 and variant.method == "LoRA"]
    found[tuned[0]] = answer(1.0)
    for seed in GRID.seeds:
        found[Variant("LoRA", 4, 1e-3, seed, "test")] = answer(0.25)
    methods = record(OPTIONS, grid, found, 0.0)["methods"]
    ranks = methods["LoRA"]["ranks"]
    assert (ranks["4"]["rate"], ranks["4"]["strict"]["mean"], ranks["32"]["rate"]) == (1e-3, 0.25, 4e-3)
    assert ">LoRA, a rate each rank<" in ablation.drawings(methods)[""]


def test_the_record_tells_scale_rate_mean_spread_and_seeds() -> None:
    _, found = every()
    known = record(OPTIONS, GRID, found, 12.34)
    rs = known["methods"]["rsLoRA"]
    assert (known["seconds"], known["runs"], known["steps"]) == (12.3, 28, 2) and "bfloat16" in known["device"]
    assert rs["tuning"]["32"]["0.001"] == {"strict": 0.5 + 0.001 + 0.032, "loss": 1 / 32, "final training loss": 1 / 16}
    assert rs["ranks"]["4"]["rate"] == 4e-3 and rs["ranks"]["4"]["rate is the least or greatest tried"] is True
    assert rs["ranks"]["4"]["scale"] == 32.0 and known["methods"]["LoRA"]["ranks"]["4"]["scale"] == 16.0
    assert rs["ranks"]["4"]["strict"] == {"mean": 0.513, "seeds": [0.508, 0.518], "spread": 0.0071}
    assert "failed" not in rs["ranks"]["4"]


def test_a_method_whose_runs_fail_is_recorded_with_its_errors() -> None:
    _, found = every("DoRA")
    methods = record(OPTIONS, GRID, found, 0.0)["methods"]
    assert methods["DoRA"] == {
        "tuning": {"32": {rate: {"error": "diverged"} for rate in ("0.001", "0.002", "0.004")}}, "ranks": {},
    }  # fmt: skip
    assert len(found) == 12 + 12
    one = next(run for run in found if run.method == "LoRA" and run.on == "test" and run.seed == 1 and run.rank == 4)
    found[one] = {"error": "no finite loss"}
    rank = record(OPTIONS, GRID, found, 0.0)["methods"]["LoRA"]["ranks"]["4"]
    assert (rank["failed"], rank["errors"], rank["strict"]["spread"]) == (1, ["no finite loss"], None)
    drawn = ablation.drawings(methods)
    assert ">DoRA, rate" not in drawn[""] and ">LoRA, rate 0.004<" in drawn[""]


def test_drawings_have_a_line_a_method_once_there_is_one() -> None:
    _, found = every()
    drawn = ablation.drawings(record(OPTIONS, GRID, found, 0.0)["methods"])
    assert set(drawn) == {"", "-loss"}
    assert all(svg.count('class="line ') == 4 and svg.count("<circle") == 8 for svg in drawn.values())
    tuned = {variant: told for variant, told in found.items() if variant.on == "dev"}
    assert ablation.drawings(record(OPTIONS, GRID, tuned, 0.0)["methods"]) == {}
    assert ablation.drawings(record(OPTIONS, GRID, {}, 0.0)["methods"]) == {}


def test_real_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ablation.json"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(ablation, "METHODS", {"LoRA": (False, False), "rsLoRA + DoRA": (True, True)})
    arguments = ["--out", str(out), "--rows", "8", "--batch", "4", "--epochs", "1", "--scored", "1", "--together",
                 "2", "--ranks", "8,16", "--seeds", "1", "--rates", "1e-4"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bench.ablation", *arguments])
    ablation.main()
    known = json.loads(out.read_text())
    assert (known["runs"], known["steps"]) == (6, 2)
    plain, both = known["methods"]["LoRA"]["ranks"], known["methods"]["rsLoRA + DoRA"]["ranks"]
    assert plain["16"]["trainable"] == 2 * plain["8"]["trainable"]
    magnitudes = both["8"]["trainable"] - plain["8"]["trainable"]
    assert magnitudes == both["16"]["trainable"] - plain["16"]["trainable"] > 0
    losses = [ranks[rank]["loss"]["mean"] for ranks in (plain, both) for rank in ("8", "16")]
    assert len(set(losses)) == 4 and all(0 < loss < 3 for loss in losses)
    assert (tmp_path / "ablation.svg").is_file() and (tmp_path / "ablation-loss.svg").is_file()


def test_jobs_are_answered_in_processes_and_a_dead_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "echo.py").write_text(
        "import os, sys\nfrom bench.processes import serve\n"
        "def answer(job):\n"
        "    print('noise')\n"
        "    if job['n'] == 9: sys.exit(3)\n"
        "    return {'n': job['n'] + 1, 'process': os.getpid()}\n"
        "serve(answer)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Processes("echo", [], 2) as processes:
        found = [one.result() for one in [processes.submit({"n": n}) for n in range(8)]]
    assert [one["n"] for one in found] == list(range(1, 9)) and 1 <= len({one["process"] for one in found}) <= 2
    with pytest.raises(RuntimeError, match=r"'n': 9.*status 3"), Processes("echo", [], 1) as processes:
        asked = [processes.submit({"n": n}) for n in (9, 1)]
        for one in reversed(asked):
            failed = one.exception(timeout=60)
            assert isinstance(failed, RuntimeError), "a job that follows a dead process must not wait for ever"
        asked[0].result()


def test_one_seed_has_no_spread() -> None:
    assert over_seeds([0.5]) == {"mean": 0.5, "seeds": [0.5], "spread": None}
    assert over_seeds([0.25, 0.75])["spread"] == pytest.approx(0.3536)


def test_a_run_that_training_gives_up_is_an_error_and_another_is_scored_on_its_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dozan.demo import ROWS
    from dozan.rows.readers import read_rows
    from dozan.train.plan import make_plan
    from dozan.train.prepare import prepare

    sides = {"dev": read_rows(ROWS / "dev.jsonl")[:1], "test": read_rows(ROWS / "test.jsonl")[:1]}
    settings = ["train.max_steps=30", "train.batch_size=1", "train.warmup_steps=0", "adapter.alpha=64"]
    monkeypatch.setattr(dozan, "evaluate", partial(dozan.evaluate, max_new_tokens=8))
    job = prepare(read_rows(ROWS / "dev.jsonl")[1:5], None, "mobile-actions", settings, [*sides["dev"], *sides["test"]])
    found = ablation.one(job, sides, Variant("LoRA", 2, 1e30, 0, "test"))
    assert set(found) == {"error"} and "finite" in found["error"]
    recipe = override(job.plan.recipe, ["train.max_steps=1"])
    short = replace(job, plan=make_plan(recipe, job.plan.rows, job.plan.heldout))
    dev, test = (ablation.one(short, sides, Variant("LoRA", 2, 1e-3, 0, side)) for side in ("dev", "test"))
    assert dev["final training loss"] == test["final training loss"] and dev["loss"] != test["loss"]


def options(folder: Path, *more: str, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    arguments = ["--model", str(curve.BASE), "--adapter", str(folder / "a0"), "--steps", "3", "--curve", *more]
    monkeypatch.setattr(sys, "argv", ["bench.ours", *arguments])
    return ours._options()


def test_our_curve_with_dora_starts_from_norms_and_trains_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curve.arabic_rows(3).write(tmp_path / "rows.jsonl")
    work = read(tmp_path / "rows.jsonl")
    assert len(work.rows) == curve.BATCH * (3 + curve.SPARE_STEPS)
    chosen = options(tmp_path, "--dora", monkeypatch=monkeypatch)
    ours.write_adapter(chosen)
    model = ours._model(chosen, ours._recipe(curve.BATCH, True))
    for _, linear in adapted(model):
        assert linear.magnitude is not None and linear.norm is not None
        assert (linear.magnitude / linear.norm - 1).abs().max() < 1e-6
    with pytest.raises(ValueError, match="give --dora to both"):
        ours._model(chosen, ours._recipe(curve.BATCH, False))
    small = type(work)(work.name, 2, work.rows[:10])
    figures, _ = ours.measure(chosen, small)
    plain = options(tmp_path / "lora", monkeypatch=monkeypatch)
    ours.write_adapter(plain)
    without, _ = ours.measure(plain, small)
    assert len(figures["curve"]) == 3 and figures["curve"][0] == pytest.approx(without["curve"][0], rel=1e-5)
    assert figures["grad_norms"][0] > without["grad_norms"][0], "the magnitudes have gradients too"


def test_every_set_of_curves_pairs_runs_that_it_has() -> None:
    for name, chosen in curve.SETS.items():
        assert {run for pair in chosen.pairs for run in pair} == set(chosen.runs)
        assert (chosen.common == ["--dora"]) == (name == "dora")
        curves = {run: [1.0, 0.5 + i / 10] for i, run in enumerate(chosen.runs)}
        losses, apart = curve.drawings(curves, chosen.pairs).values()
        assert losses.count('class="line ') == len(chosen.runs) and apart.count('class="line ') == len(chosen.pairs)
    assert curve.apart([1.0, 2.0], [1.5, 2.0]) == {"mean": 0.25, "largest": 0.5, "last steps": -0.25}
