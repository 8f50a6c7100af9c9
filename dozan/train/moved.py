"""A finished run whose base lies elsewhere now: its records name the new place, where the same bytes were found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dozan.model.files import read_json
from dozan.model.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dozan.recipe import Recipe
from dozan.rows.kept import SEALED, seal_of
from dozan.train import run as run_folder
from dozan.train.checkpoint import MANIFEST, sha256, write_text
from dozan.train.live import OnEvent

_BASE = "base_model_name_or_path"


def follow_base(
    out: Path, done: Mapping[str, Any], base: str, given: Mapping[str, Any] | None, asked: Recipe, report: OnEvent
) -> dict[str, Any]:
    """Have a finished run's run.json and adapter_config.json name `base`; its run.json then.

    The caller has compared the bases' hashes. Whenever the process dies, what is there can be opened: the seals are
    taken away first, and set last.
    """
    if not names_another(out, done, base):
        return dict(done)
    adapter, config = out / run_folder.FINAL["adapter"], _config(out)
    name = f"{adapter.name}/{MANIFEST}"
    run = {**done, "base": base, SEALED: {k: v for k, v in (done.get(SEALED) or {}).items() if k != name}}
    if given is not None and done.get("given"):
        run["given"] = {**done["given"], "model": given["model"]}
    run_folder.write_run(out, run, asked)
    if config is not None:
        run[SEALED] |= _name_base(adapter, {**config, _BASE: base})
        run_folder.write_run(out, run, asked)
    report({"event": "note", "text": f"{out}: the base that was {done['base']} is {base} now"})
    return run


def names_another(out: Path, done: Mapping[str, Any], base: str) -> bool:
    """Whether a finished run names another base."""
    config = _config(out)
    return done["base"] != base or (config is not None and config.get(_BASE) != base)


def _config(out: Path) -> dict[str, Any] | None:
    path = out / run_folder.FINAL["adapter"] / ADAPTER_CONFIG
    return read_json(path) if path.is_file() else None


def _name_base(adapter: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Write the adapter's config and seal it; what run.json is to say of the manifest."""
    path = adapter / MANIFEST
    files = read_json(path) if path.is_file() else _entries(adapter, ADAPTER_WEIGHTS)
    path.unlink(missing_ok=True)
    write_text(adapter / ADAPTER_CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    text = json.dumps({**files, **_entries(adapter, ADAPTER_CONFIG)}, indent=1)
    write_text(path, text)
    return {f"{adapter.name}/{MANIFEST}": seal_of(text.encode())}


def _entries(folder: Path, name: str) -> dict[str, Any]:
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}}
