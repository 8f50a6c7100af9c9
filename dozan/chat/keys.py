"""A row's token ids as bytes: four each, most significant first, so that rows sort as their ids do and compare in C."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

TOKEN_BYTES = 4


def key(ids: Sequence[int]) -> bytes:
    """The bytes of a row's ids."""
    packed = array("I", ids)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def common_prefix(a: bytes, b: bytes) -> int:
    """How many tokens two rows begin with in common; by halves, each of them one comparison."""
    low, high = 0, min(len(a), len(b)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if a[low * TOKEN_BYTES : middle * TOKEN_BYTES] == b[low * TOKEN_BYTES : middle * TOKEN_BYTES]:
            low = middle
        else:
            high = middle - 1
    return low
