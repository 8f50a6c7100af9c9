"""The lock: every file that `make install-locked` takes has a SHA-256, at the versions of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from scripts.lock import CONSTRAINTS, LOCK, ROOT, TORCH, entries, normalised, pinned

HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def problems(lock: str, torch: str, constraints: str, needed: list[str]) -> list[str]:
    """What is wrong with a lock and its part for torch."""
    found, versions = {**entries(lock), **entries(torch)}, pinned(constraints)
    wrong = [f"{name} has no hash" for name, (_, lines) in found.items() if len(lines) < 2]
    wrong += [f"{name} is {version}, constraints.txt has {versions[name]}" for name, (version, _) in found.items()
              if name in versions and versions[name] != version]  # fmt: skip
    wrong += [f"{name} has no pin" for name in entries(lock) if name not in versions and name != "setuptools"]
    wrong += [f"{name} is not locked" for name in needed if name not in found]
    for line in (lock + torch).splitlines():
        if not line.startswith("#") and "==" not in line and not HASH.fullmatch(line):
            wrong.append(f"not understood: {line[:60]}")
        if "://" in line or "--index" in line or " @ " in line:
            wrong.append(f"an address: {line[:60]}")
    return wrong


def given() -> tuple[str, str, str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [normalised(re.split(r"[<>=\[; ]", name)[0]) for name in project["dependencies"]]
    lock, torch, constraints = (path.read_text(encoding="utf-8") for path in (LOCK, TORCH, CONSTRAINTS))
    return lock, torch, constraints, needed


def test_the_lock_is_whole() -> None:
    assert problems(*given()) == []
    lock, torch, _, needed = given()
    assert len(entries(lock)) > 40 and "torch" in entries(torch) and "torch" not in entries(lock) and len(needed) > 15


@pytest.mark.parametrize(("old", "new", "words"), [
    (r"(?m)^(jinja2==\S+ \\\n)(?:    --hash.*\n)+", r"\1", "jinja2 has no hash"),
    (r"(?m)^numpy==\S+", "numpy==2.0.0", "numpy is 2.0.0, constraints.txt has"),
    (r"(?m)^numpy==\S+ \\\n(?:    --hash.*\n)+", "", "numpy is not locked"),
    (r"sha256:[0-9a-f]{64}", "md5:0", "not understood"),
    (r"(?m)^jinja2==\S+", "left-pad==1.0", "left-pad has no pin"),
    (r"(?m)^jinja2==", "--index-url https://example.com/simple\njinja2==", "an address"),
])  # fmt: skip
def test_each_fault_of_a_lock_is_seen(old: str, new: str, words: str) -> None:
    lock, *rest = given()
    changed = re.sub(old, new, lock, count=1)
    assert changed != lock
    assert any(words in problem for problem in problems(changed, *rest))


def test_the_lock_is_what_make_installs() -> None:
    makefile = Path(ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--require-hashes --no-deps" in makefile and "--no-build-isolation --editable" in makefile
