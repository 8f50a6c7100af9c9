"""From what the user names to a job: the recipe, the rows split and encoded, the plan, and the base that it trains."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

import dozan
from dozan.chat import chat_format, detect_chat
from dozan.chat.arranged import AS_GIVEN, Arrangement, arranged
from dozan.chat.format import ChatFormat
from dozan.chat.template import template_difference
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.kernels import warm
from dozan.kernels.precision import multiplies_bfloat16, training_dtype
from dozan.model.adapter import attach
from dozan.model.bundle import check_rows, folder_arrangement, open_model
from dozan.model.files import read_json
from dozan.model.full_format import MODEL
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.half import require_float16
from dozan.model.held import hold_embedding
from dozan.model.shard import load_sharded
from dozan.model.weights import read_config, resolve_model
from dozan.recipe import Recipe, load_recipe, override
from dozan.rows.example import Example, Json
from dozan.rows.staged import staged
from dozan.train.checkpoint import write_text
from dozan.train.full import full_notes, require_trainable
from dozan.train.gather import Encoded, Encoder, GatheredRows, Rows, encode_sides, gather_rows
from dozan.train.plan import Plan, make_plan
from dozan.train.run import hash_base
from dozan.train.scoring import Scorer, chosen_rows, scorer_of
from dozan.world import current

EMBEDDED = "dozan:embedded"
TOOLS = "tools.json"


@dataclass(frozen=True)
class Base:
    """What is trained: its name in run.json, the hash of its files, and the chat format of the rows."""

    name: str
    sha256: str
    chat: str


class Split(NamedTuple):
    """The rows that were divided here, and the tools that all of them have, else none: what `write_split` takes."""

    rows: GatheredRows
    shared_tools: Sequence[Mapping[str, Json]]


@dataclass(frozen=True)
class Job:
    """Everything that a run needs, checked; only weights are unread.

    split: what was split here, if any. overridden: errors of the checks that were passed over, by rule, with how many.
    adapted: settings that were changed so that it fits, as `--set` takes them. scorer: of answers while it trains.
    findings: what the row rules found, as `check.rules.Checked.to_dict` has it.
    """

    plan: Plan
    base: Base
    folder: Path
    split: Split | None
    notes: tuple[str, ...]
    overridden: Mapping[str, int]
    compiling: Sequence[Future[None]]
    adapted: tuple[str, ...] = ()
    scorer: Scorer | None = None
    findings: Mapping[str, Json] | None = None

    def open_model(self) -> Gemma3:
        """The base, with a fresh adapter unless every weight is trained, on the device that trains it; shared out over
        the ranks where `train.fsdp` is true."""
        recipe, device, world = self.plan.recipe, training_device(), current()
        if recipe.train.weights == "adapter" and recipe.train.fsdp is True and world.size > 1:
            model = load_sharded(self.folder, dtype_of(recipe, device), recipe, world, device)
            check_rows(self.folder, Tokenizer.load(self.folder), chat_format(self.base.chat), model.config.vocab_size)
        else:
            model = self._whole_model(recipe, device)
        for kernel in self.compiling:
            kernel.result()
        return model

    def _whole_model(self, recipe: Recipe, device: torch.device) -> Gemma3:
        bundle = open_model(
            self.folder, dtype_of(recipe, device), with_adapter=False, chat=self.base.chat,
            quantise=recipe.model.quantise, device=device,
        )  # fmt: skip
        require_float16(bundle.model, self.folder)
        model = bundle.model.to(device)
        hold_embedding(model, recipe.model, device)
        if recipe.train.weights == "adapter":
            attach(model, recipe.adapter, recipe.train.seed)
        return model


def prepare(
    data: Rows, model: str | Path | None, recipe: Recipe | str | None, overrides: Sequence[str],
    eval_data: Rows | None, force: bool = False, out: str | Path | None = None,
) -> Job:  # fmt: skip
    """Check all that was given before anything is written or any weight is read; InputError for what cannot be used.

    With `force`, rows that break a rule are trained all the same, as long as the chat format can write them. The rows'
    tokens go to a file without a name on the disk of the run folder `out`, else of the system's temporary files; the
    rows themselves are read twice, and never held.
    """
    name = str(model or EMBEDDED)
    if any((Path(name) / file).is_file() for file in ("run.json", "adapter_config.json")):
        if (Path(name) / MODEL / "config.json").is_file():
            raise InputError(f"model {name} is a run that trained every weight; its checkpoint is {Path(name) / MODEL}")
        raise InputError(f"model {name} is an adapter; merge it into a checkpoint first: dozan merge {name} --out DIR")
    folder = resolve_model(name)
    tokenizer = Tokenizer.load(folder)
    chosen = choose_recipe(folder, tokenizer, recipe, overrides)
    config = read_config(folder)
    require_trainable(chosen, folder)
    compiling = compile_kernels(chosen, config)
    chat = detect_chat(tokenizer) if chosen.chat == "auto" else chat_format(chosen.chat)
    arrangement = Arrangement(chosen.data.tool_order, chosen.data.now, chosen.data.target)
    said: list[str] = []
    rows = gather_rows(data, eval_data, chosen.data.holdout, chosen.train.seed, said.append)
    limit = min(chosen.data.max_tokens, config.max_position_embeddings)
    scored = chosen_rows(rows.sizes[1], chosen.score.rows)
    encoded = encode_sides(rows, Encoder(chat, arrangement, tokenizer, limit), not force, store_folder(out), scored)
    overridden = encoded.checked.count_rules("error")
    plan = make_plan(chosen, *encoded.stores)
    base = Base(_base_name(name, folder), hash_base(folder), chat.name)
    notes = said + [f"rows: {count} x {rule} (an error, trained all the same)" for rule, count in overridden.items()]
    notes += [f"rows: {count} x {rule} (a warning)" for rule, count in encoded.checked.count_rules().items()]
    notes += full_notes(chosen) + _template_note(folder, chat, encoded.first)
    notes += _arrangement_notes(arrangement, folder_arrangement(folder), encoded, len(rows))
    if rows.is_split:
        notes.append(f"{len(plan.heldout)} of {len(rows)} rows are held out, by sentence pattern")
    split = Split(rows, encoded.shared_tools) if rows.is_split else None
    scorer = scorer_of(encoded.scored, tokenizer, arranged(chat, arrangement), folder, chosen.score)
    if chosen.score.rows and scorer is None:
        notes.append(f"score.rows = {chosen.score.rows}, but no row is held out: nothing is scored while training")
    findings = encoded.checked.to_dict()
    return Job(plan, base, folder, split, tuple(notes), overridden, compiling, scorer=scorer, findings=findings)


def training_device() -> torch.device:
    """The GPU that PyTorch has chosen if there is one, with its index, which some of its calls insist on; else the
    CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def compile_kernels(recipe: Recipe, config: Gemma3Config) -> list[Future[None]]:
    """Begin to compile the run's kernels, while its rows are read."""
    device = training_device()
    shapes = warm.Shapes(
        config.hidden_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
        config.intermediate_size, dtype_of(recipe, device), recipe.adapter.dora,
    )  # fmt: skip
    return warm.start(shapes, device)


def store_folder(out: str | Path | None) -> Path:
    """Where the rows' tokens wait: the nearest folder above a run folder that is there, else for temporary files."""
    if out is None:
        return Path(tempfile.gettempdir())
    path = Path(out).absolute()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _template_note(folder: Path, chat: ChatFormat, examples: Sequence[Example]) -> list[str]:
    """What to say when the checkpoint's own chat template writes the first rows otherwise than we train them."""
    template = folder / "chat_template.jinja"
    settings = folder / "tokenizer_config.json"
    text: object = None
    if template.is_file():
        text = template.read_text(encoding="utf-8", errors="replace")
    elif settings.is_file():
        text = read_json(settings).get("chat_template")
    difference = template_difference(text, chat, examples, folder) if isinstance(text, str) else None
    if difference is None:
        return []
    return [f"the checkpoint's chat template differs from what is trained ({chat.name}'s bytes): {difference}"]


def _arrangement_notes(arrangement: Arrangement, before: Arrangement, encoded: Encoded, rows: int) -> list[str]:
    """What the options of `chat.arranged` change in the rows, and where the base was trained with others."""
    notes = []
    if before not in (AS_GIVEN, arrangement):
        was, now = (", ".join(f"data.{k} = {v}" for k, v in found.values().items()) for found in (before, arrangement))
        notes.append(f"the base was trained with {was}, this run has {now}")
    if arrangement.tool_order != "as_given":
        notes.append(f"data.tool_order = {arrangement.tool_order}: the tools of {encoded.moved_tools} of {rows} rows "
                     "change places; the model sees no other order, so who asks it must keep this one")  # fmt: skip
    if arrangement.now != "as_given":
        notes.append(f"data.now = {arrangement.now}: the date of {encoded.moved_dates} of {rows} rows moves behind "
                     "their tools; who asks the model must put it there")  # fmt: skip
    if arrangement.target != "transformers":
        notes.append(f"data.target = {arrangement.target}: rows are trained in the bytes of that runtime, and asked in "
                     "them wherever dozan asks; another runtime shows the model other bytes")  # fmt: skip
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


def write_split(folder: Path, rows: GatheredRows, shared_tools: Sequence[Mapping[str, Json]]) -> None:
    """Write train.jsonl and heldout.jsonl, which `read_rows` reads back; tools that all rows share go to tools.json."""
    folder.mkdir(parents=True, exist_ok=True)
    if shared_tools:
        write_text(folder / TOOLS, json.dumps(list(shared_tools), ensure_ascii=False, indent=1))
    with staged([folder / f"{name}.jsonl" for name in ("train", "heldout")]) as files:
        for e, is_heldout in rows.read():
            assert isinstance(e, Example), "rows that are tokens already are not divided here"
            tools = TOOLS if shared_tools else list(e.tools)
            row = {"id": e.id, "tools": tools, "messages": list(e.messages), **e.meta}
            files[is_heldout].write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())


def dtype_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """What the run computes in on a device, the same on all ranks. Raises InputError where it cannot."""
    named: str = recipe.train.dtype
    if named == "auto":
        # On a CPU it is what is faster, which two processes may find otherwise.
        named = current().from_first(lambda: str(training_dtype(device)).removeprefix("torch."))
    if named == "bfloat16" and not multiplies_bfloat16(device):
        raise InputError("train.dtype = bfloat16: this GPU multiplies in it only from capability 8.0; a value that "
                         "works: float16")  # fmt: skip
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[named]


def _is_embedded(folder: Path) -> bool:
    return folder.resolve() == Path(dozan.EMBEDDED_BASE).resolve()


def _base_name(name: str, folder: Path) -> str:
    if _is_embedded(folder):
        return EMBEDDED
    return str(Path(name).resolve()) if Path(name).exists() else name
