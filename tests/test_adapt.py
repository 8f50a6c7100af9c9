"""What a run sets by itself to fit its GPU: the embedding's place, and with a yes what changes the training."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ship_models import make_folder
from test_bad_input import conversation, write_rows

import dozan
from dozan import cli
from dozan.errors import InputError
from dozan.kernels.embedding import HostRows, Int8Rows
from dozan.model.weights import read_config
from dozan.train import memory_choice
from dozan.train.live import Event
from dozan.train.loop import fit, train
from dozan.train.memory import predict
from dozan.train.memory_choice import Adapt, choose, fitted, shared_out
from dozan.train.memory_fit import SHORT
from dozan.train.memory_fit import fit as fit_memory
from dozan.train.memory_run import setup_on
from dozan.train.memory_setup import Setup
from dozan.train.prepare import Job, prepare

SET = ["train.max_steps=3", "adapter.rank=64", "adapter.dora=true", "train.batch_size=3", "data.holdout=0.3"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
    rows = [{"id": f"r{i}", "dialect": "msa", **conversation(said=text)} for i, text in enumerate(said)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *rows)


def job_of(base: Path, data: Path, *changes: str) -> Job:
    return prepare(data, base, None, [*SET, *changes], None)


def on_gpu(job: Job, tokens: int = 4096) -> Setup:
    """The run's memory as on a GPU with Triton, in packs of so many tokens."""
    setup = setup_on(job.plan, read_config(job.folder), CPU, torch.float32, "none", "gpu")
    return replace(setup, path="triton", dtype="bfloat16", tokens=tokens, supervised=tokens // 8)


def budget_for(setup: Setup, **changes: Any) -> int:
    """Just enough for the setup with all layers computed again, and with what is changed."""
    return predict(replace(setup, recompute=setup.config.num_hidden_layers, **changes)).total


def test_with_room_nothing_changes(base: Path, data: Path) -> None:
    job = job_of(base, data)
    assert choose(job, on_gpu(job), 2**40, False) is job
    assert fitted(job, "nowhere") is job, "without a GPU nothing is looked at"


def test_the_base_is_shared_out_where_the_whole_does_not_fit(base: Path, data: Path) -> None:
    job = job_of(base, data)
    setup = on_gpu(job)
    whole = budget_for(replace(setup, embedding="cpu"), offload=True)
    assert shared_out(job, setup, 2, whole) == (job, setup), "it fits as it is"
    assert shared_out(job, setup, 1, whole - 1) == (job, setup), "nobody to share with"
    shared, held = shared_out(job, setup, 64, whole - 1)
    assert shared.plan.recipe.train.fsdp is True and held.shards == 64 and "train.fsdp=true" in shared.notes[-1]
    refused = job_of(base, data, "train.fsdp=false")
    assert shared_out(refused, setup, 64, whole - 1) == (refused, setup)
    wanted = job_of(base, data, "train.fsdp=true")
    assert shared_out(wanted, setup, 3, 2**40)[1].shards == 3


def test_the_embedding_moves_before_anything_is_changed(base: Path, data: Path) -> None:
    job = job_of(base, data)
    setup = on_gpu(job)
    least = budget_for(setup, offload=True)
    for place, changed in (("int8", {}), ("cpu", {"embedding": "int8"})):
        # One byte less than what the step before needs.
        found = choose(job, setup, budget_for(setup, offload=True, **changed) - 1, False)
        assert found.plan.recipe.model.embedding == place and found.adapted == ()
        assert f"model.embedding={place}" in found.notes[-1]
        model = found.open_model()
        assert isinstance(model.embedding, Int8Rows if place == "int8" else HostRows)
        assert found.plan.recipe.adapter == job.plan.recipe.adapter
    assert choose(job, setup, least, False).plan.recipe.model.embedding == "auto"


def test_a_place_that_was_named_stays(base: Path, data: Path) -> None:
    job = job_of(base, data, "model.embedding=gpu")
    with pytest.raises(InputError, match="--set model.embedding=int8"):
        choose(job, on_gpu(job), budget_for(on_gpu(job), offload=True) - 1, False)


def tight(setup: Setup) -> int:
    """All that changes nothing is not enough by a byte."""
    return budget_for(setup, offload=True, embedding="cpu") - 1


def test_the_training_changes_only_with_a_yes(base: Path, data: Path) -> None:
    job = job_of(base, data)
    setup, asked = on_gpu(job), list[str]()

    def answer(yes: bool) -> Adapt:
        return lambda text: asked.append(text) is None and yes

    for no in (False, answer(False)):
        with pytest.raises(InputError, match="GiB are missing.*--adapt takes it"):
            choose(job, setup, tight(setup), no)
    assert len(asked) == 1 and f"data.max_tokens={SHORT}" in asked[0]
    for yes in (True, answer(True)):
        found = choose(job, setup, tight(setup), yes)
        assert f"data.max_tokens={SHORT}" in found.adapted and f"train.pack_tokens={SHORT}" in found.adapted
        assert found.plan.recipe.train.pack_tokens == SHORT == found.plan.recipe.data.max_tokens
        assert [row.row for row in found.plan.rows] == [row.row for row in job.plan.rows]
    assert len(asked) == 2
    with pytest.raises(InputError, match="No step would do"):
        choose(job, setup, 2**20, answer(True))
    assert len(asked) == 2, "nobody is asked for what would not do"


def test_each_step_reaches_the_recipe(base: Path, data: Path) -> None:
    """Packs are short already, so the rank goes first, then DoRA, then targets."""
    job = job_of(base, data)
    setup = on_gpu(job, 1024)
    found = choose(job, setup, tight(setup), True)
    assert found.adapted == ("adapter.rank=32",) and found.plan.recipe.adapter.rank == 32
    furthest = fit_memory(setup, 1, True)
    budget = predict(furthest.setup).total
    found = choose(job, setup, budget, True)
    adapter = found.plan.recipe.adapter
    assert (adapter.rank, adapter.dora, adapter.targets) == (32, False, ("q_proj", "v_proj"))


def test_rows_that_would_be_cut_are_refused(base: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(base, data)
    longest = max(job.plan.rows, key=lambda row: len(row.ids))
    with pytest.raises(InputError, match=rf"of \d+ have more \(the longest, {longest.row}, {len(longest.ids):,}\)"):
        memory_choice._with(job, ["data.max_tokens=8"])


def test_it_is_recorded_and_a_resume_takes_it_up(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(base, data)
    setup = on_gpu(job, 1024)
    out, events = tmp_path / "run", list[Event]()
    found = choose(job, setup, tight(setup), True)
    fit(found.open_model(), found.plan, out, found.base, events.append, True, found.split, adapted=found.adapted)
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert record["adapted"] == ["adapter.rank=32"] and record["recipe"]["adapter"]["rank"] == 32
    assert record["recipe"]["model"]["embedding"] == "cpu" and record["memory"] is None
    again = train(data, base, out, overrides=SET, on_event=events.append)
    assert any("finished: nothing to do" in event.get("text", "") for event in events) and again.steps == 3
    with pytest.raises(InputError, match="adapter.alpha"):
        train(data, base, out, overrides=[*SET, "adapter.alpha=3.0"], on_event=events.append)


@pytest.mark.parametrize(("flags", "terminal", "expected"), [(["--adapt"], True, True), ([], False, False)])
def test_the_flag_and_the_prompt(
    flags: list[str], terminal: bool, expected: bool, monkeypatch: pytest.MonkeyPatch, data: Path
) -> None:
    assert passed(flags, terminal, monkeypatch, data) is expected


def passed(flags: list[str], terminal: bool, monkeypatch: pytest.MonkeyPatch, data: Path) -> Any:
    """What the verb gives `dozan.train` as `adapt`."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(dozan, "train", lambda *args, **kwargs: given.update(kwargs), raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    with pytest.raises(SystemExit) as left:
        cli.main(["train", "--data", str(data), *flags])
    assert not left.value.code
    return given["adapt"]


@pytest.mark.parametrize(("answer", "expected"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked(
    answer: str, expected: bool, monkeypatch: pytest.MonkeyPatch, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = passed([], True, monkeypatch, data)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert asks("2 GiB are missing") is expected
    written = capsys.readouterr().out
    assert "2 GiB are missing" in written and "Change the training" in written
