"""`train` from files: what it refuses before it writes, what it picks, what it leaves in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ship_models import make_folder
from test_bad_input import conversation, write_rows

from dozan.chat.template_limits import functiongemma_template
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.model.bundle import open_model
from dozan.recipe import load_recipe
from dozan.rows.readers import read_rows
from dozan.train.live import Event
from dozan.train.loop import train
from dozan.train.prepare import choose_recipe, default_recipe, prepare

SHORT = ["train.max_steps=3", "adapter.rank=4", "train.batch_size=3", "data.holdout=0.3"]
SAID = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"id": f"r{i}", "dialect": "msa", **conversation(said=text)} for i, text in enumerate(SAID)]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", *rows)


def test_train_leaves_a_run_that_opens(base: Path, data: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    result = train(data, base, tmp_path / "run", overrides=SHORT, on_event=events.append)
    record = json.loads((result.out / "run.json").read_text())
    assert record["base"] == str(base.resolve()) and record["chat"] == "functiongemma" and record["state"] == "done"
    assert load_recipe(str(result.out / "recipe.yaml")) == load_recipe("functiongemma-ar", SHORT)
    bundle = open_model(result.out)
    moved = [p for name, p in bundle.model.named_parameters() if name.endswith("lora_B")]
    assert len(moved) == 49 and all(bool(p.abs().sum() > 0) for p in moved) and result.eval_loss is not None
    assert [event["event"] for event in events].count("step") == 3 and events[-1]["event"] == "done"


def test_split_is_kept_and_is_what_was_trained(base: Path, data: Path, tmp_path: Path) -> None:
    result = train(data, base, tmp_path / "run", overrides=SHORT, on_event=lambda event: None)
    parts = [read_rows(result.out / "data" / f"{name}.jsonl") for name in ("train", "heldout")]
    rows = {row.id: row for row in read_rows(data)}
    assert sorted(row.id for part in parts for row in part) == sorted(rows) and all(parts)
    assert all((row.messages, row.tools, row.meta) == (rows[row.id].messages, rows[row.id].tools, rows[row.id].meta)
               for part in parts for row in part)  # fmt: skip
    again = train(parts[0], base, tmp_path / "again", overrides=SHORT, eval_data=parts[1], on_event=lambda event: None)
    assert (again.final_loss, again.eval_loss) == (result.final_loss, result.eval_loss)
    assert not (again.out / "data").exists()


def test_recipe_suits_the_model(base: Path) -> None:
    tokenizer = Tokenizer.load(base)
    assert default_recipe(base, tokenizer) == "functiongemma-ar"
    assert choose_recipe(base, tokenizer, "embedded", ["train.seed=3"]).train.seed == 3
    assert choose_recipe(base, tokenizer, load_recipe("embedded"), ["pack=none"]).pack == "none"


def test_model_dtype_is_the_recipe_s(base: Path, data: Path, tmp_path: Path) -> None:
    from dozan.train.prepare import prepare

    changes = [*SHORT, "train.dtype=bfloat16"]
    model = prepare(data, base, None, changes, None).open_model()
    assert model.embedding.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        (conversation(call="set_timr"), ["rows.jsonl:1", "'set_timr'", "did you mean 'set_timer'"]),
        ({**conversation(), "messages": conversation()["messages"][:2]}, ["rows.jsonl:1", "no assistant message"]),
        (conversation(said="مؤقت " * 900), ["rows.jsonl:1", "more than the 2048 allowed"]),
    ],
)
def test_bad_rows_are_refused_before_anything_is_written(
    row: dict[str, object], parts: list[str], base: Path, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", row, conversation())
    with pytest.raises(InputError) as caught:
        train(rows, base, tmp_path / "run", overrides=[*SHORT, "data.holdout=0"], on_event=lambda event: None)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert not (tmp_path / "run").exists()


def test_force_trains_on_what_the_checks_refuse_and_records_it(base: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", conversation(call="set_timr"), conversation(), conversation())
    options = {"overrides": [*SHORT, "data.holdout=0"], "on_event": lambda event: None}
    with pytest.raises(InputError, match="dozan data fix, or train on them all the same with --force"):
        train(rows, base, tmp_path / "run", **options)
    result = train(rows, base, tmp_path / "run", force=True, **options)
    assert json.loads((result.out / "run.json").read_text())["overridden"] == {"unknown-tool": 1}
    sound = train(write_rows(tmp_path / "sound.jsonl", conversation()), base, tmp_path / "two", force=True, **options)
    assert json.loads((sound.out / "run.json").read_text())["overridden"] == {}


def test_force_writes_no_row_that_has_no_form(base: Path, tmp_path: Path) -> None:
    row = conversation()
    row["messages"][1]["role"] = "tool"
    rows = write_rows(tmp_path / "rows.jsonl", row, conversation())
    with pytest.raises(InputError, match="rows.jsonl:1"):
        train(rows, base, tmp_path / "run", overrides=[*SHORT, "data.holdout=0"], force=True, on_event=print)
    assert not (tmp_path / "run").exists()


def test_run_as_a_base_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    result = train(data, base, tmp_path / "run", overrides=SHORT, on_event=lambda event: None)
    with pytest.raises(InputError, match="is an adapter; merge it"):
        train(data, result.out, tmp_path / "next", overrides=SHORT, on_event=lambda event: None)


def test_other_data_in_the_same_folder_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    train(data, base, tmp_path / "run", overrides=SHORT, on_event=lambda event: None)
    other = write_rows(tmp_path / "rows.jsonl", *[conversation(said=f"{text} الآن") for text in SAID])
    with pytest.raises(InputError, match="rows: the run has .*\n.*choose another output folder"):
        train(other, base, tmp_path / "run", overrides=SHORT, on_event=lambda event: None)
    with pytest.raises(InputError, match="holds a run already"):
        train(data, base, tmp_path / "run", overrides=SHORT, resume=False, on_event=lambda event: None)


def test_a_template_that_renders_otherwise_is_noted(base: Path, data: Path) -> None:
    def noted(template: str) -> list[str]:
        (base / "chat_template.jinja").write_text(template, encoding="utf-8")
        notes = prepare(data, base, "embedded", ["data.holdout=0"], None).notes
        return [note for note in notes if "chat template" in note]

    faithful = functiongemma_template()
    assert noted(faithful) == []
    assert "differs from what is trained" in noted(faithful.replace("declaration:", "declare:"))[0]
