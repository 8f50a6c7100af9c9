"""From what a user calls a model to its folder: a local path, a run, the embedded base, or a repository on the hub."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path

import dozan
from dozan.errors import InputError

EMBEDDED = "dozan:embedded"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")


def resolve_model(name: str | Path) -> Path:
    """The folder with config.json that `name` stands for.

    name: an existing folder; a run folder (its base is meant); `dozan:embedded`; or a hub id such as
    `google/functiongemma-270m-it`, downloaded once (`HF_HUB_OFFLINE=1` uses the cache alone). Raises InputError with
    what to do otherwise.
    """
    text = str(name)
    if text in (EMBEDDED, dozan.EMBEDDED_BASE):
        return Path(dozan.EMBEDDED_BASE)
    folder = Path(name).expanduser()
    if (folder / "run.json").is_file():
        return resolve_base(folder)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"model {text!r} is a file; give the folder that holds it: {str(folder.parent)!r}")
    if _HUB_NAME.fullmatch(text):
        return _download(text)
    raise InputError(f"model {text!r}: no such folder{_similar(folder)}. Give a folder with config.json, or a hub id "
                     "such as 'google/functiongemma-270m-it', or leave --model out for the embedded base")  # fmt: skip


def run_base(run: Path) -> str:
    """What a run folder's run.json names as its base model."""
    path = run / "run.json"
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a run's record ({error}); it must hold {{\"base\": \"…\"}}") from error
    if not isinstance(base, str) or not base or (run / base).resolve() == run.resolve():
        raise InputError(f"{path}: base is {base!r}; it must name another folder or a hub id")
    return base


def resolve_base(run: Path) -> Path:
    """The folder of a run's base. Raises InputError, when it lies elsewhere now, with how to tell the run."""
    base = run_base(run)
    if Path(base).is_absolute() and not Path(base).exists():
        raise InputError(f"{run}: its base {base} is not there; where it is elsewhere now, give the run's command once "
                         f"more with that folder: dozan train … --model FOLDER --out {run}")  # fmt: skip
    return resolve_model(base)


def _similar(folder: Path) -> str:
    parent = folder.parent
    names = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
    close = difflib.get_close_matches(folder.name, names, n=1)
    return f" (did you mean {str(parent / close[0])!r}?)" if close else ""


def _download(name: str) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise InputError(f"model {name!r}: no such folder, and the hub needs `pip install 'dozan[hub]'`") from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(_WANTED)))
    except (errors.HTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, OSError) as error:
        raise InputError(f"model {name!r}: {_remedy(error)}") from error


def _remedy(error: Exception) -> str:
    """One line on what to do about a failed download, by what the hub answered."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    token = bool(os.environ.get("HF_TOKEN"))
    if status == 403 or (kind == "GatedRepoError" and token):
        return "403: your token has no access; accept the licence on the model's page with the account of that token"
    if kind == "GatedRepoError" or (status == 401 and token):
        return "401: set HF_TOKEN to a valid access token of an account that has accepted the model's licence"
    if status in (401, 404) or kind == "HFValidationError":
        return "not found on the hub; check the spelling, and set HF_TOKEN if it is private"
    if kind in ("LocalEntryNotFoundError", "OfflineModeIsEnabled"):
        return "not in the local cache, and the hub cannot be reached; unset HF_HUB_OFFLINE or give a folder"
    return f"the download failed ({str(error).splitlines()[0] if str(error) else kind}); try again"
