"""The benchmark's own parts: rows that share what they claim, figures that are shown, work that is not the same."""

from __future__ import annotations

import argparse
import copy
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import __main__ as bench
from bench import peers
from bench.table import differences, joined, render
from bench.wheels import bundle, is_kept
from bench.workloads import BOS, NAMES, Workload, chosen, read, workload
from dozan.chat.encode import Tokens
from dozan.pack import pack_rows

LIMITS = {
    "tool-64": (9.5, 10.5), "tool-256": (10.8, 11.6), "tool-16": (6.8, 7.8), "tool27-64": (22, 25),
    "own-64": (1, 1.01), "mobile-64": (1, 1.02), "aisa-64": (1, 1.05), "long-4": (1, 1.001),
}  # fmt: skip
"""Tokens of a step's rows for each token that is computed once."""


def small(name: str) -> Workload:
    """One step's rows and the spare ones, which begin as those of any longer run do."""
    return workload(name, 1)


def factor(work: Workload) -> float:
    rows = [Tokens(str(i), row.ids, tuple(map(float, row.mask))) for i, row in enumerate(work.rows[: work.batch])]
    (pack,) = pack_rows(rows, "tries", 10**9)
    return pack.tokens / len(pack)


@pytest.mark.parametrize("name", NAMES)
def test_a_workload_is_deterministic_and_shares_what_it_claims(name: str) -> None:
    work = small(name)
    assert work == small(name)
    assert workload(name, 2).rows[: len(work.rows)] == work.rows
    assert len(work.rows) > work.batch == int(name.split("-")[1])
    low, high = LIMITS[name]
    assert low <= factor(work) <= high
    for row in work.rows:
        assert row.ids[0] == BOS and all(300 <= word < 200_000 for word in row.ids[1:])
        assert 0 < row.supervised < len(row.ids) and len(row.mask) == len(row.ids)
        assert row.mask == tuple(sorted(row.mask)) and sum(row.mask) == row.supervised


def test_rows_are_as_long_as_published() -> None:
    lengths = {name: [len(row.ids) for row in small(name).rows] for name in NAMES}
    for name in ("tool-64", "tool-256", "tool-16", "own-64"):
        assert min(lengths[name]) >= 836 and max(lengths[name]) <= 914
    assert min(lengths["tool27-64"]) >= 2736 and max(lengths["tool27-64"]) <= 2814
    assert min(lengths["mobile-64"]) >= 864 and max(lengths["mobile-64"]) <= 942
    assert min(lengths["aisa-64"]) >= 291 and max(lengths["aisa-64"]) <= 698
    assert set(lengths["long-4"]) == {4096}
    mobile = small("mobile-64").rows
    assert len({row.ids[:8] for row in mobile}) == 1 == len({row.ids[28:828] for row in mobile})
    assert len({row.ids[8] for row in mobile}) > 1


def test_a_workload_is_read_as_written_and_fits_a_small_vocabulary(tmp_path: Path) -> None:
    work = workload("tool-16", 1, vocabulary=1024)
    assert max(max(row.ids) for row in work.rows) < 1024
    work.write(tmp_path / "rows.jsonl")
    assert read(tmp_path / "rows.jsonl") == work
    assert work.tokens(1) == sum(len(row.ids) for row in work.rows[:16])


def test_workloads_are_chosen_by_name_or_kind() -> None:
    assert chosen("") == list(NAMES)
    assert chosen("long,tool") == ["tool-64", "tool-256", "tool-16", "long-4"]
    assert chosen("tool-64") == ["tool-64"]
    with pytest.raises(ValueError, match="no workload toll; choose among tool-64"):
        chosen("toll")


def figures(examples: float, loss: float = 12.5, norm: float = 0.3, gib: float = 4.0) -> dict[str, Any]:
    return {
        "step_s": 64 / examples, "examples_s": examples, "tokens_s": examples * 875, "allocated_gib": gib,
        "reserved_gib": gib + 1, "first_step_s": 15.0, "losses": [loss] * 3, "grad_norms": [norm] * 3, "steps": 24,
    }  # fmt: skip


def record() -> dict[str, Any]:
    works = {
        "ours": {"tool-64": figures(1950.0), "long-4": figures(20.0)},
        "unsloth": {"tool-64": figures(268.0, gib=28.7), "long-4": {"error": "Traceback\nout of memory: 140 GiB"}},
        "trl": {"tool-64": figures(121.0, loss=12.55, norm=0.302, gib=48.3), "long-4": figures(10.0)},
    }
    impls = {impl: {"impl": impl, "process_to_first_step_s": 20.0, "works": found} for impl, found in works.items()}
    return {"command": "", "commit": "abc", "device": "GPU", "model": "270m", "steps": 24, "impls": impls}


def test_the_table_shows_every_figure() -> None:
    text = render(record())
    lines = {tuple(line.split()[:2]): line for line in text.splitlines() if line}
    assert lines["examples/s", "ours"].split() == ["examples/s", "ours", "unsloth", "trl", "ours", "/", "best"]
    assert lines["tool-64", "1,950.0"].split() == ["tool-64", "1,950.0", "268.0", "121.0", "7.28x"]
    assert lines["long-4", "20.0"].split() == ["long-4", "20.0", "failed", "10.0", "2.00x"]
    assert lines["tool-64", "1,706,250"].endswith("7.28x")
    assert "4.0 / 5.0 28.7 / 29.7 48.3 / 49.3        0.14x" in text
    assert "ours 20.0, unsloth 20.0, trl 20.0" in text
    assert "long-4, unsloth: out of memory: 140 GiB" in text
    assert "!" not in text and max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("key, value", [("losses", 12.8), ("grad_norms", 0.31), ("losses", float("nan"))])
def test_a_peer_that_did_other_work_is_marked(key: str, value: float) -> None:
    wrong = record()
    assert differences(wrong) == []
    wrong["impls"]["trl"]["works"]["tool-64"][key][0] = value
    (found,) = differences(wrong)
    assert (found.work, found.impl, found.theirs) == ("tool-64", "trl", pytest.approx(value, nan_ok=True))
    text = render(wrong)
    assert "121.0!" in text and "268.0!" not in text and f"  {found}" in text
    wrong["impls"]["trl"]["options"] = {"pack": True}
    assert differences(wrong) == [], "packs hold other rows, so their losses say nothing"


def test_records_of_one_program_are_joined_and_others_refused() -> None:
    first, second = record(), copy.deepcopy(record())
    del first["impls"]["trl"], second["impls"]["unsloth"], second["impls"]["ours"]["works"]["tool-64"]
    assert joined([first, second])["impls"] == record()["impls"]
    second["commit"] = "def"
    with pytest.raises(ValueError, match="commit"):
        joined([first, second])


def test_a_step_is_the_median_after_the_warm_up() -> None:
    assert peers.step_seconds([0.0, 9.0, 18.0, 27.0, 36.0, 37.0, 39.0, 42.0]) == 2.0
    assert peers.step_seconds([0.0, 9.0, 12.0]) == 3.0


def test_a_step_that_does_not_fit_is_split_and_another_error_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def measure(peer: peers.Peer, work: Workload, micro_batches: int) -> tuple[dict[str, Any], float]:
        tried.append(micro_batches)
        if micro_batches < 4:
            raise torch.OutOfMemoryError("140 GiB")
        if work.batch < 64:
            raise ValueError("no such adapter")
        return {"micro_batches": micro_batches}, 1.0

    monkeypatch.setattr(peers, "measure", measure)
    peer = peers.Peer(argparse.Namespace(pack=False), 4096)
    assert peers.attempt(peer, Workload("tool-64", 64, ())) == ({"micro_batches": 4}, 1.0)
    assert peers.attempt(peer, Workload("tool-16", 16, ())) == ({"error": "ValueError: no such adapter"}, None)
    assert peers.attempt(peer, Workload("tool-2", 2, ())) == ({"error": "out of memory: 140 GiB"}, None)
    assert tried == [1, 2, 4, 1, 2, 4, 1, 2]


def test_nothing_is_measured_while_the_ops_tests_are_red(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ran = []

    def red(arguments: list[str], *_: Any) -> int:
        ran.append(arguments)
        (tmp_path / "check.log").write_text("1 failed")
        return 1

    monkeypatch.setattr(bench, "_run", red)
    monkeypatch.setattr("sys.argv", ["bench", "--only", "tool-16", "--peers", "ours", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit, match="(?s)no figures: the ops' tests are red.*1 failed"):
        bench.main()
    assert ran == [["-m", "bench.ours", "--check"]]


def test_a_program_that_dies_leaves_what_it_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def dies(arguments: list[str], log: Path, *_: Any) -> int:
        log.write_text("Killed")
        out = {"impl": "trl", "works": {"tool-64": figures(121.0)}}
        (tmp_path / "trl.json").write_text(json.dumps(out))
        return 137

    monkeypatch.setattr(bench, "_run", dies)
    monkeypatch.setattr("sys.argv", ["bench", "--only", "tool-64,long", "--peers", "ours"])
    works = bench.measured("trl", bench._options(), tmp_path)["works"]
    assert works == {"tool-64": figures(121.0), "long-4": {"error": "exit status 137: Killed"}}


def test_a_slimmed_wheel_lists_only_what_it_keeps(tmp_path: Path) -> None:
    names = ["unsloth/a.py", "studio/b.js", "bitsandbytes/libbitsandbytes_cuda130.so", "unsloth-1.dist-info/RECORD",
             "bitsandbytes/libbitsandbytes_cuda118.so", "bitsandbytes/nn/c.py"]  # fmt: skip
    kept = [name for name in names if is_kept(name)]
    assert kept == [names[0], *names[2:4], names[5]]
    assert is_kept("axolotl/kernels/lora.py") and not is_kept("axolotl/integrations/base.py")
    with zipfile.ZipFile(tmp_path / "unsloth-1.whl", "w") as out:
        for name in names:
            out.writestr(name, "".join(f"{each},,\n" for each in names))
    bundle([tmp_path / "unsloth-1.whl"], tmp_path / "peers.tar.gz")
    with tarfile.open(tmp_path / "peers.tar.gz") as bundled:
        assert bundled.getnames() == kept
        listed = bundled.extractfile("unsloth-1.dist-info/RECORD")
        assert listed is not None and listed.read().decode().splitlines() == [f"{name},," for name in kept]
