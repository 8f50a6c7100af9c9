"""A sweep keeps its budget, promotes the better third from where it stopped, and goes on after a kill."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from ship_models import make_folder

pytest.importorskip("optuna")

import dozan
from dozan.cli.sweep import train_command
from dozan.errors import InputError, Interrupted
from dozan.recipe import load_recipe, parse_recipe
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.sweep.halving import RUNGS, Job, Result, Trial, best, chosen, measured, next_job
from dozan.sweep.space import Choice, Range, own_values, parse_space
from dozan.sweep.study import Study
from dozan.sweep.sweep import sweep
from dozan.train import scoring

ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar" / "test.jsonl"
RECIPE = parse_recipe({
    "chat": "functiongemma", "adapter": {"rank": 2, "alpha": 4.0}, "data": {"holdout": 0.3},
    "train": {"max_steps": 9, "batch_size": 2, "dtype": "float32", "learning_rate": 1e-2},
    "score": {"rows": 2, "max_new_tokens": 4},
})  # fmt: skip
SPACE = ("train.learning_rate=1e-4..1e-1", "adapter.rank=2,4")


def simulate(
    budget: float, step: float, job: float, steps: int = 90, most: int | None = None
) -> tuple[list[Trial], float]:
    """Run the plan by a made-up clock; trial i has the loss of its number's digits reversed."""
    trials: list[Trial] = []
    spent = 0.0
    while (found := next_job(trials, budget - spent, steps, most)) is not None:
        trial = found.trial or Trial(len(trials), steps)
        made = trial.target(found.rung) - trial.at
        seconds = job + made * step
        spent += seconds
        loss = float(f"0.{str(trial.number)[::-1]}")
        result = Result(trial.target(found.rung), made, None, loss, seconds, made * step)
        grown = Trial(trial.number, steps, (*trial.results, result))
        trials = [*(each for each in trials if each.number != grown.number), grown]
    return trials, spent


@pytest.mark.parametrize(("budget", "step", "job"), [(600, 0.5, 2), (600, 0.5, 20), (100, 0.1, 1), (61, 0.5, 1)])
def test_the_budget_is_kept_and_used(budget: float, step: float, job: float) -> None:
    trials, spent = simulate(budget, step, job)
    assert spent <= budget
    assert len(best(trials).results) == RUNGS, "one at least comes to its end"  # type: ignore[union-attr]
    assert budget - spent < 1.2 * 2 * (job + 60 * step), "no time for a whole trial is left over"


def test_the_better_third_goes_on() -> None:
    trials, _ = simulate(1e9, 0.5, 2, most=9)
    reached = [len(trial.results) for trial in trials]
    assert reached.count(3) == 1 and reached.count(2) == 2 and len(trials) == 9
    first = sorted(trials, key=lambda trial: trial.results[0].loss)
    assert {trial.number for trial in first[:3]} == {trial.number for trial in trials if len(trial.results) > 1}
    assert [result.step for result in best(trials).results] == [10, 30, 90]  # type: ignore[union-attr]


def test_too_little_time_begins_one_trial_alone() -> None:
    trials, spent = simulate(8, 0.5, 2)
    assert [len(trial.results) for trial in trials] == [1] and spent <= 8


def test_a_trial_that_was_killed_comes_first_and_scores_decide_before_losses() -> None:
    done = Trial(0, 90, (Result(10, 10, 0.5, 1.0, 7, 5),))
    begun = Trial(1, 90)
    assert next_job([done, begun], 1e6, 90) == Job(begun, 0)
    assert next_job([done, begun], 1e6, 90, most=1) == Job(begun, 0)
    sure = Trial(2, 90, (Result(10, 10, 0.5, 0.1, 7, 5),))
    right = Trial(3, 90, (Result(10, 10, 0.6, 2.0, 7, 5),))
    assert chosen([done, sure, right], 1) == [right] and best([done, sure]) is sure
    cost = measured([done, begun, sure])
    assert cost is not None and (cost.step, cost.job) == (0.5, 2.0)


def test_spaces_are_read_and_refused_with_what_works() -> None:
    recipe = load_recipe("embedded")
    space = parse_space(["train.learning_rate=1e-4..1e-2", "adapter.rank=8,16", "train.schedule=cosine,linear"], recipe)
    assert space == {"train.learning_rate": Range(1e-4, 1e-2), "adapter.rank": Choice((8, 16)),
                     "train.schedule": Choice(("cosine", "linear"))}  # fmt: skip
    assert Range(1e-4, 1e-2).log and not Range(1, 3).log
    assert own_values(recipe, parse_space([], recipe)) == {
        "train.learning_rate": 2e-3, "adapter.rank": 32, "adapter.alpha": 64.0, "train.epochs": 5.0}  # fmt: skip
    assert own_values(recipe, space) is None, "its rank of 32 is outside"
    for text, said in (("adapter.rank", "expected a key"), ("adapter.rank=", "expected a key"),
                       ("train.learning_rate=2..1", "lower one first"), ("train.learning_rate=a..b", "two numbers"),
                       ("adapter.rnak=1,2", "did you mean 'rank'"), ("adapter.rank=0,8", "rank = 0")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            parse_space([text], recipe)
    with pytest.raises(InputError, match="train.max_steps replaces it"):
        parse_space(["train.epochs=1,2"], RECIPE)


class Killed(BaseException):
    """As a kill: nothing catches it."""


def rows() -> list[Example]:
    """Rows of different patterns, with the tools that they call: few tokens."""
    found = read_rows(ROWS)[:14]
    called = [{call["function"]["name"] for call in row.messages[-1].get("tool_calls", ())} for row in found]
    return [
        Example(row.id, tuple(tool for tool in row.tools if tool["function"]["name"] in names) or row.tools[:1],
                row.messages, row.meta, row.place)
        for row, names in zip(found, called, strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny", max_position_embeddings=4096)


def test_a_killed_sweep_goes_on_and_a_promoted_trial_is_the_run_it_would_have_been(base: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", list[str]()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 5:  # in the midst of the third trial
            raise Killed

    arguments: dict[str, Any] = {"data": rows(), "model": base, "out": out, "recipe": RECIPE, "space": SPACE}
    arguments["trials"] = 3
    with pytest.raises(Killed):
        sweep(**arguments, minutes=30, say=say)
    before = json.loads((out / "sweep.json").read_text())
    assert [len(trial["rungs"]) for trial in before["trials"]] == [1, 1, 0]
    written = {path: path.stat().st_mtime_ns for path in out.glob("trials/00[01]/metrics.jsonl")}

    found = sweep(**arguments, minutes=30, say=said.append)
    record = json.loads((out / "sweep.json").read_text())
    assert [trial["values"] for trial in record["trials"]] == [trial["values"] for trial in before["trials"]]
    assert record["trials"][0]["values"] == {"train.learning_rate": 1e-2, "adapter.rank": 2}, "the recipe's own is one"
    assert sorted(len(trial["rungs"]) for trial in record["trials"]) == [1, 1, 3]
    stopped = [out / trial["folder"] / "metrics.jsonl" for trial in record["trials"][:2] if len(trial["rungs"]) == 1]
    assert all(path.stat().st_mtime_ns == written[path] for path in stopped), "a trial was run again"
    assert record["seconds"] > before["seconds"] and found.step == found.steps == 9 and found.trials == 3

    swept = load_recipe(str(found.recipe))
    assert swept.name == "custom-swept" and swept.score == RECIPE.score and swept.train.max_steps == 9
    assert {"train.learning_rate": swept.train.learning_rate, "adapter.rank": swept.adapter.rank} == found.values
    straight = dozan.train(rows(), base, tmp_path / "straight", swept, ["score.rows=0"], on_event=lambda event: None)
    ours = load_file(found.folder / "checkpoints" / "step-000009" / "adapter_model.safetensors")
    theirs = load_file(straight.out / "checkpoints" / "step-000009" / "adapter_model.safetensors")
    assert all((ours[name] == theirs[name]).all() for name in theirs) and ours.keys() == theirs.keys()

    page = (out / "sweep.html").read_text()
    assert page.count('<path class="line stroke1"') >= 2 and "custom" in page and "http" not in page.split("<body")[1]
    with pytest.raises(InputError, match="another space"):
        sweep(**{**arguments, "space": SPACE[:1]}, minutes=30, say=said.append)
    with pytest.raises(InputError, match="another rows, heldout rows; give the same"):
        sweep(**{**arguments, "eval_data": rows()[:2]}, minutes=30, say=said.append)
    with pytest.raises(InputError, match="another rows; give the same"):
        sweep(**{**arguments, "data": [*rows()[1:], rows()[0]]}, minutes=30, say=said.append)


def test_a_rung_that_was_cut_short_is_brought_to_its_end(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while it answers; stopped after the last answer; killed when it was saved and not yet noted."""
    out, said = tmp_path / "sweep", list[str]()
    arguments: dict[str, Any] = {"data": rows(), "model": base, "out": out, "recipe": RECIPE, "space": SPACE}
    arguments |= {"trials": 1, "minutes": 30, "say": said.append}

    def once(place: Any, name: str, happens: Callable[[], None]) -> None:
        """Let it happen when a function is called first."""
        real, calls = getattr(place, name), list[str]()

        def wrapped(*given: Any, **more: Any) -> Any:
            calls.append(name)
            if len(calls) == 1:
                happens()
            return real(*given, **more)

        monkeypatch.setattr(place, name, wrapped)

    def stop() -> None:
        signal.raise_signal(signal.SIGINT)

    def kill() -> None:
        raise Killed

    def rungs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((out / "sweep.json").read_text())["trials"][0]["rungs"]
        return found

    for place, name, happens, noted in (
        (scoring, "generate", stop, 0), (Study, "add", kill, 0),
        (scoring, "score_rows", stop, 1), (Study, "add", kill, 1),
        (scoring, "score_rows", stop, 2),
    ):  # fmt: skip
        once(place, name, happens)
        with pytest.raises(Interrupted if happens is stop else Killed):
            sweep(**arguments)
        monkeypatch.undo()
        assert len(rungs()) == noted
    found = sweep(**arguments)
    metrics = [json.loads(line) for line in (found.folder / "metrics.jsonl").read_text().splitlines()]
    of = {(key, line["step"]): value for line in metrics for key, value in line.items()}
    assert [(rung["step"], rung["steps_made"]) for rung in rungs()] == [(1, 1), (3, 2), (9, 6)]
    for rung in rungs():
        assert rung["loss"] == of["eval/loss", rung["step"]] and rung["score"] == of["score/graded_f1", rung["step"]]
        assert rung["seconds"] > rung["stepping"] > 0
    assert [line["step"] for line in metrics if "train/loss" in line] == list(range(1, 10)), "none twice, none left out"
    assert (found.folder / "adapter").is_dir() and found.trials == 1


def test_the_command_at_the_end_trains_what_was_swept() -> None:
    assert train_command(Path("r.jsonl"), dozan.EMBEDDED_BASE, None, Path("o/best.yaml")) == (
        "dozan train --data r.jsonl --recipe o/best.yaml")  # fmt: skip
    line = train_command(Path("my rows.jsonl"), "a model", Path("held; out.jsonl"), Path("o/best.yaml"))
    assert shlex.split(line) == ["dozan", "train", "--data", "my rows.jsonl", "--model", "a model", "--eval-data",
                                 "held; out.jsonl", "--recipe", "o/best.yaml"]  # fmt: skip


def test_the_time_that_runs_out_stops_a_trial_and_more_of_it_goes_on(base: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "sweep", list[str]()
    texts = [Example(row.id, (), (row.messages[-2], {"role": "assistant", "content": "نعم"}), row.meta, row.place)
             for row in rows()]  # fmt: skip
    arguments: dict[str, Any] = {"data": texts, "model": base, "out": out, "recipe": RECIPE, "space": SPACE}
    arguments["trials"] = 1
    with pytest.raises(InputError, match="do not do for one trial"):
        sweep(**arguments, overrides=["train.max_steps=27"], minutes=0.001, say=said.append)
    assert "the time is over in the midst of trial 0" in said
    found = sweep(**{**arguments, "overrides": ["train.max_steps=27"]}, minutes=30, say=said.append)
    record = json.loads((out / "sweep.json").read_text())
    assert record["metric"] == "loss" and found.score is None and found.step == found.steps == 27
    assert yaml.safe_load(found.recipe.read_text())["train"]["max_steps"] == 27


def test_what_cannot_be_swept_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    with pytest.raises(InputError, match="minutes is 0"):
        sweep(rows(), minutes=0)
    with pytest.raises(InputError, match="none are: set data.holdout"):
        sweep(rows(), recipe="mobile-actions", out=tmp_path / "new")
    with pytest.raises(InputError, match="holds something that is no sweep"):
        sweep(rows(), recipe=RECIPE, out=tmp_path)
