"""Axolotl's LoRA kernels as its users get them, for the trainer of `bench.peers`.

`lora_qkv_kernel`, `lora_o_kernel` and `lora_mlp_kernel` are Axolotl's own, switched on by its own functions in the
order of its loader: Liger's layer kernels (its plugin's `liger_rope` and `liger_rms_norm`), the attention class, then
the model. Its trainer is not used: TRL's newer one has a fused head that skips masked positions.
"""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NOTE = "its lora_mlp_kernel computes GELU by erf where Gemma 3 has the tanh form; no flash_attn, so no sample packing"


def options() -> dict[str, Any]:
    """What is switched on here, for the record. The kernel of the MLP and Liger's run on a GPU alone."""
    import torch

    cuda = torch.cuda.is_available()
    return {"lora_qkv_kernel": True, "lora_o_kernel": True, "lora_mlp_kernel": cuda, "liger_rope": cuda,
            "liger_rms_norm": cuda, "head": "TRL's", "note": NOTE}  # fmt: skip


def before_loading(folder: Path) -> None:
    """Patch transformers' classes, once a process; the attention takes the rope that is there when it is patched."""
    lora_kernels, settings = _kernels(), options()
    if settings["liger_rms_norm"]:
        from liger_kernel.transformers import apply_liger_kernel_to_gemma3_text

        # Liger's GeGLU would take the place of lora_mlp_kernel; its loss that of TRL's head.
        apply_liger_kernel_to_gemma3_text(
            rope=True, rms_norm=True, cross_entropy=False, fused_linear_cross_entropy=False, geglu=False
        )
    lora_kernels.patch_self_attn_lora(_config(folder))


def after_loading(model: Any, folder: Path) -> None:
    """Switch the kernels on in a PEFT model. Raises RuntimeError unless every layer took each that was asked for."""
    lora_kernels, settings = _kernels(), options()
    lora_kernels.apply_lora_kernel_patches(model, _config(folder))
    for index, layer in enumerate(lora_kernels.get_layers(model)):
        attention = layer.self_attn
        found = {
            "lora_qkv_kernel": attention.apply_qkv.__func__ is lora_kernels.apply_lora_qkv,
            "lora_o_kernel": attention.apply_o.__func__ is lora_kernels.apply_lora_o,
            "lora_mlp_kernel": "forward" in vars(layer.mlp),
        }
        missing = [name for name, there in found.items() if there != settings[name]]
        if missing or "apply_qkv" not in type(attention).forward.__code__.co_names:
            raise RuntimeError(f"Axolotl left layer {index} without {', '.join(missing) or 'its attention patch'}")


def _config(folder: Path) -> Any:
    from axolotl.utils.dict import DictDefault

    kernels = {name: value for name, value in options().items() if name.startswith("lora_")}
    return DictDefault({"base_model": str(folder), **kernels})


def _kernels() -> Any:
    """Axolotl's module. It needs one function of a package whose __init__ imports loggers and metrics that are not
    installed here, so that package's place is taken by an empty one with the same folder."""
    name = "axolotl.utils.callbacks"
    if name not in sys.modules:
        spec = find_spec("axolotl")
        assert spec is not None and spec.origin is not None, "axolotl is not installed"
        package = types.ModuleType(name)
        package.__path__ = [str(Path(spec.origin).parent / "utils" / "callbacks")]
        sys.modules[name] = package
    import axolotl.monkeypatch.lora_kernels as lora_kernels

    return lora_kernels
