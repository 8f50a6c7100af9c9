"""Data sets of the hub by id, `hf:org/name` or `hf:org/name:split`: their files are fetched and read as files.

`datasets` tells which files belong to a split and fetches them. The rows never pass through Arrow, which would give
every object of a column all the fields of the others, as nulls.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.records import Broken, Record, read_records

_MARK = "hf:"


def is_hub_id(path: str | Path) -> bool:
    return isinstance(path, str) and path.startswith(_MARK)


def hub_records(name: str) -> Iterator[Record | Broken]:
    """The records of a data set's split (`train` when none is given), its files one after another.

    Raises InputError when `datasets` is missing, or the set, the split or the network is.
    """
    for url, path in hub_files(name):
        yield from read_records(path, url.split("?")[0].rsplit("/", 1)[-1])


def hub_files(name: str) -> list[tuple[str, str]]:
    """Address and local path of every file of the split. Raises InputError as `hub_records`."""
    try:
        from datasets import DownloadManager, load_dataset_builder
    except ImportError:
        words = "reading from the hub needs datasets: pip install 'dozan[hub]', or download the files and name them"
        raise InputError(f"{name}: {words}") from None
    identity, _, split = name.removeprefix(_MARK).partition(":")
    try:
        files = load_dataset_builder(identity).config.data_files or {}
    except (OSError, ValueError, RuntimeError) as error:
        words = f"cannot be read from the hub: {str(error).splitlines()[0]:.300}"
        raise InputError(f"{name}: {words}; check the id and the connection, or name local files") from None
    splits = {str(key): list(urls) for key, urls in files.items()}
    wanted = split or ("train" if "train" in splits else next(iter(splits), ""))
    if wanted not in splits:
        raise InputError(f"{name}: has no split {wanted!r}; it has {', '.join(splits) or 'no files'}")
    manager = DownloadManager()
    return [(url, str(manager.download(url))) for url in splits[wanted]]
