"""Sends a run to the hub: adapter or merged folder, measured GGUF files, their certificate, and a model card.

Nothing is sent that was not shown first; rows are never sent. The token comes from HF_TOKEN alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.model.bundle import trained_weights
from dozan.model.files import read_json
from dozan.model.hub import EMBEDDED
from dozan.model.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dozan.redact import redact
from dozan.rows.example import Json
from dozan.rows.kept import require_kept
from dozan.ship.card import Facts, write_card
from dozan.ship.manifest import MANIFEST, file_sha256, named_base
from dozan.ship.parity_export import PAGE, PARITY

TOKEN = "HF_TOKEN"
CARD = "README.md"
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_ARABIC = re.compile("[\u0620-\u064a]")
_LOOKED_AT = 200


@dataclass(frozen=True)
class Item:
    """A file of the repository: from the disk, or its content."""

    name: str
    content: Path | bytes

    @property
    def bytes(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size


@dataclass(frozen=True)
class Parcel:
    """What would be sent, and where."""

    repo: str
    private: bool
    items: tuple[Item, ...]

    def lines(self) -> list[str]:
        """To show before it is sent."""
        who = "private: seen by its owner" if self.private else "public: seen by everybody"
        listed = [f"  {item.bytes:>15,}  {item.name}" for item in self.items]
        total = sum(item.bytes for item in self.items)
        return [f"to {self.repo} ({who}), {len(self.items)} files, {total:,} bytes:", *listed]

    def write(self, folder: Path) -> None:
        """The folder as it would be sent. Raises InputError for one that is not empty."""
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: exists and is not empty; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        for item in self.items:
            if isinstance(item.content, bytes):
                (folder / item.name).write_bytes(item.content)
            else:
                shutil.copyfile(item.content, folder / item.name)


def push(
    run: str | Path, repo: str, private: bool = False, gguf: str | Path | None = None,
    agreed: Callable[[Parcel], bool] = lambda _: False,
) -> str | None:  # fmt: skip
    """Send a run's adapter, or a merged folder, with the files of an export folder `gguf`; the repository's address.

    `agreed` is shown what would be sent; None comes back, and nothing was sent, unless it says yes. Raises InputError
    for what cannot be sent, a missing token, and what the hub refuses, the token never shown.
    """
    parcel = prepare(run, repo, private, gguf)
    if not agreed(parcel):
        return None
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(f"{TOKEN} is not set: make a token with write access at hf.co/settings/tokens and export it")
    return _send(parcel, token)


def prepare(run: str | Path, repo: str, private: bool = False, gguf: str | Path | None = None) -> Parcel:
    """What `push` would send. Raises InputError for what cannot be sent."""
    folder = Path(run).expanduser()
    if not _REPO.fullmatch(repo):
        raise InputError(f"repository {repo!r}: write OWNER/NAME, such as 'someone/phone-commands-ar'")
    if (folder / "run.json").is_file():
        if trained_weights(folder) == "full":
            raise InputError(f"{folder}: trained every weight; write its folder first, then push that: "
                             f"dozan merge {folder} --out DIR")  # fmt: skip
        items, record, kind = _of_run(folder), read_json(folder / "run.json"), "adapter"
        adapter_sha256, made_of = file_sha256(folder / "adapter" / ADAPTER_WEIGHTS), record
    elif (folder / MANIFEST).is_file():
        made_of = read_json(folder / MANIFEST)
        items, record, kind = _of_folder(folder, made_of), {}, "model"
        adapter_sha256 = str(made_of.get("adapter_sha256") or made_of.get("weights_sha256"))
    else:
        raise InputError(f"{folder}: neither a run nor a merged folder; give what dozan train or dozan merge wrote")
    parity, files = ({}, []) if gguf is None else _of_export(Path(gguf).expanduser(), adapter_sha256)
    name, on_hub = named_base(str(made_of.get("base", "")))
    embedded = name == EMBEDDED or made_of.get("base_sha256") == _embedded_sha256()
    ggufs = [item.name for item in files if item.name.endswith(".gguf")]
    facts = Facts(
        repo, name, on_hub, embedded, record, parity, kind, ggufs,
        record.get("chat") == "functiongemma" or kind == "model", _languages(folder),
    )  # fmt: skip
    card = Item(CARD, redact(write_card(facts)).encode())
    return Parcel(repo, private, tuple(sorted([card, *items, *files], key=lambda item: item.name)))


def _embedded_sha256() -> str:
    from dozan import EMBEDDED_BASE
    from dozan.train.run import hash_base

    return hash_base(Path(EMBEDDED_BASE))


def _of_run(run: Path) -> list[Item]:
    """The adapter, the recipe, and no path of this machine."""
    adapter = run / "adapter"
    if not (adapter / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"{run}: has no adapter/ yet; let the run finish")
    config = read_json(adapter / ADAPTER_CONFIG)
    config["base_model_name_or_path"], _ = named_base(str(config.get("base_model_name_or_path", "")))
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    items = [Item(ADAPTER_CONFIG, text.encode()), Item(ADAPTER_WEIGHTS, adapter / ADAPTER_WEIGHTS)]
    recipe = run / "recipe.yaml"
    if recipe.is_file():
        items.append(Item(recipe.name, redact(recipe.read_text(encoding="utf-8")).encode()))
    return items


def _of_folder(folder: Path, manifest: Mapping[str, Json]) -> list[Item]:
    """What the manifest of a merged folder lists, as it was when it was certified."""
    listed: Mapping[str, Mapping[str, Json]] = manifest.get("files") or {}
    changed = [name for name, said in listed.items()
               if not (folder / name).is_file() or file_sha256(folder / name) != said["sha256"]]  # fmt: skip
    if changed:
        raise InputError(f"{folder}: changed since it was merged ({', '.join(changed[:3])}); merge again")
    return [Item(name, folder / name) for name in (*listed, MANIFEST)]


def _of_export(folder: Path, adapter_sha256: str) -> tuple[dict[str, Json], list[Item]]:
    """parity.json and the files that it certifies. Raises InputError for files that it does not, or another model's."""
    if not (folder / PARITY).is_file():
        raise InputError(f"{folder}: has no {PARITY}; write the files with: dozan export RUN --out {folder}")
    parity = read_json(folder / PARITY)
    if adapter_sha256 not in (parity.get("adapter_sha256"), parity.get("weights_sha256")):
        raise InputError(f"{folder}: these files were made from another adapter; export this run again")
    paths = sorted(folder.glob("*.gguf"))
    known: Mapping[str, Mapping[str, Json]] = parity.get("files") or {}
    unknown = [path.name for path in paths
               if path.name not in known or known[path.name].get("failures")
               or file_sha256(path) != known[path.name].get("sha256")]  # fmt: skip
    if unknown or not paths:
        raise InputError(f"{folder}: {', '.join(unknown) or 'no GGUF file'}: not what {PARITY} certifies; export again")
    beside = [path for path in (folder / PARITY, folder / PAGE) if path.is_file()]
    return parity, [Item(path.name, path) for path in (*paths, *beside)]


def _languages(run: Path) -> Sequence[str]:
    """Of the run's held-out rows, as far as letters tell."""
    path = run / "data" / "heldout.jsonl"
    if not path.is_file():
        return ("ar", "en")
    require_kept(path)
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for _, line in zip(range(_LOOKED_AT), file, strict=False)]
    said = [json.dumps(row.get("messages", row), ensure_ascii=False) for row in rows]
    arabic = [bool(_ARABIC.search(text)) for text in said]
    return [code for code, there in (("ar", any(arabic)), ("en", not all(arabic))) if there]


def _send(parcel: Parcel, token: str) -> str:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError as error:
        raise InputError("pushing needs `pip install 'dozan[hub]'`") from error
    api = huggingface_hub.HfApi(token=token)
    try:
        address = api.create_repo(parcel.repo, private=parcel.private, exist_ok=True)
        if parcel.private and not api.repo_info(parcel.repo).private:
            raise InputError(f"{parcel.repo}: is there already, and public; make it private first")
        operations: list[Any] = [huggingface_hub.CommitOperationAdd(item.name, item.content) for item in parcel.items]
        api.create_commit(parcel.repo, operations, commit_message="dozan push")
    except (errors.HTTPError, errors.HFValidationError, OSError) as error:
        said = redact(str(error).replace(token, "***")).strip().splitlines()
        raise InputError(f"{parcel.repo}: the hub refused ({' '.join(said[:2])}); {_remedy(error)}") from None
    return str(address)


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"give {TOKEN} a token with write access to that account"
    return "try again; nothing was committed"
