"""Merges an adapter that was trained over a base in NF4, tensor by tensor: no model is ever in memory.

The adapter learnt beside dequantised weights. Merged onto them, the folder computes what was trained, and keeps the
error of 4 bits; merged onto the 16-bit weights it is free of that error, and computes what nobody trained or scored.
Either is measured before it counts: each weight, and the logits of a few lines, against dequantised base and adapter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from dozan.errors import InputError
from dozan.kernels.nf4 import dequantise
from dozan.model.adapter import PEFT_ROOT, AdaptedLinear, adapted, merged_onto
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.model.hub import resolve_model
from dozan.model.nf4_format import StoredNF4
from dozan.model.peft_format import load_adapter, read_adapter
from dozan.model.stored import DTYPES, Stored
from dozan.model.weights import (
    checked_inventory,
    linear_shapes,
    read_config,
    read_nf4,
    require_blocks,
    write_checkpoint,
)
from dozan.ship.parity import GATES, Difference, ExportFailed, compare, probe_rows, write_certificate
from dozan.ship.streamed import streamed_logits

Onto = Literal["dequantised", "base"]
Held = Mapping[str, Stored | StoredNF4]
_TAIL = 16
"""Positions compared at the end of each line."""
_SAME_CODES = 0.9
"""Share of a weight's codes that must come out again, if a 16-bit checkpoint is the one that was quantised."""


@dataclass(frozen=True)
class WeightError:
    """‖merged - trained‖ / ‖trained‖ over the linears, in Frobenius' norm, the merged weight rounded as it is written;
    `worst` is that of the linear `name`."""

    mean: float
    worst: float
    name: str


@dataclass(frozen=True)
class Nf4Certificate:
    """What was merged onto what, and how far either way is from dequantised base and adapter: the weights, and the
    logits of our own lines. `other` is the way not taken, None where no 16-bit base was given."""

    folder: str
    onto: str
    weights: WeightError
    logits: Difference
    other: str | None
    other_weights: WeightError | None
    other_logits: Difference | None
    unequal: tuple[str, ...]
    failures: tuple[str, ...]


@dataclass(frozen=True)
class _Merge:
    """The base as it was trained on, the 16-bit one if any, the adapters by linear (their weights without memory), and
    the linears that were quantised."""

    config: Gemma3Config
    trained_on: Held
    original: Mapping[str, Stored] | None
    adapters: Mapping[str, AdaptedLinear]
    quantised: frozenset[str]

    def weight(self, name: str, onto: Onto) -> Tensor:
        """A tensor of the merged model in fp32, by its text-only name, before any rounding."""
        linear = name.removesuffix(".weight")
        if onto == "base":
            assert self.original is not None
            base = self.original[name].read(torch.float32)
        elif linear in self.quantised:
            base = dequantise(read_nf4(self.trained_on[name]), torch.float32)
        else:
            stored = self.trained_on[name]
            assert isinstance(stored, Stored)
            base = stored.read(torch.float32)
        return merged_onto(base, self.adapters[linear]) if linear in self.adapters else base

    def rounded(self, name: str, onto: Onto) -> Tensor:
        """The same as it is written, and in fp32 again."""
        return self.weight(name, onto).to(self.dtype(name, onto)).float()

    def dtype(self, name: str, onto: Onto) -> torch.dtype:
        """The dtype in which the merged tensor is written."""
        place: Held = self.trained_on if onto == "dequantised" or self.original is None else self.original
        return DTYPES[place[name].dtype]


@torch.no_grad()
def merge_nf4(shell: Bundle, out: Path, onto: str | Path | None, on_the_fly: bool) -> Nf4Certificate:
    """Write `out`, and read it back and compare; the certificate, which lies in it as parity.json.

    shell: the run without weights (`open_shell`). onto: "dequantised" (or None), "base", or a 16-bit checkpoint's path
    or hub id. on_the_fly: the run quantised a 16-bit base. Raises InputError for an `onto` that cannot be, ExportFailed
    (the folder renamed to `.FAILED`) for a folder that is not the rounded merge, or not what was trained where it is
    merged onto the dequantised base.
    """
    assert shell.adapter_folder is not None
    way: Onto = "dequantised" if onto in (None, "dequantised") else "base"
    trained_on = checked_inventory(shell.base_folder, shell.config)
    place = shell.base_folder if onto in (None, "dequantised", "base") else resolve_model(onto)
    if way == "base" and place == shell.base_folder and not on_the_fly:
        raise InputError(f"--onto base: the run's base {shell.base_folder} is stored in 4 bits; name the 16-bit "
                         "checkpoint it was made from: --onto PATH or its hub id")  # fmt: skip
    linears = linear_shapes(shell.model)
    if on_the_fly:
        require_blocks(shell.base_folder, linears)
    quantised = frozenset(name for name in linears if on_the_fly or isinstance(trained_on[f"{name}.weight"], StoredNF4))
    original = _original(place, shell, trained_on, quantised, on_the_fly)
    adapters = _adapters(shell.adapter_folder, shell.model)
    merging = _Merge(shell.config, trained_on, original, adapters, quantised)
    errors: dict[Onto, dict[str, float]] = {"dequantised": {}, "base": {}}
    digests: dict[str, str] = {}
    write_checkpoint(place, _written(merging, list(linears), way, errors, digests), out)
    return _certify(merging, shell, out, way, errors, digests)


def _original(
    place: Path, shell: Bundle, trained_on: Held, quantised: frozenset[str], on_the_fly: bool
) -> dict[str, Stored] | None:
    """The tensors of the 16-bit base at `place`, None when there is none; InputError when it is another model's."""
    if place == shell.base_folder and not on_the_fly:
        return None
    config = read_config(place)
    if dataclasses.replace(config, vision=shell.config.vision) != shell.config:
        raise InputError(f"--onto {place}: another model's shape than the run's base has ({shell.base_folder}); "
                         "give the checkpoint it was made from")  # fmt: skip
    found = checked_inventory(place, config)
    plain = {name: stored for name, stored in found.items() if isinstance(stored, Stored)}
    if len(plain) < len(found):
        raise InputError(f"--onto {place}: is stored in 4 bits itself; give the 16-bit checkpoint")
    if place != shell.base_folder and quantised:
        name = f"{min(quantised)}.weight"
        ours, theirs = read_nf4(trained_on[name]).codes, read_nf4(plain[name]).codes
        same = float((ours == theirs).float().mean())
        if same < _SAME_CODES:
            raise InputError(f"--onto {place}: not what the run's base was made from: {same:.0%} of the codes of "
                             f"{name} come out again; give that checkpoint, or --onto dequantised")  # fmt: skip
    return plain


def _adapters(folder: Path, shell: Gemma3) -> dict[str, AdaptedLinear]:
    """The adapters of a folder by linear, checked against a model without memory, which they are attached to."""
    load_adapter(folder, shell)
    state = read_adapter(folder)
    linears = dict(adapted(shell))
    for name, linear in linears.items():
        linear.lora_A = nn.Parameter(state[f"{PEFT_ROOT}{name}.lora_A.weight"], requires_grad=False)
        linear.lora_B = nn.Parameter(state[f"{PEFT_ROOT}{name}.lora_B.weight"], requires_grad=False)
        if linear.magnitude is not None:
            magnitude = state[f"{PEFT_ROOT}{name}.lora_magnitude_vector"]
            linear.magnitude = nn.Parameter(magnitude, requires_grad=False)
    return linears


def _written(
    merging: _Merge, linears: list[str], way: Onto, errors: dict[Onto, dict[str, float]], digests: dict[str, str]
) -> Iterator[tuple[str, Tensor]]:
    """The merged linears one at a time; notes each one's error, both ways where both can be, and its digest."""
    ways: list[Onto] = ["dequantised"] if merging.original is None else ["dequantised", "base"]
    for linear in linears:
        name = f"{linear}.weight"
        exact = merging.weight(name, "dequantised")
        for one in ways:
            merged = exact if one == "dequantised" else merging.weight(name, one)
            written = merged.to(merging.dtype(name, one))
            errors[one][linear] = float((written.float() - exact).norm() / exact.norm().clamp_min(1e-30))
            if one == way:
                digests[name] = _digest(written)
                yield name, written


def _digest(weight: Tensor) -> str:
    return hashlib.sha256(weight.contiguous().view(torch.uint8).numpy().data).hexdigest()


def _certify(
    merging: _Merge, shell: Bundle, out: Path, way: Onto, errors: Mapping[Onto, Mapping[str, float]],
    digests: Mapping[str, str],
) -> Nf4Certificate:  # fmt: skip
    stored = checked_inventory(out, read_config(out))
    held = {name: tensor for name, tensor in stored.items() if isinstance(tensor, Stored)}
    unequal = tuple(name for name, digest in digests.items() if _digest(held[name].read()) != digest)
    rows = sorted(probe_rows(shell), key=len)[:-1]
    embedding = held["model.embed_tokens.weight"]

    def logits(weight: Callable[[str], Tensor]) -> list[np.ndarray]:
        return streamed_logits(merging.config, weight, embedding, rows, _TAIL)

    trained = logits(lambda name: merging.weight(name, "dequantised"))
    written = compare(trained, logits(lambda name: held[name].read(torch.float32)))
    other: Onto = "base" if way == "dequantised" else "dequantised"
    measured = bool(errors[other])
    apart = compare(trained, logits(lambda name: merging.rounded(name, other))) if measured else None
    failures = [f"{len(unequal)} tensors are not the rounded merge, e.g. {unequal[0]}"] if unequal else []
    if way == "dequantised":
        failures += written.failures(GATES["bf16"].at_depth(merging.config.num_hidden_layers))
    certificate = Nf4Certificate(
        out.name, way, _summary(errors[way]), written, other if measured else None,
        _summary(errors[other]) if measured else None, apart, unequal, tuple(failures),
    )  # fmt: skip
    write_certificate(out / "parity.json", certificate)
    if failures:
        failed = out.rename(out.with_name(out.name + ".FAILED"))
        raise ExportFailed(f"{failed}: the folder is not what was to be merged: {'; '.join(failures)}")
    return certificate


def _summary(errors: Mapping[str, float]) -> WeightError:
    worst = max(errors, key=lambda name: errors[name])
    return WeightError(statistics.fmean(errors.values()), errors[worst], worst)


def describe(certificate: Nf4Certificate) -> list[str]:
    """What the certificate says, in lines to print."""
    ways = {
        "dequantised": "onto the dequantised base, which was trained",
        "base": "onto the 16-bit base, which was not trained as it is",
    }
    lines = [f"merged {ways[certificate.onto]}; apart from dequantised base and adapter:"]
    lines += _lines(certificate.weights, certificate.logits)
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
