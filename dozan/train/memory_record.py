"""A memory plan in plain values: what a page shows of it, and what run.json keeps of a run's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dozan.train.cards import GIB
from dozan.train.memory import Table
from dozan.train.memory_fit import Fit, Given
from dozan.train.memory_run import dial_note, refusal
from dozan.train.memory_setup import Setup


def record(
    model: str, card: str, card_bytes: int, found: Fit, lines: Sequence[str] = (), notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The values that `html.memory.memory_section` takes; sizes in bytes."""
    return {
        "verdict": verdict(found), "heading": heading(model, found.setup, card, card_bytes), "card_bytes": card_bytes,
        "parts": dict(parts(found.table)), "moment": found.table.moment,
        "steps": [{"name": s.name, "bytes": s.bytes, "standing": standing(s)} for s in found.steps],
        "lines": list(lines), "notes": list(notes),
    }  # fmt: skip


def record_run(model: str, device: torch.device, found: Fit) -> dict[str, Any]:
    """The same of a run on its own GPU."""
    return record(model, torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)[1], found)


def verdict(found: Fit) -> str:
    """One sentence: that it fits and how, or what is missing and what would do."""
    return f"fits: {dial_note(found)}" if found.fits else refusal(found)


def heading(model: str, setup: Setup, card: str, card_bytes: int) -> str:
    """What is trained, how, and on what."""
    adapter = setup.adapter
    kind = ("rsLoRA" if adapter.rslora else "LoRA") + (" + DoRA" if adapter.dora else "") + f" of rank {adapter.rank}"
    kind = "every weight trained" if setup.full else kind
    base = "NF4" if setup.quantise == "nf4" else setup.dtype
    return (f"{model} ({base}), {kind}, packs of {setup.tokens:,} tokens, on {card}: "
            f"{card_bytes / GIB:.1f} GiB")  # fmt: skip


def parts(table: Table) -> list[tuple[str, int]]:
    """The rows of the table: the parts of the peak, and what lies outside it."""
    found = [(name, size) for name, size in table.parts.items() if size]
    found += [("the allocator's pools", table.apart)] if table.apart else []
    return found + ([("CUDA's context, kernels", table.context)] if table.context else [])


def standing(step: Given) -> str:
    """Whether a step was taken, and whether it may be."""
    if step.changes_training:
        return "taken; changes the training" if step.taken else "changes the training: --adapt"
    return "taken; changes no result"
