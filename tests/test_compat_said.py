"""The familiar API swallows nothing: what each call takes beside its own arguments is honoured, said or refused."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compat_models import TARGETS, call_rows, small_functiongemma
from ship_models import make_run

from dozan import FastModel, SFTConfig, SFTTrainer
from dozan.chat_templates import standardize_sharegpt, train_on_responses_only
from dozan.compat.arguments import SAVING, SAVING_CALLS
from dozan.compat.model import Model
from dozan.compat.settings import settings_of
from dozan.errors import InputError

USER, MODEL = "<start_of_turn>user\n", "<start_of_turn>model\n"
QUICK: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_functiongemma(tmp_path_factory.mktemp("said") / "base")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_run(tmp_path_factory.mktemp("said-run") / "run", folder)
    (made / "run.json").write_text(json.dumps({"base": str(folder), "chat": "functiongemma"}))
    return made


@pytest.fixture
def opened(folder: Path) -> tuple[Any, Any]:
    model, tokenizer = FastModel.from_pretrained(str(folder))
    return FastModel.get_peft_model(model, r=4), tokenizer


# Runs.


def test_a_second_training_is_refused_but_for_a_run_that_goes_on(opened: tuple[Any, Any], tmp_path: Path) -> None:
    out = str(tmp_path / "one")
    SFTTrainer(opened[0], SFTConfig(out, **QUICK), call_rows(2)).train()
    for resume in (None, True):
        with pytest.raises(InputError, match="would begin from the base again.*save_pretrained_merged"):
            SFTTrainer(opened[0], SFTConfig(str(tmp_path / "two"), **QUICK), call_rows(2)).train(resume)
    assert not (tmp_path / "two").exists()
    again = SFTTrainer(opened[0], SFTConfig(out, **QUICK), call_rows(2))
    assert again.train(resume_from_checkpoint=True).global_step == 1
    measured = again.evaluate(call_rows(1), metric_key_prefix="test")
    assert set(measured) == {"test_loss", "test_runtime", "test_samples_per_second"}
    with pytest.raises(InputError, match="ignore_keys"):
        again.evaluate(call_rows(1), ignore_keys=["logits"])


def test_the_best_of_every_weight_is_refused_before_it_is_trained(folder: Path) -> None:
    model, _ = FastModel.from_pretrained(str(folder), full_finetuning=True)
    args = SFTConfig(load_best_model_at_end=True, eval_strategy="steps")
    with pytest.raises(InputError, match="load_best_model_at_end=True with full_finetuning=True"):
        SFTTrainer(model, args, call_rows(1), call_rows(1))


# Saving.


def test_each_saving_call_refuses_what_only_another_honours(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = FastModel.from_pretrained(str(run))
    out = tmp_path / "out"
    refused: list[tuple[str, Any]] = [
        ("save_method='merged_16bit' is not offered.*save_pretrained_merged",
         lambda: model.save_pretrained(out, save_method="merged_16bit")),
        ("quantization_method='q8_0' is not offered.*gguf",
         lambda: model.save_pretrained_merged(out, tokenizer, quantization_method="q8_0")),
        ("save_method='lora' is not offered", lambda: model.save_pretrained_gguf(out, tokenizer, save_method="lora")),
        ("push_to_hub_merged", lambda: model.push_to_hub("a/b", save_method="merged_16bit")),
        ("push_to_hub_gguf", lambda: model.push_to_hub("a/b", quantization_method="q8_0")),
        ("repo_id='a/b'", lambda: model.save_pretrained(out, repo_id="a/b")),
    ]  # fmt: skip
    for message, attempt in refused:
        with pytest.raises(InputError, match=message):
            attempt()
    assert not out.exists()
    model.save_pretrained(out, save_method="lora", token="short-secret", tokenizer=None)
    said = capsys.readouterr().out
    assert "token=*** changes nothing here" in said and "short-secret" not in said
    assert {path.name for path in out.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_every_saving_call_weighs_every_argument() -> None:
    for call, table in SAVING_CALLS.items():
        taken = {p for p in inspect.signature(getattr(Model, call)).parameters} - {"self", "more"}
        assert [a.name for a in table] == [a.name for a in SAVING]
        assert taken == {a.name for a in table if a.fate == "honoured"}, call


def test_no_refusal_shows_a_secret() -> None:
    given: dict[str, Any] = {"hub_token": "short", "model_init_kwargs": {"token": "hf_" + "a" * 90}}
    for name, value in given.items():
        with pytest.raises(InputError) as error:
            SFTConfig(**{name: value})
        assert name in str(error.value) and "***" in str(error.value)
        assert "short" not in str(error.value) and "aaaa" not in str(error.value)


# What is opened.


def test_an_adapter_on_the_hub_is_opened_as_one(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's cache, as a download leaves it; the base's id is resolved under the token that was given."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kept = tmp_path / "models--me--my-lora"
    shutil.copytree(run / "adapter", kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    model, _ = FastModel.from_pretrained("me/my-lora")
    assert model.was_opened_trained and model.trained == kept / "snapshots" / ("0" * 40)
    with pytest.raises(InputError, match="merge it first"):
        FastModel.get_peft_model(model)
    inputs = model.tokenizer("ما", return_tensors="pt")
    local, _ = FastModel.from_pretrained(str(run / "adapter"))
    assert torch.equal(*(each.generate(**inputs, max_new_tokens=3, do_sample=False) for each in (model, local)))


def test_the_token_reaches_the_base_of_an_adapter(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def noted(name: str) -> Path:
        seen.append(os.environ.get("HF_TOKEN"))
        raise InputError(f"{name}: not here")

    lora = shutil.copytree(run / "adapter", tmp_path / "lora")
    config = json.loads((lora / "adapter_config.json").read_text(encoding="utf-8"))
    (lora / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "me/gated"}))
    monkeypatch.setattr("dozan.model.hub._download", noted)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(InputError, match="me/gated"):
        FastModel.from_pretrained(str(lora), token="hf_mine")
    assert seen == ["hf_mine"]


def test_a_large_checkpoint_says_that_it_opens_in_16_bits(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Model, "num_parameters", lambda self: 3_880_000_000)
    FastModel.from_pretrained(str(folder))
    assert "3.9 B parameters and opens in 16 bits, 8 GB of weights: load_in_4bit=True" in capsys.readouterr().out
    for given in ({"load_in_4bit": True}, {"load_in_16bit": True}, {"full_finetuning": True}):
        FastModel.from_pretrained(str(folder), **given)  # type: ignore[arg-type]
    assert "opens in 16 bits" not in capsys.readouterr().out


# What is given of PEFT, TRL and transformers.


def test_a_lora_config_is_taken_or_refused_field_by_field(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peft = pytest.importorskip("peft")
    model, _ = FastModel.from_pretrained(str(folder))
    for given in ({"exclude_modules": ["x"]}, {"trainable_token_indices": [1]}, {"lora_bias": True},
                  {"layer_replication": [(0, 1)]}, {"fan_in_fan_out": True}):  # fmt: skip
        with pytest.raises(InputError, match=next(iter(given))):
            SFTTrainer(model, None, call_rows(1), peft_config=peft.LoraConfig(target_modules=["q_proj"], **given))
    for strange in (peft.IA3Config(), {"r": 4}):
        with pytest.raises(InputError, match="give peft's LoraConfig"):
            SFTTrainer(model, None, call_rows(1), peft_config=strange)
    capsys.readouterr()
    SFTTrainer(model, None, call_rows(1), peft_config=peft.LoraConfig())
    assert "q_proj and v_proj are adapted" in capsys.readouterr().out
    assert model.settings.adapter["targets"] == ["q_proj", "v_proj"] and model.settings.adapter["rank"] == 8
    SFTTrainer(model, None, call_rows(1), peft_config=peft.LoraConfig(target_modules="all-linear"))
    assert model.settings.adapter["targets"] == TARGETS


@dataclasses.dataclass
class TheirConfig:
    """Fields as TRL has them, with what its __post_init__ fills in."""

    output_dir: str | None = None
    learning_rate: float = 2e-5
    logging_steps: float = 7
    bf16: bool | None = None
    fp16: bool = False
    max_length: int | None = 1024
    gradient_checkpointing: bool = True
    report_to: Any = None
    run_name: str | None = None

    def __post_init__(self) -> None:
        self.bf16 = not self.fp16 if self.bf16 is None else self.bf16
        self.report_to = ["tensorboard", "wandb", "mlflow"] if self.report_to is None else self.report_to


def test_what_their_objects_fill_in_is_left_out() -> None:
    assert settings_of(TheirConfig("out")).given == {"output_dir", "logging_steps"}
    asked = TheirConfig("out", fp16=True, bf16=False, max_length=64, report_to=["wandb"], gradient_checkpointing=False)
    found = settings_of(asked)
    assert (found.fp16, found.max_length, found.report_to, found.gradient_checkpointing) == (True, 64, ["wandb"], False)


def test_attributes_and_arguments_without_a_meaning_are_not_swallowed(capsys: pytest.CaptureFixture[str]) -> None:
    found = settings_of(SimpleNamespace(learning_rate=1e-3, my_setting=3))
    assert found.learning_rate == 1e-3 and "my_setting mean nothing here" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"give SFTConfig\(\*\*args\)"):
        settings_of({"learning_rate": 1e-3})
    with pytest.raises(InputError, match="2 arguments without a name"):
        SFTConfig("out", True)  # type: ignore[arg-type]


# Rows.


def test_a_formatting_function_of_a_batch_works_and_what_it_may_not_give_is_named(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    rows = [{"messages": row["messages"]} for row in call_rows(2)]

    def gathered(function: Any) -> list[str]:
        texts: list[str] = SFTTrainer(model, None, rows, formatting_func=function).train_dataset.texts
        return texts

    one = gathered(lambda row: tokenizer.apply_chat_template(row["messages"], tokenize=False))
    batch = gathered(lambda ex: [tokenizer.apply_chat_template(c, tokenize=False) for c in ex["messages"]])
    assert one == batch and len(one) == 2
    refused = {
        "gave a dict for a batch": lambda row: {"text": ["a", "b"]},
        "fits neither a row .KeyError: 'nothing'. nor a batch of rows .KeyError": lambda row: row["nothing"],
        "gave 1 texts for 2 rows": lambda row: ["text"],
    }
    for message, function in refused.items():
        with pytest.raises(InputError, match=message):
            gathered(function)


def test_labels_that_give_way_to_markers_are_said(opened: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    model, tokenizer = opened
    ids = tokenizer(f"{USER}نعم<end_of_turn>\n{MODEL}لا<end_of_turn>").input_ids
    rows = [{"input_ids": ids, "labels": [-100] * 3 + ids[3:]}, {"input_ids": ids}, {"input_ids": ids[1:]}]
    train_on_responses_only(SFTTrainer(model, None, rows), USER, MODEL, num_proc=2)
    said = capsys.readouterr().out
    assert "labels or masks that 1 of 3 rows brought are not used" in said
    assert "1 of 3 rows of ids are tokenised again" in said and "num_proc=2 changes nothing" in said


def test_a_stream_of_held_out_rows_is_read_whole(opened: tuple[Any, Any]) -> None:
    datasets = pytest.importorskip("datasets")
    stream = datasets.Dataset.from_list([{"text": f"نص {i}<eos>"} for i in range(5)]).to_iterable_dataset()
    trainer = SFTTrainer(opened[0], SFTConfig(**QUICK), stream, stream)
    assert trainer.eval_dataset is not None and (len(trainer.train_dataset), len(trainer.eval_dataset)) == (2, 5)


# The tokenizer and the model.


def test_a_mapping_is_a_prompt_and_no_room_is_refused(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    inputs = tokenizer(["a", "a b c"], padding=True, return_tensors="pt")
    wanted = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(model.generate(input_ids=inputs, max_new_tokens=2, do_sample=False), wanted)
    assert torch.equal(model.generate(inputs=inputs, max_new_tokens=2, do_sample=False), wanted)
    for given in ({"max_new_tokens": 0}, {"max_length": 1}, {"max_length": 0}):
        with pytest.raises(InputError, match="give max_new_tokens from 1 up"):
            model.generate(**inputs, **given)


def test_padding_and_named_tokens_are_what_was_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = FastModel.from_pretrained(str(folder))[1]
    left = tokenizer(["a", "a b"], padding=True)
    tokenizer.padding_side = "right"
    right = tokenizer(["a", "a b"], padding=True)
    assert left.attention_mask[0] == [0, 0, 1, 1] and right.attention_mask[0] == [1, 1, 0, 0]
    assert right.input_ids[0] == [*left.input_ids[0][2:], *[tokenizer.pad_token_id] * 2]
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.pad_token_id = 0
    assert tokenizer.pad_token == "<pad>"
    for name, value in (("pad_token", "[PAD]"), ("pad_token_id", 10**9), ("padding_side", "middle")):
        with pytest.raises(InputError, match=name):
            setattr(tokenizer, name, value)
    talk = [{"role": "user", "content": "نعم"}]
    assert len(tokenizer.apply_chat_template(talk, truncation=True, max_length=3).input_ids) == 3
    assert "1 texts cut to 3 tokens" in capsys.readouterr().out
    refused: list[tuple[str, Any]] = [
        ("clean_up_tokenization_spaces", lambda: tokenizer.decode([1], clean_up_tokenization_spaces=True)),
        ("filename_prefix not offered", lambda: tokenizer.save_pretrained("x", filename_prefix="y")),
        ("unknown argument 'nonsense'", lambda: standardize_sharegpt([], nonsense=1)),
        ("aliases_for_user", lambda: standardize_sharegpt([], aliases_for_user=["me"])),
    ]
    for message, attempt in refused:
        with pytest.raises(InputError, match=message):
            attempt()
    with pytest.raises(TypeError):
        tokenizer.decode([1], nonsense=1)


def test_a_place_that_is_not_the_models_is_said(
    opened: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = opened
    assert model.to(model.device) is model and "changes nothing" not in capsys.readouterr().out
    monkeypatch.setattr("dozan.compat.model.training_device", lambda: torch.device("cuda"))
    model.to("cpu")
    assert "model.to('cpu') changes nothing: the model is on cuda" in capsys.readouterr().out
    with pytest.raises(InputError, match="from_pretrained.dtype="):
        model.to(torch.float16)
    FastModel.for_training(model)
    assert model.settings.recompute == "auto"
    assert FastModel.for_training(model, use_gradient_checkpointing=True).settings.recompute == "layers"
