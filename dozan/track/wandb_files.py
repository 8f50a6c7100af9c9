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

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Any]:
    """Every whole record of a file, in order; an end that was cut off is left out."""
    read = getattr(wandb_internal_pb2, "Record")  # noqa: B009 - made when the module is loaded
    content = path.read_bytes()
    assert content[:4] == b":W&B", path
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
            yield read.FromString(parts)


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that were logged, by their names."""
    rows = (record.history for record in records(path) if record.WhichOneof("record_type") == "history")
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]
