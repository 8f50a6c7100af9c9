"""A module with one edit in its source: what a guard must catch."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest


def mutant(name: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Module `name` executed again with `old` (which must occur once) replaced by `new`; undone after the test."""
    original = importlib.import_module(name)
    assert original.__file__ is not None
    source = Path(original.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{name} has {source.count(old)} times {old!r}: update the mutation"
    module = ModuleType(name)
    module.__file__ = original.__file__
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(source.replace(old, new), original.__file__, "exec"), module.__dict__)
    return module
