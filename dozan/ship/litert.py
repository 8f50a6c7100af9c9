"""`dozan export --litert FILE`: a LiteRT-LM model by litert-torch, run and scored by LiteRT-LM where that is installed.

Both live in an environment of their own, since they bring jax and TensorFlow: `DOZAN_LITERT_PYTHON` names its Python.
The file is written without a Jinja template: LiteRT-LM hands a template declarations and texts in another form than
transformers does, which FunctionGemma's fails on, and its built-in one is what `--target litert-lm` trains on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.chat.encode import encode_prompt
from dozan.chat.functiongemma import FUNCTIONGEMMA
from dozan.errors import InputError
from dozan.judge.score import score_rows
from dozan.judge.summary import Scores
from dozan.model.bundle import Bundle, open_shell
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship.merge import merge
from dozan.ship.ollama import context_length

PYTHON = "DOZAN_LITERT_PYTHON"
INSTALL = "pip install litert-torch==0.10.0 litert-lm-api-nightly==0.19.0.dev20261026 tensorflow-cpu"
ROWS = 50
NEW_TOKENS = 256
SECONDS = 3600.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class LiteRt:
    """The file, and how it answered: `scores` of `rows` rows, or `unrun`, why it was not run."""

    path: Path
    rows: int
    scores: Scores | None
    unrun: str

    @property
    def text(self) -> str:
        """A sentence for a person."""
        size = f"{self.path}: {self.path.stat().st_size / 2**20:.1f} MiB, 8-bit weights"
        if self.scores is None:
            return f"{size}; not run: {self.unrun}"
        strict = self.scores.summary()["strict"]
        return f"{size}; run by LiteRT-LM on {self.rows} rows: {100 * strict:.1f} % strictly right"


def export_litert(
    run: str | Path, path: str | Path, examples: str | Path | Sequence[Example] | None = None, say: Say | None = None
) -> LiteRt:
    """Write `path`, a .litertlm file of a run or a checkpoint folder with weights in 8 bits, and score it.

    examples: rows to score it on; the run's held-out ones when not given. Raises InputError when litert-torch is not
    there or fails.
    """
    path, say = Path(path), say or (lambda _: None)
    require("litert_torch")
    shell, _ = open_shell(run)
    length = context_length(Path(run), shell)
    with tempfile.TemporaryDirectory(prefix="dozan-litert-") as name:
        folder = shell.base_folder
        if shell.adapter_folder is not None:
            folder = Path(name) / "merged"
            merge(run, folder)
        say("converting with litert-torch")
        _convert(folder, Path(name) / "out", length, shell.chat.name == FUNCTIONGEMMA.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = path.with_name(f"{path.name}.partial")
        staging.write_bytes((Path(name) / "out" / "model.litertlm").read_bytes())
        staging.replace(path)
    rows = _rows(Path(run), examples)[:ROWS]
    missing = "" if has("litert_lm") else f"the package litert-lm-api is not installed there; {INSTALL}"
    if missing or not rows:
        return LiteRt(path, 0, None, missing or "there are no rows to ask it; name some with --data")
    say(f"asking LiteRT-LM {len(rows)} rows")
    return LiteRt(path, len(rows), score_rows(rows, ask(path, shell, rows, length), shell.chat), "")


def ask(path: Path, shell: Bundle, rows: Sequence[Example], length: int) -> list[str]:
    """What LiteRT-LM answers to each row in the bytes that were trained, control tokens spelt out."""
    prompts = [encode_prompt(row, shell.chat, shell.tokenizer) for row in rows]
    # The session puts <bos> in front by itself.
    texts = [shell.tokenizer.decode(prompt[1:]) for prompt in prompts]
    request = {"model": str(path.resolve()), "context_tokens": length, "max_new_tokens": NEW_TOKENS, "prompts": texts}
    with tempfile.TemporaryDirectory(prefix="dozan-litert-") as name:
        (Path(name) / "request.json").write_text(json.dumps(request), encoding="utf-8")
        _call([str(Path(__file__).with_name("litert_worker.py")), name], f"{path}: LiteRT-LM could not run it")
        found: list[str] = json.loads((Path(name) / "result.json").read_text(encoding="utf-8"))
    return found


def python() -> str:
    """The Python that has litert-torch: the one that DOZAN_LITERT_PYTHON names, else this one."""
    return os.environ.get(PYTHON) or sys.executable


def has(package: str) -> bool:
    """Whether that Python finds a package."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([python(), "-c", code], capture_output=True).returncode == 0


def require(package: str) -> None:
    """Raises InputError with what to install when that Python lacks a package."""
    if not has(package):
        raise InputError(f"--litert: not run, {python()} has no {package}; make an environment of its own ({INSTALL}) "
                         f"and name its Python in {PYTHON}")  # fmt: skip


def _convert(folder: Path, out: Path, length: int, calls: bool) -> None:
    options = {
        "model": folder, "output_dir": out, "cache_length": length, "prefill_lengths": f"[{min(256, length)}]",
        "quantization_recipe": "dynamic_wi8_afp32",
        **({"litert_lm_model_type_override": "function_gemma", "use_jinja_template": False} if calls else {}),
    }  # fmt: skip
    arguments = [f"--{name}={value}" for name, value in options.items()]
    _call(["-m", "litert_torch.generative.export_hf", *arguments], f"{folder}: litert-torch could not convert it")
    if not (out / "model.litertlm").is_file():
        raise InputError(f"{folder}: litert-torch ended without writing a model; use the version {INSTALL.split()[2]}")


def _call(arguments: Sequence[str], failure: str) -> None:
    """Run that Python, offline. Raises InputError with its last line."""
    environment: dict[str, Any] = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run([python(), *arguments], capture_output=True, text=True, errors="replace",
                              timeout=SECONDS, env=environment)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{failure} within {SECONDS:g} seconds; use a faster machine") from None
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no word on why")
        raise InputError(f"{failure}: {last[:300]}")


def _rows(run: Path, examples: str | Path | Sequence[Example] | None) -> list[Example]:
    kept = run / "data" / "heldout.jsonl"
    if examples is None:
        return read_rows(kept) if kept.is_file() else []
    return read_rows(examples) if isinstance(examples, str | Path) else list(examples)
