"""Weights on disk: Hugging Face folders, read strictly and merged by shard.

The model itself knows text-only names (`model.layers.0.….weight`); this file knows the checkpoints' other spellings,
and `peft_format.py` those of adapters. No pickle is read or written. Everything wrong with a folder is told at once.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dozan.errors import InputError
from dozan.kernels.nf4 import BLOCK, NF4
from dozan.kernels.nf4 import quantise as quantise_nf4
from dozan.model import adapter
from dozan.model.files import inside, read_json
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.hub import resolve_model
from dozan.model.nf4_format import StoredNF4, check_config, gather, require_finite
from dozan.model.peft_format import load_adapter, read_adapter_recipe, save_adapter
from dozan.model.quantised import QuantisedLinear
from dozan.model.sealed import MANIFEST
from dozan.model.stored import DTYPES, INDEX, SINGLE, Stored, inventory, weight_files
from dozan.model.unpacked import copy_unpacked

__all__ = [
    "load_adapter", "load_model", "read_adapter_recipe", "read_config", "resolve_model", "save_adapter",
]  # fmt: skip

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Quantise = Literal["none", "nf4"]
QUANTISE: tuple[Quantise, ...] = ("none", "nf4")
"""What may be done to the linears of a 16-bit checkpoint as they are read."""
_TEXT, _VISION = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
_MODEL_TYPES = {"gemma3_text": _TEXT, "gemma3": _VISION}
_MARGIN_BYTES = 1 << 20
_COPIED = ("*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")
_NOT_COPIED = (MANIFEST, "dozan-manifest.json", "parity.json")
"""What dozan wrote about the very bytes of a folder."""


def read_config(folder: Path) -> Gemma3Config:
    """The shape of the model in a Hugging Face folder; InputError naming any architecture that is not Gemma 3 text."""
    path = Path(folder) / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    architectures = raw.get("architectures") or [_MODEL_TYPES.get(str(kind))]
    if architectures != [_MODEL_TYPES.get(str(kind))] or None in architectures:
        raise InputError(f"{path}: architecture {architectures} with model_type {kind!r} is not supported; "
                         f"give a Gemma 3 checkpoint ({_TEXT} or {_VISION})")  # fmt: skip
    check_config(path, raw.get("quantization_config"))
    vision = architectures == [_VISION]
    if vision and not isinstance(raw.get("text_config"), dict):
        raise InputError(f"{path}: {_VISION} needs a text_config object")
    try:
        config = Gemma3Config.from_json(raw)
    except InputError as error:
        raise InputError(f"{folder}{os.sep}{error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: not a Gemma 3 configuration ({error!r})") from error
    _check_sizes(path, config)
    return dataclasses.replace(config, vision=vision)


def holds_nf4(folder: Path) -> bool:
    """Whether a checkpoint is stored in NF4, by its config.json."""
    path = Path(folder) / "config.json"
    return check_config(path, read_json(path).get("quantization_config"))


def _check_sizes(path: Path, config: Gemma3Config) -> None:
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "intermediate_size", "sliding_window")  # fmt: skip
    values = {name: getattr(config, name) for name in sizes}
    wrong = [f"{name} is {value!r}" for name, value in values.items() if type(value) is not int or value < 1]
    if not wrong and config.num_attention_heads % config.num_key_value_heads:
        wrong = [f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} key/value heads"]
    if wrong:
        raise InputError(f"{path}: {'; '.join(wrong)}; each size must be a positive integer that fits the others")


def checked_inventory(folder: Path, config: Gemma3Config) -> dict[str, Stored | StoredNF4]:
    """The tensors of a checkpoint that fits its config exactly, by their text-only names, without a stored head.

    Raises InputError that lists everything that does not fit.
    """
    raw, problems = inventory(folder, config.vision)
    bare = empty_model(config)
    linears = {f"{name}.weight": shape for name, shape in linear_shapes(bare).items()}
    found: dict[str, Stored | StoredNF4] = dict(raw)
    if holds_nf4(folder):
        found, damaged = gather(raw, linears)
        problems += damaged
    expected = adapter.shapes_of(bare.state_dict())
    head = found.get("lm_head.weight")
    if head is not None:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    problems += adapter.compare_shapes(expected, {name: stored.shape for name, stored in found.items()})
    plain = [stored for stored in found.values() if isinstance(stored, Stored)]
    odd = [stored for stored in plain if stored.dtype not in DTYPES]
    problems += [f"dtype: {stored.name} is {stored.dtype}, must be one of {', '.join(DTYPES)}" for stored in odd]
    if not problems and head is not None and not raw["lm_head.weight"].same_values(raw["model.embed_tokens.weight"]):
        problems.append("value: lm_head.weight differs from the embeddings; Gemma 3's head is tied to them")
    if problems:
        raise InputError(f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems))
    found.pop("lm_head.weight", None)
    return found


class _Undrawn(TorchFunctionMode):
    """Leaves out a module's first random values: to draw them on the meta device torch imports its compiler (1.4 s)."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.init.normal_:
            return kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def empty_model(config: Gemma3Config) -> Gemma3:
    """The model without memory for its weights."""
    with torch.device("meta"), _Undrawn():
        return Gemma3(config)


def linear_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of the seven linears of each layer, by name."""
    linears = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    return {name: (linear.out_features, linear.in_features) for name, linear in linears}


def read_nf4(stored: Stored | StoredNF4, device: torch.device | str = "cpu") -> NF4:
    """A linear's weight in NF4 on a device: as it is stored, or quantised there from what is stored.

    Raises InputError when a weight is not finite.
    """
    if isinstance(stored, StoredNF4):
        return stored.read(device)
    weight = quantise_nf4(stored.read(device=device))
    require_finite(weight, str(stored.file), stored.name)
    return weight


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that was looked through, to be read into a model in `dtype`, part by part; quantise: what is done to
    linears that it holds in 16 bits."""

    folder: Path
    config: Gemma3Config
    found: Mapping[str, Stored | StoredNF4]
    dtype: torch.dtype
    quantise: Quantise

    @staticmethod
    def of(folder: str | Path, dtype: str | torch.dtype, quantise: Quantise) -> Source:
        """See `load_model`, also for what is raised."""
        folder = Path(folder)
        wanted = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
        if wanted is None or wanted not in _DTYPES.values():
            raise InputError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
        if quantise not in QUANTISE:
            raise InputError(f"quantise {quantise!r} is not one of {', '.join(QUANTISE)}")
        config = read_config(folder)
        found = checked_inventory(folder, config)
        # A quantised checkpoint keeps in 16 bits what its maker left in them.
        if any(isinstance(stored, StoredNF4) for stored in found.values()):
            quantise = "none"
        return Source(folder, config, found, wanted, quantise)

    def fill(self, model: Gemma3, part: str, device: torch.device | str) -> None:
        """Read the weights of one module of an `empty_model`, by its name, onto a device, tensor by tensor.

        Raises InputError when one cannot be read.
        """
        module, prefix = model.get_submodule(part), f"{part}."
        linears = linear_shapes(module)
        if self.quantise == "nf4":
            require_blocks(self.folder, linears)
        state = {}
        for name, stored in self.found.items():
            if not name.startswith(prefix):
                continue
            inner = name.removeprefix(prefix).removesuffix(".weight")
            if isinstance(stored, StoredNF4) or (self.quantise == "nf4" and inner in linears):
                parent, _, child = inner.rpartition(".")
                setattr(module.get_submodule(parent), child, QuantisedLinear(read_nf4(stored, device)))
            else:
                state[name.removeprefix(prefix)] = stored.read(self.dtype, device)
        module.load_state_dict(state, strict=True, assign=True)


def load_model(
    folder: str | Path, dtype: str | torch.dtype = "float32", quantise: Quantise = "none",
    device: torch.device | str = "cpu",
) -> Gemma3:  # fmt: skip
    """The model of a Hugging Face folder, on a device, in `dtype` (float32, bfloat16 or float16), in evaluation mode.

    Reads one safetensors file or shards with an index; text-only names or those under `language_model` (the vision
    tower is left out); a stored `lm_head.weight` must equal the embeddings. Linears that the checkpoint holds in NF4
    become `QuantisedLinear`, and with quantise="nf4" all linears of a 16-bit checkpoint do, one at a time: beyond the
    model itself the CPU needs the memory of one weight. Raises InputError that lists every missing, extra or mis-shaped
    tensor, or names the damaged file.
    """
    source = Source.of(folder, dtype, quantise)
    model = empty_model(source.config)
    source.fill(model, "model", device)
    return model.eval()


def require_blocks(folder: Path, linears: Mapping[str, tuple[int, int]]) -> None:
    """InputError that lists the linears whose rows are not made of blocks of 64 weights."""
    odd = [f"{name} has {inputs} inputs" for name, (_, inputs) in linears.items() if inputs % BLOCK]
    if odd:
        raise InputError(f"{folder}: cannot be quantised to NF4, whose blocks are {BLOCK} weights of a row: "
                         f"{'; '.join(odd[:3])}; set model.quantise=none")  # fmt: skip


def write_checkpoint(base: Path, weights: Iterable[tuple[str, Tensor]], out: str | Path) -> None:
    """Write the folder `base` again with other `weights`, by text-only names; `out` appears whole or not at all.

    Each weight is cast to the dtype it is stored in, or was made from where `base` holds it in NF4: such weights must
    all be given, and their scales and config.json's quantization_config are left out. All else stays byte for byte.
    Raises InputError for an `out` that is not empty or too little disk space.
    """
    out = Path(out)
    files = _merged_files(base)
    held = checked_inventory(base, read_config(base))
    packed = {s.weight.name: s for s in held.values() if isinstance(s, StoredNF4)}
    _check_room(out, sum(path.stat().st_size for path in files) + sum(s.bytes_unpacked for s in packed.values()))
    staging = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        staging.mkdir(parents=True)
        for path in files:
            copy_unpacked(path, staging / path.name, packed)
        places, wanting = inventory(staging, vision=True)[0], {n for n, s in held.items() if isinstance(s, StoredNF4)}
        for name, weight in weights:
            _overwrite(places[name], weight)
            wanting.discard(name)
        assert not wanting, f"no weight for {sorted(wanting)}"
        for path in files:
            with (staging / path.name).open("rb") as file:
                os.fsync(file.fileno())
        staging.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error}); nothing was left behind") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _merged_files(base: Path) -> list[Path]:
    """The weight files and everything that goes with them: configuration, tokenizer, template, licence."""
    weights, _ = weight_files(base)
    nested = [path.name for path in weights if path.parent != base]
    if nested:
        raise InputError(f"{base}: the index names files in sub-folders ({', '.join(nested)}); move them beside it")
    return [*weights, *beside_weights(base)]


def beside_weights(base: Path) -> list[Path]:
    """What goes with the weight files of a checkpoint: index, configuration, tokenizer, template, licence."""
    found = {path for pattern in _COPIED for path in base.glob(pattern) if path.is_file()}
    found = {path for path in found if not path.name.startswith("adapter_config") and path.name not in _NOT_COPIED}
    if weight_files(base)[0][0].name == SINGLE:
        found.discard(base / INDEX)
    return [inside(base, path.name) for path in sorted(found)]


def _check_room(out: Path, size: int) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not empty; give a new folder")
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = size + _MARGIN_BYTES, shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(f"{out}: needs {needed:,} bytes, {free:,} are free on {existing}; free some, "
                         "or give a folder on another disk")  # fmt: skip


def _overwrite(stored: Stored, weight: Tensor) -> None:
    """Put `weight` in the place of a stored tensor, in its dtype; no other byte of the file changes."""
    assert tuple(weight.shape) == stored.shape, stored
    data = weight.to(DTYPES[stored.dtype]).cpu().contiguous().view(torch.uint8).numpy()
    with stored.file.open("r+b") as file:
        file.seek(stored.begin)
        file.write(data.data)
