"""A model ready to use: weights, tokenizer and chat format of a run, an adapter, a checkpoint folder or a hub id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dozan.chat import chat_format, detect_chat
from dozan.chat.arranged import AS_GIVEN, Arrangement, arranged, read_arrangement
from dozan.chat.format import ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.model.files import read_json, write_whole
from dozan.model.full_format import KIND, MODEL, load_into
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.hub import resolve_base, resolve_model
from dozan.model.peft_format import ADAPTER_CONFIG, load_adapter
from dozan.model.sealed import MANIFEST, is_sealed, require_intact, sha256
from dozan.model.shards import holds
from dozan.model.weights import QUANTISE, Quantise, empty_model, load_model, read_config

ARRANGEMENT = "dozan.json"
"""The file of a merged folder that says how the rows were laid out on which it was trained."""


@dataclass(frozen=True)
class Bundle:
    """What belongs together; `chat` lays rows out as in training, `base_folder` holds the model's own files,
    `adapter_folder` the adapter's if any."""

    model: Gemma3
    config: Gemma3Config
    tokenizer: Tokenizer
    chat: ChatFormat
    base_folder: Path
    adapter_folder: Path | None


def open_model(
    path: str | Path, dtype: str | torch.dtype = "auto", with_adapter: bool = True, chat: str = "auto",
    quantise: Quantise | Literal["auto"] = "auto", device: torch.device | str = "cpu",
) -> Bundle:  # fmt: skip
    """Open a run folder, a PEFT adapter folder (a run's checkpoint is one), a Hugging Face folder or a hub id.

    dtype: "auto" (float32), float32, bfloat16 or float16. Without `with_adapter`, a run, its checkpoint or an adapter
    gives its base. Of a run that trained every weight the model is `model/`, or what its checkpoint holds.
    chat: a format's name, or "auto": what the run was trained with, else by the tokenizer. Either way rows are laid out
    as the run or the merged folder says (`chat.arranged`). quantise: what is done to a 16-bit base as it is read,
    "none" or "nf4", or "auto": what the run did; a base that is stored in NF4 opens so. device: where the model is put,
    tensor by tensor. Raises InputError.
    """
    parts = _parts(Path(path).expanduser(), str(path))
    base, adapter_folder = parts.folder if with_adapter else parts.base, parts.adapter
    tokenizer, form = _tokens(parts, chat)
    wanted = parts.quantise if quantise == "auto" else quantise
    model = load_model(base, "float32" if dtype == "auto" else dtype, wanted, device)
    check_rows(base, tokenizer, form, model.config.vocab_size)
    if with_adapter and parts.weights is not None:
        load_into(parts.weights, model)
    if not with_adapter or adapter_folder is None:
        return Bundle(model, model.config, tokenizer, form, base, None)
    if not adapter_folder.is_dir():
        raise InputError(f"{path}: the run has no adapter/ yet; let it finish, or give one of its checkpoints/")
    load_adapter(adapter_folder, model)
    return Bundle(model.eval(), model.config, tokenizer, form, base, adapter_folder)


@dataclass(frozen=True)
class _Parts:
    """Where a model's parts are: the base folder, the adapter's folder if any, the chat format by name, how rows are
    laid out, and how the base was quantised. Where every weight was trained: the folder `full` of the finished model,
    or that of a checkpoint's `weights` over the base."""

    base: Path
    adapter: Path | None
    chat: str
    arrangement: Arrangement
    quantise: Quantise = "none"
    full: Path | None = None
    weights: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the model's own files lie. Raises InputError when the run has not written them yet, or they are
        damaged."""
        if self.full is None:
            return self.base
        if not self.full.is_dir():
            raise InputError(f"{self.full.parent}: the run has no {MODEL}/ yet; let it finish, or give one of its "
                             "checkpoints/")  # fmt: skip
        require_intact(self.full)
        return self.full


def model_hash(path: str | Path) -> str:
    """SHA-256 of all that decides what a model answers, as `open_model` would open it: the files of the base, of the
    adapter or the weights, and how rows are laid out. A sealed folder's manifest stands for its files. Raises
    InputError."""
    parts = _parts(Path(path).expanduser(), str(path))
    lines = [f"{parts.chat} {parts.quantise} {sorted(parts.arrangement.values().items())}"]
    for folder in dict.fromkeys((parts.folder, parts.adapter, parts.weights)):
        if folder is not None:
            names = [MANIFEST] if is_sealed(folder) else _model_files(folder)
            lines += [f"{name} {_file_hash(folder / name)}" for name in names]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _model_files(folder: Path) -> list[str]:
    kinds = (".safetensors", ".json", ".jinja", ".model")
    return sorted(path.name for path in folder.glob("*.*") if path.suffix in kinds and path.is_file())


def _file_hash(path: Path) -> str:
    """A file of the hub's cache is named by its hash, when it is a large one."""
    blob = path.resolve()
    return blob.name if blob.parent.name == "blobs" and len(blob.name) == 64 else sha256(blob)


def open_shell(path: str | Path) -> tuple[Bundle, Quantise]:
    """What `open_model` gives, but for the weights: the model is without memory and without adapter. Also how the run
    quantised its base. Raises InputError."""
    parts = _parts(Path(path).expanduser(), str(path))
    if parts.weights is not None:
        raise InputError(f"{path}: a checkpoint of a run that trains every weight; it can be run and scored, and the "
                         "run itself exported when it has finished")  # fmt: skip
    tokenizer, form = _tokens(parts, "auto")
    model = empty_model(read_config(parts.folder))
    return Bundle(model, model.config, tokenizer, form, parts.folder, parts.adapter), parts.quantise


def _tokens(parts: _Parts, chat: str) -> tuple[Tokenizer, ChatFormat]:
    tokenizer = Tokenizer.load(parts.base)
    named = parts.chat if chat == "auto" else chat
    return tokenizer, arranged(detect_chat(tokenizer) if named == "auto" else chat_format(named), parts.arrangement)


def _parts(folder: Path, name: str) -> _Parts:
    if (folder / "run.json").is_file():
        trained, settings = trained_weights(folder), _run_settings(folder)
        if trained == "full":
            return _Parts(resolve_base(folder), None, *settings, full=folder / MODEL)
        return _Parts(resolve_base(folder), folder / "adapter", *settings)
    if holds(folder, KIND):
        owner = _run_of(folder)
        if owner is None:
            raise InputError(f"{folder}: weights of a run's checkpoint, without the run; they are read in its folder")
        return _Parts(resolve_base(owner), None, *_run_settings(owner), weights=folder)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        config = folder / ADAPTER_CONFIG
        base = read_json(config).get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise InputError(f"{config}: base_model_name_or_path is {base!r}; name the base model there")
        run = _run_of(folder)
        moved = run is not None and Path(base).is_absolute() and not Path(base).exists()
        found = resolve_base(run) if run is not None and moved else resolve_model(base)
        return _Parts(found, folder, *(_run_settings(run) if run is not None else ("auto", AS_GIVEN)))
    checkpoint = resolve_model(name)
    if is_sealed(checkpoint) or (_run_of(checkpoint) is not None and checkpoint.name == MODEL):
        require_intact(checkpoint)
    return _Parts(checkpoint, None, "auto", folder_arrangement(checkpoint))


def _run_of(folder: Path) -> Path | None:
    """The run that a folder within it belongs to."""
    return next((p for p in (folder.parent, folder.parent.parent) if (p / "run.json").is_file()), None)


def trained_weights(run: Path) -> str:
    """What a run trained, by its run.json: "adapter" or "full"."""
    recipe = read_json(run / "run.json").get("recipe") or {}
    return str((recipe.get("train") or {}).get("weights", "adapter"))


def _run_settings(run: Path) -> tuple[str, Arrangement, Quantise]:
    """The chat format that a run was trained with, by name, how its rows were laid out, and its base quantised."""
    record = read_json(run / "run.json")
    recipe = record.get("recipe") or {}
    arrangement = read_arrangement(recipe.get("data") or {}, f"{run / 'run.json'}: recipe.data")
    quantise = (recipe.get("model") or {}).get("quantise", "none")
    if quantise not in QUANTISE:
        raise InputError(f"{run / 'run.json'}: recipe.model.quantise is {quantise!r}; give {' or '.join(QUANTISE)}")
    return str(record.get("chat") or "auto"), arrangement, quantise


def folder_arrangement(folder: Path) -> Arrangement:
    """How rows were laid out on which a checkpoint was trained, by its dozan.json; as given without one.

    Raises InputError for a file that cannot be read.
    """
    path = folder / ARRANGEMENT
    return read_arrangement(read_json(path), str(path)) if path.is_file() else AS_GIVEN


def write_arrangement(folder: Path, arrangement: Arrangement) -> None:
    """Write the folder's dozan.json: the options, and what an application must do for them."""
    text = json.dumps({**arrangement.values(), "prompt": arrangement.prompt()}, ensure_ascii=False, indent=1)

    def write(path: Path) -> None:
        path.write_text(text + "\n", encoding="utf-8")

    write_whole(folder / ARRANGEMENT, write)


def check_rows(folder: Path, tokenizer: Tokenizer, chat: ChatFormat, rows: int) -> None:
    """InputError when text or a chat format could give an id that the embedding (`rows` rows) does not have.

    FunctionGemma's tokenizer names ids beyond its embedding; they are control tokens that no format writes.
    """
    stops = {tokenizer.id(token) for token in chat.stop_tokens if tokenizer.has(token)}
    beyond = [i for i in range(rows, tokenizer.size) if i not in tokenizer.control_ids or i in stops]
    if beyond:
        shown = ", ".join(f"{i} ({tokenizer.decode([i])!r})" for i in beyond[:3])
        raise InputError(f"{folder}: {len(beyond)} tokens of the tokenizer lie beyond the embedding's {rows} rows "
                         f"({shown}); give the tokenizer that belongs to these weights")  # fmt: skip


def assert_embeddable(ids: Iterable[int], config: Gemma3Config) -> None:
    """Our invariant on every batch: each id has a row in the embedding."""
    worst = max(ids, default=0)
    assert worst < config.vocab_size, f"id {worst} has no row in an embedding of {config.vocab_size}"
