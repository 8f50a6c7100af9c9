"""llama.cpp's own `llama_model_quantize`, from the cyllama wheel: the oracle of the quantised files."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import LlamaFileType

COUNT = 42
"""GGML_TYPE_COUNT of that build: no type of one's own."""


class Weights(ctypes.Structure):
    """`llama_model_imatrix_data`"""

    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("size", ctypes.c_size_t)]


def llama_quantise(
    source: Path, out: Path, kind: LlamaFileType, importance: Mapping[str, np.ndarray] | None = None,
    embedding: int = COUNT, pure: bool = False,
) -> Path:  # fmt: skip
    """Quantise the F32 file `source` to `out`. importance: fp32 [I] by tensor name, for which cyllama has no setter:
    the pointer is put where the parameters' struct has it."""
    cyllama = pytest.importorskip("cyllama.llama.llama_cpp")
    params: Any = cyllama.LlamaModelQuantizeParams()
    params.ftype, params.nthread, params.pure, params.token_embedding_type = int(kind), 1, pure, embedding
    arrays = [np.ascontiguousarray(array, np.float32) for array in (importance or {}).values()]
    entries = [Weights(name.encode(), array.ctypes.data, array.size)
               for name, array in zip(importance or {}, arrays, strict=True)]  # fmt: skip
    table = (Weights * (len(entries) + 1))(*entries)
    if importance:
        start = np.array([1, int(kind), COUNT, embedding], np.int32).tobytes()
        place = ctypes.string_at(id(params), params.__sizeof__()).find(start)
        assert place > 0, "the struct begins with threads, file type, output type, embedding type"
        ctypes.c_void_p.from_address(id(params) + place + 24).value = ctypes.addressof(table)
    cyllama.model_quantize(str(source), str(out), params)
    return out
