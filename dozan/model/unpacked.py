"""The files of a checkpoint in NF4, copied as those of a 16-bit one: places for the weights, no scales."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.model.files import read_header, read_json
from dozan.model.nf4_format import StoredNF4, is_part
from dozan.model.stored import INDEX, Stored, tensors_of, text_name


def copy_unpacked(path: Path, to: Path, packed: Mapping[str, StoredNF4]) -> None:
    """Copy a file of a checkpoint; `packed`: its weights in NF4 by their stored names, in all of its files.

    A safetensors file gets a hole of the right size for each of them and loses their scales; the index and config.json
    lose what spoke of them. Without any, and every other file, stays byte for byte.
    """
    if packed and path.suffix == ".safetensors":
        _copy_weights(path, to, packed)
    elif packed and path.name == "config.json":
        config = read_json(path)
        config.pop("quantization_config", None)
        to.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    elif packed and path.name == INDEX:
        index = read_json(path)
        index["weight_map"] = {n: file for n, file in index["weight_map"].items() if not is_part(n, packed)}
        index["metadata"] = {key: value for key, value in index.get("metadata", {}).items() if key != "total_size"}
        to.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    else:
        shutil.copyfile(path, to)


def _copy_weights(path: Path, to: Path, packed: Mapping[str, StoredNF4]) -> None:
    kept = [stored for stored in tensors_of(path) if not is_part(stored.name, packed)]
    quantised = [stored.name for stored in kept if text_name(stored.name) is None and stored.dtype == "U8"]
    if quantised:
        raise InputError(f"{path}: the vision tower is quantised too ({quantised[0]}); merge onto the 16-bit "
                         "checkpoint: --onto PATH or its hub id")  # fmt: skip
    header: dict[str, Any] = {"__metadata__": read_header(path)[1].get("__metadata__", {"format": "pt"})}
    sources: list[tuple[Stored, int]] = []
    end = 0
    for stored in kept:
        own = packed.get(stored.name)
        if own is None:
            sources.append((stored, end))
            dtype, shape, size = stored.dtype, stored.shape, stored.nbytes
        else:
            dtype, shape, size = own.dtype, own.shape, own.bytes_unpacked
        header[stored.name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with to.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        start = file.tell()
        for stored, place in sources:
            file.seek(start + place)
            for piece in stored.raw():
                file.write(piece.numpy().data)
        file.truncate(start + end)

