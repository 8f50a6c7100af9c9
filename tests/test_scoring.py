"""Scores by generation in a run, on the embedded base: the best adapter is kept, and a run may end early."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import dozan
from dozan.demo import TEST
from dozan.errors import InputError, Interrupted
from dozan.rows.readers import read_rows
from dozan.train.checkpoint import checkpoints, save_checkpoint
from dozan.train.live import Event, score_text
from dozan.train.scoring import chosen_rows, settle_best
from dozan.train.state import Progress

ROWS = read_rows(TEST)[:40]
SETTINGS = ["train.batch_size=4", "train.epochs=2", "score.rows=4", "score.steps=2", "score.max_new_tokens=24",
            "adapter.rank=4", "train.eval_steps=100", "train.save_steps=100"]  # fmt: skip


def train(out: Path, *changes: str, on_event: Any = None) -> tuple[dozan.TrainResult, list[Event]]:
    events: list[Event] = []
    result = dozan.train(ROWS[:16], None, out, overrides=[*SETTINGS, *changes], eval_data=ROWS[32:],
                         on_event=on_event or events.append)  # fmt: skip
    return result, events


def adapter(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize(("heldout", "wanted", "places"), [(8, 4, {0, 2, 4, 6}), (3, 9, {0, 1, 2}), (5, 0, set())])
def test_rows_are_spread_evenly(heldout: int, wanted: int, places: set[int]) -> None:
    assert chosen_rows(heldout, wanted) == places


def test_the_best_adapter_is_the_run_s(tmp_path: Path) -> None:
    result, events = train(tmp_path / "run", "train.learning_rate=2e-2")
    scored = [event for event in events if event["event"] == "score"]
    assert [event["step"] for event in scored] == [2, 4, 6, 8] and all(event["score/rows"] == 4 for event in scored)
    values = [event["score/normalised"] for event in scored]
    best = scored[values.index(max(values))]["step"]
    assert (result.best_step, result.best_score) == (best, max(values))
    (kept,) = (tmp_path / "run" / "best").iterdir()
    assert load_file(kept / "adapter_model.safetensors").keys()
    assert adapter(tmp_path / "run" / "adapter") == adapter(kept)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum("score/strict" in line for line in lines) == 4
    assert score_text(scored[0]).startswith("step 2  4 answers: strict ")


def test_a_run_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    result, events = train(tmp_path / "run", "train.learning_rate=1e-9", "score.patience=1")
    assert (result.steps, result.best_step) == (4, 2)
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any(note.startswith("stopped after step 4: 1 scorings in a row") for note in notes)
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["said"][-1]
    assert kept["step"] == 4 and kept["text"] in notes
    again, said = train(tmp_path / "run", "train.learning_rate=1e-9", "score.patience=1")
    assert again.steps == 4 and not [event for event in said if event["event"] == "step"]


@pytest.mark.parametrize("by", ["strict", "normalised", "graded_f1"])
def test_every_score_can_choose(by: str, tmp_path: Path) -> None:
    result, _ = train(tmp_path / "run", f"score.by={by}", "train.max_steps=2")
    assert result.best_score is not None and 0.0 <= result.best_score <= 1.0


def test_an_interrupted_run_keeps_its_best(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", "train.save_steps=1")

    def stop(event: Event) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise Interrupted("here")

    with pytest.raises(Interrupted):
        train(tmp_path / "run", "train.save_steps=1", on_event=stop)
    result, _ = train(tmp_path / "run", "train.save_steps=1")
    assert (result.best_step, result.best_score) == (whole.best_step, whole.best_score)
    assert adapter(tmp_path / "run" / "adapter") == adapter(tmp_path / "whole" / "adapter")


def test_nothing_held_out_is_said(tmp_path: Path) -> None:
    events: list[Event] = []
    dozan.train(ROWS[:4], None, tmp_path / "run", overrides=[*SETTINGS, "data.holdout=0", "train.epochs=1"],
                on_event=events.append)  # fmt: skip
    assert any("no row is held out" in event.get("text", "") for event in events)


def test_an_unknown_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="score.by"):
        train(tmp_path / "run", "score.by=loss")


def test_the_best_is_of_the_course_that_goes_on(tmp_path: Path) -> None:
    """What was kept after the step gone back to counts no more; where its own best is gone there is none."""
    said: list[Event] = []
    for step in (2, 6):
        save_checkpoint(tmp_path / "best", step, lambda folder: (folder / "a").write_text("") and None, 2)
    back = Progress(4, best_score=0.5, best_step=2, scored_since_best=1)
    assert settle_best(tmp_path, back, said.append) == back and not said
    assert [step for step, _ in checkpoints(tmp_path / "best")] == [2]
    (tmp_path / "best" / "step-000002" / "a").write_text("other")
    assert settle_best(tmp_path, back, said.append) == Progress(4)
    assert "the best of step 2 is not in" in said[0]["text"] and not list((tmp_path / "best").iterdir())
