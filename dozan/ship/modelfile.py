"""Ollama's Modelfile: written, read back and checked by Ollama's documented rules.

From ollama/ollama, docs/modelfile.mdx and parser/parser.go: a command is a word, a space and a value to the end of the
line; a value that begins with a quote, or three, goes on to the line that ends in as many. A line that begins with `#`
is a comment. What is not printable is dropped without a word, so it is refused here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.errors import InputError

COMMANDS = (
    "FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "RENDERER", "PARSER", "LICENSE", "MESSAGE", "REQUIRES"
)  # fmt: skip
PARAMETERS: dict[str, Callable[[str], object]] = {
    "num_ctx": int, "repeat_last_n": int, "repeat_penalty": float, "temperature": float, "seed": int, "stop": str,
    "num_predict": int, "top_k": int, "top_p": float, "min_p": float,
}  # fmt: skip
"""Those of the documentation, with the type of their values."""
BUILT_IN = ("functiongemma",)
"""The renderer and the parser that we name."""
GEMMA_TEMPLATE = """{{- $system := .System }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if eq .Role "user" }}<start_of_turn>user
{{ if $system }}{{ $system }}

{{ end }}{{ $system = "" }}{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
"""Gemma 3's turns as a Go template: the system text before the first user's, as in the official template."""

_ACTION = re.compile(r"{{-?\s*(.*?)\s*-?}}", re.DOTALL)
_ROLES = ("system", "user", "assistant")
_VERSION = re.compile(r"v?\d+\.\d+\.\d+")


@dataclass(frozen=True)
class Command:
    """One instruction; `name` is in capitals, a PARAMETER's value begins with its own name and a space."""

    name: str
    value: str
    line: int


def command_text(name: str, value: str) -> str:
    """A line of the file, or several. Raises InputError for a value that the format cannot hold."""
    wrong = sorted({character for character in value if character != "\n" and not character.isprintable()})
    if wrong:
        named = ", ".join(f"U+{ord(character):04X}" for character in wrong)
        raise InputError(f"{name}: holds {named}, which Ollama leaves out of a Modelfile without a word; take it out")
    if '"""' in value or value.endswith('"'):
        raise InputError(f'{name}: holds or ends in quotes that would end the value early; reword {value[-40:]!r}')
    plain = value and not value.startswith('"') and value.strip() == value and "\n" not in value
    return f"{name} {value}" if plain else f'{name} """{value}"""'


def read_modelfile(text: str, place: str) -> list[Command]:
    """The commands as Ollama reads them. Raises InputError with the line of what it would not take."""
    found: list[Command] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        line, number = lines[at].lstrip(" \t"), at + 1
        at += 1
        if not line or line.startswith("#"):
            continue
        name, _, value = line.partition(" ")
        if name.upper() not in COMMANDS or not value.strip():
            raise InputError(f"{place}:{number}: {line[:40]!r} is no command with a value; use {', '.join(COMMANDS)}")
        before = ""
        if name.upper() in ("PARAMETER", "MESSAGE"):
            before, _, value = value.strip().partition(" ")
        while (closed := _unquoted(value.strip())) is None:
            if at == len(lines):
                raise InputError(f"{place}:{number}: the quotes of {name} are never closed")
            value += "\n" + lines[at]
            at += 1
        found.append(Command(name.upper(), f"{before} {closed}" if before else closed, number))
    return found


def _unquoted(value: str) -> str | None:
    """The value without its quotes; None while they are open."""
    for quotes in ('"""', '"'):
        if value.startswith(quotes):
            ends = len(value) >= 2 * len(quotes) and value.endswith(quotes)
            return value[len(quotes) : -len(quotes)] if ends else None
    return value


def check_modelfile(text: str, folder: Path, place: str = "Modelfile") -> list[Command]:
    """The commands of a Modelfile in `folder` that Ollama would take. Raises one InputError with all that is wrong."""
    commands = read_modelfile(text, place)
    problems = [f"{place}:{command.line}: {problem}" for command in commands for problem in _problems(command, folder)]
    problems += [f"{place}: {problem}" for problem in _together(commands)]
    hidden = sorted({c for c in text if c not in "\n\t" and not c.isprintable()})
    problems += [f"{place}: holds U+{ord(c):04X}, which Ollama leaves out without a word" for c in hidden]
    if problems:
        raise InputError("\n".join(problems))
    return commands


def _problems(command: Command, folder: Path) -> list[str]:
    match command.name:
        case "FROM":
            return _from(command.value, folder)
        case "PARAMETER":
            return _parameter(*command.value.partition(" ")[::2])
        case "RENDERER" | "PARSER":
            known = ", ".join(BUILT_IN)
            return [] if command.value in BUILT_IN else [f"{command.name} {command.value!r} is not one of {known}"]
        case "TEMPLATE":
            return _template(command.value)
        case "MESSAGE":
            role = command.value.partition(" ")[0]
            return [] if role in _ROLES else [f"MESSAGE role {role!r}; use one of {', '.join(_ROLES)}"]
        case "REQUIRES":
            return [] if _VERSION.fullmatch(command.value) else [f"REQUIRES {command.value!r}; give one like 0.14.0"]
    return []


def _from(value: str, folder: Path) -> list[str]:
    """A GGUF file beside the Modelfile."""
    path = folder / value
    if Path(value).is_absolute():
        return [f"FROM {value}: an absolute path ends when the folder moves; give it relative to the Modelfile"]
    if not path.is_file():
        return [f"FROM {value}: no such file in {folder}; Ollama would look for a model of that name"]
    with path.open("rb") as file:
        return [] if file.read(4) == b"GGUF" else [f"FROM {value}: not a GGUF file"]


def _parameter(name: str, value: str) -> list[str]:
    if name not in PARAMETERS:
        return [f"PARAMETER {name!r} is unknown; Ollama has {', '.join(PARAMETERS)}"]
    try:
        PARAMETERS[name](value)
    except ValueError:
        return [f"PARAMETER {name} {value!r}: not {'a whole number' if PARAMETERS[name] is int else 'a number'}"]
    return [] if value else [f"PARAMETER {name} has no value"]


def _template(value: str) -> list[str]:
    """What a Go template needs: actions closed, blocks ended, and the messages or the prompt in it."""
    if value.count("{{") != value.count("}}") or len(_ACTION.findall(value)) != value.count("{{"):
        return ["TEMPLATE: {{ and }} do not pair"]
    depth, problems = 0, []
    for action in _ACTION.findall(value):
        word = action.split(" ")[0]
        depth += (word in ("if", "range", "with")) - (word == "end")
        if depth < 0 or (word == "else" and not depth):
            return [f"TEMPLATE: {word} without a block before it"]
    if depth:
        problems.append(f"TEMPLATE: {depth} blocks are never ended")
    if ".Messages" not in value and ".Prompt" not in value:
        problems.append("TEMPLATE: names neither .Messages nor .Prompt, so the model would see nothing")
    return problems


def _together(commands: Sequence[Command]) -> list[str]:
    counts = Counter(command.name for command in commands)
    problems = [f"{counts[name]} {name} lines; Ollama keeps the last" for name in counts
                if counts[name] > 1 and name in ("FROM", "TEMPLATE", "SYSTEM", "RENDERER", "PARSER")]  # fmt: skip
    if not counts["FROM"]:
        problems.append("no FROM line")
    if counts["RENDERER"] != counts["PARSER"]:
        problems.append("RENDERER and PARSER go together: one without the other writes calls that are not read back")
    if counts["TEMPLATE"] and counts["RENDERER"]:
        problems.append("TEMPLATE beside RENDERER is never used; leave one out")
    single = Counter(command.value.split(" ")[0] for command in commands if command.name == "PARAMETER")
    problems += [f"PARAMETER {name} is given {n} times" for name, n in single.items() if n > 1 and name != "stop"]
    return problems
