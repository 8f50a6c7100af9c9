"""Writes a run's adapter alone as a GGUF, for runtimes that put it beside a base (`llama-server --lora`).

llama.cpp multiplies B A by `adapter.lora.alpha` / R (llama-adapter.h, get_scale) and knows no rsLoRA, whose factor is
α / √R: the file says α√R then. It has no place for DoRA's magnitudes, so such an adapter is refused.
Shapes: A [R, I], B [O, R], both in fp32.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from torch import Tensor

from dozan.errors import InputError
from dozan.ship.gguf import check_space, plan_entries, written_whole
from dozan.ship.source import open_source

_MARGIN_BYTES = 1 << 20


def write_adapter_gguf(run: str | Path, out: str | Path) -> Path:
    """Write the adapter of a run, or of a PEFT folder, as the GGUF file `out`; it appears whole or not at all.

    Raises InputError without an adapter, for DoRA, for values that are not finite, when llama.cpp would not compute the
    base, or when the disk is too full.
    """
    source, path = open_source(run), Path(out)
    if not source.adapters:
        raise InputError(f"{run}: has no adapter; give a run's folder")
    if any(linear.magnitude is not None for linear in source.adapters.values()):
        raise InputError(f"{run}: an adapter GGUF has no place for DoRA's magnitudes, and without them it answers "
                         f"differently; export it merged: dozan export {run} --gguf q8_0")  # fmt: skip
    names = {entry.module: entry.name for entry in plan_entries(source.bundle, "f32")}
    arrays, alphas, broken = {}, set(), []
    for module, linear in source.adapters.items():
        for part, tensor in (("lora_a", linear.lora_A), ("lora_b", linear.lora_B)):
            arrays[f"{names[module]}.{part}"] = _array(tensor)
        alphas.add(linear.scale * linear.lora_A.shape[0])
        broken += [f"{module}.{part}" for part in ("lora_A", "lora_B") if not getattr(linear, part).isfinite().all()]
    if broken:
        raise InputError(f"{run}: values that are not finite in {', '.join(broken[:3])} ({len(broken)} tensors)")
    alpha = max(alphas)
    for module, linear in source.adapters.items():  # one alpha a file: what differs goes into B
        arrays[f"{names[module]}.lora_b"] *= linear.scale * linear.lora_A.shape[0] / alpha
    check_space(path.parent, sum(array.nbytes for array in arrays.values()) + _MARGIN_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        writer = gguf.GGUFWriter(temporary, "gemma3")
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_name(Path(run).resolve().name)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
        for name, array in arrays.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()
