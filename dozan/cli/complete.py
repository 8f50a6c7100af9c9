"""What a shell offers for a word that is begun: our own names, and the runs and files that lie here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from dozan.run_folders import run_folders

PURPOSES = ("code", "conversation", "domain", "creative", "reasoning")
PRESETS = ("mobile-actions", "aisa", "bfcl", "metga97")
TARGETS = ("transformers", "ollama", "llama.cpp", "litert-lm")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_xs")
CARDS = (
    "t4", "rtx2080ti", "rtx3060-12g", "rtx3090", "rtx4060ti-16g", "rtx4090", "rtx5090", "a10", "l4", "a6000", "l40s",
    "a100-40", "a100-80", "h100", "h200", "b200",
)  # fmt: skip
LINKS = (
    "nvlink-3", "nvlink-4", "nvlink-5", "pcie-3", "pcie-4", "pcie-5", "ethernet-25", "ethernet-100", "infiniband-400",
)  # fmt: skip
EMBEDDED = "dozan:embedded"
_DEPTH, _DEPTH_TYPED = 4, 2
"""Folders looked into below output/, and below one that was typed, which may be any and large."""
_MOST = 100
"""Names offered at once; whoever has more runs types more letters."""


def one_of(*names: str) -> Callable[[str], list[str]]:
    """A completion from fixed names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def several_of(*names: str) -> Callable[[str], list[str]]:
    """A completion of a comma list: its last word, from the names that are not in it yet."""

    def complete(incomplete: str) -> list[str]:
        before, comma, word = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(word) and name not in given]

    return complete


def recipes(incomplete: str) -> list[str]:
    """The shipped recipes and the YAML files of this folder."""
    from importlib import resources

    shipped = (entry.name for entry in (resources.files("dozan") / "recipes").iterdir())
    names = [*sorted(name.removesuffix(".yaml") for name in shipped), *sorted(map(str, Path().glob("*.yaml")))]
    return [name for name in names if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """The run folders under output/, or under the folder that was typed."""
    return list(islice((name for name in _runs(incomplete) if name.startswith(incomplete)), _MOST))


def models(incomplete: str) -> list[str]:
    """The embedded base's name, runs, and GGUF files under the same folder."""
    root = _root(incomplete)
    files = sorted(map(str, (*root.glob("*.gguf"), *root.glob("*/*.gguf"))))
    names = (name for name in (EMBEDDED, *_runs(incomplete), *files) if name.startswith(incomplete))
    return list(islice(names, _MOST))


def _runs(incomplete: str) -> Iterator[str]:
    root, typed = _root(incomplete), "/" in incomplete
    try:
        yield from map(str, run_folders(root, _DEPTH_TYPED if typed else _DEPTH))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # a shell has no place for a complaint


def _root(incomplete: str) -> Path:
    folder = incomplete.rpartition("/")[0]
    return Path(folder) if folder else Path("output")
