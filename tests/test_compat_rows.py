"""The familiar API's rows and arguments: what is trained of a text, what an argument comes to, and the docs' table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from compat_models import TOOLS, call_rows, small_functiongemma, talk_rows

import dozan
from dozan import FastModel, SFTConfig, SFTTrainer
from dozan.chat_templates import get_chat_template, standardize_sharegpt, train_on_responses_only
from dozan.compat.arguments import FROM_PRETRAINED, GENERATE, GET_PEFT_MODEL, SAVING, SFT_TRAINER, as_markdown, tables
from dozan.compat.markers import response_spans, span_weights
from dozan.compat.model import Model
from dozan.compat.recipes import ModelSettings, recipe_of
from dozan.compat.say import Argument
from dozan.compat.settings import SFT_CONFIG, settings_of
from dozan.errors import InputError

datasets = pytest.importorskip("datasets")
TABLE = Path(__file__).parents[1] / "docs" / "en" / "familiar-api.md"
USER, MODEL = "<start_of_turn>user\n", "<start_of_turn>model\n"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = small_functiongemma(tmp_path_factory.mktemp("rows") / "base")
    model, tokenizer = FastModel.from_pretrained(str(folder))
    return FastModel.get_peft_model(model, r=4), tokenizer


def texts(tokenizer: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"text": tokenizer.apply_chat_template(row["messages"], tools=row["tools"], tokenize=False)}
            for row in rows]  # fmt: skip


def decoded(tokenizer: Any, row: dict[str, Any]) -> str:
    return str(tokenizer.decode([i for i in row["labels"] if i != -100]))


# What is trained of a text.


@pytest.mark.parametrize("answered", [False, True])
def test_responses_of_a_text_are_what_the_engine_trains(opened: tuple[Any, Any], answered: bool) -> None:
    chat = opened[1].chat
    for row in call_rows(4, answered):
        two = [*row["messages"], *([{"role": "user", "content": "شكرا"}, {"role": "assistant", "content": "عفوا"}]
                                   if answered else [])]  # fmt: skip
        rendered = chat.render(two, row["tools"])
        assert tuple(response_spans(rendered.text, USER, MODEL)) == rendered.trained


def test_several_answers_of_tools_are_all_context() -> None:
    call, response = "<start_function_response>", "<end_function_response>"
    text = f"{MODEL}call{call}response:f{{}}{response}{call}response:g{{}}{response}نعم<end_of_turn>\n{USER}x"
    assert [text[a:b] for a, b in response_spans(text, USER, MODEL)] == [f"call{call}", "نعم<end_of_turn>"]
    open_text = f"{MODEL}call{call}response:f{{}}"
    assert [open_text[a:b] for a, b in response_spans(open_text, USER, MODEL)] == [f"call{call}"]


def test_responses_of_plain_headings_end_before_the_next_instruction() -> None:
    text = "### Instruction:\nأ\n### Response:\nب\n### Instruction:\nج\n### Response:\nد"
    spans = response_spans(text, "### Instruction:\n", "### Response:\n")
    assert [text[a:b] for a, b in spans] == ["ب\n", "د"]


def test_a_token_across_a_border_is_not_trained_and_the_first_never_is() -> None:
    assert span_weights([(0, 2), (2, 5), (5, 6), (6, 9)], [(0, 2), (4, 8)]) == [0.0, 0.0, 1.0, 1.0]


def test_markers_that_do_not_occur_raise_and_show_what_does(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    for rows in (texts(tokenizer, call_rows()), call_rows()):
        trainer = SFTTrainer(model, None, rows, tokenizer=tokenizer)
        with pytest.raises(InputError) as error:
            train_on_responses_only(trainer, "<|im_start|>user\n", "<|im_start|>assistant\n")
        assert "occurs in none of 6 rows" in str(error.value)
        for shown in (r"'<start_of_turn>user\n' (6)", r"'<start_of_turn>model\n' (6)", r"'<start_of_turn>developer\n'"):
            assert shown in str(error.value)
    rows = [*texts(tokenizer, call_rows(2)), {"text": f"{USER}وحده<end_of_turn>\n"}]
    with pytest.raises(InputError, match=r"1 of 3 rows have nothing behind.*train_dataset\[2\]"):
        train_on_responses_only(SFTTrainer(model, None, rows), USER, MODEL)
    with pytest.raises(InputError, match="'### Answer' .2."):
        train_on_responses_only(SFTTrainer(model, None, [{"text": "### Answer\nنعم"}] * 2), USER, MODEL)
    with pytest.raises(InputError, match="marks something else"):
        train_on_responses_only(SFTTrainer(model, None, call_rows(2)), MODEL, USER)


# Rows of every kind.


def test_rows_of_every_kind_become_the_same_tokens(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    rows = call_rows(4, answered=True)
    wanted = [row["input_ids"] for row in SFTTrainer(model, None, rows).train_dataset]
    labels = [row["labels"] for row in SFTTrainer(model, None, rows).train_dataset]
    as_text = texts(tokenizer, rows)
    without = [{"mine": row["text"].removeprefix("<bos>")} for row in as_text]
    kinds: dict[str, Any] = {
        "an arrow data set, nulls and all": (datasets.Dataset.from_list(rows), {}),
        "an iterable one": (datasets.Dataset.from_list(as_text).to_iterable_dataset(), {}),
        "another column": (without, {"dataset_text_field": "mine"}),
        "a function of a row": (rows, {"formatting_func": lambda row: texts(tokenizer, [row])[0]["text"]}),
        "a function of a batch": (without, {"formatting_func": lambda batch: list(batch["mine"])}),
        "ids and labels": ([{"input_ids": i, "labels": t} for i, t in zip(wanted, labels, strict=True)], {}),
        "padded ids": ([{"input_ids": [0, 0, *i], "attention_mask": [0, 0, *[1] * len(i)],
                         "labels": [-100, -100, *t]} for i, t in zip(wanted, labels, strict=True)], {}),
    }  # fmt: skip
    for kind, (data, more) in kinds.items():
        trainer = SFTTrainer(model, None, data, tokenizer=tokenizer, **more)
        if trainer.train_dataset.texts:
            assert trainer.train_dataset[0]["labels"][1:] == wanted[0][1:], "every token, before it is said otherwise"
            train_on_responses_only(trainer, USER, MODEL)
        assert [row["input_ids"] for row in trainer.train_dataset] == wanted, kind
        assert [row["labels"] for row in trainer.train_dataset] == labels, kind
        assert len(trainer.train_dataset[1:3]["labels"]) == 2 and "labels" in trainer.train_dataset.column_names


def test_conversations_in_other_shapes(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    asked = {"prompt": "ما الطقس", "completion": "صحو"}
    shaped: dict[str, Any] = {
        "prompt and completion": asked,
        "sharegpt": {"conversations": [{"from": "human", "value": "ما الطقس"}, {"from": "gpt", "value": "صحو"}]},
        "messages": {"messages": [{"role": "user", "content": "ما الطقس"}, {"role": "assistant", "content": "صحو"}]},
    }
    for row in shaped.values():
        (found,) = SFTTrainer(model, None, [row]).train_dataset
        assert decoded(tokenizer, found) == "صحو<end_of_turn>"
    (plain,) = standardize_sharegpt([shaped["sharegpt"]])
    assert plain["conversations"] == shaped["messages"]["messages"]
    (told,) = standardize_sharegpt(datasets.Dataset.from_list([shaped["sharegpt"]]))
    assert told["conversations"] == plain["conversations"]


def test_rows_that_cannot_be_used_are_named(opened: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = opened
    made = [
        ([], "no rows"), (None, "train_dataset is missing"), (["x"], r"train_dataset\[0\]: expected a dict"),
        ([{"text": "a<end_of_turn>"}, {"text": ""}], r"train_dataset\[1\]: text is empty"),
        ([{"input_ids": [2, 9], "labels": [2]}], "each token needs one"),
        ([{"input_ids": [2, 9, 9], "labels": [-100, 9, 8]}], r"labels\[2\] is 8"),
        ([{"input_ids": [2, 99999]}], "the tokenizer has 0 to"),
        ([{"messages": [{"role": "user", "content": "x"}]}, {"other": 1}], r"train_dataset\[1\]"),
    ]  # fmt: skip
    for rows, message in made:
        with pytest.raises(InputError, match=message):
            SFTTrainer(model, None, rows)
    long = [{"input_ids": [2, *[9] * 40], "labels": [-100] * 41}, {"input_ids": [2, *[9] * 90]}]
    with pytest.raises(InputError) as error:
        SFTTrainer(model, SFTConfig(str(tmp_path / "out"), max_length=64), long).train()
    assert "train_dataset[0]: nothing to train on" in str(error.value)
    assert "train_dataset[1]: 91 tokens, more than the 64 allowed" in str(error.value)


def test_texts_that_teach_no_end_are_counted(opened: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    SFTTrainer(opened[0], None, [{"text": "بلا نهاية"}, {"text": "نهاية<eos>"}])
    assert "1 of 2 texts end in no stop token" in capsys.readouterr().out


# Arguments: each is honoured, said or refused.

EXPLICIT: dict[str, tuple[tuple[Argument, ...], Any]] = {
    "from_pretrained": (FROM_PRETRAINED, FastModel.from_pretrained),
    "get_peft_model": (GET_PEFT_MODEL, FastModel.get_peft_model), "SFTTrainer": (SFT_TRAINER, SFTTrainer.__init__),
    "generate": (GENERATE, Model.generate),
}  # fmt: skip


@pytest.mark.parametrize("call", EXPLICIT)
def test_the_table_is_the_signature(call: str) -> None:
    """What is honoured is a parameter with the table's default; every parameter is in the table."""
    table, function = EXPLICIT[call]
    known = {argument.name: argument for argument in table}
    taken = {p.name: p for p in inspect.signature(function).parameters.values()
             if p.name != "self" and p.kind is not inspect.Parameter.VAR_KEYWORD}  # fmt: skip
    assert len(known) == len(table)
    assert set(taken) <= set(known) and {a.name for a in table if a.fate == "honoured"} <= set(taken)
    for name, parameter in taken.items():
        if parameter.default is not inspect.Parameter.empty:
            assert parameter.default == known[name].default, name


def test_the_table_of_saving_is_the_signatures() -> None:
    names = ("save_pretrained", "save_pretrained_merged", "save_pretrained_gguf", "push_to_hub", "push_to_hub_merged",
             "push_to_hub_gguf")  # fmt: skip
    taken = {p for name in names for p in inspect.signature(getattr(Model, name)).parameters} - {"self", "more"}
    assert taken == {argument.name for argument in SAVING if argument.fate == "honoured"}


def test_sft_config_takes_what_its_table_says_and_every_honoured_name_is_read() -> None:
    assert list(inspect.signature(SFTConfig).parameters) == [argument.name for argument in SFT_CONFIG]
    folder = Path(dozan.__file__).parent / "compat"
    code = "".join((folder / f"{name}.py").read_text(encoding="utf-8") for name in ("recipes", "trainer", "log"))
    honoured = [a.name for a in SFT_CONFIG if a.fate == "honoured"]
    unread = [name for name in honoured if not re.search(rf"(?:config|args)\.{name}\b|\"{name}\"", code)]
    assert unread == ["packing"], "honoured whatever it says"


def test_the_docs_have_the_table() -> None:
    assert as_markdown() in TABLE.read_text(encoding="utf-8"), "run python -m dozan.compat.arguments"


@pytest.mark.parametrize("call", list(tables()))
def test_every_refused_argument_is_refused_and_every_idle_one_said(
    call: str, opened: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = opened
    calls: dict[str, Any] = {
        "FastModel.from_pretrained": lambda **a: FastModel.from_pretrained(str(model.folder), **a),
        "FastModel.get_peft_model": lambda **a: FastModel.get_peft_model(model, r=4, **a), "SFTConfig": SFTConfig,
        "SFTTrainer": lambda **a: SFTTrainer(model, None, call_rows(1), **a),
        "model.generate": lambda **a: model.generate(**tokenizer("ما", return_tensors="pt"), max_new_tokens=1, **a),
    }  # fmt: skip
    for argument in tables()[call] if call in calls else ():
        strange = not argument.default if isinstance(argument.default, bool) else "something strange"
        capsys.readouterr()
        if argument.fate == "refused":
            with pytest.raises(InputError, match=argument.name):
                calls[call](**{argument.name: strange})
        elif argument.fate == "no effect" and argument.asks(strange):
            calls[call](**{argument.name: strange})
            assert f"{argument.name}={strange!r}" in capsys.readouterr().out, argument.name
    if call in calls:
        with pytest.raises(InputError, match="unknown argument 'nonsense'"):
            calls[call](nonsense=1)


def settings(**given: Any) -> Any:
    return recipe_of(ModelSettings(adapter={"rank": 4}, seed=11), SFTConfig(**given), "functiongemma", 100)


@pytest.mark.parametrize("given, path, value", [
    ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, "batch_size", 6),
    ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, "micro_batch_size", 2),
    ({"max_steps": 5}, "max_steps", 5), ({"max_steps": -1}, "max_steps", None), ({"seed": 3}, "seed", 3),
    ({}, "seed", 11), ({"warmup_ratio": 0.1, "max_steps": 55}, "warmup_steps", 6),
    ({"warmup_steps": 0.5, "max_steps": 10}, "warmup_steps", 5),
    ({"warmup_steps": 9, "lr_scheduler_type": "constant"}, "warmup_steps", 0),
    ({"warmup_steps": 9, "lr_scheduler_type": "constant_with_warmup"}, "warmup_steps", 9),
    ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-6}}, "min_learning_rate", 1e-6),
    ({"optim": "paged_adamw_8bit"}, "optimizer", "adamw_8bit"),
    ({"optimizer": "adamw_8bit"}, "optimizer", "adamw_8bit"),
    ({}, "optimizer", "adamw"), ({"adam_beta2": 0.95}, "betas", (0.9, 0.95)), ({"bf16": True}, "dtype", "bfloat16"),
    ({"fp16": True}, "dtype", "auto"), ({"gradient_checkpointing": True}, "recompute", "layers"),
    ({"gradient_checkpointing": False}, "recompute", "none"), ({}, "recompute", "auto"),
    ({"activation_offloading": True}, "offload", True), ({"save_strategy": "epoch"}, "save_steps", None),
    ({"save_steps": 0.5, "max_steps": 10}, "save_steps", 5), ({"save_total_limit": 4}, "keep_checkpoints", 4),
    ({"eval_strategy": "epoch"}, "eval_steps", None), ({"eval_strategy": "steps"}, "eval_steps", 10),
    ({"evaluation_strategy": "steps", "eval_steps": 7}, "eval_steps", 7),
    ({"full_determinism": True}, "deterministic", True),
    ({"max_grad_norm": 0.3}, "clip_norm", 0.3), ({"weight_decay": 0.1}, "weight_decay", 0.1),
    ({"adam_epsilon": 1e-6}, "epsilon", 1e-6), ({"num_train_epochs": 2}, "epochs", 2.0),
])  # fmt: skip
def test_settings_become_the_recipes(given: dict[str, Any], path: str, value: Any) -> None:
    assert getattr(settings(**given).train, path) == value


def test_settings_outside_of_train_become_the_recipes() -> None:
    track = settings(report_to=["wandb", "tensorboard"], run_name="r", project="p").track
    assert (track.to, track.name, track.project) == (("wandb", "tensorboard"), "r", "p")
    assert settings().track.to == () and settings().track.project is None and settings().data.holdout == 0
    assert settings(max_length=100).data.max_tokens == settings(max_seq_length=100).data.max_tokens == 100


@pytest.mark.parametrize("given, message", [
    ({"optim": "sgd"}, "give adamw_torch or adamw_8bit"), ({"lr_scheduler_type": "polynomial"}, "give linear"),
    ({"bf16": True, "fp16": True}, "both True"), ({"max_grad_norm": 0}, "always clipped"),
    ({"data_seed": 5}, "one seed"), ({"report_to": "all"}, "name them"), ({"save_strategy": "never"}, "give no, steps"),
    ({"eval_strategy": "best"}, "give no, steps or epoch"), ({"per_device_train_batch_size": 0}, "from 1 up"),
    ({"learning_rate": -1.0}, "train.learning_rate"), ({"learning_rat": 1.0}, "did you mean 'learning_rate'"),
    ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "are all that is known"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        settings(**given)


def test_arguments_of_transformers_and_peft_are_read(opened: tuple[Any, Any], tmp_path: Path) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    given = transformers.TrainingArguments(
        str(tmp_path / "hf"), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=3e-4,
        lr_scheduler_type="cosine", warmup_steps=7, max_steps=20, logging_steps=1, optim="adamw_torch", seed=5,
        report_to="none", use_cpu=False, dataloader_num_workers=2,
    )  # fmt: skip
    found = settings_of(given)
    train = recipe_of(ModelSettings(adapter={}), found, "auto", 50).train
    assert (train.batch_size, train.learning_rate, train.schedule, train.seed) == (8, 3e-4, "cosine", 5)
    assert (train.max_steps, train.warmup_steps, found.save_steps) == (20, 7, 500)
    assert found.output_dir == str(tmp_path / "hf")
    assert settings_of(transformers.TrainingArguments(str(tmp_path / "plain"))).learning_rate == 5e-5, "not TRL's 2e-5"
    with pytest.raises(InputError, match="label_smoothing_factor=0.1 is not offered"):
        settings_of(transformers.TrainingArguments(str(tmp_path / "x"), label_smoothing_factor=0.1))
    model, _ = FastModel.from_pretrained(str(opened[0].folder))
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    SFTTrainer(model, None, call_rows(1), peft_config=config)
    assert model.settings.adapter == {"rank": 3, "alpha": 5.0, "rslora": False, "dora": True, "dropout": 0.0,
                                      "targets": ["q_proj"]}  # fmt: skip
    assert model.num_parameters(only_trainable=True) == 2 * (3 * 64 + 128 * 3 + 128)


def test_what_a_model_or_a_trainer_cannot_do_is_said_or_refused(
    opened: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    model, tokenizer = opened
    bare, _ = FastModel.from_pretrained(str(model.folder), dtype="float32", random_state=1)
    peft, few = FastModel.get_peft_model, call_rows(1)
    refused: list[tuple[str, Any]] = [
        ("has no adapter", lambda: SFTTrainer(bare, None, call_rows())),
        ("give what FastModel.from_pretrained", lambda: SFTTrainer(object(), None, call_rows())),  # type: ignore[arg-type]
        ("target_modules .'embed_tokens'. are not adapted", lambda: peft(bare, target_modules=["embed_tokens"])),
        ("nothing is left", lambda: peft(bare, finetune_attention_modules=False, finetune_mlp_modules=False)),
        ("init_lora_weights='pissa'", lambda: FastModel.get_peft_model(bare, init_lora_weights="pissa")),
        ("cannot both be", lambda: FastModel.from_pretrained(load_in_4bit=True, full_finetuning=True)),
        ("give 'unsloth'", lambda: FastModel.from_pretrained(use_gradient_checkpointing="often")),
        ("dtype='int8'", lambda: FastModel.from_pretrained(dtype="int8")),
        ("callbacks Early", lambda: SFTTrainer(model, None, few, callbacks=[type("Early", (), {})()])),  # type: ignore[list-item]
        ("data_collator=Mine", lambda: SFTTrainer(model, None, few, data_collator=type("Mine", (), {})())),
        ("assistant_only_loss=True needs",
         lambda: SFTTrainer(model, SFTConfig(assistant_only_loss=True), [{"text": "a<eos>"}])),
        ("a loss on whole", lambda: SFTTrainer(model, SFTConfig(completion_only_loss=False), call_rows())),
        ("is not a format of Gemma 3", lambda: get_chat_template(tokenizer, "llama-3.1")),
        ("rename them first", lambda: get_chat_template(tokenizer, "gemma3", mapping={"role": "from"})),
    ]  # fmt: skip
    for message, attempt in refused:
        with pytest.raises(InputError, match=message):
            attempt()
    FastModel.get_peft_model(bare, finetune_mlp_modules=False, use_gradient_checkpointing=True, random_state=9)
    assert (bare.settings.adapter or {})["targets"] == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert (bare.settings.recompute, bare.settings.seed, bare.settings.dtype) == ("layers", 9, "float32")
    collator = type("DataCollatorForSeq2Seq", (), {})()
    SFTTrainer(bare, SFTConfig(seed=4), call_rows(), data_collator=collator).recipe()
    said = capsys.readouterr().out
    assert "data_collator=DataCollatorForSeq2Seq is not needed" in said and "random_state=9 is not used" in said


def test_the_chat_format_is_the_tokenizers(opened: tuple[Any, Any]) -> None:
    model, tokenizer = opened
    gemma = get_chat_template(tokenizer, "gemma-3")
    trainer = SFTTrainer(model, None, talk_rows(2), processing_class=gemma)
    assert trainer.recipe().chat == "gemma3" and tokenizer.chat.name == "functiongemma"
    assert trainer.turn_markers() == (USER, MODEL)
    model.tokenizer = tokenizer
    assert SFTTrainer(model, None, call_rows(2)).recipe().chat == "functiongemma"
    assert TOOLS


def test_nulls_that_arrow_fills_into_tools_are_left_out(opened: tuple[Any, Any]) -> None:
    other = {"type": "function", "function": {"name": "call", "description": "d", "parameters": {
        "type": "object", "properties": {"number": {"type": "string", "description": "n"}}}}}  # fmt: skip
    rows = [{**row, "tools": [*row["tools"], other][i:]} for i, row in enumerate(call_rows(1) * 2)]
    rows[1]["messages"] = [*rows[1]["messages"][:2], {"role": "assistant", "content": "لا"}]
    filled = datasets.Dataset.from_list(rows)
    assert "city" in filled[1]["tools"][0]["function"]["parameters"]["properties"], "else Arrow fills nothing in"
    wanted, found = (SFTTrainer(opened[0], None, data).train_dataset for data in (rows, filled))
    assert [row["input_ids"] for row in found] == [row["input_ids"] for row in wanted]
