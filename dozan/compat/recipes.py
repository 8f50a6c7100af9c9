"""From the familiar arguments to a recipe: what FastModel and SFTConfig were given, by the recipe's own names."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dozan.compat.say import say
from dozan.compat.settings import SFTConfig
from dozan.errors import InputError
from dozan.recipe import ALL_TARGETS, Recipe, parse_recipe
from dozan.train.prepare import training_device

NAME = "familiar"
_OPTIMIZERS = {
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), "adamw_8bit"),
}
_SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "cosine_with_min_lr": "cosine", "constant": "constant",
    "constant_with_warmup": "constant",
}  # fmt: skip
_TRACKERS = ("wandb", "tensorboard", "trackio")
_NEVER = 2**31 - 1
"""Steps after which nothing is done but at the end."""
_RECOMPUTE: dict[object, Any] = {"unsloth": "auto", True: "layers", False: "none", "true": "layers", "false": "none"}


@dataclass
class ModelSettings:
    """What from_pretrained and get_peft_model were given: None where it is left to the recipe. adapter: the recipe's
    section, None before get_peft_model."""

    max_tokens: int | None = None
    dtype: str | None = None
    quantise: str = "none"
    recompute: Any = "auto"
    seed: int | None = None
    full: bool = False
    embedding: str = "auto"
    adapter: dict[str, Any] | None = field(default=None)


def recompute_of(value: object) -> Any:
    """`use_gradient_checkpointing` as train.recompute. Raises InputError."""
    key = value.lower() if isinstance(value, str) else value
    if key not in _RECOMPUTE:
        raise InputError(f"use_gradient_checkpointing={value!r}: give 'unsloth', True or False")
    return _RECOMPUTE[key]


def dtype_named(value: object) -> str | None:
    """A dtype by its name or torch's, None for what suits the device. Raises InputError."""
    if value is None or value == "auto":
        return None
    name = str(value).removeprefix("torch.")
    if name not in ("float32", "bfloat16", "float16"):
        raise InputError(f"dtype={value!r}: give torch.float32, torch.bfloat16, torch.float16 or None")
    return name


def adapter_section(values: dict[str, Any]) -> dict[str, Any]:
    """The recipe's adapter of get_peft_model's arguments. Raises InputError for what is not offered."""
    wanted = values["target_modules"]
    everything = wanted is None or wanted == "all-linear"
    named: list[str] = list(ALL_TARGETS) if everything else [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in named if name not in ALL_TARGETS]
    if unknown:
        raise InputError(f"get_peft_model: target_modules {unknown} are not adapted; choose of {', '.join(ALL_TARGETS)}"
                         ", or train every weight: from_pretrained(full_finetuning=True)")  # fmt: skip
    left_out = () if values["finetune_attention_modules"] else ALL_TARGETS[:4]
    left_out += () if values["finetune_mlp_modules"] else ALL_TARGETS[4:]
    targets = [name for name in ALL_TARGETS if name in named and name not in left_out]
    if not targets:
        raise InputError("get_peft_model: nothing is left to adapt; set finetune_attention_modules or "
                         "finetune_mlp_modules")  # fmt: skip
    if values["init_lora_weights"] not in (True, "gaussian"):
        raise InputError(f"get_peft_model: init_lora_weights={values['init_lora_weights']!r} is not offered; "
                         "leave it True")  # fmt: skip
    return {
        "rank": values["r"], "alpha": float(values["lora_alpha"]), "rslora": bool(values["use_rslora"]),
        "dora": bool(values["use_dora"]), "dropout": float(values["lora_dropout"]), "targets": targets,
    }  # fmt: skip


def recipe_of(model: ModelSettings, config: SFTConfig, chat: str, rows: int) -> Recipe:
    """The recipe of a run on so many rows. Raises InputError with everything that does not fit."""
    batch = _counted(config, "per_device_train_batch_size") * _counted(config, "gradient_accumulation_steps")
    steps_per_epoch = math.ceil(rows / batch)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(config.num_train_epochs * steps_per_epoch)
    limits = [limit for limit in (model.max_tokens, config.max_seq_length, config.max_length) if limit]
    train = {
        "seed": _seed(model, config), "epochs": float(config.num_train_epochs),
        "max_steps": config.max_steps if config.max_steps > 0 else None, "batch_size": batch,
        "micro_batch_size": None if config.gradient_accumulation_steps == 1 else config.per_device_train_batch_size,
        "learning_rate": float(config.learning_rate), "weight_decay": float(config.weight_decay),
        "betas": [config.adam_beta1, config.adam_beta2], "epsilon": float(config.adam_epsilon),
        "clip_norm": _clip(config), "optimizer": _optimizer(config), "dtype": _dtype(model, config),
        "deterministic": bool(config.full_determinism), "weights": "full" if model.full else "adapter",
        "log_steps": max(1, int(config.logging_steps)), **_schedule(config, steps), **_recompute(model, config),
        **_saving(config, steps),
    }  # fmt: skip
    values = {
        "name": NAME, "chat": chat, "train": train, "track": _track(config),
        "model": {"quantise": model.quantise, "embedding": model.embedding}, "adapter": model.adapter or {},
        "data": {"holdout": 0.0, **({"max_tokens": min(limits)} if limits else {})},
    }  # fmt: skip
    return parse_recipe(values, "SFTConfig")


def eval_strategy(config: SFTConfig) -> str:
    """no, steps or epoch. Raises InputError for anything else."""
    named = str(config.evaluation_strategy or config.eval_strategy)
    if named not in ("no", "steps", "epoch"):
        raise InputError(f"SFTConfig: eval_strategy={named!r}: give no, steps or epoch")
    return named


def _counted(config: SFTConfig, name: str) -> int:
    value = getattr(config, name)
    if type(value) is not int or value < 1:
        raise InputError(f"SFTConfig: {name}={value!r}: give a whole number from 1 up")
    return value


def _seed(model: ModelSettings, config: SFTConfig) -> int:
    if config.data_seed not in (None, config.seed):
        raise InputError(f"SFTConfig: data_seed={config.data_seed}: one seed draws everything; leave it out")
    if "seed" not in config.given:
        return config.seed if model.seed is None else model.seed
    if model.seed not in (None, config.seed):
        say(f"SFTConfig: seed={config.seed} draws everything, the adapter too; random_state={model.seed} is not used")
    seed: int = config.seed
    return seed


def _clip(config: SFTConfig) -> float:
    if not config.max_grad_norm:
        raise InputError("SFTConfig: max_grad_norm=0: gradients are always clipped; give a large number, such as 1e9")
    return float(config.max_grad_norm)


def _optimizer(config: SFTConfig) -> str:
    named = str(config.optimizer or config.optim)
    if named not in _OPTIMIZERS:
        raise InputError(f"SFTConfig: optim={named!r} is not offered; give adamw_torch or adamw_8bit")
    if named.startswith("paged"):
        say(f"SFTConfig: optim={named!r}: the moments are not paged; {_OPTIMIZERS[named]} is used")
    return _OPTIMIZERS[named]


def _dtype(model: ModelSettings, config: SFTConfig) -> str:
    if config.bf16 and config.fp16:
        raise InputError("SFTConfig: bf16 and fp16 are both True; choose one, or leave both out")
    if config.bf16:
        return "bfloat16"
    if config.fp16 and training_device().type == "cpu":
        say("SFTConfig: fp16=True is for GPUs; on this CPU the run computes in what suits it")
        return "auto"
    return "float16" if config.fp16 else model.dtype or "auto"


def _schedule(config: SFTConfig, steps: int) -> dict[str, Any]:
    named = str(config.lr_scheduler_type)
    if named not in _SCHEDULES:
        raise InputError(f"SFTConfig: lr_scheduler_type={named!r} is not offered; give {', '.join(_SCHEDULES)}")
    settings = dict(config.lr_scheduler_kwargs or {})
    lowest = settings.pop("min_lr", None)
    share = settings.pop("min_lr_rate", None)
    if settings or (named != "cosine_with_min_lr" and (lowest, share) != (None, None)):
        raise InputError(f"SFTConfig: lr_scheduler_kwargs={config.lr_scheduler_kwargs!r}: min_lr or min_lr_rate of "
                         "cosine_with_min_lr are all that is known")  # fmt: skip
    asked = config.warmup_steps or config.warmup_ratio or 0
    warmup = math.ceil(asked * steps) if asked < 1 else int(asked)
    return {
        "schedule": _SCHEDULES[named], "warmup_steps": 0 if named == "constant" else warmup,
        "min_learning_rate": float(lowest if lowest is not None else (share or 0.0) * config.learning_rate),
    }  # fmt: skip


def _recompute(model: ModelSettings, config: SFTConfig) -> dict[str, Any]:
    asked = config.gradient_checkpointing
    recompute = model.recompute if asked is None else "layers" if asked else "none"
    if config.activation_offloading:
        return {"recompute": "layers", "offload": True}
    return {"recompute": recompute}


def _saving(config: SFTConfig, steps: int) -> dict[str, Any]:
    looks = eval_strategy(config)
    saves = str(config.save_strategy)
    if saves not in ("no", "steps", "epoch", "best"):
        raise InputError(f"SFTConfig: save_strategy={saves!r}: give no, steps, epoch or best")
    evaluated = None if looks == "epoch" else _steps(config.eval_steps or config.logging_steps, steps)
    saved = {"no": _NEVER, "steps": _steps(config.save_steps, steps), "epoch": None, "best": evaluated}
    limit = config.save_total_limit
    return {
        "eval_steps": evaluated, "save_steps": saved[saves],
        **({} if limit is None else {"keep_checkpoints": max(1, int(limit))}),
    }  # fmt: skip


def _steps(value: float, steps: int) -> int:
    return max(1, math.ceil(value * steps)) if 0 < value < 1 else int(value)


def _track(config: SFTConfig) -> dict[str, Any]:
    asked = config.report_to
    names = [] if asked in (None, "none", [], ["none"]) else [asked] if isinstance(asked, str) else list(asked)
    unknown = [name for name in names if name not in _TRACKERS]
    if unknown:
        raise InputError(f"SFTConfig: report_to={asked!r}: name them, of {', '.join(_TRACKERS)}; or 'none'")
    project = config.project if "project" in config.given else None
    return {"to": names, "project": project, "name": config.run_name}


def small(parameters: int) -> bool:
    """Whether NF4 is a poor bargain."""
    return parameters < 10**9


def large(parameters: int) -> bool:
    """Whether it is what notebooks take without saying so: the 4B's text model has 3.9e9, and up."""
    return parameters > 3.5e9

