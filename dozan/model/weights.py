"""Weights on disk: Hugging Face folders, read strictly and merged by shard.

The model itself knows text-only names (`model.layers.0.….weight`); this file knows the checkpoints' other spellings,
and `peft_format.py` those of adapters. No pickle is read or written. Everything wrong with a folder is told at once.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dozan.errors import InputError
from dozan.model import adapter
from dozan.model.files import inside, opened, read_header, read_json
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.hub import resolve_model
from dozan.model.peft_format import load_adapter, read_adapter_recipe, save_adapter

__all__ = [
    "load_adapter", "load_model", "read_adapter_recipe", "read_config", "resolve_model", "save_adapter", "save_merged",
]  # fmt: skip

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_TEXT, _VISION = "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"
_MODEL_TYPES = {"gemma3_text": _TEXT, "gemma3": _VISION}
_SPELLINGS = (
    ("language_model.model.", "model."), ("model.language_model.", "model."), ("language_model.lm_head.", "lm_head."),
)  # fmt: skip
_VISION_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_MARGIN_BYTES = 1 << 20
_COPIED = ("*.json", "*.model", "*.jinja", "*.txt", "LICENSE*", "NOTICE*")


def read_config(folder: Path) -> Gemma3Config:
    """The shape of the model in a Hugging Face folder; InputError naming any architecture that is not Gemma 3 text."""
    path = Path(folder) / "config.json"
    raw = read_json(path)
    kind = raw.get("model_type")
    architectures = raw.get("architectures") or [_MODEL_TYPES.get(str(kind))]
    if architectures != [_MODEL_TYPES.get(str(kind))] or None in architectures:
        raise InputError(f"{path}: architecture {architectures} with model_type {kind!r} is not supported; "
                         f"give a Gemma 3 checkpoint ({_TEXT} or {_VISION})")  # fmt: skip
    if raw.get("quantization_config"):
        raise InputError(f"{path}: the weights are quantised (quantization_config); give the unquantised checkpoint")
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


def _check_sizes(path: Path, config: Gemma3Config) -> None:
    sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "intermediate_size", "sliding_window")  # fmt: skip
    values = {name: getattr(config, name) for name in sizes}
    wrong = [f"{name} is {value!r}" for name, value in values.items() if type(value) is not int or value < 1]
    if not wrong and config.num_attention_heads % config.num_key_value_heads:
        wrong = [f"{config.num_attention_heads} heads cannot share {config.num_key_value_heads} key/value heads"]
    if wrong:
        raise InputError(f"{path}: {'; '.join(wrong)}; each size must be a positive integer that fits the others")


def _text_name(stored: str) -> str | None:
    """The text-only name of a stored tensor, None for a part of the vision tower."""
    if stored.startswith(_VISION_PARTS):
        return None
    for prefix, plain in _SPELLINGS:
        if stored.startswith(prefix):
            return plain + stored.removeprefix(prefix)
    return stored


def _weight_files(folder: Path) -> tuple[list[Path], Mapping[str, str] | None]:
    """The safetensors files of a checkpoint, and what its index says (None without an index)."""
    if (folder / _SINGLE).is_file():
        return [inside(folder, _SINGLE)], None
    if (folder / _INDEX).is_file():
        listed = read_json(inside(folder, _INDEX)).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise InputError(f"{folder / _INDEX}: weight_map must name a file for each tensor")
        names = sorted(set(map(str, listed.values())))
        files = [inside(folder, name) for name in names]
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise InputError(f"{folder}: files that the index names are missing: {', '.join(missing)}; copy them here")
        return files, listed
    pickles = sorted(p.name for p in folder.glob("*.bin"))
    hint = f" ({pickles[0]} is a pickle, which is never read: convert it to safetensors)" if pickles else ""
    raise InputError(f"{folder}: no {_SINGLE} and no {_INDEX}{hint}")


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of a checkpoint: where it is and by which name."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def _inventory(folder: Path, vision: bool) -> tuple[dict[str, _Stored], list[str]]:
    """Every text tensor of a checkpoint by its text-only name, and what is wrong with the folder."""
    files, index = _weight_files(folder)
    found: dict[str, _Stored] = {}
    problems: list[str] = []
    present: dict[str, str] = {}
    for path in files:
        with opened(path) as file:
            for stored in file.keys():  # noqa: SIM118  (a safe_open is no mapping)
                part = file.get_slice(stored)
                text = _text_name(stored)
                present[stored] = path.name
                if text is None and vision:
                    continue
                if text in found:
                    problems.append(f"twice: {stored} and {found[text].name} are the same tensor")
                found[text or stored] = _Stored(path, stored, tuple(part.get_shape()), part.get_dtype())
    if index is not None:
        absent = sorted(name for name, file in index.items() if present.get(name) != file)
        problems += [f"missing: {name} is not in {index[name]}, where the index says it is" for name in absent]
        problems += [f"unexpected: {name} is not in the index" for name in present if name not in index]
    return found, problems


def _checked_inventory(folder: Path, config: Gemma3Config) -> dict[str, _Stored]:
    """The inventory of a checkpoint that fits its config exactly; InputError that lists everything that does not."""
    found, problems = _inventory(folder, config.vision)
    expected = adapter.shapes_of(_empty(config).state_dict())
    head = found.get("lm_head.weight")
    if head is not None:
        expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    problems += adapter.compare_shapes(expected, {name: stored.shape for name, stored in found.items()})
    odd = [stored for stored in found.values() if stored.dtype not in _STORED]
    problems += [f"dtype: {stored.name} is {stored.dtype}, must be one of {', '.join(_STORED)}" for stored in odd]
    if not problems and head is not None and not torch.equal(_read(head), _read(found["model.embed_tokens.weight"])):
        problems.append(f"value: {head.name} differs from the embeddings; Gemma 3's head is tied to them")
    if problems:
        raise InputError(f"{folder}: the weights do not fit config.json:\n  " + "\n  ".join(problems))
    return found


def _empty(config: Gemma3Config) -> Gemma3:
    with torch.device("meta"):
        return Gemma3(config)


def _read(stored: _Stored) -> Tensor:
    with opened(stored.file) as file:
        return file.get_tensor(stored.name)


def load_model(folder: str | Path, dtype: str | torch.dtype = "float32") -> Gemma3:
    """The model of a Hugging Face folder, on the CPU, in `dtype` (float32, bfloat16 or float16), in evaluation mode.

    Reads one safetensors file or shards with an index; text-only names or those under `language_model` (the vision
    tower is left out); a stored `lm_head.weight` must equal the embeddings. Raises InputError that lists every missing,
    extra or mis-shaped tensor, or names the damaged file.
    """
    folder = Path(folder)
    wanted = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted not in _DTYPES.values():
        raise InputError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    config = read_config(folder)
    found = _checked_inventory(folder, config)
    found.pop("lm_head.weight", None)
    model = _empty(config)
    state = {}
    for path in sorted({stored.file for stored in found.values()}):
        with opened(path) as file:
            state.update({text: file.get_tensor(t.name).to(wanted) for text, t in found.items() if t.file == path})
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def save_merged(base_folder: str | Path, model: Gemma3, out: str | Path) -> None:
    """Write `base_folder` again with `model`'s adapters merged into its weights; `out` appears whole or not at all.

    A tensor under an adapter becomes the merged weight (fp32, cast to the dtype it is stored in). Every other tensor,
    the index, config.json, generation_config.json, tokenizer files and chat template stay byte for byte. Needs memory
    for one tensor. Raises InputError for an `out` that is not empty, too little disk space, or a base not the model's.
    """
    base, out = Path(base_folder), Path(out)
    config = read_config(base)
    found = _checked_inventory(base, config)
    _check_base(base, found, model)
    files = _merged_files(base)
    _check_room(out, files)
    staging = out.parent / f".{out.name}.{os.getpid()}.partial"
    try:
        staging.mkdir(parents=True)
        for path in files:
            shutil.copyfile(path, staging / path.name)
        for name, module in adapter.adapted(model):
            _overwrite(staging, found[f"{name}.weight"], adapter.merged_weight(module))
        for path in files:
            with (staging / path.name).open("rb") as file:
                os.fsync(file.fileno())
        staging.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error}); nothing was left behind") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_base(base: Path, found: Mapping[str, _Stored], model: Gemma3) -> None:
    """InputError unless the weights under the model's adapters are those of the folder."""
    different = []
    for name, module in adapter.adapted(model):
        stored, held = found.get(f"{name}.weight"), module.weight.detach().cpu()
        if stored is None or not torch.equal(_read(stored).to(held.dtype), held):
            different.append(name)
    if different:
        raise InputError(f"{base}: not the base that these adapters were trained on; these weights differ: "
                         + ", ".join(different))  # fmt: skip


def _merged_files(base: Path) -> list[Path]:
    """The weight files and everything that goes with them: configuration, tokenizer, template, licence."""
    weights, _ = _weight_files(base)
    beside = {path for pattern in _COPIED for path in base.glob(pattern) if path.is_file()}
    beside = {path for path in beside if not path.name.startswith("adapter_config")}
    if weights[0].name == _SINGLE:
        beside.discard(base / _INDEX)
    nested = [path.name for path in weights if path.parent != base]
    if nested:
        raise InputError(f"{base}: the index names files in sub-folders ({', '.join(nested)}); move them beside it")
    return [*weights, *(inside(base, path.name) for path in sorted(beside))]


def _check_room(out: Path, files: list[Path]) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not empty; give a new folder")
    existing = next(parent for parent in out.absolute().parents if parent.exists())
    needed, free = sum(path.stat().st_size for path in files), shutil.disk_usage(existing).free
    if free < needed + _MARGIN_BYTES:
        raise InputError(f"{out}: needs {needed + _MARGIN_BYTES:,} bytes, {free:,} are free on {existing}; free some, "
                         "or give a folder on another disk")  # fmt: skip


def _overwrite(folder: Path, stored: _Stored, weight: Tensor) -> None:
    """Put `weight` in the place of a stored tensor, in its dtype; no other byte of the file changes."""
    path = folder / stored.file.name
    start, header = read_header(path)
    begin, end = header[stored.name]["data_offsets"]
    data = weight.to(_STORED[stored.dtype]).cpu().contiguous().view(torch.uint8).numpy().tobytes()
    assert len(data) == end - begin, stored
    with path.open("r+b") as file:
        file.seek(start + begin)
        file.write(data)
