"""A LoraConfig of PEFT as get_peft_model's arguments: every field is taken, at its default, or refused."""

from __future__ import annotations

from typing import Any

from dozan.compat.arguments import GET_PEFT_MODEL
from dozan.compat.say import say
from dozan.compat.settings import field_defaults, plain
from dozan.errors import InputError

_TARGETS = ["q_proj", "v_proj"]
"""What PEFT adapts of gemma3_text where target_modules is left out."""
_ABOUT_FILES = ("peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "inference_mode")
"""What PEFT notes in an adapter's own file."""


def adapter_arguments(config: object) -> dict[str, Any]:
    """The arguments that a LoraConfig, or an object with such attributes, comes to; target_modules left out is PEFT's
    choice, which is said. Raises InputError for another kind of adapter, and with all fields that are not offered."""
    kind = str(plain(getattr(config, "peft_type", None) or "LORA"))
    if kind != "LORA" or not hasattr(config, "r"):
        raise InputError(f"SFTTrainer: peft_config is a {type(config).__name__}; give peft's LoraConfig")
    defaults = field_defaults(config)
    values = {name: plain(getattr(config, name)) for name in defaults if name not in _ABOUT_FILES}
    taken = {argument.name for argument in GET_PEFT_MODEL}
    strange = [f"{name}={value!r:.80}" for name, value in values.items()
               if name not in taken and value != plain(defaults[name])]  # fmt: skip
    if strange:
        raise InputError(f"SFTTrainer: peft_config: {', '.join(strange)} not offered; leave out")
    found = {name: value for name, value in values.items() if name in taken}
    if not found.get("target_modules"):
        say(f"SFTTrainer: peft_config names no target_modules: {' and '.join(_TARGETS)} are adapted, as PEFT does; "
            "'all-linear' adapts all seven")  # fmt: skip
        found["target_modules"] = _TARGETS
    return found
