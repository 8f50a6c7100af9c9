"""`dozan.reproduce`: from a checkpoint and rows on the hub to a record ready to be published, one step after another.

Each step writes what it found to record.json; the same call goes on after the last one that is whole, and the training
from its newest checkpoint.
"""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dozan
from dozan.errors import InputError
from dozan.judge.evaluate import read_scores
from dozan.judge.presets import apply_preset
from dozan.judge.report import report_run
from dozan.model.hub import resolve_model
from dozan.redact import redact
from dozan.reproduce.oracle import check_logits, check_rendering, require_transformers
from dozan.reproduce.page import write_page
from dozan.reproduce.published import DATA_SETS
from dozan.reproduce.rows import gather
from dozan.rows.readers import read_rows
from dozan.ship.manifest import file_sha256
from dozan.train.checkpoint import write_text
from dozan.train.run import hash_base

NAMES = ("functiongemma-ar",)
MODEL = "google/functiongemma-270m-it"
RECORD, PAGE, REPORT = "record.json", "README.md", "report.html"
KIND = "q8_0"
_VERSIONS = ("torch", "transformers", "tokenizers", "safetensors", "xllamacpp", "gguf")
_TEXTS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja")
Say = Callable[[str], None]


def reproduce(
    name: str = NAMES[0], model: str | Path = MODEL, data: str | Path = DATA_SETS[0].id,
    out: str | Path = "output/reproduce", overrides: Sequence[str] = (), limit: int | None = None,
    max_new_tokens: int = 256, say: Say = print,
) -> dict[str, Any]:  # fmt: skip
    """Check, train, score, export and write up; the record that `out/record.json` holds.

    name: the shipped recipe. model: a hub id or a folder. data: a hub id, or a folder with train and test (or dev)
    files. overrides: as `--set` takes them, and recorded. limit: at most so many test rows. The checkpoint's rendering
    and logits must be transformers' own before anything is trained. `out/README.md` is the page, `out/report.html` the
    report.

    Raises InputError for what cannot be used or differs, ExportFailed for a GGUF outside its gate, and Interrupted when
    a signal stopped the training; the same call goes on.
    """
    if name not in NAMES:
        raise InputError(f"{name!r} is not known; what can be reproduced: {', '.join(NAMES)}")
    require_transformers()
    asked = {"recipe": name, "model": str(model), "data": str(data), "overrides": list(overrides), "limit": limit,
             "max_new_tokens": max_new_tokens, "dozan": dozan.__version__}  # fmt: skip
    work = _Work(_opened(Path(out), asked), Path(out), say)
    work.step("rows", "Gathering the rows", lambda: gather(str(data), work.data, limit, say))
    folder = resolve_model(model)
    work.require_checkpoint(folder, str(model))
    work.step("checkpoint", "Reading the checkpoint", lambda: {"name": str(model), **_hashes(folder)})
    test = read_rows(work.data / "test.jsonl")
    work.step("rendering", "Comparing the rendering with the checkpoint's own", lambda: check_rendering(folder, test))
    work.step("logits", "Comparing the logits with transformers'", lambda: check_logits(folder, test))
    work.step("base", "Scoring the base", lambda: work.score(folder, "base", max_new_tokens))
    work.step("training", "Training", lambda: work.train(folder, name, overrides))
    work.step("tuned", "Scoring the tuned model", lambda: work.score(work.run, "tuned", max_new_tokens))
    work.step("export", f"Writing and measuring the {KIND.upper()} GGUF", work.export)
    gguf = work.out / "gguf" / f"run-{KIND}.gguf"
    work.step("gguf", "Scoring the GGUF through llama.cpp", lambda: work.score(gguf, "gguf", max_new_tokens))
    return work.finish(name)


@dataclass
class _Work:
    """record.json and the folder around it."""

    record: dict[str, Any]
    out: Path
    say: Say
    began: float = field(default_factory=time.monotonic)

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def run(self) -> Path:
        return self.out / "run"

    def step(self, name: str, title: str, work: Callable[[], dict[str, Any]]) -> None:
        """Do it unless the record has it."""
        if name in self.record["steps"]:
            self.say(f"{title}: done earlier")
            return
        self.say(title)
        started = time.monotonic()
        found = work()
        self.record["steps"][name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        self.write()

    def require_checkpoint(self, folder: Path, model: str) -> None:
        """Raises InputError when the files are others than those of the steps that are done."""
        if "checkpoint" not in self.record["steps"]:
            return
        before, now = self.record["steps"]["checkpoint"], _hashes(folder)
        changed = [key for key in dict.fromkeys([*before, *now])
                   if key not in ("name", "seconds") and before.get(key) != now.get(key)]  # fmt: skip
        if changed:
            raise InputError(f"{model} has changed since {self.out} was begun with it ({', '.join(changed)}): bring "
                             "the files back, or choose another folder with --out")  # fmt: skip

    def write(self) -> None:
        write_text(self.out / RECORD, redact(json.dumps(self.record, ensure_ascii=False, indent=1)))

    def score(self, model: Path, name: str, max_new_tokens: int) -> dict[str, Any]:
        """Answer the test rows; figures of our own and of both presets, the answers in `scores/NAME.json`."""
        from dozan.terminal import progress

        path, rows = self.out / "scores" / f"{name}.json", read_rows(self.data / "test.jsonl")
        with progress(name) as on_progress:
            scores = dozan.evaluate(model, rows, path, max_new_tokens, on_progress=on_progress)
        summary = scores.summary()
        presets = {preset: apply_preset(preset, scores, rows).to_json() for preset in ("aisa", "mobile-actions")}
        return {
            "rows": len(rows), **{name: summary["intervals"][name] for name in ("strict", "normalised")},
            "presets": {key: {"rules": found["rules"], "figures": found["figures"]} for key, found in presets.items()},
        }  # fmt: skip

    def train(self, folder: Path, recipe: str, overrides: Sequence[str]) -> dict[str, Any]:
        """The recipe on the training rows; its own held-out share measures the loss, the test rows stay unseen."""
        result = dozan.train(self.data / "train.jsonl", folder, self.run, recipe, overrides)
        run = json.loads((self.run / "run.json").read_text(encoding="utf-8"))
        return {"steps": result.steps, "tokens": result.tokens, "step_seconds": round(result.seconds, 1),
                "final_loss": result.final_loss, "eval_loss": result.eval_loss, "recipe": run["recipe"],
                "trainable_parameters": result.trainable_parameters, "fingerprint": run["fingerprint"]}  # fmt: skip

    def export(self) -> dict[str, Any]:
        """The GGUF with its certificate."""
        (exported,) = dozan.export(self.run, KIND, self.out / "gguf", examples=read_rows(self.data / "test.jsonl"))
        certificate = exported.certificate
        apart = certificate.difference
        return {"file": exported.path.name, "bytes": exported.bytes, "sha256": certificate.sha256,
                "max_abs": apart.max_abs, "mean_kl": apart.mean_kl, "same_first_choice": apart.top1,
                "lines_equal": certificate.lines_equal, "lines": certificate.lines}  # fmt: skip

    def finish(self, name: str) -> dict[str, Any]:
        """report.html, README.md, and the record as it is then."""
        models = {"base": "base", "tuned": "tuned", f"GGUF {KIND}": "gguf"}
        scores = {title: read_scores(self.out / "scores" / f"{file}.json") for title, file in models.items()}
        parity = json.loads((self.out / "gguf" / "parity.json").read_text(encoding="utf-8"))
        report_run(self.out / REPORT, self.run, scores, f"dozan reproduce {name}", certificate=parity)
        self.record["state"] = "done"
        self.write()
        write_page(self.out / PAGE, self.record)
        self.say(f"done: {self.out / PAGE}, {self.out / RECORD}, {self.out / REPORT}")
        return self.record


def _opened(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """The record of an earlier call in `out` that asked for the same, or a new one."""
    path = out / RECORD
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        # What was written was redacted.
        now = json.loads(redact(json.dumps(asked, ensure_ascii=False)))
        changed = [key for key, value in now.items() if record.get("asked", {}).get(key) != value]
        if changed:
            raise InputError(f"{out} holds a reproduction with another {', '.join(changed)}; give the same to go on "
                             "with it, or choose another folder with --out")  # fmt: skip
        return record
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} holds something that is no reproduction; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    return {"asked": asked, "command": _command(asked), "state": "running", "machine": _machine(),
            "versions": _versions(), "steps": {}}  # fmt: skip


def _hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's config and weights, and of each file that decides what text it reads."""
    texts = [path for name in _TEXTS if (path := folder / name).is_file()]
    return {"sha256": hash_base(folder), **{path.name: file_sha256(path) for path in texts}}


def _command(asked: dict[str, Any]) -> str:
    """What does the same elsewhere."""
    parts = ["dozan", "reproduce", asked["recipe"], "--model", asked["model"], "--data", asked["data"]]
    for text in asked["overrides"]:
        parts += ["--set", text]
    parts += [] if asked["limit"] is None else ["--limit", str(asked["limit"])]
    parts += [] if asked["max_new_tokens"] == 256 else ["--max-new-tokens", str(asked["max_new_tokens"])]
    return shlex.join(parts)


def _machine() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"device": device, "system": platform.system(), "processor": platform.machine()}


def _versions() -> dict[str, str]:
    found = {name: metadata.version(name) for name in _VERSIONS}
    return {"dozan": dozan.__version__, "python": platform.python_version(), **found}
