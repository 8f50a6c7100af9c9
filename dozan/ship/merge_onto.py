"""The 16-bit base that a 4-bit run may be merged onto: which folder it is, and whether it is what was quantised."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from dozan.errors import InputError
from dozan.model.hub import resolve_model
from dozan.model.stored import Stored
from dozan.model.weights import checked_inventory, read_config, read_nf4
from dozan.ship.source import Source

Onto = Literal["dequantised", "base"]
DEQUANTISED: Onto = "dequantised"
BASE: Onto = "base"
_SAME_CODES = 0.9
"""Share of a weight's codes that must come out again, if a 16-bit checkpoint is the one that was quantised."""


def choose_base(source: Source, onto: str | Path | None, in_nf4: frozenset[str]) -> tuple[Path, Source | None]:
    """The folder that is copied, and the run's adapters over its 16-bit base, None where no such base is known.

    in_nf4: the linears that were in 4 bits. Raises InputError for an `onto` that cannot be.
    """
    own = source.bundle.base_folder
    folder = own if onto in (None, DEQUANTISED, BASE) else resolve_model(onto)
    if source.quantised and folder == own:
        return folder, dataclasses.replace(source, quantised=frozenset())
    if onto == BASE:
        raise InputError(f"--onto base: the run's base {own} is stored in 4 bits; name the 16-bit checkpoint it was "
                         "made from: --onto PATH or its hub id")  # fmt: skip
    if folder == own:
        return folder, None
    return folder, dataclasses.replace(source, stored=_original(folder, source, in_nf4), quantised=frozenset())


def _original(folder: Path, source: Source, in_nf4: frozenset[str]) -> dict[str, Stored]:
    """The tensors of the 16-bit base in a folder; InputError when it is another model's."""
    config, ours = read_config(folder), source.bundle.config
    if dataclasses.replace(config, vision=ours.vision) != ours:
        raise InputError(f"--onto {folder}: another model's shape than the run's base has "
                         f"({source.bundle.base_folder}); give the checkpoint it was made from")  # fmt: skip
    found = checked_inventory(folder, config)
    plain = {name: stored for name, stored in found.items() if isinstance(stored, Stored)}
    if len(plain) < len(found):
        raise InputError(f"--onto {folder}: is stored in 4 bits itself; give the 16-bit checkpoint")
    name = f"{min(in_nf4)}.weight"
    same = float((read_nf4(source.stored[name]).codes == read_nf4(plain[name]).codes).float().mean())
    if same < _SAME_CODES:
        raise InputError(f"--onto {folder}: not what the run's base was made from: {same:.0%} of the codes of {name} "
                         "come out again; give that checkpoint, or --onto dequantised")  # fmt: skip
    return plain
