"""Reads W&B's `.wandb` files: LevelDB's log format around its protocol buffers.

Format: a header of 7 bytes (`:W&B`, 0xBEE1, version 0), then blocks of 32 KiB, the header counted; each record is a
CRC (4 bytes), a length (2), a kind (1) and its bytes. Kind 1 is whole, 2, 3, 4 are the first, middle and last parts.
Source: github.com/google/leveldb, doc/log_format.md; wandb/core/internal/transactionlog.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7
_MAGIC = b":W&B"
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class DamagedFile(Exception):
    """A `.wandb` file is there that cannot be read."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged; move it away")


def records(path: Path) -> Iterator[Any]:
    """Every whole record of a file, in order; an end that was cut off is left out, at worst all of it.

    Raises DamagedFile for what is no such file, or no longer.
    """
    read = getattr(wandb_internal_pb2, "Record")  # noqa: B009 - made when the module is loaded
    content = path.read_bytes()
    if content[:4] != _MAGIC[: len(content)]:
        raise DamagedFile(path)
    at, parts = _HEADER, b""
    while at + _HEADER <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        start, at = at + _HEADER, at + _HEADER + length
        if kind not in (_WHOLE, _FIRST, _MIDDLE, _LAST) or at > len(content):
            return
        parts = (b"" if kind in (_WHOLE, _FIRST) else parts) + content[start:at]
        if kind in (_WHOLE, _LAST):
            try:
                yield read.FromString(parts)
            except DecodeError:
                raise DamagedFile(path) from None


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged, by their names. Raises DamagedFile as `records` does."""
    rows = (record.history for record in records(path) if record.WhichOneof("record_type") == "history")
    try:
        return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item}
                for row in rows]  # fmt: skip
    except ValueError:
        raise DamagedFile(path) from None
