"""The adapter alone: its factors times llama.cpp's factor are the adapter, and llama.cpp computes the run with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from ship_models import make_folder, make_run

from dozan.errors import InputError
from dozan.model.adapter import adapted, merged_weight
from dozan.model.bundle import open_model
from dozan.ship.adapter_gguf import write_adapter_gguf
from dozan.ship.gguf import LAYER, write_gguf
from dozan.ship.parity import reference_logits

ROW = [2, *range(300, 340)]
BESIDE = """
import ctypes, sys
import numpy as np
from dozan.ship.llama_worker import Runtime, last_logits
base, adapter, out, *row = sys.argv[1:]
runtime = Runtime(base, 1, len(row), exact=True)
library = runtime.library
library.llama_adapter_lora_init.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
library.llama_adapter_lora_init.restype = ctypes.c_void_p
loaded = ctypes.c_void_p(library.llama_adapter_lora_init(runtime.model, adapter.encode()))
assert loaded.value
library.llama_set_adapters_lora.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
factor = ctypes.c_float(1.0)
assert library.llama_set_adapters_lora(runtime.context, ctypes.byref(loaded), 1, ctypes.byref(factor)) == 0
np.save(out, last_logits(runtime, [int(token) for token in row], len(row)))
"""
"""llama.cpp with the adapter beside the base."""


@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_llama_cpp_computes_the_run_with_base_and_adapter(rslora: bool, tmp_path: Path) -> None:
    base = make_folder(tmp_path / "base")
    run = make_run(tmp_path / "run", base, rslora=rslora)
    adapter = write_adapter_gguf(run, tmp_path / "adapter.gguf")
    reader = GGUFReader(adapter)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    assert alpha == (8.0 * 4**0.5 if rslora else 8.0)
    model = open_model(run).model
    for name, linear in adapted(model):
        _, _, layer, rest = name.split(".", 3)
        stem = f"blk.{layer}.{LAYER[rest]}.weight"
        a, b = tensors.pop(f"{stem}.lora_a"), tensors.pop(f"{stem}.lora_b")
        assert linear.weight is not None
        change = (merged_weight(linear) - linear.weight).detach().numpy()
        assert np.abs(alpha / len(a) * (b @ a) - change).max() < 1e-6
    assert not tensors
    f32 = write_gguf(open_model(base), tmp_path / "base.gguf", "f32")
    command = [sys.executable, "-c", BESIDE, str(f32), str(adapter), str(tmp_path / "logits.npy"), *map(str, ROW)]
    subprocess.run(command, check=True, timeout=120)
    ours = next(reference_logits(model, [ROW], len(ROW)))
    plain = next(reference_logits(open_model(base).model, [ROW], len(ROW)))
    assert np.abs(np.load(tmp_path / "logits.npy") - ours).max() < 5e-3 * ours.std()
    assert np.abs(plain - ours).max() > 0.1, "the adapter must matter for the comparison to mean anything"


@pytest.mark.parametrize("rslora", [False, True])
def test_dora_is_refused_with_what_to_do(rslora: bool, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_folder(tmp_path / "base"), dora=True, rslora=rslora)
    with pytest.raises(InputError, match=r"DoRA's magnitudes.*export it merged: dozan export \S*run --gguf q8_0"):
        write_adapter_gguf(run, tmp_path / "out" / "adapter.gguf")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no adapter"):
        write_adapter_gguf(make_folder(tmp_path / "base"), tmp_path / "adapter.gguf")
