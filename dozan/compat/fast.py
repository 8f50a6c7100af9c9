"""FastModel and FastLanguageModel: a checkpoint opened for training or for answers, by Unsloth's argument names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dozan.compat.arguments import FROM_PRETRAINED, GET_PEFT_MODEL
from dozan.compat.model import Model, hub_token
from dozan.compat.recipes import ModelSettings, adapter_section, dtype_named, large, recompute_of, small
from dozan.compat.say import say, weigh
from dozan.compat.tokenizer import ChatTokenizer
from dozan.errors import InputError
from dozan.model.bundle import check_rows, open_shell
from dozan.model.hub import resolve_model
from dozan.model.peft_format import ADAPTER_CONFIG
from dozan.model.weights import checked_inventory, holds_nf4

_SEED = 3407


class FastModel:
    """`from_pretrained`, `get_peft_model`, `for_inference`; docs/en/familiar-api.md says what each argument means."""

    @staticmethod
    def from_pretrained(
        model_name: str | Path = "dozan:embedded", max_seq_length: int | None = None, dtype: Any = None,
        load_in_4bit: bool = False, load_in_8bit: bool = False, load_in_16bit: bool = False,
        full_finetuning: bool = False, use_gradient_checkpointing: str | bool = "unsloth", token: str | None = None,
        random_state: int = _SEED, device_map: Any = "sequential", offload_embedding: bool = False, **more: Any,
    ) -> tuple[Model, ChatTokenizer]:  # fmt: skip
        """The model and its tokenizer; the checkpoint's configuration, tokenizer and tensors' shapes are checked here.

        Raises InputError for what cannot be used and for arguments that are not offered.
        """
        given = {key: value for key, value in locals().items() if key != "more"} | more
        weigh("from_pretrained", FROM_PRETRAINED, given)
        if load_in_4bit and (load_in_16bit or full_finetuning):
            other = "full_finetuning" if full_finetuning else "load_in_16bit"
            raise InputError(f"from_pretrained: load_in_4bit and {other} cannot both be; weights in 4 bits stay "
                             f"as they are. Leave load_in_4bit out for {other}")  # fmt: skip
        name = str(model_name)
        with hub_token(token):  # an adapter's base may be on the hub too
            is_run = (Path(name).expanduser() / "run.json").is_file()
            folder = Path(name).expanduser() if is_run else resolve_model(name)
            trained = folder if is_run or _is_adapter(folder) else None
            shell, was_quantised = open_shell(folder)
        checked_inventory(shell.base_folder, shell.config)
        check_rows(shell.base_folder, shell.tokenizer, shell.chat, shell.config.vocab_size)
        length = max_seq_length or shell.config.max_position_embeddings
        tokenizer = ChatTokenizer(shell.base_folder, shell.tokenizer, shell.chat, name, length)
        settings = ModelSettings(
            max_tokens=max_seq_length, dtype=dtype_named(dtype), full=bool(full_finetuning),
            quantise="nf4" if load_in_4bit else was_quantised, recompute=recompute_of(use_gradient_checkpointing),
            seed=None if random_state == _SEED else random_state, embedding="cpu" if offload_embedding else "auto",
        )  # fmt: skip
        model = Model(name, shell.base_folder, shell.config, tokenizer, settings, trained, token)
        if not load_in_16bit and not full_finetuning and not holds_nf4(shell.base_folder):
            _tell_of_bits(model, name, bool(load_in_4bit))
        return model, tokenizer

    @staticmethod
    def get_peft_model(
        model: Model, r: int = 16, target_modules: Any = None, lora_alpha: float = 16, lora_dropout: float = 0.0,
        bias: str = "none", use_rslora: bool = False, use_dora: bool = False,
        use_gradient_checkpointing: str | bool = "unsloth", random_state: int = _SEED,
        finetune_vision_layers: bool = True, finetune_language_layers: bool = True,
        finetune_attention_modules: bool = True, finetune_mlp_modules: bool = True, init_lora_weights: Any = True,
        modules_to_save: Any = None, loftq_config: Any = None, layers_to_transform: Any = None,
        max_seq_length: int | None = None, **more: Any,
    ) -> Model:  # fmt: skip
        """The same model, with the adapter that training will give it. Raises InputError for what is not offered."""
        given = {key: value for key, value in locals().items() if key != "more"} | more
        weigh("get_peft_model", GET_PEFT_MODEL, {**given, "model": None})
        settings = model.settings
        if settings.full:
            say("get_peft_model: full_finetuning=True trains every weight; no adapter is added")
            return model
        if model.was_opened_trained:
            raise InputError(f"get_peft_model: {model.trained} has an adapter already; merge it first: "
                             f"dozan merge {model.trained} --out DIR")  # fmt: skip
        if finetune_vision_layers and model.config.vision:
            say("get_peft_model: the checkpoint has a vision tower, which is not trained: text only")
        settings.adapter = adapter_section(given)
        if use_gradient_checkpointing != "unsloth":
            settings.recompute = recompute_of(use_gradient_checkpointing)
        if random_state != _SEED:
            settings.seed = random_state
        if max_seq_length is not None:
            settings.max_tokens = max_seq_length
        return model

    @staticmethod
    def for_inference(model: Model) -> Model:
        """The model, ready to answer, as it always is."""
        return model

    @staticmethod
    def for_training(model: Model, use_gradient_checkpointing: str | bool | None = None) -> Model:
        """The model; the trainer makes it ready. use_gradient_checkpointing: as in from_pretrained, in its place.
        Raises InputError."""
        if use_gradient_checkpointing is not None:
            model.settings.recompute = recompute_of(use_gradient_checkpointing)
        return model


def _is_adapter(folder: Path) -> bool:
    """Whether a folder, a user's or one from the hub, holds an adapter and no model."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def _tell_of_bits(model: Model, name: str, in_4bit: bool) -> None:
    """Say where load_in_4bit is a poor choice, or is left out where it is a good one. Only of 16-bit checkpoints."""
    count = model.num_parameters()
    if in_4bit and small(count):
        share = model.config.vocab_size * model.config.hidden_size / count
        say(f"from_pretrained: load_in_4bit=True: {name} has {count / 1e6:.0f} M parameters, {share:.0%} of them in "
            "the embedding, which stays in 16 bits: 4 bits cost quality and save little here; leave it out unless "
            "memory is short")  # fmt: skip
    if not in_4bit and large(count) and model.settings.quantise != "nf4":
        say(f"from_pretrained: {name} has {count / 1e9:.1f} B parameters and opens in 16 bits, {2 * count / 1e9:.0f} "
            "GB of weights: load_in_4bit=True holds the linears in 4 bits; load_in_16bit=True says that 16 are "
            "meant")  # fmt: skip


class FastLanguageModel(FastModel):
    """The same by its other name."""


def is_bfloat16_supported() -> bool:
    """Whether the device multiplies in bfloat16."""
    from dozan.kernels.precision import multiplies_bfloat16
    from dozan.train.prepare import training_device

    return multiplies_bfloat16(training_device())

