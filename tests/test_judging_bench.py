"""The benchmarks of judging, tried at a tiny shape: scripted answers are the script, held to the grammar or not."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from bench import judging, stopping
from dozan.judge import generate


def test_scripted_answers_and_refused_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "Decoder", generate.Decoder)
    monkeypatch.setattr(generate, "decodes_statically", generate.decodes_statically)
    monkeypatch.setattr(judging, "LONGEST_SECONDS", 1e9)
    monkeypatch.setattr(judging, "HIGHEST_COST", 1e9)
    out = tmp_path / "record.json"
    arguments = ["bench.judging", "--tiny", "--rows", "3", "--batches", "2", "--repeats", "1", "--refused", "500"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out)])
    judging.main()
    record = json.loads(out.read_text())
    plain, refused = (record["grammar"][name][0] for name in ("270m shape", "270m shape, some refused"))
    assert record["scoring"]["rows"] == 3 and record["answer_tokens"]["longest"] == 54
    assert plain["tokens"] == refused["tokens"] > 40
    assert plain["rows_that_differ"] == 0 and refused["rows_that_differ"] == 2
    monkeypatch.setattr(judging, "LONGEST_SECONDS", 0.0)
    with pytest.raises(SystemExit, match="scoring took"):
        judging.main()


def seed(number: int, calls: float, loss: float, wins: int, losses: int) -> dict[str, Any]:
    tested = {"calls": {"strict": calls}, "loss": {"strict": loss}}
    return {"seed": number, "device": "d", "test": tested, "calls against loss": {"wins": wins, "losses": losses}}


def test_the_seeds_are_summed() -> None:
    options = Namespace(rows=3, epochs=1.0, every=2, dev=4, test=100)
    better, worse = seed(0, 0.82, 0.80, 4, 2), seed(1, 0.78, 0.81, 1, 4)
    told = stopping.summed(options, [better, seed(1, 0.8, 0.8, 1, 1)], 7.04)["calls against loss"]
    assert (told["wins"], told["losses"], told["at least as good"]) == (5, 3, True)
    assert told["strict, difference"] == [0.02, 0.0] and told["seeds at least as good"] == 2
    told = stopping.summed(options, [better, worse], 7.04)["calls against loss"]
    assert told["at least as good"] is False and told["seeds at least as good"] == 1
