"""Weights in 4 bits on disk, as bitsandbytes and transformers write them: strictly read, never written.

Beside `X.weight` (uint8, two codes a byte) lie `X.weight.absmax`, `X.weight.quant_map`, the bytes of a JSON object in
`X.weight.quant_state.bitsandbytes__nf4`, and with double quantisation `X.weight.nested_absmax` and
`X.weight.nested_quant_map`. Which linears are quantised the file alone says: some are left in 16 bits.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.kernels.nf4 import BLOCK, CODE, NESTED_BLOCK, NF4
from dozan.model.stored import DTYPES, Stored

_STATE = "quant_state.bitsandbytes__"
_NESTED = ("nested_absmax", "nested_quant_map")
_PARTS = ("absmax", "quant_map", *_NESTED)
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
REMEDY = "give the 16-bit checkpoint, and quantise it here (model.quantise=nf4)"


@dataclasses.dataclass(frozen=True)
class StoredNF4:
    """A linear's weight in 4 bits: its shape, the dtype it was made from, and its tensors; `offset` is None without
    double quantisation."""

    weight: Stored
    parts: Mapping[str, Stored]
    shape: tuple[int, int]
    dtype: str
    offset: float | None

    @property
    def bytes_unpacked(self) -> int:
        """What the weight takes in the dtype it was made from."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def read(self, device: torch.device | str = "cpu") -> NF4:
        """The weight on a device; InputError when a scale is not finite."""
        read = {name: part.read(device=device) for name, part in self.parts.items()}
        codes = self.weight.read(device=device).view(-1)
        if self.offset is None:
            held = NF4(codes, read["absmax"], None, None, None, self.shape)
        else:
            offset = torch.tensor(self.offset, dtype=torch.float32, device=device)
            nested = read["nested_absmax"], read["nested_quant_map"]
            held = NF4(codes, read["absmax"], *nested, offset, self.shape)
        require_finite(held, str(self.weight.file), self.weight.name)
        return held


def require_finite(weight: NF4, file: str, name: str) -> None:
    """InputError unless the scales are numbers: weights that are not finite make scales that are not."""
    tensors: list[Tensor] = [t for t in weight.tensors().values() if t.is_floating_point()]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise InputError(f"{file}: {name} holds values that are not finite; download or copy it again")


def is_part(name: str, weights: Mapping[str, object]) -> bool:
    """Whether a stored tensor belongs to one of the quantised `weights` (stored names) without being its codes."""
    weight, _, part = name.rpartition(".weight.")
    return f"{weight}.weight" in weights and (part in _PARTS or part.startswith(_STATE))


def check_config(path: Path, config: Any) -> bool:
    """Whether config.json's quantization_config says NF4; InputError for any other quantisation."""
    if not config:
        return False
    if not isinstance(config, dict) or not (config.get("load_in_4bit") or config.get("_load_in_4bit")):
        kind = config.get("quant_method", config) if isinstance(config, dict) else config
        kind = "int8" if isinstance(config, dict) and config.get("load_in_8bit") else kind
        raise InputError(f"{path}: the weights are quantised (quantization_config: {kind}), and of such checkpoints "
                         f"only bitsandbytes' NF4 is read; {REMEDY}")  # fmt: skip
    expected = {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "bnb_4bit_quant_storage": "uint8"}
    given = {"quant_method": "bitsandbytes", "bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "uint8", **config}
    wrong = [f"{key} is {given[key]!r}, must be {value!r}" for key, value in expected.items() if given[key] != value]
    if wrong:
        raise InputError(f"{path}: quantization_config: {'; '.join(wrong)}; {REMEDY}")
    return True


def gather(
    found: Mapping[str, Stored], linears: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Stored | StoredNF4], list[str]]:
    """The weights of a quantised checkpoint with their parts taken together, and everything that is wrong with them.

    found: its text tensors by their text-only names. linears: the weights that may be quantised, with their shapes.
    """
    groups: dict[str, dict[str, Stored]] = {}
    plain: dict[str, Stored | StoredNF4] = {}
    for name, stored in found.items():
        weight, _, part = name.rpartition(".weight.")
        known = part in _PARTS or part.startswith(_STATE)
        if weight and known and f"{weight}.weight" in linears:
            groups.setdefault(f"{weight}.weight", {})[part] = stored
        else:
            plain[name] = stored
    problems: list[str] = []
    bare = (name for name in linears if name in found and found[name].dtype == "U8" and name not in groups)
    groups.update({name: {} for name in bare})
    for name, parts in groups.items():
        codes = plain.get(name)
        if isinstance(codes, Stored):
            plain[name] = _checked(name, codes, parts, linears[name], problems)
        else:
            problems.append(f"missing: {name}, whose scales are there")
    return plain, problems


def _checked(
    name: str, weight: Stored, parts: Mapping[str, Stored], shape: tuple[int, ...], problems: list[str]
) -> StoredNF4:
    """One quantised weight; what its parts are not that they must be is added to `problems`, with names and shapes."""
    (outputs, inputs), before = shape, len(problems)
    blocks = outputs * inputs // BLOCK
    state = _state(name, parts, shape, problems)
    nested = any(part in parts for part in _NESTED) or "nested_offset" in state
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "quant_map": ("F32", (len(CODE),)), "absmax": ("U8" if nested else "F32", (blocks,)),
    }  # fmt: skip
    if nested:
        expected |= {"nested_absmax": ("F32", (-(-blocks // NESTED_BLOCK),)), "nested_quant_map": ("F32", (256,))}
    if inputs % BLOCK:
        problems.append(f"shape: {name} has {inputs} inputs, which is no multiple of {BLOCK}; {REMEDY}")
    for part, wanted in expected.items():
        if part not in parts:
            problems.append(f"missing: {name}.{part} {wanted[0]} {list(wanted[1])}")
    kept = {part: parts[part] for part in expected if part in parts}
    every: dict[str, tuple[Stored, tuple[str, tuple[int, ...]]]] = {"": (weight, ("U8", (outputs * inputs // 2, 1)))}
    every |= {f".{part}": (stored, expected[part]) for part, stored in kept.items()}
    for part, (stored, (dtype, size)) in every.items():
        if (stored.dtype, stored.shape) != (dtype, size):
            found = f"{stored.dtype} {list(stored.shape)}"
            problems.append(f"shape: {name}{part} is {found}, must be {dtype} {list(size)}")
    if len(problems) == before and kept["quant_map"].read().tolist() != list(CODE):
        problems.append(f"value: {name}.quant_map is not NF4's 16 values; {REMEDY}")
    kept.pop("quant_map", None)
    offset = float(state["nested_offset"]) if nested and len(problems) == before else None
    return StoredNF4(weight, kept, (outputs, inputs), _DTYPES.get(str(state.get("dtype")), "BF16"), offset)


def _state(name: str, parts: Mapping[str, Stored], shape: tuple[int, ...], problems: list[str]) -> dict[str, Any]:
    """The quant_state, {} when it is of no use; what is wrong with it is added to `problems`."""
    kinds = [part for part in parts if part.startswith(_STATE)]
    if kinds != [f"{_STATE}nf4"]:
        other = f"value: {name} has {', '.join(kinds)}, and only NF4 is read; {REMEDY}"
        problems.append(other if kinds else f"missing: {name}.{_STATE}nf4")
        return {}
    stored = parts[kinds[0]]
    try:
        state = json.loads(bytes(stored.read().tolist())) if stored.dtype == "U8" else None
    except (ValueError, RecursionError):
        state = None
    if not isinstance(state, dict):
        problems.append(f"value: {name}.{kinds[0]} holds no JSON object; download the file again")
        return {}
    wanted: dict[str, Any] = {"quant_type": "nf4", "blocksize": BLOCK, "shape": list(shape)}
    if any(part in parts for part in _NESTED):
        wanted |= {"nested_blocksize": NESTED_BLOCK, "nested_dtype": "float32"}
        offset = state.get("nested_offset")
        if not isinstance(offset, float) or not math.isfinite(offset):
            problems.append(f"value: {name}: nested_offset is {offset!r}, must be a finite number")
    if state.get("dtype") not in _DTYPES:
        problems.append(f"value: {name}: dtype is {state.get('dtype')!r}, must be one of {list(_DTYPES)}")
    wrong = [(key, state.get(key), value) for key, value in wanted.items() if state.get(key) != value]
    problems += [f"value: {name}: {key} is {found!r}, must be {value!r}; {REMEDY}" for key, found, value in wrong]
    return state
