"""The house: which way modules import, how long they are, what they may not catch, what a help page may not load."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dozan"
# fmt: off
ORDER = ["errors", "world", "recipe", "rows", "chat", "html", "pack", "check", "kernels", "model", "judge", "track",
         "train", "ship", "hf", "compat", "cli"]
# fmt: on
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
FIRST_BUDGET_SECONDS = 3.0
"""Generous: a loaded machine takes several times the 0.1 seconds of a quiet one, and torch alone takes longer."""

each_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def dotted(path: Path) -> list[str]:
    return list(path.relative_to(ROOT).with_suffix("").parts)


def stage(parts: list[str]) -> int | None:
    """The place of a module in the flow; None for what is outside it, such as the package itself."""
    return ORDER.index(parts[1]) if len(parts) > 1 and parts[0] == "dozan" and parts[1] in ORDER else None


def imports(module: ast.Module, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a module imports, at any depth."""
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = base + (node.module.split(".") if node.module else [])
            yield from ((node.lineno, ".".join([*stem, alias.name])) for alias in node.names)


def against_the_flow(module: ast.Module, parts: list[str]) -> list[str]:
    """The imports of a module that come later in the flow than it does."""
    here = stage(parts)
    found = ((line, name, stage(name.split("."))) for line, name in imports(module, parts[:-1]))
    return [f"line {line}: {name}" for line, name, there in found if None not in (here, there) and there > here]  # type: ignore[operator]


def broad_handlers(module: ast.Module) -> list[int]:
    """Lines of handlers that catch everything."""
    handlers = [node for node in ast.walk(module) if isinstance(node, ast.ExceptHandler)]
    return [handler.lineno for handler in handlers if handler.type is None or is_broad(handler.type)]


def is_broad(caught: ast.expr) -> bool:
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(isinstance(name, ast.Name) and name.id in ("Exception", "BaseException") for name in names)


@each_file
def test_imports_follow_the_flow(path: Path) -> None:
    assert against_the_flow(tree(path), dotted(path)) == []


@each_file
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    functions = [node for node in ast.walk(tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@each_file
def test_nothing_catches_everything(path: Path) -> None:
    assert broad_handlers(tree(path)) == []


@each_file
def test_the_first_line_says_what_the_file_is(path: Path) -> None:
    module = tree(path)
    assert not module.body or ast.get_docstring(module), "a file with code starts with a docstring"


def test_the_checks_see_what_they_forbid() -> None:
    module = ast.parse(
        "from dozan.train import loop\nfrom ..ship.gguf import x\nimport dozan.chat\n"
        "try:\n    pass\nexcept (KeyError, Exception):\n    pass\nexcept:\n    pass\n"
    )
    late = against_the_flow(module, ["dozan", "judge", "score"])
    assert late == ["line 1: dozan.train.loop", "line 2: dozan.ship.gguf.x"]
    assert broad_handlers(module) == [6, 8]


LIGHT = ("recipe", "rows.readers", "rows.arabic", "rows.splits", "chat", "chat.encode", "cli")


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_load_no_torch(name: str) -> None:
    heavy = "{'torch', 'transformers', 'rich', 'gguf'}" if name == "cli" else "{'torch', 'transformers'}"
    code = f"import sys, dozan.{name}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_help_loads_no_torch_and_comes_at_once() -> None:
    code = (
        "import sys\nfrom dozan.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'yaml', 'pydantic', 'rich'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds = time.perf_counter() - started
    assert done.stdout.splitlines()[-1] == "[]"
    assert seconds < FIRST_BUDGET_SECONDS


def test_public_names_are_there_and_verbs_answer_calls() -> None:
    import dozan
    import dozan.train.loop

    assert {name for name in dozan.__all__ if not hasattr(dozan, name)} == set()
    assert callable(dozan.train) and callable(dozan.demo), "a subpackage in the place of the function of its name"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dozan.trian  # type: ignore[attr-defined]
