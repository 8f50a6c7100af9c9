"""Writes the reference pages of the documentation from the program: every verb with its options, every setting.

`python -m scripts.docs_reference` writes docs/en/verbs.md and docs/en/recipe.md; a test compares them with what
it would write. A setting's meaning is what the docstring of its section says about it, else a line of `MEANINGS`.
"""

from __future__ import annotations

import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dozan.cli import app
from dozan.recipe import Recipe, load_recipe, recipe_names

PAGES = Path(__file__).parents[1] / "docs" / "en"
MADE = "<!-- Written by `python -m scripts.docs_reference`; do not edit. -->\n"

GUIDES = {
    "demo": "start.md", "train": "start.md", "resume": "reliability.md", "runs": "reliability.md",
    "clean": "reliability.md", "doctor": "install.md", "plan": "memory.md", "compare": "scores.md",
    "render-diff": "runtimes.md", "push": "export.md", "forget": "scores.md", "eval": "scores.md", "merge": "export.md",
    "export": "export.md", "run": "serve.md", "serve": "serve.md", "data": "rows.md", "sweep": "sweep.md",
    "reproduce": "reproduce.md", "join": "scores.md",
}  # fmt: skip
"""Where more is said about a verb; a page that is not there is not linked."""

MEANINGS = {
    "name": "what the run calls its recipe",
    "chat": "how rows become text; auto asks the tokenizer",
    "pack": "tries share what rows have in common, paths put rows one behind another, none keeps each alone; "
            "no result changes",
    "adapter.rank": "R, the inner width of `B A`",
    "adapter.alpha": "the numerator of the scale",
    "adapter.rslora": "the scale is `alpha / sqrt(rank)` instead of `alpha / rank`",
    "adapter.dora": "magnitudes are trained beside the directions",
    "adapter.dropout": "share of the adapter's inputs that a step drops",
    "adapter.targets": "the linears that get an adapter",
    "data.max_tokens": "tokens a row may have; a longer one is an error, never cut",
    "data.holdout": "share of the rows held out, by sentence pattern",
    "train.seed": "of everything random",
    "train.epochs": "passes over the rows",
    "train.learning_rate": "the peak",
    "train.schedule": "how the rate falls after the warm-up",
    "train.min_learning_rate": "where the schedule ends",
    "train.weight_decay": "of matrices; vectors are spared",
    "train.betas": "AdamW's",
    "train.epsilon": "AdamW's",
    "train.clip_norm": "the gradient's norm is brought down to this",
    "train.offload": "the inputs of recomputed layers wait in host memory",
    "train.fsdp": "on several ranks each holds a part of the weights and gathers the layer it computes (FSDP2); auto "
    "does so where the whole does not fit a GPU",
    "train.keep_checkpoints": "the newest so many stay, and the best on held-out rows",
    "train.log_steps": "steps between lines of the log",
    "track.to": "wandb, tensorboard, trackio, several or none; each is an extra",
    "score.rows": "how many of the held-out rows are answered; 0: none",
    "score.steps": "steps between scorings; null: with each evaluation of the loss",
    "score.by": "the score by which the run's adapter is the best",
    "score.max_new_tokens": "tokens that an answer may have",
}  # fmt: skip
"""What no docstring says."""

_BOUNDS = {Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")}


def main() -> None:
    for name, text in pages().items():
        (PAGES / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {"verbs.md": verbs_page(), "recipe.md": recipe_page()}


def verbs_page() -> str:
    """Every verb: what it does, its arguments, its options."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# Verbs\n", MADE,
        f"{group.help}\n",
        "Exit codes of all: 0 done, 2 what was given cannot be used (the message names it), 75 stopped and can go on, "
        "1 the rest. `dozan VERB --help` prints the same in a terminal.\n",
    ]  # fmt: skip
    for name, command in sorted(group.commands.items()):
        parts.append(_verb(f"dozan {name}", command, 2))
        for inner, verb in sorted(getattr(command, "commands", {}).items()):
            parts.append(_verb(f"dozan {name} {inner}", verb, 3))
    return "\n".join(parts)


def _verb(name: str, command: Any, level: int) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
    usage = " ".join([name, *(_metavar(p) if p.required else f"[{_metavar(p)}]" for p in arguments)])
    usage += " [OPTIONS]" if options else ""
    guide = GUIDES.get(name.removeprefix("dozan "))
    more = f" More: [{guide.removesuffix('.md')}]({guide})." if guide and (PAGES / guide).is_file() else ""
    text = f"{'#' * level} {name}\n\n{command.help}{more}\n"
    if getattr(command, "commands", None):
        return text
    text += f"\n```text\n{usage}\n```\n"
    rows = [f"| `{_metavar(p)}` | {_said(p)} | {_default(p)} |" for p in arguments]
    rows += [f"| {_flags(p)} | {_said(p)} | {_default(p)} |" for p in options]
    return text + ("\n| | meaning | default |\n|---|---|---|\n" + "\n".join(rows) + "\n" if rows else "")


def _metavar(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return str(name)


def _flags(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    value = _metavar(parameter)
    shown = f"<code>{value.replace('|', '&#124;')}</code>" if "|" in value else f"`{value}`"
    return names if parameter.is_flag else f"{names} {shown}"


def _said(parameter: Any) -> str:
    text = (parameter.help or "").replace("|", "\\|")
    repeats = getattr(parameter, "multiple", False) and "Repeats." not in text
    return f"{text} Repeats." if repeats else text


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    shown, value = getattr(parameter, "show_default", None), parameter.default
    if isinstance(shown, str):
        return shown
    if value is None or value in (False, (), []) or callable(value):
        return ""
    return f"`{value}`"


def recipe_page() -> str:
    """Every setting of a recipe, by section."""
    parts = [
        "# Recipe reference\n", MADE,
        "A recipe says everything that a run needs but its model and rows. It is one of the shipped ones ("
        + ", ".join(f"`{name}`" for name in recipe_names())
        + "), or a YAML file of your own. What it leaves out has the default below. `--set section.key=value` changes "
        "one setting, `dozan train --print-config` prints them all. An unknown key is refused with the nearest known "
        "one.\n",
        _table("", Recipe),
    ]  # fmt: skip
    for name, field in Recipe.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts += [f"## {name}\n", f"{_paragraphs(section)}\n", _table(f"{name}.", section)]
    return "\n".join([*parts, _shipped()])


def _shipped() -> str:
    """What the shipped recipes change."""
    text = "## The shipped recipes\n\nWhat each says otherwise than the defaults.\n"
    for name in recipe_names():
        changed = _differences(load_recipe(name).model_dump(mode="json"), Recipe().model_dump(mode="json"))
        text += f"\n### {name}\n\n```yaml\n" + "\n".join(changed) + "\n```\n"
    return text


def _differences(values: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _differences(value, defaults[key], f"{prefix}{key}.")
        elif value != defaults[key]:
            lines.append(f"{prefix}{key}: {_plain(value)}")
    return lines


def _table(prefix: str, section: type[BaseModel]) -> str:
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    said = meanings(section)
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        meaning = said.get(name) or MEANINGS.get(f"{prefix}{name}", "")
        default = _plain(field.get_default())
        lines.append(f"| `{prefix}{name}` | {_values(field)} | `{default}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def meanings(section: type[BaseModel]) -> dict[str, str]:
    """What the docstring of a section says about each field: the sentences that begin with its name."""
    text = " ".join(_paragraphs(section).split())
    found: dict[str, str] = {}
    for sentence in re.split(r"(?<=[.:;]) (?=`)|(?<=\.) ", text):
        named = [name for name in re.findall(r"`([a-z_]+)`", sentence.split(":")[0]) if name in section.model_fields]
        starts = re.match(r"`([a-z_]+)`", sentence)
        for name in dict.fromkeys(named if starts else ()):
            found[name] = f"{found[name]} {sentence}" if name in found else sentence
    plain = {name: re.sub(rf"^`{name}`(?:,? (?:of|which) [^:]*)?: ", "", said) for name, said in found.items()}
    return {name: said.rstrip(";.").replace(" of None ", " of null ") for name, said in plain.items()}


def _paragraphs(section: type[BaseModel]) -> str:
    lines = (section.__doc__ or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)


def _values(field: FieldInfo) -> str:
    kind = _kind(field.annotation)
    bounds = []
    for item in field.metadata:
        for bound, (attribute, sign) in _BOUNDS.items():
            if isinstance(item, bound):
                bounds.append(f"{sign}\N{NO-BREAK SPACE}{getattr(item, attribute):,}")
        if isinstance(item, MinLen):
            bounds.append(f"at least {item.min_length}")
    return f"{kind}, {', '.join(bounds)}" if bounds else kind


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(each) for each in inner)
    if origin is tuple:
        return "list of " + " and ".join(dict.fromkeys(_kind(each) for each in inner if each is not Ellipsis))
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0])
    return {int: "integer", float: "number", bool: "true, false", str: "text"}[annotation]


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
