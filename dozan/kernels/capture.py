"""Recording CUDA graphs where nothing else can spoil it.

A capture breaks, and the process with it, when something unsafe happens meanwhile: the garbage collector frees an
earlier graph just then, or another thread, such as one that writes a checkpoint, calls what may wait for the device.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OWN_THREAD = "thread_local"
"""The `capture_error_mode` of every capture: what other threads call is none of its business."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Nothing that is unreachable is freed inside."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
