"""A model ready to use: weights, tokenizer and chat format of a run, an adapter, a checkpoint folder or a hub id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from dozan.chat import chat_format, detect_chat
from dozan.chat.format import ChatFormat
from dozan.chat.tokenizer import Tokenizer
from dozan.errors import InputError
from dozan.model.files import read_json
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.hub import resolve_model, run_base
from dozan.model.peft_format import ADAPTER_CONFIG, load_adapter
from dozan.model.weights import load_model


@dataclass(frozen=True)
class Bundle:
    """What belongs together; `base_folder` holds the model's own files, `adapter_folder` the adapter's if any."""

    model: Gemma3
    config: Gemma3Config
    tokenizer: Tokenizer
    chat: ChatFormat
    base_folder: Path
    adapter_folder: Path | None


def open_model(
    path: str | Path, dtype: str | torch.dtype = "auto", with_adapter: bool = True, chat: str = "auto"
) -> Bundle:
    """Open a run folder, a PEFT adapter folder (a run's checkpoint is one), a Hugging Face folder or a hub id.

    dtype: "auto" (float32, on the CPU), float32, bfloat16 or float16. Without `with_adapter`, a run or an adapter gives
    its base. chat: a format's name, or "auto": what the run was trained with, else by the tokenizer. Raises InputError.
    """
    base, adapter_folder, trained_chat = _parts(Path(path).expanduser(), str(path))
    tokenizer = Tokenizer.load(base)
    named = trained_chat if chat == "auto" else chat
    form = detect_chat(tokenizer) if named == "auto" else chat_format(named)
    model = load_model(base, "float32" if dtype == "auto" else dtype)
    check_rows(base, tokenizer, form, model.config.vocab_size)
    if not with_adapter or adapter_folder is None:
        return Bundle(model, model.config, tokenizer, form, base, None)
    if not adapter_folder.is_dir():
        raise InputError(f"{path}: the run has no adapter/ yet; let it finish, or give one of its checkpoints/")
    load_adapter(adapter_folder, model)
    return Bundle(model.eval(), model.config, tokenizer, form, base, adapter_folder)


def _parts(folder: Path, name: str) -> tuple[Path, Path | None, str]:
    """The base folder, the adapter's folder if any, and the chat format by name."""
    if (folder / "run.json").is_file():
        return resolve_model(run_base(folder)), folder / "adapter", _run_chat(folder)
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        config = folder / ADAPTER_CONFIG
        base = read_json(config).get("base_model_name_or_path")
        if not isinstance(base, str) or not base:
            raise InputError(f"{config}: base_model_name_or_path is {base!r}; name the base model there")
        runs = [parent for parent in (folder.parent, folder.parent.parent) if (parent / "run.json").is_file()]
        return resolve_model(base), folder, _run_chat(runs[0]) if runs else "auto"
    return resolve_model(name), None, "auto"


def _run_chat(run: Path) -> str:
    """The chat format that a run was trained with."""
    return str(read_json(run / "run.json").get("chat") or "auto")


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
