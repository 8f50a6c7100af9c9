"""GGUF types: what a user names, which type each tensor of Gemma 3 gets, and llama.cpp's own quantisers.

The choice of types is llama.cpp's (llama-quant.cpp, llama_tensor_get_type): more bits for the value and down
projections of the first and last eighth of the layers and of every third between, the tied embedding as an output, and
another type where a row is no multiple of the type's block, as in 270M with its 640 columns. The numbers come from
`ggml_quantize_chunk` in the shared object of the xllamacpp wheel: bit for bit what `llama_model_quantize` writes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from math import prod

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from dozan.errors import InputError
from dozan.ship.llama_worker import WorkerError, load_library

KINDS: dict[str, tuple[Type, gguf.LlamaFileType]] = {
    "f32": (Type.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (Type.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q6_k": (Type.Q6_K, gguf.LlamaFileType.MOSTLY_Q6_K),
    "q5_k_m": (Type.Q5_K, gguf.LlamaFileType.MOSTLY_Q5_K_M),
    "q4_k_m": (Type.Q4_K, gguf.LlamaFileType.MOSTLY_Q4_K_M),
    "q4_0": (Type.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    "iq4_xs": (Type.IQ4_XS, gguf.LlamaFileType.MOSTLY_IQ4_XS),
}
"""The types we write, by the name a user gives: the type of most tensors, and what the file says of itself."""
EMBEDDING_KINDS: dict[str, Type] = {
    kind.name.lower(): kind
    for kind in (Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q6_K, Type.Q5_K, Type.Q4_K, Type.Q4_0)
}
"""The types that the embedding may be given apart."""
EMBEDDING = "token_embd"
FLOATS = {Type.F32: torch.float32, Type.F16: torch.float16, Type.BF16: torch.bfloat16}
FALLBACK = {Type.IQ4_XS: Type.IQ4_NL, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
"""Types in blocks of 256 -> what takes their place, in blocks of 32."""


@dataclass(frozen=True)
class Mix:
    """What the choice of types depends on beside the tensor: the user's type, the shape of the model, whether there is
    an importance matrix, and the embedding's type where the user names one."""

    kind: str
    layers: int
    queries_per_key: int
    importance: bool = False
    embedding: Type | None = None


@dataclass(frozen=True)
class Choice:
    """The type of a tensor, and the one that its row length did not allow (the same where it did)."""

    kind: Type
    wanted: Type


def block_of(kind: Type) -> int:
    """Numbers in a block of a type."""
    return int(gguf.GGML_QUANT_SIZES[kind][0])


def row_bytes(kind: Type, columns: int) -> int:
    """Bytes of a row of `columns` numbers."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    assert columns % block == 0, (kind, columns)
    return int(columns // block * size)


def choose(mix: Mix, role: str, layer: int, columns: int) -> Choice:
    """The type of a matrix with rows of `columns` numbers. role: token_embd, or a layer's attn_v, ffn_down, ....

    Raises InputError when the rows fit no type.
    """
    default = KINDS[mix.kind][0]
    if role == EMBEDDING and mix.embedding is not None:
        if columns % block_of(mix.embedding):
            raise InputError(f"--token-embd-type {mix.embedding.name.lower()}: rows of {columns} numbers are no "
                             f"multiple of its block of {block_of(mix.embedding)}; give q8_0")  # fmt: skip
        return Choice(mix.embedding, mix.embedding)
    if default in FLOATS:
        return Choice(default, default)
    wanted = _wanted(mix, default, role, layer)
    if columns % block_of(wanted) == 0 and (role != EMBEDDING or columns % block_of(default) == 0):
        return Choice(wanted, wanted)
    kind = FALLBACK.get(wanted)
    if kind is None:
        raise InputError(f"a width of {columns} is no multiple of {mix.kind}'s block of {block_of(wanted)}")
    return Choice(kind if columns % block_of(kind) == 0 else Type.F16, wanted)


def _wanted(mix: Mix, default: Type, role: str, layer: int) -> Type:
    """llama.cpp's choice before it looks at the length of the rows."""
    kind, first = mix.kind, layer < mix.layers // 8
    if role == EMBEDDING:
        return default if default is Type.Q8_0 else Type.Q6_K
    if role in ("attn_v", "ffn_down") and kind in ("q4_k_m", "q5_k_m"):
        return Type.Q6_K if _more_bits(layer, mix.layers) else default
    if role == "attn_v" and kind == "iq4_xs" and mix.queries_per_key >= 4:
        return Type.Q5_K
    if role == "ffn_down" and first and kind == "iq4_xs" and not mix.importance:
        return Type.Q5_K
    if role == "ffn_down" and first and kind == "q4_0" and mix.importance:
        return Type.Q4_1
    return default


def _more_bits(layer: int, layers: int) -> bool:
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def quantise(values: np.ndarray, kind: Type, importance: np.ndarray | None = None) -> np.ndarray:
    """fp32 [O, I] in a quantised type: uint8 [O, bytes of a row], on as many threads as torch uses.

    importance: fp32 [I], the weight of each column's squared error. Raises InputError when a block's scale is beyond
    what the type holds.
    """
    assert values.dtype == np.float32 and values.ndim == 2 and values.flags.c_contiguous
    assert importance is None or (importance.dtype == np.float32 and importance.shape == values.shape[1:])
    library = _library()
    rows, columns = values.shape
    out = np.empty((rows, row_bytes(kind, columns)), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance)

    def some(first: int, count: int) -> int:
        return int(library.ggml_quantize_chunk(
            kind, values.ctypes.data, out.ctypes.data, first * columns, count, columns,
            None if weights is None else weights.ctypes.data,
        ))  # fmt: skip

    library.ggml_quantize_init(kind)
    step = max(1, _CHUNK // columns)
    parts = [(first, min(step, rows - first)) for first in range(0, rows, step)]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        written = sum(threads.map(lambda part: some(*part), parts))
    assert written == out.nbytes, (written, out.nbytes)
    if not library.ggml_validate_row_data(kind, out.ctypes.data, out.nbytes):
        raise InputError(f"a block's scale is beyond {kind.name.lower()}; use bf16")
    return out


_CHUNK = 1 << 18
"""Numbers that a thread takes at a time."""


@cache
def _library() -> ctypes.CDLL:
    """llama.cpp, in this process: its quantisers read and write only the arrays they are given."""
    try:
        library = load_library()
    except WorkerError as error:
        raise InputError(str(error)) from error
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_init.argtypes, library.ggml_quantize_init.restype = [ctypes.c_int], None
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, pointer, ctypes.c_size_t]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    return library


@dataclass(frozen=True)
class TypeRow:
    """Tensors of one role and one type in a file: how many, their numbers and bytes; `wanted` is the type that their
    row length did not allow, None where it did."""

    role: str
    kind: str
    tensors: int
    weights: int
    bytes: int
    wanted: str | None

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.bytes / self.weights


def type_table(tensors: Iterable[tuple[str, Choice, tuple[int, ...]]]) -> list[TypeRow]:
    """What each role came to; tensors: (role, choice, shape), in the file's order."""
    rows: dict[tuple[str, Choice], TypeRow] = {}
    for role, choice, shape in tensors:
        wanted = None if choice.wanted is choice.kind else choice.wanted.name.lower()
        empty = TypeRow(role, choice.kind.name.lower(), 0, 0, 0, wanted)
        old, size = rows.get((role, choice), empty), prod(shape)
        taken = size // shape[-1] * row_bytes(choice.kind, shape[-1])
        rows[role, choice] = TypeRow(role, old.kind, old.tensors + 1, old.weights + size, old.bytes + taken, wanted)
    return list(rows.values())


def table_text(rows: Iterable[TypeRow]) -> list[str]:
    """The table in lines to print: bits a weight as they really are, and what fell back."""
    rows = list(rows)
    lines = [f"  {'tensors':<22}{'type':>8}{'bits a weight':>15}{'MiB':>9}"]
    for row in rows:
        note = f"   {row.wanted} needs rows of a multiple of {block_of(Type[row.wanted.upper()])}" if row.wanted else ""
        name = f"{row.tensors} x {row.role}"
        lines.append(f"  {name:<22}{row.kind:>8}{row.bits:>15.2f}{row.bytes / 2**20:>9.1f}{note}")
    return lines
