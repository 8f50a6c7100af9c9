"""SFTConfig: a training run by TRL's and transformers' names; every name is weighed, none is swallowed."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Mapping
from typing import Any

from dozan.compat.say import Argument, Fate, say, weigh
from dozan.errors import InputError

_YES: Fate = "honoured"
_IDLE: Fate = "no effect"
_NO: Fate = "refused"
_ROWS = "rows are encoded once, by threads, and packed while the step before is computed"
_ONE = "one process trains on one device"
_PUSH = "push what was trained: model.push_to_hub"
_FORMAT = "the format of files is fixed: safetensors, metrics.jsonl, run.json"
_PRECISION = "dtypes are explicit: dtype, bf16, fp16"

SFT_CONFIG = (
    Argument("output_dir", "trainer_output", _YES, "the run's folder; one that holds a run stays as it is unless it is "
             "resumed, and the new run goes to a folder beside it", (None,)),
    Argument("per_device_train_batch_size", 8, _YES, "rows computed at once (train.micro_batch_size)"),
    Argument("gradient_accumulation_steps", 1, _YES, "times that makes a step (train.batch_size is the product)"),
    Argument("num_train_epochs", 3.0, _YES, "train.epochs"),
    Argument("max_steps", -1, _YES, "above 0 it takes the place of the epochs (train.max_steps)"),
    Argument("learning_rate", 2e-5, _YES, "train.learning_rate"),
    Argument("lr_scheduler_type", "linear", _YES, "linear, cosine, constant, constant_with_warmup, "
             "cosine_with_min_lr (train.schedule)"),
    Argument("lr_scheduler_kwargs", None, _YES, "min_lr or min_lr_rate of cosine_with_min_lr "
             "(train.min_learning_rate)", ({},)),
    Argument("warmup_steps", 0, _YES, "cut to a tenth of the steps, which is said; below 1 a share of them "
             "(train.warmup_steps)"),
    Argument("warmup_ratio", 0.0, _YES, "a share of the steps", (None,)),
    Argument("optim", "adamw_torch_fused", _YES, "adamw_torch and its kin, or adamw_8bit and its kin "
             "(train.optimizer); others are refused"),
    Argument("optimizer", None, _YES, "another name of optim"),
    Argument("weight_decay", 0.0, _YES, "train.weight_decay"),
    Argument("adam_beta1", 0.9, _YES, "train.betas"),
    Argument("adam_beta2", 0.999, _YES, "train.betas"),
    Argument("adam_epsilon", 1e-8, _YES, "train.epsilon"),
    Argument("max_grad_norm", 1.0, _YES, "train.clip_norm; 0 for no clipping is refused: give a large number"),
    Argument("seed", 42, _YES, "everything random; left out, random_state of the model"),
    Argument("data_seed", None, _YES, "must be that of seed: there is one"),
    Argument("full_determinism", False, _YES, "train.deterministic"),
    Argument("bf16", None, _YES, "True: train.dtype is bfloat16; without it and fp16, what suits the device", (False,)),
    Argument("fp16", False, _YES, "True: float16 with the residual stream in float32; on a CPU what suits it, which is "
             "said"),
    Argument("gradient_checkpointing", None, _YES, "True: all layers are computed again, False: none; left out, the "
             "model's use_gradient_checkpointing"),
    Argument("activation_offloading", False, _YES, "inputs of recomputed layers wait in host memory (train.offload)"),
    Argument("logging_steps", 10, _YES, "steps between two entries of log_history, each a mean; metrics.jsonl has "
             "every step"),
    Argument("logging_strategy", "steps", _YES, "steps, epoch or no"),
    Argument("logging_first_step", False, _YES, "an entry for the first step too"),
    Argument("report_to", "none", _YES, "wandb, tensorboard, trackio, or a list of them (the recipe's track.to); "
             "nothing leaves the machine unasked", (None, [], ())),
    Argument("run_name", None, _YES, "track.name"),
    Argument("project", "huggingface", _YES, "track.project"),
    Argument("eval_strategy", "no", _YES, "steps or epoch: the loss on eval_dataset is measured then, and at the end"),
    Argument("evaluation_strategy", None, _YES, "the older name of eval_strategy"),
    Argument("eval_steps", None, _YES, "train.eval_steps (left out: logging_steps)"),
    Argument("save_strategy", "steps", _YES, "steps, epoch, best (with each evaluation) or no; the last step is saved "
             "whatever it says"),
    Argument("save_steps", 500, _YES, "train.save_steps; below 1 a share of the steps"),
    Argument("save_total_limit", None, _YES, "train.keep_checkpoints (left out: 2); the best on the held-out rows "
             "stays too"),
    Argument("load_best_model_at_end", False, _YES, "the model is the checkpoint with the lowest eval_loss"),
    Argument("metric_for_best_model", None, _YES, "eval_loss, the only one", ("loss",)),
    Argument("greater_is_better", None, _YES, "must be False: it is a loss", (False,)),
    Argument("resume_from_checkpoint", None, _YES, "as in trainer.train"),
    Argument("dataset_text_field", "text", _YES, "the column of text rows"),
    Argument("max_length", None, _YES, "tokens that a row may have, at most the model's max_seq_length; a longer one "
             "is named and refused, never cut"),
    Argument("max_seq_length", None, _YES, "the older name of max_length"),
    Argument("packing", False, _YES, "rows are packed either way and never see each other: no result depends on it",
             (True,)),
    Argument("assistant_only_loss", False, _YES, "rows of messages: it always is so; of text rows use "
             "train_on_responses_only"),
    Argument("completion_only_loss", None, _YES, "rows of prompt and completion: it always is so; False is refused"),
    Argument("eos_token", None, _NO, "stop tokens are the chat format's; write others into the text"),
    Argument("chat_template_path", None, _NO, "use get_chat_template(tokenizer, 'functiongemma' or 'gemma3')"),
    Argument("model_init_kwargs", None, _NO, "give them to FastModel.from_pretrained", ({},)),
    Argument("loss_type", "nll", _NO, "cross-entropy is the loss"),
    Argument("label_smoothing_factor", 0.0, _NO, "the loss is plain cross-entropy; leave it 0"),
    Argument("neftune_noise_alpha", None, _NO, "no noise is added to embeddings; leave it out", (0, 0.0)),
    Argument("optim_args", None, _NO, "give adam_beta1, adam_beta2, adam_epsilon"),
    Argument("optim_target_modules", None, _NO, "adapters are trained by AdamW"),
    Argument("train_sampling_strategy", "random", _NO, "rows are shuffled in each epoch by the seed"),
    Argument("use_cpu", False, _NO, "hide the GPU: CUDA_VISIBLE_DEVICES="),
    Argument("eval_on_start", False, _NO, "call trainer.evaluate() before trainer.train()"),
    Argument("eval_delay", 0, _NO, "use eval_steps"),
    Argument("dataloader_drop_last", False, _NO, "every row is trained; the last step takes the rest"),
    Argument("ignore_data_skip", False, _NO, "a resumed run goes on with the rows that are due"),
    Argument("save_only_model", False, _NO, "a checkpoint can always be resumed"),
    Argument("include_for_metrics", None, _NO, "score by generation: dozan.evaluate(run, rows)", ([],)),
    Argument("batch_eval_metrics", False, _NO, "score by generation: dozan.evaluate(run, rows)"),
    Argument("push_to_hub", False, _NO, _PUSH),
    Argument("hub_model_id", None, _NO, _PUSH),
    Argument("hub_token", None, _NO, _PUSH),
    Argument("hub_private_repo", None, _NO, _PUSH),
    Argument("hub_revision", None, _NO, _PUSH),
    Argument("trackio_space_id", None, _NO, "trackio keeps its files here; nothing is sent", ("trackio",)),
    Argument("deepspeed", None, _NO, _ONE),
    Argument("fsdp", None, _NO, _ONE, ("", [])),
    Argument("fsdp_config", None, _NO, _ONE, ({},)),
    Argument("parallelism_config", None, _NO, _ONE),
    *(Argument(name, default, _IDLE, _ROWS, neutral) for name, default, neutral in (
        ("dataset_num_proc", None, ()), ("dataset_kwargs", None, ({},)), ("dataset_batch_size", 1000, ()),
        ("remove_unused_columns", True, (False,)), ("group_by_length", False, ()), ("length_column_name", "length", ()),
        ("padding_free", False, (True,)), ("packing_strategy", "bfd", ()), ("eval_packing", None, ()),
        ("pad_to_multiple_of", None, ()), ("pad_token", None, ()), ("shuffle_dataset", False, (True,)),
        ("per_device_eval_batch_size", 8, ()), ("eval_accumulation_steps", None, ()),
        ("dataloader_num_workers", 0, ()), ("dataloader_pin_memory", True, (False,)),
        ("dataloader_persistent_workers", False, ()), ("dataloader_prefetch_factor", None, ()),
        ("label_names", None, ()), ("auto_find_batch_size", False, (True,)),
    )),
    *(Argument(name, default, _IDLE, _PRECISION, neutral) for name, default, neutral in (
        ("tf32", None, ()), ("bf16_full_eval", False, ()), ("fp16_full_eval", False, ()),
        ("gradient_checkpointing_kwargs", None, ({},)), ("torch_compile", False, ()), ("use_liger_kernel", False, ()),
        ("torch_empty_cache_steps", None, ()),
    )),
    *(Argument(name, default, _IDLE, _FORMAT, neutral) for name, default, neutral in (
        ("save_safetensors", True, ()), ("logging_dir", None, ()), ("overwrite_output_dir", False, ()),
        ("disable_tqdm", None, (True, False)), ("log_level", "passive", ()), ("logging_nan_inf_filter", True, (False,)),
        ("prediction_loss_only", False, ()), ("skip_memory_metrics", True, (False,)),
        ("include_num_input_tokens_seen", "no", (False,)), ("do_train", False, (True,)), ("do_eval", False, (True,)),
        ("use_cache", False, (True,)),
    )),
    *(Argument(name, default, _IDLE, _ONE) for name, default in (
        ("ddp_find_unused_parameters", None), ("ddp_timeout", 1800), ("local_rank", -1),
        ("average_tokens_across_devices", True),
    )),
)  # fmt: skip

_DEFAULTS = {argument.name: argument.default for argument in SFT_CONFIG}
_LEFT_TO_US = ("bf16", "fp16", "max_length", "max_seq_length", "report_to", "run_name", "gradient_checkpointing")
"""What TRL and transformers fill in by machine or habit: where it is their default nobody asked for it."""
_MADE_BY_POST_INIT = {"accelerator_config", "deepspeed_plugin", "distributed_state", "hub_strategy", "logging_dir"}


class SFTConfig:
    """A training run by TRL's names, each an attribute; `given` are those that were named.

    docs/en/familiar-api.md says what each means. Raises InputError for names that are not known and for values that ask
    for what is not offered.
    """

    __signature__ = inspect.Signature(
        [inspect.Parameter(a.name, inspect.Parameter.KEYWORD_ONLY, default=a.default) for a in SFT_CONFIG]
    )

    def __init__(self, *positional: str, **given: Any) -> None:
        if len(positional) > 1:
            raise InputError(f"SFTConfig: {len(positional)} arguments without a name; only output_dir may have none")
        if positional and "output_dir" in given:
            raise InputError("SFTConfig: output_dir is given twice")
        if positional:  # output_dir comes first, as in transformers
            given = {"output_dir": positional[0], **given}
        given = {name: value.value if isinstance(value, enum.Enum) else value for name, value in given.items()}
        weigh("SFTConfig", SFT_CONFIG, given)
        self.given = frozenset(given)
        for name, default in _DEFAULTS.items():
            setattr(self, name, given.get(name, default))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"SFTConfig has no {name!r}")

    def __repr__(self) -> str:
        return f"SFTConfig({', '.join(f'{name}={getattr(self, name)!r}' for name in sorted(self.given))})"


def settings_of(args: object) -> SFTConfig:
    """An SFTConfig as it is; of transformers' or TRL's arguments, or an object with such attributes, what differs from
    their defaults. None gives the defaults. Raises InputError for a dict, and as SFTConfig does."""
    if args is None:
        return SFTConfig()
    if isinstance(args, SFTConfig):
        return args
    if isinstance(args, Mapping):
        raise InputError(f"SFTTrainer: args is a {type(args).__name__}; give SFTConfig(**args)")
    defaults = field_defaults(args)
    values = {name: plain(getattr(args, name)) for name in defaults if name not in _MADE_BY_POST_INIT}
    differing = {name: value for name, value in values.items() if value != plain(defaults[name])}
    unknown = sorted(name for name in differing if name not in _DEFAULTS and not name.startswith("_"))
    if unknown:
        say(f"{type(args).__name__}: {', '.join(unknown)} mean nothing here")
    # What such objects have by default is kept where it differs from TRL's own defaults.
    honoured = {a.name for a in SFT_CONFIG if a.fate == "honoured"}
    kept = {name: value for name, value in values.items()
            if name in honoured and value != _DEFAULTS[name] and (name in differing or name not in _LEFT_TO_US)}
    return SFTConfig(**kept, **{n: v for n, v in differing.items() if n in _DEFAULTS and n not in kept})


def field_defaults(found: Any) -> dict[str, Any]:
    """An object's attributes and what each is by default: of a dataclass what an object of it has that was given
    nothing, __post_init__ included; of others what SFTConfig has, else None."""
    if not dataclasses.is_dataclass(found) or isinstance(found, type):
        own = [name for name in getattr(found, "__dict__", {}) if not name.startswith("_")]
        named = [*(name for name in _DEFAULTS if hasattr(found, name)), *own]
        return {name: _DEFAULTS.get(name) for name in named}
    fields = [field for field in dataclasses.fields(found) if hasattr(found, field.name)]
    needed = [f.name for f in fields if f.init and _default(f) is dataclasses.MISSING]
    kind: Any = type(found)
    try:
        fresh = kind(**{name: getattr(found, name) for name in needed})
    except ValueError:  # defaults that this machine does not allow, such as TRL's bf16 on some CPUs
        return {f.name: None if f.name in needed else _default(f) for f in fields}
    return {field.name: getattr(fresh, field.name, None) for field in fields}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def plain(value: Any) -> Any:
    """An enumeration's value; others as they are."""
    return value.value if isinstance(value, enum.Enum) else value
