"""From what the user names to a job: the recipe, the rows split and encoded, the plan, and the base that it trains."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import dozan
from dozan.chat import chat_format, detect_chat
from dozan.chat.arranged import AS_GIVEN, Arrangement, arranged
from dozan.chat.encode import Tokens, encode_rows
from dozan.chat.format import ChatFormat
from dozan.chat.template import template_difference
from dozan.chat.tokenizer import Tokenizer
from dozan.check.finding import Finding
from dozan.check.rules import check_rows, count_rules, refuse_errors
from dozan.errors import InputError
from dozan.kernels.precision import training_dtype
from dozan.model.adapter import attach
from dozan.model.bundle import folder_arrangement, open_model
from dozan.model.files import read_json
from dozan.model.gemma3 import Gemma3
from dozan.model.weights import read_config, resolve_model
from dozan.recipe import Recipe, load_recipe, override
from dozan.rows.example import Example
from dozan.rows.readers import Say, read_rows
from dozan.rows.splits import split_rows
from dozan.train.checkpoint import write_text
from dozan.train.plan import Plan, make_plan
from dozan.train.run import hash_base

EMBEDDED = "dozan:embedded"
TOOLS = "tools.json"
Rows = str | Path | Sequence[Example]
Split = tuple[Sequence[Example], Sequence[Example]]


@dataclass(frozen=True)
class Base:
    """What is trained: its name in run.json, the hash of its files, and the chat format of the rows."""

    name: str
    sha256: str
    chat: str


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, checked; only weights are unread.

    split: what was split here, if any. overridden: errors of the checks that were passed over, by rule, with how many.
    """

    plan: Plan
    base: Base
    folder: Path
    split: Split | None
    notes: tuple[str, ...]
    overridden: Mapping[str, int]

    def open_model(self) -> Gemma3:
        """The base with a fresh adapter, on the device that trains it."""
        recipe = self.plan.recipe
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        bundle = open_model(self.folder, _dtype(recipe, device), with_adapter=False, chat=self.base.chat)
        model = bundle.model.to(device)
        attach(model, recipe.adapter, recipe.train.seed)
        return model


def prepare(
    data: Rows, model: str | Path | None, recipe: Recipe | str | None, overrides: Sequence[str],
    eval_data: Rows | None, force: bool = False,
) -> Job:  # fmt: skip
    """Check all that was given before anything is written or any weight is read; InputError for what cannot be used.

    With `force`, rows that break a rule are trained all the same, as long as the chat format can write them.
    """
    name = str(model or EMBEDDED)
    if any((Path(name) / file).is_file() for file in ("run.json", "adapter_config.json")):
        raise InputError(f"model {name} is an adapter; merge it into a checkpoint first: dozan merge {name} --out DIR")
    folder = resolve_model(name)
    tokenizer = Tokenizer.load(folder)
    chosen = choose_recipe(folder, tokenizer, recipe, overrides)
    chat = detect_chat(tokenizer) if chosen.chat == "auto" else chat_format(chosen.chat)
    arrangement = Arrangement(chosen.data.tool_order, chosen.data.now)
    written = arranged(chat, arrangement)
    said: list[str] = []
    examples, is_split = _rows(data, eval_data, chosen, said.append)
    findings = check_rows([*examples[0], *examples[1]], chat)
    overridden = count_rules(findings, "error")
    if not force:
        _refuse(findings, sum(map(len, examples)))
    plan = make_plan(chosen, *_encode(examples, written, tokenizer, folder, chosen))
    base = Base(_base_name(name, folder), hash_base(folder), chat.name)
    notes = said + [f"rows: {count} x {rule} (an error, trained all the same)" for rule, count in overridden.items()]
    notes += [f"rows: {count} x {rule} (a warning)" for rule, count in count_rules(findings).items()]
    notes += _template_note(folder, chat, examples[0])
    notes += _arrangement_notes(arrangement, folder_arrangement(folder), [*examples[0], *examples[1]])
    if is_split:
        notes.append(f"{len(plan.heldout)} of {sum(map(len, examples))} rows are held out, by sentence pattern")
    return Job(plan, base, folder, examples if is_split else None, tuple(notes), overridden)


def _refuse(findings: Sequence[Finding], rows: int) -> None:
    """Raises InputError for errors of the checks, with the ways out."""
    try:
        refuse_errors(findings, rows)
    except InputError as error:
        ways = "repair them with dozan data fix, or train on them all the same with --force, which the run records"
        raise InputError(f"{error}\n{ways}") from None


def _template_note(folder: Path, chat: ChatFormat, examples: Sequence[Example]) -> list[str]:
    """What to say when the checkpoint's own chat template writes the first rows otherwise than we train them."""
    template = folder / "chat_template.jinja"
    settings = folder / "tokenizer_config.json"
    text: object = None
    if template.is_file():
        text = template.read_text(encoding="utf-8")
    elif settings.is_file():
        text = read_json(settings).get("chat_template")
    difference = template_difference(text, chat, examples[:8]) if isinstance(text, str) else None
    if difference is None:
        return []
    return [f"the checkpoint's chat template differs from what is trained ({chat.name}'s bytes): {difference}"]


def _arrangement_notes(arrangement: Arrangement, before: Arrangement, examples: Sequence[Example]) -> list[str]:
    """What the options of `chat.arranged` change in the rows, and where the base was trained with others."""
    notes = []
    if before not in (AS_GIVEN, arrangement):
        was, now = (", ".join(f"data.{k} = {v}" for k, v in found.values().items()) for found in (before, arrangement))
        notes.append(f"the base was trained with {was}, this run has {now}")
    if arrangement.tool_order != "as_given":
        moved = sum(arrangement.tools(e.tools) != e.tools for e in examples)
        notes.append(f"data.tool_order = {arrangement.tool_order}: the tools of {moved} of {len(examples)} rows change "
                     "places; the model sees no other order, so who asks it must keep this one")  # fmt: skip
    if arrangement.now != "as_given":
        moved = sum(arrangement.messages(e.messages, e.tools) != e.messages for e in examples)
        notes.append(f"data.now = {arrangement.now}: the date of {moved} of {len(examples)} rows moves behind their "
                     "tools; who asks the model must put it there")  # fmt: skip
    return notes


def choose_recipe(folder: Path, tokenizer: Tokenizer, recipe: Recipe | str | None, overrides: Sequence[str]) -> Recipe:
    """The recipe that was given, by name or as a value, else the one that suits the model; with the overrides."""
    if isinstance(recipe, Recipe):
        return override(recipe, overrides)
    return load_recipe(recipe or default_recipe(folder, tokenizer), overrides)


def default_recipe(folder: Path, tokenizer: Tokenizer) -> str:
    """The shipped recipe for a base: by whether it is the embedded one, then by its chat format."""
    if _is_embedded(folder):
        return "embedded"
    return "functiongemma-ar" if detect_chat(tokenizer).name == "functiongemma" else "gemma3-12b-trinity"


def write_split(folder: Path, train: Sequence[Example], heldout: Sequence[Example]) -> None:
    """Write train.jsonl and heldout.jsonl, which `read_rows` reads back; tools that all rows share go to tools.json."""
    folder.mkdir(parents=True, exist_ok=True)
    first = train[0].tools
    shared = bool(first) and all(example.tools == first for example in [*train, *heldout])
    if shared:
        write_text(folder / TOOLS, json.dumps(list(first), ensure_ascii=False, indent=1))
    for name, examples in (("train", train), ("heldout", heldout)):
        rows = (
            {"id": e.id, "tools": TOOLS if shared else list(e.tools), "messages": list(e.messages), **e.meta}
            for e in examples
        )
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _rows(data: Rows, eval_data: Rows | None, recipe: Recipe, say: Say) -> tuple[Split, bool]:
    """The rows to train on and those held out, and whether they were split here; `say` is told the shape found."""
    examples = _read(data, say)
    if not examples:
        raise InputError("no rows to train on; give at least one")
    if eval_data is not None:
        return (examples, _read(eval_data, say)), False
    if recipe.data.holdout == 0:
        return (examples, []), False
    return split_rows(examples, recipe.data.holdout, recipe.train.seed), True


def _read(data: Rows, say: Say) -> Sequence[Example]:
    return read_rows(data, say=say) if isinstance(data, str | Path) else list(data)


def _encode(
    examples: Split, chat: ChatFormat, tokenizer: Tokenizer, folder: Path, recipe: Recipe
) -> list[list[Tokens]]:
    limit = min(recipe.data.max_tokens, read_config(folder).max_position_embeddings)
    return [encode_rows(part, chat, tokenizer, limit) for part in examples]


def _dtype(recipe: Recipe, device: torch.device) -> torch.dtype:
    if recipe.train.dtype == "auto":
        return training_dtype(device)
    return torch.bfloat16 if recipe.train.dtype == "bfloat16" else torch.float32


def _is_embedded(folder: Path) -> bool:
    return folder.resolve() == Path(dozan.EMBEDDED_BASE).resolve()


def _base_name(name: str, folder: Path) -> str:
    if _is_embedded(folder):
        return EMBEDDED
    return str(Path(name).resolve()) if Path(name).exists() else name
