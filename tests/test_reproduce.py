"""`dozan reproduce` on hub-like folders: everything but the download, at tiny size, and resumed in its midst."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from ship_models import random_model
from transformers import Gemma3TextConfig

import dozan
from dozan.errors import InputError
from dozan.model.gemma3 import Gemma3Config
from dozan.redact import redact
from dozan.reproduce.oracle import check_logits, check_rendering
from dozan.reproduce.published import DATA_SETS, known
from dozan.reproduce.reproduce import _opened, reproduce
from dozan.reproduce.rows import gather
from dozan.rows.readers import read_rows

ASSETS = Path(dozan.EMBEDDED_BASE).parent
FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")
SHAPE: dict[str, Any] = {
    "vocab_size": 8192, "hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4, "num_key_value_heads": 1,
    "head_dim": 32, "intermediate_size": 96, "sliding_window": 512, "query_pre_attn_scalar": 32,
    "max_position_embeddings": 32768, "dtype": "bfloat16",
}  # fmt: skip
TRAINED, TESTED = 8, 3
SET = ["train.max_steps=2", "train.batch_size=2", "adapter.rank=2", "data.holdout=0.25", "train.dtype=float32"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the hub's 270M, its sizes small and its weights random."""
    folder = tmp_path_factory.mktemp("hub") / "functiongemma-270m-it"
    config = Gemma3TextConfig(**SHAPE, architectures=["Gemma3ForCausalLM"])
    config.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    weights = {name: w.bfloat16() for name, w in random_model(Gemma3Config.from_json(written)).state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for name in FILES:
        shutil.copy(ASSETS / "base" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set's folder as it is downloaded: train and dev under `data`."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "data").mkdir()
    rows = read_rows(ASSETS / "mobile_actions_ar" / "test.jsonl")[: TRAINED + TESTED]
    for name, part in (("train-00000-of-00001", rows[:TRAINED]), ("dev-00000-of-00001", rows[TRAINED:])):
        lines = []
        for row in part:
            called = {call["function"]["name"] for call in row.messages[-1].get("tool_calls", [])}
            tools = [tool for tool in row.tools if tool["function"]["name"] in called] or list(row.tools[:1])
            lines.append(json.dumps({"id": row.id, "tools": tools, "messages": list(row.messages), **row.meta}))
        (folder / "data" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


class Killed(BaseException):
    """As a kill: nothing catches it."""


@pytest.mark.usefixtures("short_answers")
def test_the_whole_way_and_on_again_after_a_kill(base: Path, data: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "proof", list[str]()

    def kill_before_the_export(text: str) -> None:
        if text.startswith("Writing and measuring"):
            raise Killed

    arguments: dict[str, Any] = {"model": base, "data": data, "out": out, "overrides": SET, "max_new_tokens": 4}
    with pytest.raises(Killed):
        reproduce(**arguments, say=kill_before_the_export)
    trained = (out / "run" / "metrics.jsonl").stat().st_mtime_ns
    record = reproduce(**arguments, say=said.append)
    assert [text for text in said if text.endswith("done earlier")][-1] == "Scoring the tuned model: done earlier"
    assert (out / "run" / "metrics.jsonl").stat().st_mtime_ns == trained

    steps = record["steps"]
    assert list(steps) == ["rows", "checkpoint", "rendering", "logits", "base", "training", "tuned", "export", "gguf"]
    assert steps["rows"]["train_rows"] == TRAINED and steps["rows"]["test_rows"] == TESTED
    assert steps["rendering"]["rows_equal"] == TESTED and steps["logits"]["positions"] >= 3 * 40
    assert 0 < steps["logits"]["max_abs"] < 1e-3 * steps["logits"]["largest_logit"]
    assert steps["training"]["steps"] == 2 and steps["training"]["recipe"]["adapter"]["rank"] == 2
    assert steps["gguf"]["presets"]["aisa"]["figures"]["track A"]["n"] == TESTED
    assert json.loads((out / "record.json").read_text()) == record and record["state"] == "done"

    page = (out / "README.md").read_text()
    for text in (record["command"], steps["export"]["sha256"], steps["rows"]["test_sha256"], "torch 2.", "| 90.9 % |",
                 "`train.max_steps=2`", "for orientation alone", "95 % intervals"):  # fmt: skip
        assert text in page, text
    assert page.count("for orientation alone") == 2, "these rows are of neither set"
    assert (out / "report.html").stat().st_size > 10_000 and (out / "gguf" / "certificate.html").is_file()
    with pytest.raises(InputError, match="another overrides"):
        reproduce(**{**arguments, "overrides": SET[:1]})
    with pytest.raises(InputError, match=r"has changed since .* \(sha256, chat_template.jinja\): bring the files back"):
        template, config = base / "chat_template.jinja", base / "config.json"
        before = template.read_text(), config.read_text()
        try:
            template.unlink()
            config.write_text(before[1] + " ")
            reproduce(**arguments, say=said.append)
        finally:
            template.write_text(before[0])
            config.write_text(before[1])


def test_a_checkpoint_that_renders_otherwise_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    test = read_rows(data / "data" / "dev-00000-of-00001.jsonl")
    other = tmp_path / "other"
    shutil.copytree(base, other)
    template = (base / "chat_template.jinja").read_text()
    (other / "chat_template.jinja").write_text("x" + template)
    with pytest.raises(InputError, match="the checkpoint's template and tokenizer give"):
        check_rendering(other, test)


def test_a_model_that_computes_otherwise_is_refused(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers reads the other folder's weights: as if ours were wrong in one norm of one layer."""
    test = read_rows(data / "data" / "dev-00000-of-00001.jsonl")[:1]
    other = tmp_path / "other"
    shutil.copytree(base, other)
    tensors = load_file(other / "model.safetensors")
    tensors["model.layers.5.self_attn.q_norm.weight"] += 0.05
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    from dozan.reproduce import oracle

    theirs = oracle._their_logits
    monkeypatch.setattr(oracle, "_their_logits", lambda folder, bundle, rows: theirs(other, bundle, rows))
    with pytest.raises(InputError, match="our logits are"):
        check_logits(base, test)


def test_rows_are_found_by_their_names_and_leaks_are_counted(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(data, folder)
    dev = folder / "data" / "dev-00000-of-00001.jsonl"
    first = (folder / "data" / "train-00000-of-00001.jsonl").read_text().splitlines()[0]
    dev.write_text(dev.read_text() + json.dumps({**json.loads(first), "id": "leaked"}) + "\n")
    found = gather(str(folder), tmp_path / "out", None, lambda text: None)
    assert (found["test_rows"], found["test_queries_in_training"], found["published_set"]) == (TESTED + 1, 1, None)
    assert gather(str(folder), tmp_path / "out", 2, lambda text: None)["test_rows"] == 2
    assert len(read_rows(tmp_path / "out" / "test.jsonl")) == 2
    dev.unlink()
    with pytest.raises(InputError, match="no test rows; expected a file such as test.jsonl or dev.jsonl"):
        gather(str(folder), tmp_path / "out", None, lambda text: None)


def test_one_name_is_the_test_side_and_one_format_of_it(data: Path, tmp_path: Path) -> None:
    folder, said = tmp_path / "set", list[str]()
    shutil.copytree(data, folder)
    first = (folder / "data" / "dev-00000-of-00001.jsonl").read_text().splitlines()[0]
    (folder / "data" / "test-00000-of-00001.jsonl").write_text(first + "\n")
    assert gather(str(folder), tmp_path / "out", None, said.append)["test_rows"] == 1
    assert f"{folder}: test rows are taken as test rows, dev rows are left out" in said
    (folder / "data" / "test.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"test rows are there more than once \(data/test-.*jsonl, data/test.par"):
        gather(str(folder), tmp_path / "out", None, said.append)
    (folder / "data" / "test.parquet").rename(folder / "train.json")
    with pytest.raises(InputError, match=r"train rows are there more than once \(train.json, data/train-.*jsonl\)"):
        gather(str(folder), tmp_path / "out", None, said.append)


def test_a_secret_in_what_was_asked_does_not_stop_the_same_call(tmp_path: Path) -> None:
    out, asked = tmp_path / "proof", {"data": "https://someone:secret-of-theirs@host/rows", "limit": None}
    out.mkdir()
    (out / "record.json").write_text(redact(json.dumps({"asked": asked, "steps": {}})))
    assert "secret-of-theirs" not in str(_opened(out, asked))
    with pytest.raises(InputError, match="another limit;"):
        _opened(out, {**asked, "limit": 3})


def test_published_figures_have_a_source_and_are_the_presets_own() -> None:
    from dozan.judge.presets import PRESETS

    for each in DATA_SETS:
        assert known(f"hf:{each.id}:train") is each and known(each.id.upper()) is each and each.preset in PRESETS
        assert all(0 < figure.value < 1 and figure.source for figure in each.published)
    assert known("someone/else") is None


def test_what_cannot_be_reproduced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="what can be reproduced: functiongemma-ar"):
        reproduce("gemma")
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match="holds something that is no reproduction"):
        reproduce(out=tmp_path)
