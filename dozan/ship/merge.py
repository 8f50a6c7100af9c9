"""Merges a run's adapter into its base: a Hugging Face folder that is read back and compared before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dozan.chat.arranged import arrangement_of
from dozan.errors import InputError
from dozan.model.adapter import merged_tensors
from dozan.model.bundle import Bundle, folder_arrangement, open_model, write_arrangement
from dozan.model.gemma3 import Gemma3
from dozan.model.weights import load_model, save_merged
from dozan.ship.parity import (
    GATES,
    MERGED_GATE,
    TAIL,
    Difference,
    ExportFailed,
    compare,
    probe_rows,
    reference_logits,
    write_certificate,
)


@dataclass(frozen=True)
class MergeCertificate:
    """`merged`: the merge in fp32 against base and adapter; `stored`: the folder's own weights, rounded to the base's
    dtype, against the same; `unequal`: tensors that are not the rounded merge bit for bit."""

    folder: str
    merged: Difference
    stored: Difference
    unequal: tuple[str, ...]
    failures: tuple[str, ...]


def merge(run: str | Path, out: str | Path) -> Path:
    """Write the folder `out`: `run`'s base with its adapter merged in, every other byte as in the base, and
    dozan.json when prompts are laid out otherwise than the base's.

    Then read it back and compare. Raises InputError when there is nothing to merge, ExportFailed (the folder renamed to
    `.FAILED`) when it does not compute what the run computes.
    """
    bundle = open_model(run, dtype="float32")
    if bundle.adapter_folder is None:
        raise InputError(f"{run}: has no adapter, there is nothing to merge; give a run's folder")
    save_merged(bundle.base_folder, bundle.model, out)
    if arrangement_of(bundle.chat) != folder_arrangement(Path(out)):
        write_arrangement(Path(out), arrangement_of(bundle.chat))
    certify_merged(bundle, Path(out))
    return Path(out)


def certify_merged(bundle: Bundle, folder: Path) -> MergeCertificate:
    """Compare a merged folder with base and adapter in fp32; writes parity.json into it. Raises ExportFailed."""
    rows = probe_rows(bundle)
    ours = list(reference_logits(bundle.model, rows, TAIL))
    exact = merged_copy(bundle.model)
    merged = compare(ours, reference_logits(exact, rows, TAIL))
    loaded = load_model(folder, dtype="float32")
    stored = compare(ours, reference_logits(loaded, rows, TAIL))
    unequal, layers = _unequal(exact, loaded), bundle.config.num_hidden_layers
    failures = [f"merged in fp32: {text}" for text in merged.failures(MERGED_GATE.at_depth(layers))]
    failures += [f"as stored: {text}" for text in stored.failures(GATES["bf16"].at_depth(layers))]
    failures += [f"{len(unequal)} tensors are not the rounded merge, e.g. {unequal[0]}"] if unequal else []
    certificate = MergeCertificate(folder.name, merged, stored, tuple(unequal), tuple(failures))
    write_certificate(folder / "parity.json", certificate)
    if failures:
        failed = folder.rename(folder.with_name(folder.name + ".FAILED"))
        raise ExportFailed(f"{failed}: the folder does not compute what the run computes: {'; '.join(failures)}")
    return certificate


@torch.no_grad()
def merged_copy(model: Gemma3) -> Gemma3:
    """The model with its adapters merged in fp32; what is not adapted is shared."""
    with torch.device("meta"):
        copy = Gemma3(model.config)
    copy.load_state_dict(dict(merged_tensors(model)), strict=True, assign=True)
    return copy.eval()


def _unequal(exact: Gemma3, loaded: Gemma3) -> list[str]:
    """Tensors of the folder that are in none of the file dtypes the rounded merge."""
    theirs = dict(loaded.named_parameters())
    return [
        name
        for name, weight in exact.named_parameters()
        if not any(torch.equal(weight.detach().to(kind).float().cpu(), theirs[name].detach())
                   for kind in (torch.float32, torch.bfloat16, torch.float16))
    ]  # fmt: skip
