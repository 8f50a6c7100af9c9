"""The run folder: run.json, recipe.yaml, metrics.jsonl, the lock, and the fingerprint that a resume must match."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import platform
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from dozan.chat.encode import Tokens
from dozan.errors import InputError
from dozan.model.full_format import MODEL
from dozan.recipe import Recipe, dump
from dozan.redact import redact
from dozan.rows import kept
from dozan.train.checkpoint import MANIFEST, newest_valid, sha256, verify, write_text
from dozan.train.disk import stops_well
from dozan.train.store import TokenStore, row_text, weight_runs

MAY_CHANGE = ("save_steps", "log_steps", "eval_steps", "keep_checkpoints", "recompute", "offload", "fsdp", "mirror",
              "stall_minutes", "recoveries")  # fmt: skip
"""Settings of `train` that a resumed run may have otherwise: they change no weight."""

RUN, METRICS, RECORD = kept.RUN, "metrics.jsonl", "record.json"
"""The run's record, its figures, and the record's copy in a checkpoint."""

FINAL = {"adapter": "adapter", "full": MODEL}
"""The folder of a finished run that holds what was trained, by `train.weights`."""

DATA, ROWS = "data", ("train.jsonl", "heldout.jsonl", "tools.json")
"""The folder of the rows that a run divided, and what it writes there; other files in it are the user's."""

RECIPE = "recipe.yaml"

_LOCK = ".lock"
_GO_ON = "free some space, then run the same command again to go on from the newest checkpoint"
_BYTES_FREE = 50 * 2**20


def read_run(out: Path) -> dict[str, Any] | None:
    """run.json of a run folder, None for a folder that is absent or empty. One that is missing or damaged is taken from
    the newest valid checkpoint, and `recovered` says why.

    Raises InputError for a folder that holds something else, or when no checkpoint has it either.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"{out} is a file; choose another output folder")
    path = out / RUN
    if path.is_file():
        run, problem = kept.checked(path.read_bytes())
    elif any(not entry.name.startswith(".") for entry in out.iterdir()):
        run, problem = None, "is missing"
    else:
        return None
    if run is not None:
        return run
    found = newest_valid(out / "checkpoints", lambda folder: (folder / RECORD).is_file())
    copy = None if found.folder is None else kept.checked((found.folder / RECORD).read_bytes())[0]
    if copy is not None:
        return {**copy, "recovered": f"{RUN} {problem}: taken from step-{found.step:06d}"}
    if not path.is_file():
        raise InputError(f"{out} holds something that is not a run; choose another output folder, or empty it")
    raise InputError(f"{path} {problem}; choose another output folder, or remove {out}")


def track_id(out: Path, tracked: bool) -> dict[str, str]:
    """`track_id`, by which trackers know the run in `out`: as its run.json has it, else a new one if it is tracked."""
    known = ((read_run(out) or {}).get("given") or {}).get("track_id")
    return {"track_id": known or secrets.token_hex(4)} if known or tracked else {}


def final_problem(out: Path, run: Mapping[str, Any]) -> str | None:
    """What is wrong with the adapter or model of a finished run, and what is done about it; None when all is well."""
    trained = run.get("recipe", {}).get("train", {}).get("weights", "adapter")
    folder = out / FINAL[trained]
    if run["state"] != "done":
        return None
    if not folder.is_dir():
        problems = ["it is missing"]
    else:
        unnamed = kept.problem(out, run, f"{folder.name}/{MANIFEST}")
        problems = [unnamed] if unnamed else verify(folder, strict=False) if (folder / MANIFEST).is_file() else []
    return f"{folder} is damaged: {'; '.join(problems)}; written anew from the newest checkpoint" if problems else None


def data_problems(out: Path, run: Mapping[str, Any]) -> list[str]:
    """What is wrong with the rows that a run wrote down, one line a file."""
    return [said for name in ROWS if (said := kept.problem(out, run, f"{DATA}/{name}")) is not None]


def sealed_data(out: Path) -> dict[str, Any]:
    """What run.json is to say of the rows in a run's data folder."""
    return kept.seals(out, [f"{DATA}/{name}" for name in ROWS])


def data_seals(run: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a run.json says of them."""
    seals = (run or {}).get(kept.SEALED) or {}
    return {name: said for name, said in seals.items() if name in {f"{DATA}/{each}" for each in ROWS}}


def sealed_final(out: Path) -> dict[str, Any]:
    """What run.json is to say of what was trained: the manifest, which names the rest."""
    return kept.seals(out, [f"{name}/{MANIFEST}" for name in FINAL.values()])


def write_run(out: Path, run: Mapping[str, Any], recipe: Recipe) -> None:
    """Write run.json and recipe.yaml, each whole or not at all; run.json first, by which a killed run is known. It
    seals recipe.yaml, which a resume reads."""
    settings, path = redact(dump(recipe)), out / RECIPE
    plain = {key: value for key, value in run.items() if key != "recovered"}
    plain[kept.SEALED] = {**(run.get(kept.SEALED) or {}), RECIPE: kept.seal_of(settings.encode())}
    hidden = json.loads(redact(json.dumps(plain, ensure_ascii=False)))
    text = json.dumps({**hidden, "sha256": kept.digest(hidden)}, ensure_ascii=False, indent=1)
    with stops_well(out, _GO_ON):
        write_text(out / RUN, text)
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != settings:
            write_text(path, settings)


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the run folder for this process. Raises InputError, naming the holder, when another one has it."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise InputError(f"{out} is in use by {holder}; wait for it or choose another folder") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def fingerprint(recipe: Recipe, rows: Sequence[Tokens], heldout: Sequence[Tokens], base: str) -> dict[str, str]:
    """What decides the weights, by name: every hyper-parameter, and hashes of the rows and of the base."""
    settings = recipe.model_dump(mode="json", exclude={"name", "score", "data", "track"})
    settings["train"] = {k: v for k, v in settings["train"].items() if k not in MAY_CHANGE}
    if recipe.train.weights == "adapter":  # so that runs of versions that knew nothing else go on
        settings["train"].pop("weights")
    else:
        settings.pop("adapter")
    flat = {
        f"{section}.{key}" if key else section: json.dumps(value)
        for section, values in settings.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    return flat | {"rows": hash_rows(rows), "heldout rows": hash_rows(heldout), "base": base}


def hash_rows(rows: Sequence[Tokens]) -> str:
    """SHA-256 over the rows' ids, tokens and weights, in order; that of a store is known."""
    if isinstance(rows, TokenStore):
        return rows.sha256
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row_text(row, weight_runs(row)))
    return digest.hexdigest()


def hash_base(folder: Path) -> str:
    """SHA-256 over a checkpoint folder's config and weight files."""
    files = sorted([folder / "config.json", *folder.glob("*.safetensors")])
    lines = (f"{path.name} {sha256(path)}" for path in files if path.is_file())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def require_same(out: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise InputError that shows each difference between the run in `out` and what was asked for now."""
    differing = [key for key in dict.fromkeys([*before, *now]) if before.get(key) != now.get(key)]
    if not differing:
        return
    lines = [f"  {key}: the run has {_short(before.get(key))}, now {_short(now.get(key))}" for key in differing]
    raise InputError(
        f"{out} holds a run that differs:\n" + "\n".join(lines) + "\n"
        "give the same settings, rows and base to go on with it, or choose another output folder; "
        f"only {', '.join(f'train.{key}' for key in MAY_CHANGE)} may change"
    )


def keep_metrics(path: Path, step: int) -> None:
    """Cut metrics.jsonl after `step`, so that a resumed run leaves neither gaps nor repeats."""
    if not path.exists():
        return
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["step"] > step:
            break
        lines.append(line + "\n")
    write_text(path, "".join(lines))


def append_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line; a figure that is not finite is written as null, as JSON has it."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    with stops_well(path, _GO_ON), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(plain, ensure_ascii=False) + "\n")


def require_space(out: Path, trained_bytes: int, keep: int) -> None:
    """Raise InputError unless the disk has room for the checkpoints (what is trained and two moments each), the best
    and one being written among them, and for what was trained."""
    needed = (keep + 2) * 3 * trained_bytes + trained_bytes + _BYTES_FREE
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InputError(
            f"{out}: {free / 2**20:.0f} MiB are free and the run needs {needed / 2**20:.0f} MiB; "
            "free some space, choose another disk, or lower train.keep_checkpoints"
        )


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in ("torch", "tokenizers", "safetensors")
    }


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return f"{value[:12]}…" if len(value) == 64 else value
