"""`dozan init`: five answers to a project: a folder for rows and one for runs, a recipe that says why, the commands."""

from __future__ import annotations

import difflib
import gzip
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import dozan
from dozan.errors import InputError
from dozan.init_text import gitignore, readme, recipe_text
from dozan.recipe import Recipe, load_recipe, override
from dozan.rows.purposes import PURPOSES as TEXT_PURPOSES

if TYPE_CHECKING:
    from dozan.check.report import Report

CALLS, EXAMPLE, NO_GPU, HERE, COLAB = "function-calls", "example", "none", "here", "colab"
PURPOSES = (CALLS, *TEXT_PURPOSES)
WHERE = (HERE, COLAB, "server")
EMBEDDED, FUNCTIONGEMMA = "embedded", "functiongemma"
HUB = {
    EMBEDDED: "dozan:embedded", FUNCTIONGEMMA: "google/functiongemma-270m-it",
    **{size: f"google/gemma-3-{size}-it" for size in ("1b", "4b", "12b", "27b")},
}  # fmt: skip
"""Short names of models, and what they stand for."""
QUANTISED = {size: f"unsloth/gemma-3-{size}-it-bnb-4bit" for size in ("4b", "12b", "27b")}
"""The same weights in 4 bits, a third of the download, where 16 bits do not fit."""
SIZES = {FUNCTIONGEMMA: "270m", "1b": "1b", **{size: size for size in QUANTISED}}
DRIVE = "/content/drive/MyDrive/dozan"
QUESTIONS = {
    "purpose": f"What is the model to learn ({', '.join(PURPOSES)})",
    "model": f"Which model ({', '.join(HUB)}, a folder or a hub id)",
    "rows": f"Your rows (a file, or '{EXAMPLE}' for ours)",
    "gpu": "On which card (t4, l4, a100, rtx4090 ..., GiB, or none)",
    "where": f"Where will it run ({', '.join(WHERE)})",
}
_EXAMPLE_ROWS = 40
_ASSETS = Path(dozan.EMBEDDED_BASE).parent


@dataclass(frozen=True)
class Answers:
    """purpose: one of PURPOSES. model: a short name of HUB, a folder or a hub id. rows: a file, a hub data set, or
    `example`. gpu: a card as `dozan plan` takes it, or `none`. where: one of WHERE."""

    purpose: str = CALLS
    model: str = EMBEDDED
    rows: str = EXAMPLE
    gpu: str = NO_GPU
    where: str = HERE

    def with_answer(self, name: str, value: str) -> Answers:
        """These answers with one of them given."""
        return replace(self, **{name: value})

    def problems(self, name: str) -> list[str]:
        """What is wrong with one answer, after those before it."""
        return {"purpose": _purpose_problem, "model": _model_problem, "rows": _rows_problem, "gpu": _gpu_problem,
                "where": _where_problem}[name](self)  # fmt: skip


@dataclass(frozen=True)
class Project:
    """What was laid out: the files, the model's full name, the commands that come next (to be given in the folder),
    notes, and the report on rows that were given."""

    folder: Path
    files: tuple[Path, ...]
    model: str
    recipe: Recipe
    commands: tuple[str, ...]
    notes: tuple[str, ...]
    report: Report | None


def usual(name: str, before: Answers) -> str:
    """The usual answer to a question, after the answers to those before it."""
    if name == "model":
        return EMBEDDED if before.purpose == CALLS else "1b"
    if name == "gpu":
        return _card_here()
    if name == "where":
        return COLAB if "COLAB_RELEASE_TAG" in os.environ else HERE
    return {"purpose": CALLS, "rows": EXAMPLE}[name]


def lay_out(folder: str | Path, answers: Answers) -> Project:
    """Write a project into `folder`, which may exist: data/, output/, recipe.yaml, README.md, .gitignore.

    Rows that are given are checked where they lie. Nothing that exists is written over. Raises InputError for answers
    that cannot be used, each named, and for a folder that holds one of the files.
    """
    folder = Path(folder)
    if problems := [problem for name in QUESTIONS for problem in answers.problems(name)]:
        raise InputError("\n".join(problems))
    _require_free(folder, answers)
    recipe, model, notes = choose(answers, folder.resolve().name)
    report = None if answers.rows == EXAMPLE else _check(answers, model, recipe)
    rows = _place_rows(folder, answers)
    commands = commands_for(answers, model, rows)
    files = {
        "recipe.yaml": recipe_text(recipe, card(answers.gpu)), ".gitignore": gitignore(),
        "README.md": readme(folder.resolve().name, answers.where, commands),
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    assert load_recipe(str(folder / "recipe.yaml")) == recipe
    (folder / "output").mkdir(exist_ok=True)
    written = [folder / name for name in files]
    written += sorted((folder / "data").iterdir()) if answers.rows == EXAMPLE else []
    return Project(folder, tuple(written), model, recipe, commands, tuple(notes), report)


def choose(answers: Answers, name: str) -> tuple[Recipe, str, list[str]]:
    """The recipe, the model's full name, and what is to be said about both."""
    recipe = override(load_recipe(_base_recipe(answers)), _changes(answers, name))
    model, size = HUB.get(answers.model, answers.model), SIZES.get(answers.model)
    notes = []
    if size is not None and answers.gpu != NO_GPU:
        found = dozan.plan(None, size, recipe, answers.gpu)
        if size in QUANTISED and not found.fit.fits:
            recipe, model = override(recipe, ["model.quantise=nf4"]), QUANTISED[size]
            found = dozan.plan(None, size, recipe, answers.gpu)
        notes.append(f"{size} on {card(answers.gpu)}: {found.verdict}")
    elif size in QUANTISED:
        recipe, model = override(recipe, ["model.quantise=nf4"]), QUANTISED[size]
        notes.append(f"{size} without a GPU takes days; name the card with --gpu, or take a smaller model")
    if answers.model == EMBEDDED and answers.purpose != CALLS:
        notes.append("the embedded base knows phone commands and little else: it shows the way, no more")
    if _is_hub_id(model):
        notes.append(f"{model} is downloaded when it is first used: pip install 'dozan[hub]', and accept its licence")
    if answers.where != HERE and answers.rows != EXAMPLE and Path(answers.rows).is_file():
        notes.append(f"--where {answers.where}: rows must lie there too; in the project's data/ they travel with it")
    return override(recipe, [f"name={json.dumps(name)}"]), model, notes


def card(gpu: str) -> str:
    """A card in a sentence."""
    from dozan.train.cards import card_named

    if gpu == NO_GPU:
        return "a CPU"
    name = card_named(gpu).name
    return f"a GPU of {name}" if name.endswith("GiB") else f"a {name}"


def commands_for(answers: Answers, model: str, rows: str) -> tuple[str, ...]:
    """The three commands that come next."""
    rows = quote(rows)
    said = "" if answers.model == EMBEDDED else f" --model {quote(model)}"
    gpu = "" if answers.gpu == NO_GPU else f" --gpu {quote(answers.gpu)}"
    return (
        f"dozan data check {rows}",
        f"dozan plan {rows}{said} --recipe recipe.yaml{gpu}",
        f"dozan train --data {rows}{said} --recipe recipe.yaml --out output/first",
    )


def example_rows(purpose: str) -> Path:
    """The rows that come with the package for a purpose: examples of the form, too few to learn from."""
    if purpose == CALLS:
        return _ASSETS / "mobile_actions_ar" / "train.jsonl.gz"
    return _ASSETS / "example_rows" / f"{purpose}.jsonl"


def _check(answers: Answers, model: str, recipe: Recipe) -> Report:
    """What is wrong with the rows that were given, by the model's tokenizer where it is here."""
    import dozan.data as data

    here = model if Path(model).is_dir() or answers.model == EMBEDDED else None
    return data.check(answers.rows, here, max_tokens=recipe.data.max_tokens)


def _base_recipe(answers: Answers) -> str:
    if answers.purpose == CALLS:
        return "embedded" if answers.model == EMBEDDED else "functiongemma-ar"
    return answers.purpose


def _changes(answers: Answers, name: str) -> list[str]:
    """Settings by model, purpose and place, over the shipped recipe."""
    changes = []
    if answers.model in QUANTISED:
        large = load_recipe("gemma3-12b-trinity")
        changes += [f"adapter.{key}={getattr(large.adapter, key)}" for key in ("rank", "alpha", "rslora", "dora")]
        keys = ("batch_size", "micro_batch_size", "pack_tokens", "learning_rate", "optimizer")
        changes += [f"train.{key}={getattr(large.train, key)}" for key in keys]
    if answers.purpose == CALLS:
        changes += ["score.rows=32"]
    if answers.where == COLAB:
        changes += [f"train.mirror={json.dumps(f'{DRIVE}/{name}/first')}", "train.save_steps=50"]
    return changes


def _card_here() -> str:
    """The card of this machine by the name that `dozan plan` knows it by, else its GiB; `none` without one."""
    import torch

    if not torch.cuda.is_available():
        return NO_GPU
    name = torch.cuda.get_device_name().lower().replace("tesla", "").strip()
    return f"{torch.cuda.mem_get_info()[1] / 2**30:.1f}" if _gpu_problem(Answers(gpu=name)) else name


def _purpose_problem(answers: Answers) -> list[str]:
    return _unknown("--purpose", answers.purpose, PURPOSES)


def _where_problem(answers: Answers) -> list[str]:
    return _unknown("--where", answers.where, WHERE)


def _model_problem(answers: Answers) -> list[str]:
    model, calls = answers.model, answers.purpose == CALLS
    if model not in HUB:
        named = Path(model).is_dir() or _is_hub_id(model)
        return [] if named else [f"{_unknown('--model', model, tuple(HUB))[0]}, a checkpoint folder, or a hub id"]
    if calls and model not in (EMBEDDED, FUNCTIONGEMMA):
        return [f"--model {model}: Gemma 3 has no format for calls; take {FUNCTIONGEMMA} or {EMBEDDED}"]
    if not calls and model == FUNCTIONGEMMA:
        return [f"--model {model}: made for calls, not for {answers.purpose}; take 1b, 4b, 12b or 27b"]
    return []


def _rows_problem(answers: Answers) -> list[str]:
    if answers.rows == EXAMPLE or answers.rows.startswith("hf:") or Path(answers.rows).is_file():
        return []
    return [f"--rows {answers.rows}: no such file; name one, hf:org/name, or {EXAMPLE}"]


def _gpu_problem(answers: Answers) -> list[str]:
    from dozan.train.cards import card_named

    if answers.gpu == NO_GPU:
        return []
    try:
        card_named(answers.gpu)
    except InputError as error:
        return [f"{error}; or {NO_GPU}"]
    return []


def _unknown(flag: str, value: str, known: Sequence[str]) -> list[str]:
    if value in known:
        return []
    near = difflib.get_close_matches(value, known, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return [f"{flag} {value!r}: {hint}known are {', '.join(known)}"]


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not Path(model).exists() and not model.startswith((".", "/", "~"))


def _require_free(folder: Path, answers: Answers) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the project")
    names = ["recipe.yaml", "README.md", ".gitignore"]
    names += ["data/rows.jsonl", "data/tools.json"] if answers.rows == EXAMPLE else []
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(f"{folder} holds {', '.join(there)} already, and nothing is written over: name another folder")


def _place_rows(folder: Path, answers: Answers) -> str:
    """How the commands name the rows: relative to the project when they lie in it; the examples are copied there."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    if answers.rows != EXAMPLE:
        path, home = Path(answers.rows).resolve(), folder.resolve()
        if not path.exists():
            return answers.rows
        return str(path.relative_to(home) if path.is_relative_to(home) else path)
    source, target = example_rows(answers.purpose), folder / "data" / "rows.jsonl"
    if answers.purpose == CALLS:
        with gzip.open(source, "rt", encoding="utf-8") as lines:
            target.write_text("".join(islice(lines, _EXAMPLE_ROWS)), encoding="utf-8")
        shutil.copyfile(source.parent / "tools.json", folder / "data" / "tools.json")
    else:
        shutil.copyfile(source, target)
    return "data/rows.jsonl"
