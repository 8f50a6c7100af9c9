"""Merges a run's adapter into its base, a tensor at a time: no model is ever in memory.

The folder that comes out is read back and compared with the adapter beside its base before it counts: each merged
weight and every other byte, and the logits of a few lines (parity.json). dozan-manifest.json has every file's hash.

An adapter over a base in NF4 learnt beside dequantised weights. Merged onto them, the folder computes what was trained,
and keeps the error of 4 bits; merged onto the 16-bit weights it is free of that error, and computes what nobody trained
or scored. Both ways are measured.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dozan.chat.arranged import arrangement_of
from dozan.errors import InputError
from dozan.model.bundle import folder_arrangement, write_arrangement
from dozan.model.nf4_format import StoredNF4
from dozan.model.stored import Stored, tensors_of, text_name, weight_files
from dozan.model.weights import checked_inventory, linear_shapes, read_config, write_checkpoint
from dozan.ship.full import copy_full, is_full
from dozan.ship.manifest import write_manifest
from dozan.ship.merge_onto import BASE, DEQUANTISED, Onto, choose_base
from dozan.ship.parity import GATES, MERGED_GATE, Difference, ExportFailed, compare, probe_rows, write_certificate
from dozan.ship.source import Source, open_source
from dozan.ship.streamed import Weight, streamed_logits

_TAIL = 16
"""Positions compared at the end of each line."""


@dataclass(frozen=True)
class WeightError:
    """‖merged - trained‖ / ‖trained‖ over the linears, in Frobenius' norm, the merged weight rounded as it is written;
    `worst` is that of the linear `name`."""

    mean: float
    worst: float
    name: str


@dataclass(frozen=True)
class MergeCertificate:
    """What was merged `onto` what, and how far it is from the adapter beside the base it was trained on.

    weights: of the merged linears. merged: logits of the merge in fp32. stored: those of the folder's own weights.
    other: the way not taken, None where there is one base only, its weights and its logits. unequal: tensors that are
    not the rounded merge, changed: tensors that were to stay and did not, each bit for bit.
    """

    folder: str
    onto: Onto
    weights: WeightError
    merged: Difference
    stored: Difference
    other: Onto | None
    other_weights: WeightError | None
    other_logits: Difference | None
    unequal: tuple[str, ...]
    changed: tuple[str, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class _Merge:
    """`trained`: base and adapter as they were trained. `ways`: what the merged weights come from, the way that is
    written first. `folder`: what is copied. `linears`: the names of those that are written."""

    trained: Source
    ways: Mapping[Onto, Source]
    folder: Path
    linears: tuple[str, ...]

    @property
    def onto(self) -> Onto:
        return next(iter(self.ways))

    @property
    def computes_what_was_trained(self) -> bool:
        return self.ways[self.onto] is self.trained

    def rounded(self, name: str, onto: Onto) -> Tensor:
        """A tensor of the merged model as it is written, and in fp32 again."""
        source = self.ways[onto]
        return source.weight(name).to(source.dtype(name)).float()


def merge(
    run: str | Path, out: str | Path, onto: str | Path | None = None, say: Callable[[str], None] | None = None
) -> Path:
    """Write the folder `out`: `run`'s base with its adapter merged in, every other byte as in the base, dozan.json when
    prompts are laid out otherwise than the base's, dozan-manifest.json and parity.json. Of a run that trained every
    weight it is a copy of its model, with a manifest.

    onto: for a base in NF4, "dequantised" (the default: what was trained), "base" (the 16-bit weights that were
    quantised), or a 16-bit checkpoint's path or hub id; both ways are measured, and `say` is told. Raises InputError
    when there is nothing to merge, for a base that is not the one that was trained on, an `onto` that cannot be, an
    `out` that is not empty or too little disk space; ExportFailed (the folder renamed to `.FAILED`) when it does not
    compute what it should.
    """
    out = Path(out)
    source = open_source(run)
    if is_full(source):
        return copy_full(source, run, out, onto)
    if not source.adapters:
        raise InputError(f"{run}: has no adapter, there is nothing to merge; give a run's folder")
    merging = _prepare(source, run, onto)
    errors: dict[Onto, dict[str, float]] = {way: {} for way in merging.ways}
    digests: dict[str, str] = {}
    write_checkpoint(merging.folder, _written(merging, errors, digests), out)
    certificate = _certify(merging, out, errors, digests)
    if say is not None and DEQUANTISED in merging.ways:
        say("\n".join(describe(certificate)))
    chat = source.bundle.chat
    if arrangement_of(chat) != folder_arrangement(out):
        write_arrangement(out, arrangement_of(chat))
    copied = sum(len(tensors_of(path)) for path in weight_files(out)[0]) - len(digests)
    write_manifest(out, source, {"onto": certificate.onto, "tensors": {"merged": len(digests), "copied": copied}})
    return out


def _prepare(source: Source, run: str | Path, onto: str | Path | None) -> _Merge:
    """What is merged onto what; InputError for an `onto` that cannot be."""
    in_nf4 = source.quantised | {
        name.removesuffix(".weight") for name, stored in source.stored.items() if isinstance(stored, StoredNF4)
    }
    base = source.bundle.base_folder
    if not in_nf4:
        if onto not in (None, BASE):
            raise InputError(f"--onto {onto}: {run} was trained on its base as it is, and is merged onto that; "
                             "leave --onto out")  # fmt: skip
        return _Merge(source, {BASE: source}, base, tuple(source.adapters))
    folder, original = choose_base(source, onto, frozenset(in_nf4))
    ways: dict[Onto, Source] = {DEQUANTISED: source}
    if original is not None:
        ways = {DEQUANTISED: source, BASE: original} if onto in (None, DEQUANTISED) else {BASE: original, **ways}
    return _Merge(source, ways, folder, tuple({**linear_shapes(source.bundle.model), **source.adapters}))


@torch.no_grad()
def _written(
    merging: _Merge, errors: Mapping[Onto, dict[str, float]], digests: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The merged linears one at a time; notes each one's error, by every way, and its digest."""
    for linear in merging.linears:
        name = f"{linear}.weight"
        exact = merging.trained.weight(name)
        for way, source in merging.ways.items():
            written = (exact if source is merging.trained else source.weight(name)).to(source.dtype(name))
            errors[way][linear] = float((written.float() - exact).norm() / exact.norm().clamp_min(1e-30))
            if way == merging.onto:
                digests[name] = _digest(written)
                yield name, written


def _digest(weight: Tensor) -> str:
    return hashlib.sha256(weight.contiguous().view(torch.uint8).numpy().data).hexdigest()


@torch.no_grad()
def _certify(
    merging: _Merge, out: Path, errors: Mapping[Onto, Mapping[str, float]], digests: Mapping[str, str]
) -> MergeCertificate:
    """Reads the folder back and compares; writes parity.json into it. Raises ExportFailed."""
    config, way = merging.trained.bundle.config, merging.onto
    stored = checked_inventory(out, read_config(out))
    held = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Stored)}
    unequal = tuple(name for name, digest in digests.items() if _digest(held[name].read()) != digest)
    changed = tuple(_changed(merging.folder, out, digests))
    rows = probe_rows(merging.trained.bundle, windows=False)
    embedding = held["model.embed_tokens.weight"]

    def logits(weight: Weight) -> list[np.ndarray]:
        return streamed_logits(config, weight, embedding, rows, _TAIL)

    trained = list(merging.trained.trained_logits(rows, _TAIL))
    merged = compare(trained, logits(merging.ways[way].weight))
    written = compare(trained, logits(lambda name: held[name].read(torch.float32)))
    other = next((each for each in merging.ways if each != way), None)
    apart = compare(trained, logits(lambda name: merging.rounded(name, other))) if other else None
    failures = [f"{len(unequal)} tensors are not the rounded merge, e.g. {unequal[0]}"] if unequal else []
    failures += [f"{len(changed)} tensors are not the base's, e.g. {changed[0]}"] if changed else []
    if merging.computes_what_was_trained:
        depth = config.num_hidden_layers
        failures += [f"merged in fp32: {text}" for text in merged.failures(MERGED_GATE.at_depth(depth))]
        failures += [f"as stored: {text}" for text in written.failures(GATES["bf16"].at_depth(depth))]
    certificate = MergeCertificate(
        out.name, way, _summary(errors[way]), merged, written, other, _summary(errors[other]) if other else None, apart,
        unequal, changed, tuple(failures),
    )  # fmt: skip
    write_certificate(out / "parity.json", certificate)
    if failures:
        failed = out.rename(out.with_name(out.name + ".FAILED"))
        raise ExportFailed(f"{failed}: the folder does not compute what the run computes: {'; '.join(failures)}")
    return certificate


def _changed(base: Path, out: Path, merged: Mapping[str, str]) -> Iterator[str]:
    """Tensors that no merge was due to, the vision tower's too, and whose bytes are not the base's."""
    before = {stored.name: stored for path in weight_files(base)[0] for stored in tensors_of(path)}
    for path in weight_files(out)[0]:
        for stored in tensors_of(path):
            if text_name(stored.name) in merged:
                continue
            theirs = before[stored.name]
            same = (stored.dtype, stored.shape) == (theirs.dtype, theirs.shape) and all(
                torch.equal(a, b) for a, b in zip(stored.raw(), theirs.raw(), strict=True))  # fmt: skip
            if not same:
                yield stored.name


def _summary(errors: Mapping[str, float]) -> WeightError:
    worst = max(errors, key=lambda name: errors[name])
    return WeightError(statistics.fmean(errors.values()), errors[worst], worst)


def describe(certificate: MergeCertificate) -> list[str]:
    """What the certificate of a 4-bit run's merge says, in lines to print."""
    ways: dict[Onto, str] = {
        DEQUANTISED: "onto the dequantised base, which was trained",
        BASE: "onto the 16-bit base, which was not trained as it is",
    }
    lines = [f"merged {ways[certificate.onto]}; apart from dequantised base and adapter:"]
    lines += _lines(certificate.weights, certificate.stored)
    if certificate.other is not None and certificate.other_weights is not None and certificate.other_logits is not None:
        lines.append(f"not written: merged {ways[certificate.other]} (--onto {certificate.other}):")
        lines += _lines(certificate.other_weights, certificate.other_logits)
    return lines


def _lines(weights: WeightError, logits: Difference) -> list[str]:
    return [
        f"  weights: {weights.mean:.2%} in the mean, at most {weights.worst:.2%} ({weights.name})",
        f"  logits: at most {logits.max_abs:.3g} of a spread of {logits.spread:.3g}, KL {logits.mean_kl:.2g} nats, "
        f"same first choice at {logits.top1:.1%} of {logits.positions} positions",
    ]
