"""dozan (دوزان) tunes Gemma 3 on your rows: train, evaluate, merge, export. Everything heavy loads on first use."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dozan.errors import InputError

if TYPE_CHECKING:
    from dozan import data
    from dozan.demo import demo
    from dozan.ship.export import export
    from dozan.ship.merge import merge
    from dozan.ship.served import evaluate
    from dozan.train.loop import train
    from dozan.train.memory_plan import plan

__version__ = "0.1.0"

EMBEDDED_BASE: str = str(Path(__file__).parent / "assets" / "base")
"""Folder of the small Gemma 3 that comes with the package: what is trained when no model is named."""

__all__ = [
    "EMBEDDED_BASE", "InputError", "__version__", "data", "demo", "evaluate", "export", "merge", "plan", "train",
]  # fmt: skip

_HOMES = {
    "evaluate": "dozan.ship.served", "export": "dozan.ship.export", "merge": "dozan.ship.merge",
    "plan": "dozan.train.memory_plan",
}  # fmt: skip
_MODULES = ("data", "demo", "train")


def __getattr__(name: str) -> Any:
    """The public functions, imported when first asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f"dozan.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dozan' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
