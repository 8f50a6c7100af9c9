"""`dozan export --ollama`: the Modelfile beside a GGUF, and the commands that follow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import dozan
from dozan.chat.arranged import arrangement_of
from dozan.chat.format import ChatFormat
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.chat.tokens import EOS
from dozan.model.bundle import Bundle, open_shell
from dozan.model.files import read_json
from dozan.rows.readers import read_rows
from dozan.ship.gguf import written_whole
from dozan.ship.modelfile import GEMMA_TEMPLATE, check_modelfile, command_text

TRIGGER = "You are a model that can do function calling with the following functions"
GEMMA_LICENSE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at https://ai.google.dev/gemma/terms. "
    "This model is a modified Gemma model."
)
BASE_LICENSE = (
    "Apache License, Version 2.0 (https://www.apache.org/licenses/LICENSE-2.0). Tuned from the small base that comes "
    "with dozan, which has Gemma 3's architecture and none of its weights."
)
SAMPLING = ("temperature", "top_k", "top_p", "min_p")
"""What generation_config.json may say of sampling, by Ollama's names, which are the same."""


@dataclass(frozen=True)
class Ollama:
    """The file that was written, and the name under which Ollama would keep the model."""

    path: Path
    name: str

    @property
    def commands(self) -> tuple[str, str]:
        """What to type next."""
        return f"ollama create {self.name} -f {self.path}", f"ollama run {self.name}"


def write_ollama(model: str | Path, gguf: str | Path) -> Ollama:
    """Write `NAME.Modelfile` beside the GGUF of a run or a checkpoint folder, checked by Ollama's rules.

    SYSTEM is the developer message that all of the run's rows begin with, else the trigger sentence. Raises InputError
    for a model or a text that a Modelfile cannot hold.
    """
    gguf, shell = Path(gguf), open_shell(model)[0]
    name = re.sub(r"[^a-z0-9._-]+", "-", gguf.stem.lower()).strip("-.") or "model"
    text = modelfile_text(Path(model), shell, gguf.name)
    check_modelfile(text, gguf.parent, f"{gguf.stem}.Modelfile")
    path = gguf.with_name(f"{gguf.stem}.Modelfile")
    with written_whole(path) as staging:
        staging.write_text(text, encoding="utf-8")
    return Ollama(path, name)


def modelfile_text(folder: Path, shell: Bundle, gguf: str) -> str:
    """The file's text for a GGUF of that name in the same folder."""
    calls = shell.chat.name == FUNCTIONGEMMA.name
    lines = [f"# Ollama 0.13.5 or newer. Then: ollama create NAME -f {Path(gguf).stem}.Modelfile", f"FROM ./{gguf}"]
    if calls:
        lines += ["RENDERER functiongemma", "PARSER functiongemma"]
        if arrangement_of(shell.chat).target != "ollama":
            lines.insert(1, "# Trained on other bytes than Ollama's renderer writes (dozan render-diff shows which); "
                         "dozan train --target ollama trains on these.")  # fmt: skip
    else:
        lines.append(command_text("TEMPLATE", GEMMA_TEMPLATE))
    stops = [token for token in shell.chat.stop_tokens if token != EOS and shell.tokenizer.has(token)]
    lines += [f'PARAMETER stop "{token}"' for token in stops]
    lines.append(f"PARAMETER num_ctx {context_length(folder, shell)}")
    lines += [f"PARAMETER {name} {value:g}" for name, value in sampling(shell).items()]
    system = opening_text(folder, shell.chat) or (TRIGGER if calls else "")
    if system:
        lines += [command_text("SYSTEM", system)]
    license_text = BASE_LICENSE if is_embedded_base(shell) else GEMMA_LICENSE
    return "\n".join([*lines, command_text("LICENSE", license_text)]) + "\n"


def context_length(folder: Path, shell: Bundle) -> int:
    """The longest row that the run was trained on, or what the model's shape allows."""
    longest = shell.config.max_position_embeddings
    record = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    trained = ((record.get("recipe") or {}).get("data") or {}).get("max_tokens")
    return min(longest, trained) if isinstance(trained, int) else longest


def sampling(shell: Bundle) -> dict[str, float]:
    """Temperature 0 for calls; for text what the model's generation_config.json says."""
    if shell.chat.name == FUNCTIONGEMMA.name:
        return {"temperature": 0}
    path = shell.base_folder / "generation_config.json"
    values = read_json(path) if path.is_file() else {}
    if values.get("do_sample") is False:
        return {"temperature": 0}
    return {name: values[name] for name in SAMPLING if isinstance(values.get(name), int | float)}


def opening_text(folder: Path, chat: ChatFormat) -> str:
    """The developer message that every row the run kept begins with, laid out as in training; "" where they differ or
    there are none."""
    path = next((path for name in ("heldout.jsonl", "train.jsonl") if (path := folder / "data" / name).is_file()), None)
    layout, texts = arrangement_of(chat), set[str]()
    for row in read_rows(path) if path is not None else ():
        first = next(iter(layout.messages(row.messages, row.tools)), {})
        texts.add(str(first.get("content") or "").strip() if first.get("role") in ("developer", "system") else "")
    return texts.pop() if len(texts) == 1 else ""


def is_embedded_base(shell: Bundle) -> bool:
    """Whether the model is the base that comes with dozan, or merged into it: by its tokenizer, which no other has."""
    ours = Path(dozan.EMBEDDED_BASE) / "tokenizer.json"
    theirs = shell.base_folder / "tokenizer.json"
    return ours.samefile(theirs) or ours.read_bytes() == theirs.read_bytes()
