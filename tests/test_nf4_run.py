"""The whole way over a 4-bit base: train, go on, score, merge and export what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import conversation, write_rows
from test_prepare import SAID

import dozan
from dozan.errors import Interrupted
from dozan.model.bundle import open_model
from dozan.model.quantised import QuantisedLinear
from dozan.train.live import Event

SETTINGS = [
    "train.max_steps=4", "adapter.rank=4", "train.batch_size=3", "data.holdout=0.3", "model.quantise=nf4",
    "model.embedding=int8", "train.optimizer=adamw_8bit", "adapter.dora=true", "adapter.rslora=true",
    "adapter.targets=[q_proj, v_proj, down_proj]", "adapter.alpha=4", "train.learning_rate=2e-3", "train.save_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    return make_folder(tmp_path_factory.mktemp("base") / "tiny", **sizes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": f"r{i}", "dialect": "msa", **conversation(said=text)} for i, text in enumerate(SAID)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *rows)


@pytest.fixture(scope="module")
def run(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return dozan.train(data, base, out, overrides=SETTINGS, on_event=lambda event: None).out


def test_the_run_opens_in_4_bits(run: Path) -> None:
    model = open_model(run).model
    assert sum(isinstance(module, QuantisedLinear) for module in model.modules()) == 49
    trained = {name: p for name, p in model.named_parameters() if "lora_B" in name or "magnitude" in name}
    assert len(trained) == 42 and all(bool(p.abs().sum() > 0) for p in trained.values())


def test_an_interrupted_run_ends_as_the_whole_one(run: Path, base: Path, data: Path, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise Interrupted("here")

    with pytest.raises(Interrupted):
        dozan.train(data, base, tmp_path / "run", overrides=SETTINGS, on_event=stop)
    dozan.train(data, base, tmp_path / "run", overrides=SETTINGS, on_event=lambda event: None)
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (run, tmp_path / "run")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_it_is_exported_as_trained(run: Path, tmp_path: Path) -> None:
    for exported in dozan.export(run, "f32,q8_0", tmp_path):
        assert exported.certificate.difference.top1 >= 0.95


def test_a_merged_folder_answers_as_the_run(run: Path, data: Path, tmp_path: Path) -> None:
    dozan.merge(run, tmp_path / "merged")
    certificate = json.loads((tmp_path / "merged" / "parity.json").read_text())
    assert certificate
    answers = [[row.prediction for row in dozan.evaluate(model, data, max_new_tokens=8).rows]
               for model in (run, tmp_path / "merged")]  # fmt: skip
    assert answers[0] == answers[1]
