"""dozan (دوزان) tunes Gemma 3 on your rows: train, evaluate, merge, export. Everything heavy loads on first use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan import chat_templates, data
    from dozan.compat.fast import FastLanguageModel, FastModel, is_bfloat16_supported
    from dozan.compat.settings import SFTConfig
    from dozan.compat.streamer import TextStreamer
    from dozan.compat.trainer import SFTTrainer
    from dozan.demo import demo
    from dozan.reproduce.reproduce import reproduce
    from dozan.ship.export import export
    from dozan.ship.merge import merge
    from dozan.ship.served import evaluate
    from dozan.sweep.sweep import sweep
    from dozan.train.loop import train
    from dozan.train.memory_plan import plan

__version__ = "0.1.0"

EMBEDDED_BASE: str = str(Path(__file__).parent / "assets" / "base")
"""Folder of the small Gemma 3 that comes with the package: what is trained when no model is named."""

__all__ = [
    "EMBEDDED_BASE", "FastLanguageModel", "FastModel", "InputError", "SFTConfig", "SFTTrainer", "TextStreamer",
    "__version__", "chat_templates", "data", "demo", "evaluate", "export", "is_bfloat16_supported", "merge", "plan",
    "reproduce", "sweep", "train",
]  # fmt: skip

_HOMES = {
    "evaluate": "dozan.ship.served", "export": "dozan.ship.export", "merge": "dozan.ship.merge",
    "plan": "dozan.train.memory_plan", "FastModel": "dozan.compat.fast", "FastLanguageModel": "dozan.compat.fast",
    "is_bfloat16_supported": "dozan.compat.fast", "SFTConfig": "dozan.compat.settings",
    "SFTTrainer": "dozan.compat.trainer", "TextStreamer": "dozan.compat.streamer",
}  # fmt: skip
_MODULES = ("chat_templates", "data", "demo", "hf", "reproduce", "sweep", "train")


def __getattr__(name: str) -> Any:
    """The public functions, imported when first asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f"dozan.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dozan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
