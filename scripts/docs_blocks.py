"""The code of a documentation page: its blocks, and whether a command in them is one that exists.

A block of bash, console or python is run by tests/test_docs_commands.py. A comment right before it says otherwise:

    <!-- not run: needs a GPU -->                its commands must exist, that is all
    <!-- run: --limit 2 -->                      with these arguments behind its `dozan` commands
    <!-- run: light-1 => ma-1 -->                with one text in the place of another (or of nothing)
    <!-- run: exit 2 -->                         the last command leaves with this code
    <!-- prints -->                              before a block of text: what the python block above it prints
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from dozan.cli import app

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>not run|run|prints)(?:: (?P<said>.*?))? -->\n)?"
    r"^(?P<indent> *)```(?P<kind>\w+)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)  # fmt: skip
_INLINE = re.compile(r"(?<!`)`(dozan [a-z][^`\n]*)`(?!`)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line of the page where that begins, and what the page says of it."""

    kind: str
    code: str
    line: int
    note: str
    said: str

    @property
    def is_run(self) -> bool:
        return self.note != "not run"

    @property
    def run_code(self) -> str:
        """The code as it is run: with one text in the place of another, where the page says so."""
        if self.note != "run" or "=>" not in self.said:
            return self.code
        old, new = (part.strip() for part in self.said.split("=>"))
        assert old in self.code, f"line {self.line}: {old!r} does not stand in the block"
        return self.code.replace(old, new)

    @property
    def arguments(self) -> list[str]:
        """What stands behind each command."""
        plain = self.note == "run" and "=>" not in self.said and not self.said.startswith("exit ")
        return shlex.split(self.said) if plain else []

    @property
    def exit_code(self) -> int:
        """What its last command leaves with."""
        return int(self.said.removeprefix("exit ")) if self.note == "run" and self.said.startswith("exit ") else 0


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page that names its language."""
    found = []
    for match in _BLOCK.finditer(text):
        line = text[: match.start("code")].count("\n") + 1
        indent = match["indent"]
        code = "".join(part.removeprefix(indent) for part in match["code"].splitlines(keepends=True))
        found.append(Block(match["kind"], code, line, match["note"] or "", match["said"] or ""))
    return found


def commands(code: str, kind: str = "bash") -> list[str]:
    """The commands of a block, a line each: continued lines joined, comments and a console's output left out."""
    lines = code.replace("\\\n", " ").splitlines()
    if kind == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    found: list[str] = []
    for line in lines:
        if found and not _is_whole(found[-1]):
            found[-1] += f"\n{line}"
        elif line.strip() and not line.lstrip().startswith("#"):
            found.append(line.strip())
    return found


def inline_commands(text: str) -> list[str]:
    """The commands that stand in the prose, as `dozan train`."""
    prose = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [match[1] for match in _INLINE.finditer(prose)]


def words(command: str) -> list[str]:
    """The words of a command, without variables set before it, redirections and what is behind a pipe."""
    found = shlex.split(command, comments=True)
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
        found = found[1:]
    ends = [i for i, word in enumerate(found) if word in ("|", "&", "&&", ";", ">", ">>", "<", "2>")]
    return found[: ends[0]] if ends else found


def problem(command: str) -> str | None:
    """What is wrong with a command: a verb, option, target, extra or module that is not there; None if it is known."""
    found = words(command)
    if not found:
        return None
    if found[0] == "dozan":
        return _dozan_problem(found[1:])
    if found[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        unknown = [word for word in found[1:] if "=" not in word and word not in targets]
        return f"no target {unknown[0]!r} in the Makefile" if unknown else None
    if "pip" in found and "install" in found:
        extras = {extra for word in found for extra in re.findall(r"\[([a-z,]+)\]", word)}
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        unknown = [name for extra in extras for name in extra.split(",") if name not in known]
        return f"no extra {unknown[0]!r} in pyproject.toml" if unknown else None
    if found[:2] == ["python", "-m"] and found[2].split(".")[0] in ("bench", "scripts", "dozan"):
        return None if importlib.util.find_spec(found[2]) else f"no module {found[2]!r}"
    if found[0] == "python" and found[1].endswith(".py"):
        return None if (ROOT / found[1]).is_file() else f"no file {found[1]!r}"
    return None


def prose_problem(command: str) -> str | None:
    """What is wrong with a command in the prose, which may leave out what a verb needs: its verb and options exist."""
    found = re.split(r"\s+", command)[1:]
    verb, rest, path = _verb(found)
    if verb is None:
        return f"no verb {path!r}"
    known = {name for parameter in verb.params for name in parameter.opts} | {"--help"}
    given = [word.split("=")[0].rstrip(".,") for word in rest if word.startswith("--")]
    unknown = [name for name in given if name not in known]
    return f"{path} has no {unknown[0]}" if unknown else None


def _is_whole(command: str) -> bool:
    """Whether no quotation is left open."""
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return False
    return True


def _dozan_problem(arguments: list[str]) -> str | None:
    verb, rest, path = _verb(arguments)
    if verb is None:
        return f"no verb {path!r}"
    if rest in (["--help"], ["-h"]):
        return None
    try:
        verb.make_context(path, list(rest))
    except _usage_error() as error:
        return f"{path}: {error.format_message()}"
    return None


def _verb(arguments: list[str]) -> tuple[Any, list[str], str]:
    """The command that the arguments name (None if there is none), what is left of them, and its path."""
    command: Any = typer.main.get_command(app)
    path = "dozan"
    rest = list(arguments)
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        path = f"{path} {rest[0]}"
        command = command.commands.get(rest.pop(0))
    return command, rest, path


def _usage_error() -> type[Any]:
    """The error that a command raises for arguments that it does not know."""
    kind = type(typer.BadParameter("")).__mro__[1]
    assert kind.__name__ == "UsageError", kind
    return kind
