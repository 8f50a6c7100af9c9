"""Lets a module be called like the function it is named after: `dozan.train(...)` beside `dozan.train.loop`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def callable_as(module: str, home: str) -> None:
    """Make the loaded `module` (`dozan.train`) callable: a call goes to the function of its last name in `home`.

    A package attribute cannot be a function and a subpackage at once: importing `dozan.train.loop` would put the
    package in the function's place. A module that answers calls is right in either order.
    """

    class CallableModule(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(home), module.rpartition(".")[2])(*args, **kwargs)

    sys.modules[module].__class__ = CallableModule
