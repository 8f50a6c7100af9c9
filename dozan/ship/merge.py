"""Merges a run's adapter into its base: a Hugging Face folder that is read back and compared before it counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dozan.chat.arranged import arrangement_of
from dozan.errors import InputError
from dozan.model.adapter import merged_tensors
from dozan.model.bundle import Bundle, folder_arrangement, open_model, open_shell, write_arrangement
from dozan.model.gemma3 import Gemma3
from dozan.model.weights import holds_nf4, load_model, save_merged
from dozan.ship.merge_nf4 import describe, merge_nf4
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


def merge(
    run: str | Path, out: str | Path, onto: str | Path | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """Write the folder `out`: `run`'s base with its adapter merged in, every other byte as in the base, and
    dozan.json when prompts are laid out otherwise than the base's.

    Then read it back and compare. onto: for a base in NF4, "dequantised" (the default: what was trained), "base" (the
    16-bit weights that were quantised), or a 16-bit checkpoint's path or hub id; both ways are measured, and `say` is
    told. Raises InputError when there is nothing to merge or for an `onto` that cannot be, ExportFailed (the folder
    renamed to `.FAILED`) when it does not compute what it should.
    """
    out = Path(out)
    shell, quantise = open_shell(run)
    if shell.adapter_folder is None:
        raise InputError(f"{run}: has no adapter, there is nothing to merge; give a run's folder")
    stored_in_nf4 = holds_nf4(shell.base_folder)
    if stored_in_nf4 or quantise == "nf4":
        certificate = merge_nf4(shell, out, onto, on_the_fly=not stored_in_nf4)
        if say is not None:
            say("\n".join(describe(certificate)))
    else:
        if onto not in (None, "base"):
            raise InputError(f"--onto {onto}: {run} was trained on its base as it is, and is merged onto that; "
                             "leave --onto out")  # fmt: skip
        bundle = open_model(run, dtype="float32")
        save_merged(bundle.base_folder, bundle.model, out)
        certify_merged(bundle, out)
    if arrangement_of(shell.chat) != folder_arrangement(out):
        write_arrangement(out, arrangement_of(shell.chat))
    return out


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
