"""The familiar API end to end: the notebooks' snippets with only the import changed, the engine's losses to the bit."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from compat_models import FUNCTIONGEMMA, GEMMA_12B, TARGETS, TOOLS, call_rows, small_12b, small_functiongemma, talk_rows
from safetensors.torch import load_file

import dozan
from dozan import FastLanguageModel, FastModel, SFTConfig, SFTTrainer, TextStreamer
from dozan.chat_templates import get_chat_template, standardize_sharegpt, train_on_responses_only
from dozan.errors import InputError
from dozan.judge.generate import generate
from dozan.model.bundle import open_model

datasets = pytest.importorskip("datasets")
QUICK: dict[str, Any] = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3}


def losses(run: str | Path) -> list[float]:
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["train/loss"] for line in lines if "train/loss" in line]


def adapted(folder: Path | str, rank: int = 4, **settings: Any) -> tuple[Any, Any]:
    model, tokenizer = FastModel.from_pretrained(str(folder))
    return FastModel.get_peft_model(model, r=rank, lora_alpha=8, **settings), tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_functiongemma(tmp_path_factory.mktemp("familiar") / "base")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_functiongemma_notebook(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(dozan.EMBEDDED_BASE, here / FUNCTIONGEMMA)
    model, tokenizer = FastLanguageModel.from_pretrained(
        model_name="unsloth/functiongemma-270m-it", load_in_4bit=True, use_gradient_checkpointing="unsloth"
    )
    assert "4 bits cost quality" in capsys.readouterr().out
    model = FastModel.get_peft_model(model, r=32, lora_alpha=64, target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])  # noqa: E501  # fmt: skip
    args = SFTConfig(learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=200)
    rows = datasets.Dataset.from_list(
        [{"text": tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)
          .removeprefix("<bos>")} for row in call_rows(4, answered=True)])  # fmt: skip
    trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=rows, args=args)
    trainer = train_on_responses_only(trainer, instruction_part="<start_of_turn>user\n", response_part="<start_of_turn>model\n")  # noqa: E501  # fmt: skip
    shown = tokenizer.decode([tokenizer.pad_token_id if x == -100 else x for x in trainer.train_dataset[2]["labels"]])
    shown = shown.replace(tokenizer.pad_token, " ").split()
    assert shown[0] == "<start_function_call>call:get_weather{city:<escape>تونس<escape>}<end_function_call><start_function_response>"  # noqa: E501
    assert " ".join(shown[1:]) == "22 درجة في تونس<end_of_turn>", "the tool's answer is context"
    metrics = trainer.train().metrics
    assert metrics["train_loss"] > 0 and metrics["train_runtime"] > 0 and metrics["epoch"] == 3.0
    assert losses("trainer_output")[-1] < losses("trainer_output")[0]
    record = json.loads((here / "trainer_output" / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert record["model"]["quantise"] == "nf4" and record["train"]["learning_rate"] == 1e-3
    assert record["adapter"] == {"rank": 32, "alpha": 64.0, "rslora": False, "dora": False, "dropout": 0.0,
                                 "targets": TARGETS}  # fmt: skip
    inputs = tokenizer.apply_chat_template(call_rows(1)[0]["messages"][:2], tools=TOOLS, add_generation_prompt=True, return_tensors="pt")  # noqa: E501  # fmt: skip
    capsys.readouterr()
    out = model.generate(**inputs, max_new_tokens=24, streamer=TextStreamer(tokenizer, skip_prompt=True))
    answer = tokenizer.decode(out[0][inputs["input_ids"].shape[1] :])
    engine = open_model("trainer_output")
    (wanted,) = generate(engine, [inputs.input_ids[0].tolist()], 24)
    assert answer.removesuffix("<end_of_turn>").removesuffix("<start_function_response>") == tokenizer.decode(wanted)
    assert answer in capsys.readouterr().out
    (gguf,) = model.save_pretrained_gguf("out", tokenizer, quantization_method="Q8_0")
    assert gguf.is_file() and (here / "out" / "parity.json").is_file()


def test_the_12b_notebook(here: Path) -> None:
    small_12b(here)
    model, tokenizer = FastModel.from_pretrained(model_name=GEMMA_12B, max_seq_length=4096, load_in_4bit=True)
    model = FastModel.get_peft_model(model, r=64, lora_alpha=32, target_modules=TARGETS, use_rslora=True, use_dora=True)
    tokenizer = get_chat_template(tokenizer, chat_template="gemma-3")
    dataset = standardize_sharegpt(datasets.Dataset.from_list(talk_rows(8)))

    def formatting_prompts_func(examples: Any) -> Any:
        talks = examples["conversations"]
        made = [tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=False) for t in talks]
        return {"text": [text.removeprefix("<bos>") for text in made]}

    dataset = dataset.map(formatting_prompts_func, batched=True)
    args = SFTConfig(per_device_train_batch_size=1, gradient_accumulation_steps=4, num_train_epochs=1, max_steps=60, learning_rate=2e-4, optimizer="adamw_8bit", lr_scheduler_type="cosine")  # noqa: E501  # fmt: skip
    trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=dataset, eval_dataset=None, args=args)
    trainer = train_on_responses_only(trainer, instruction_part="<start_of_turn>user\n", response_part="<start_of_turn>model\n")  # noqa: E501  # fmt: skip
    stats = trainer.train()
    assert stats.global_step == 60 and stats.training_loss < losses("trainer_output")[0]
    recipe = json.loads((here / "trainer_output" / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert recipe["adapter"]["dora"] and recipe["adapter"]["rslora"] and recipe["chat"] == "gemma3"
    assert recipe["train"]["optimizer"] == "adamw_8bit" and recipe["train"]["micro_batch_size"] == 1
    assert recipe["train"]["batch_size"] == 4 and recipe["train"]["seed"] == 42
    model.save_pretrained_merged("merged", tokenizer, save_method="merged_16bit")
    again, _ = FastModel.from_pretrained("merged")
    inputs = tokenizer(["سؤال"], return_tensors="pt")
    torch.testing.assert_close(
        again.generate(**inputs, max_new_tokens=4, do_sample=False)[0, : inputs.input_ids.shape[1]],
        inputs.input_ids[0],
    )


def test_losses_are_those_of_dozan_train_to_the_bit(folder: Path, here: Path) -> None:
    """The equal recipe written by hand, the rows in a file; as messages, and as text with its responses marked."""
    train, heldout = call_rows(7, answered=True), call_rows(3)
    (here / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in train))
    (here / "eval.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in heldout))
    changes = ["adapter.rank=4", "adapter.alpha=8", "adapter.dora=true", "adapter.targets=[q_proj, v_proj]",
               "train.batch_size=4", "train.micro_batch_size=2", "train.learning_rate=1e-3", "train.epochs=2",
               "train.warmup_steps=3", "train.weight_decay=0.01", "train.seed=7", "train.schedule=linear",
               "train.clip_norm=0.5", "train.eval_steps=2", "data.holdout=0"]  # fmt: skip
    dozan.train("rows.jsonl", folder, "theirs", "functiongemma-ar", changes, eval_data="eval.jsonl")
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3,
        "num_train_epochs": 2, "warmup_steps": 3, "weight_decay": 0.01, "seed": 7, "lr_scheduler_type": "linear",
        "max_grad_norm": 0.5, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1,
    }  # fmt: skip
    for name in ("messages", "texts"):
        model, tokenizer = adapted(folder, use_dora=True, target_modules=["q_proj", "v_proj"])
        rows: list[Any] = [train, heldout]
        if name == "texts":
            rows = [[{"text": tokenizer.apply_chat_template(r["messages"], tools=r["tools"], tokenize=False)}
                     for r in part] for part in rows]  # fmt: skip
        trainer = SFTTrainer(model, SFTConfig(name, **settings), *rows, processing_class=tokenizer)
        if name == "texts":
            trainer = train_on_responses_only(trainer)
        trainer.train()
        assert losses(name) == losses("theirs") and len(losses(name)) == 4
        ours, theirs = (load_file(f"{run}/adapter/adapter_model.safetensors") for run in (name, "theirs"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        history = trainer.state.log_history
        assert [e["loss"] for e in history if "loss" in e] == losses(name)
        wanted = [json.loads(line)["eval/loss"] for line in (here / "theirs/metrics.jsonl").read_text().splitlines()
                  if "eval/loss" in line]  # fmt: skip
        assert [e["eval_loss"] for e in history if "eval_loss" in e] == wanted
        assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted[-1], rel=2e-2)


def test_a_run_goes_on_or_begins_beside(folder: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def trainer(steps: int = 3) -> SFTTrainer:
        model, tokenizer = adapted(folder)
        args = SFTConfig(output_dir="out", **{**QUICK, "max_steps": steps})
        return SFTTrainer(model, args, call_rows(), None, tokenizer)

    first = trainer()
    assert first.train().global_step == 3 and first.run == Path("out")
    second = trainer()
    second.train()
    assert second.run == Path("out-2") and losses("out-2") == losses("out")
    assert "the new one goes to out-2" in capsys.readouterr().out
    (here / "out-2" / "run.json").unlink()
    third = trainer()
    assert third.train(resume_from_checkpoint=True).global_step == 3 and third.run == Path("out")
    assert "nothing to do" in capsys.readouterr().out
    assert third.train(resume_from_checkpoint="out/checkpoints/step-000003").global_step == 3
    with pytest.raises(InputError, match="no run there"):
        third.train(resume_from_checkpoint="nowhere")
    with pytest.raises(InputError, match="newest checkpoint"):
        third.train(resume_from_checkpoint="out/checkpoints/step-000001")
    with pytest.raises(InputError, match="holds a run that differs"):
        trainer(steps=4).train(resume_from_checkpoint=True)


def test_what_was_trained_is_saved_opened_and_asked(folder: Path, here: Path) -> None:
    model, tokenizer = adapted(folder)
    with pytest.raises(InputError, match="nothing is trained yet"):
        model.save_pretrained("early")
    args = SFTConfig(output_dir="run", **{**QUICK, "max_steps": 15, "learning_rate": 0.02})
    SFTTrainer(model, args, call_rows()).train()
    model.save_pretrained("lora")
    tokenizer.save_pretrained("lora")
    inputs = tokenizer.apply_chat_template(call_rows()[0]["messages"][:2], add_generation_prompt=True)
    wanted = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    for name in ("lora", "run"):
        again, _ = FastLanguageModel.from_pretrained(name)
        assert torch.equal(FastLanguageModel.for_inference(again).generate(**inputs, max_new_tokens=8), wanted)
        with pytest.raises(InputError, match="merge it first"):
            FastModel.get_peft_model(again)
    base, _ = FastModel.from_pretrained(str(folder))
    assert not torch.equal(base.generate(**inputs, max_new_tokens=8), wanted), "else the adapter is not there"
    model.save_pretrained_merged("only", tokenizer, save_method="lora")
    assert {path.name for path in (here / "only").iterdir()} == {path.name for path in (here / "lora").iterdir()}
    with pytest.raises(InputError, match="merged_4bit.*is not offered"):
        model.save_pretrained_merged("four", tokenizer, save_method="merged_4bit")
    with pytest.raises(InputError, match="unknown argument 'safe_serialisation': did you mean 'safe_serialization'"):
        model.save_pretrained("x", safe_serialisation=True)


def test_the_best_checkpoint_is_the_model_where_it_is_asked_for(folder: Path, here: Path) -> None:
    model, tokenizer = adapted(folder)
    args = SFTConfig("out", **{**QUICK, "max_steps": 4, "learning_rate": 10.0}, lr_scheduler_type="constant",
                     eval_strategy="steps", eval_steps=1, save_strategy="best",
                     load_best_model_at_end=True)  # fmt: skip
    no = {"role": "assistant", "content": "نعم"}
    others = [{**row, "messages": [*row["messages"][:2], no]} for row in call_rows(2)]
    trainer = SFTTrainer(model, args, call_rows(), others)
    trainer.train()
    measured = {e["step"]: e["eval_loss"] for e in trainer.state.log_history if "eval_loss" in e}
    best = min(measured, key=lambda step: measured[step])
    assert best < 4, "the test needs a run whose end is not its best"
    assert model.trained == Path(f"out/checkpoints/step-{best:06d}") and trainer.state.best_metric == measured[best]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(measured[best], rel=2e-2)
    with pytest.raises(InputError, match="needs eval_dataset"):
        SFTTrainer(adapted(folder)[0], args, call_rows()).train()
    with pytest.raises(InputError, match="lowest eval_loss"):
        SFTTrainer(adapted(folder)[0], SFTConfig(load_best_model_at_end=True, metric_for_best_model="f1"),
                   call_rows()).train()  # fmt: skip


def test_every_weight_is_trained(
    folder: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    model, tokenizer = FastModel.from_pretrained(str(folder), full_finetuning=True, token="hf_mine")
    model = FastModel.get_peft_model(model, r=8)
    assert "no adapter is added" in capsys.readouterr().out
    seen: set[tuple[str, str | None]] = set()

    def heard(event: dict[str, Any]) -> None:
        seen.add((event["event"], os.environ.get("HF_TOKEN")))

    SFTTrainer(model, SFTConfig("out", **QUICK), call_rows(), callbacks=[heard]).train()
    assert {("plan", "hf_mine"), ("step", "hf_mine"), ("done", "hf_mine")} <= seen and "HF_TOKEN" not in os.environ
    model.save_pretrained("whole")
    tokenizer.save_pretrained("whole")
    again, _ = FastModel.from_pretrained("whole")
    inputs = tokenizer("ما", return_tensors="pt")
    given = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(again.generate(**inputs, **given), model.generate(**inputs, **given))
