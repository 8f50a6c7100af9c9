"""Whether vLLM's LoRA loader takes an adapter folder, read from its files alone: what it refuses, and what it would
compute otherwise without a word.

From vLLM's sources (`vllm/lora/peft_helper.py`, `vllm/config/lora.py`, `vllm/lora/utils.py`, v0.26): ranks of a fixed
list, names of base_model.model.….lora_A.weight or lora_B.weight, no bias, no modules_to_save, no DoRA. Keys of the
config that it does not know it passes over, rank_pattern and alpha_pattern among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dozan.errors import InputError
from dozan.model.adapter import PEFT_ROOT
from dozan.model.files import inside, opened, read_json
from dozan.model.peft_format import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from dozan.recipe import ALL_TARGETS

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` may be."""
_NAME = re.compile(rf"{re.escape(PEFT_ROOT)}(?:model\.language_model|language_model\.model|model)\.layers\.\d+\."
                   rf"(?:self_attn|mlp)\.({'|'.join(ALL_TARGETS)})\.lora_(?:A|B)\.weight")  # fmt: skip


@dataclass(frozen=True)
class VllmCheck:
    """problems: why vLLM does not take the adapter, or would compute something else; max_lora_rank: what the server
    must be started with, None when no value does."""

    problems: tuple[str, ...]
    max_lora_rank: int | None

    def options(self, name: str, folder: str | Path) -> str:
        """What `vllm serve BASE` needs for it. Raises InputError when it cannot be served."""
        if self.problems:
            raise InputError(f"{folder}: vLLM does not serve it: {'; '.join(self.problems)}")
        return f"--enable-lora --max-lora-rank {self.max_lora_rank} --lora-modules {name}={folder}"


def check_for_vllm(folder: str | Path) -> VllmCheck:
    """Check an adapter folder. Raises InputError when its files cannot be read."""
    folder = Path(folder)
    config = read_json(folder / ADAPTER_CONFIG)
    with opened(inside(folder, ADAPTER_WEIGHTS)) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    ranks = {shape[0] for name, shape in shapes.items() if name.endswith(".lora_A.weight")}
    most = max([*ranks, config.get("r") or 0])
    served = next((rank for rank in MAX_LORA_RANKS if rank >= most), None)
    problems = [*_of_config(config), *_of_names(shapes)]
    if served is None:
        problems.append(f"rank {most} is above {MAX_LORA_RANKS[-1]}, the most that --max-lora-rank may be; merge it")
    return VllmCheck(tuple(problems), served)


def _of_config(config: Mapping[str, Any]) -> list[str]:
    problems = []
    if config.get("use_dora"):
        problems.append("vLLM has no DoRA; merge the adapter and serve the folder: dozan merge RUN --out DIR")
    if config.get("bias", "none") != "none":
        problems.append(f"bias is {config['bias']!r}, must be 'none'")
    problems += [f"{key} is set, which vLLM does not take; merge the adapter and serve the folder"
                 for key in ("modules_to_save", "trainable_token_indices") if config.get(key)]  # fmt: skip
    problems += [f"{key} is set, and vLLM would pass it over and use one value for all; merge the adapter"
                 for key in ("rank_pattern", "alpha_pattern") if config.get(key)]  # fmt: skip
    return problems


def _of_names(shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    odd = [name for name in shapes if not _NAME.fullmatch(name) and not name.endswith(".lora_magnitude_vector")]
    if not odd and shapes:
        return []
    some = f"{len(odd)} tensors have names that vLLM does not expect, such as {odd[0]}" if odd else ""
    return [some or "it holds no tensor"]
