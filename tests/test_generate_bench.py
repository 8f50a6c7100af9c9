"""The generation benchmark at a tiny shape: transformers' answers are ours, and a difference ends it in red."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from bench import generation


def test_agreement_counts_up_to_the_first_difference() -> None:
    found = generation.agreement([[1, 2, 3, 4], [1, 9, 3, 4], [5, 5, 5, 5]], [[1, 2, 3, 4], [1, 2, 3, 4], [6, 5, 5, 5]])
    assert found == {"agreement": round(5 / 7, 5), "equal_rows": 0.3333, "distinct_answers": 1.0}


def test_the_tiny_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "record.json"
    arguments = ["bench.generation", "--tiny", "--rows", "5", "--new", "9", "--repeats", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    generation.main()
    record = json.loads(out.read_text())
    assert (record["agreement"], record["distinct_answers"]) == (1.0, 1.0)
    assert record["ours"]["tokens_per_second"] == pytest.approx(45 / record["ours"]["seconds"], rel=0.01)
    plain = generation.generate_ids
    monkeypatch.setattr(
        generation, "generate_ids", lambda m, p, *rest, **named: plain(m, [x[:-1] for x in p], *rest, **named)
    )
    with pytest.raises(SystemExit, match="less than 95%"):
        generation.main()
