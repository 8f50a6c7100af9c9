"""What is said about a run's figures, when, and only once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dozan.train.sentinels import Sentinels, said_in


def run(loss: Callable[[int], float], norm: Callable[[int], float] = lambda step: 0.5, steps: int = 300) -> list[str]:
    watch = Sentinels(steps, 20, 1e-3)
    events = ({"step": s, "train/loss": loss(s), "train/grad_norm": norm(s)} for s in range(1, steps + 1))
    return [line for event in events for line in watch.step(event)]


def test_a_healthy_run_is_called_so_at_its_end() -> None:
    (said,) = run(lambda step: 0.8 + 1.7 * (1 - step / 300))
    assert said.startswith("the loss fell from 2.5 to 0.94: healthy")


def test_a_loss_that_is_flat_near_nothing_is_overfitting() -> None:
    (said,) = run(lambda step: 2.5 if step < 30 else 0.001)
    assert "flat near 0.0010" in said and "a rate of 0.0005 instead of 0.001" in said


def test_a_loss_that_gets_there_in_the_end_is_not() -> None:
    assert run(lambda step: 1.5 if step < 290 else 0.001) == []


def test_a_norm_above_one_for_long() -> None:
    assert run(lambda step: 1.5, lambda step: 3.0 if step <= 20 else 0.9) == []
    (said,) = run(lambda step: 1.5, lambda step: 1.3)
    assert "above 1 in 100 of 100 steps" in said


def test_skipped_steps_count_for_nothing() -> None:
    watch = Sentinels(300, 0, 1e-3)
    nan = float("nan")
    assert not watch.step({"step": 1, "train/loss": nan, "train/grad_norm": nan, "train/skipped": True})


def test_held_out_loss_that_rises_twice() -> None:
    watch = Sentinels(300, 20, 1e-3)
    found = [watch.evaluated(loss) for loss in (1.0, 0.9, 0.95, 0.94, 0.96, 0.99, 1.2)]
    assert [bool(said) for said in found] == [False] * 5 + [True, False]
    assert "0.940 to 0.960 to 0.990" in found[5][0]


def test_what_was_said_before_a_resume_is_not_said_again() -> None:
    watch = Sentinels(300, 20, 1e-3)
    for loss in (0.9, 1.0, 1.1):
        watch.replay({"step": 10, "eval/loss": loss})
    assert watch.evaluated(1.2) == []


def test_words_are_read_back_with_their_steps(tmp_path: Path) -> None:
    lines = [{"step": 1, "train/loss": 2.0}, {"step": 7, "said": ["'قال' one", "two"]}, {"step": 9, "said": ["three"]}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [(said["step"], said["text"]) for said in said_in(tmp_path / "metrics.jsonl")]
    assert found == [(7, "'قال' one"), (7, "two"), (9, "three")]
    assert said_in(tmp_path / "none") == []


def scores(strict: float | None, unended: float, names: float | None = 0.95) -> dict[str, float | None]:
    return {"score/tool_name": names, "score/parse_failures": 0.0, "score/strict": strict, "score/unended": unended}


def test_scores() -> None:
    watch = Sentinels(300, 20, 1e-3)
    assert watch.scored(scores(0.8, 0.1)) == []
    (said,) = watch.scored(scores(0.8, 0.5))
    assert "50% of the answers never stop" in said
    (said,) = watch.scored(scores(0.4, 0.0))
    assert "strict 40%" in said and "more rows" in said
    assert Sentinels(300, 20, 1e-3).scored(scores(None, 0.0, None)) == []
