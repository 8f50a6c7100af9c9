"""dozan-manifest.json: what a shipped folder holds, by size and SHA-256, and what it was made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import dozan
from dozan.model.files import read_json, write_whole
from dozan.model.full_format import MODEL
from dozan.model.hub import run_base
from dozan.model.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dozan.rows.example import Json
from dozan.ship.source import Source
from dozan.train.run import RUN, hash_base

MANIFEST = "dozan-manifest.json"


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def origin(source: Source) -> dict[str, Json]:
    """What a model was made of: base and adapter by name and SHA-256 (the adapter's is None for a plain checkpoint). Of
    a run that trained every weight the base is what it began with, and `weights_sha256` that of what came out."""
    bundle = source.bundle
    adapter, run = bundle.adapter_folder, full_run(source)
    base_sha256 = source.base_sha256 if run is None else read_json(run / RUN).get("base_sha256")
    trained = {} if run is None else {"weights_sha256": hash_base(bundle.base_folder)}
    return {
        "dozan": dozan.__version__,
        "base": named_base(_base(source))[0],
        "base_sha256": base_sha256 or None,
        "adapter_sha256": None if adapter is None else file_sha256(adapter / ADAPTER_WEIGHTS),
        **trained,
    }


def full_run(source: Source) -> Path | None:
    """The run that trained every weight of what a source was opened on."""
    folder = source.bundle.base_folder
    inside = folder.name == MODEL and (folder.parent / RUN).is_file()
    return folder.parent if inside and source.bundle.adapter_folder is None else None


def _base(source: Source) -> str:
    """What the adapter says it was trained on, what a run began with, or the checkpoint's folder."""
    run = full_run(source)
    if run is not None:
        return run_base(run)
    folder = source.bundle.adapter_folder
    said = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") if folder is not None else None
    return str(said or source.bundle.base_folder)


def named_base(base: str) -> tuple[str, bool]:
    """What a card calls a base, and whether the hub has it: a path on this machine is cut to its last part."""
    on_hub = base.count("/") == 1 and not base.startswith((".", "/", "~")) and not Path(base).exists()
    return (base, True) if on_hub else (Path(base).name if "/" in base else base, False)


def write_manifest(folder: Path, source: Source, facts: Mapping[str, Json]) -> Path:
    """Write the manifest of every file that lies in the folder, with `origin` and `facts`."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    listed = {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in files}
    write_json(folder / MANIFEST, {**origin(source), **facts, "files": listed})
    return folder / MANIFEST


def write_json(path: Path, found: Mapping[str, Json]) -> None:
    """A JSON file, whole or not at all."""
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"

    def write(staging: Path) -> None:
        staging.write_text(text, encoding="utf-8")

    write_whole(path, write)
