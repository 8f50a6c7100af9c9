"""Certificates: an exported file against the model it came from, on the same token ids.

The reference is our own forward pass in fp32 with the adapter beside the base, so a wrong merge, name, norm, scale or
rope shows as a difference of logits. 4 bits differ so much that much can hide behind them; so the difference is taken
apart too: the file's weights against the model's, one by one, and llama.cpp on the file against our own forward pass
with the file's weights, where only rounded activations may differ. Token ids of texts and stop ids are compared. A file
that fails is renamed to `.FAILED`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from dozan.chat.tokens import BOS
from dozan.errors import InputError
from dozan.kernels import TrieAttention
from dozan.model.bundle import Bundle
from dozan.model.gemma3 import Gemma3, Gemma3Config
from dozan.ship import llamacpp
from dozan.ship.gguf import Pieces, held_by, tensor_names, weights_in
from dozan.ship.gguf_read import GgufFile, GgufWeights, open_gguf
from dozan.ship.manifest import file_sha256, write_json
from dozan.ship.quants import FLOATS, KINDS
from dozan.ship.source import packs
from dozan.ship.streamed import streamed_logits
from dozan.ship.weight_check import WeightErrors, check_keys, check_weights

TAIL = 48
"""Positions compared at the end of each row, fewer where that is too much memory."""
LOGIT_BYTES = 512 << 20
"""Memory for one side's logits."""
PROBE_LINES = (
    "شغّل ضوء المطبخ واضبط المنبّه على ٧:٣٠ صباحًا.",
    "أرسل بريدًا إلى ali.hassan@example.com بعنوان \"اجتماع الغد\" الساعة 15:45",
    "Turn on the kitchen light, set 3.5 degrees; price: 1,250.00 SAR (قيمة مضافة 15%)",
    "بدي احجز طاولة لـ٤ أشخاص بكرا الساعة ٨ المسا، ومنين فيني وصّل؟",
    "سطر أول\nسطر ثانٍ\n\n  مسافتان   وثلاث",
    "🙂 كَيْفَ حَالُكَ؟ — ﷺ «نصّ» …",
)
"""Texts that every export is checked on, beside the user's own."""


@dataclass(frozen=True)
class Gate:
    """Largest differences allowed. `difference` is in units of the logits' standard deviation, or of 1 below that.
    `grows`: whether depth may widen them."""

    difference: float
    kl: float
    top1: float
    grows: bool = True

    def at_depth(self, layers: int) -> Gate:
        """Rounding adds up over layers: beyond DEPTH differences may grow in proportion, KL with their square."""
        factor = max(1.0, layers / DEPTH) if self.grows else 1.0
        return Gate(self.difference * factor, self.kl * factor**2, self.top1, self.grows)

    def or_looser(self, other: Gate) -> Gate:
        """What passes either way."""
        return Gate(max(self.difference, other.difference), max(self.kl, other.kl), min(self.top1, other.top1),
                    self.grows and other.grows)  # fmt: skip


DEPTH = 18
"""Layers up to which the gates hold as they stand."""
GATES = {
    "f32": Gate(5e-3, 1e-5, 0.99),
    "f16": Gate(3e-2, 1e-4, 0.98),
    "bf16": Gate(0.4, 2e-3, 0.93),
    "q8_0": Gate(0.8, 8e-3, 0.88),
    "q6_k": Gate(6.0, 0.1, 0.85, grows=False),
    "q5_k_m": Gate(6.0, 0.25, 0.6, grows=False),
    "q4_k_m": Gate(8.0, 0.5, 0.5, grows=False),
    "q4_0": Gate(10.0, 0.8, 0.4, grows=False),
    "iq4_xs": Gate(8.0, 0.7, 0.4, grows=False),
}
"""Two to five times what random models of 7 to 18 layers show: they are worse than trained ones, whose logits are
further apart. llama.cpp's tanh-GELU goes through a table of f16, which alone makes f32 files differ by 2e-3."""
TRAINED_GATES = {
    "bf16": Gate(0.4, 1e-3, 0.98),
    "q8_0": Gate(0.8, 3e-3, 0.96),
    "q6_k": Gate(6.0, 0.02, 0.94, grows=False),
    "q5_k_m": Gate(6.0, 0.05, 0.9, grows=False),
    "q4_k_m": Gate(8.0, 0.14, 0.86, grows=False),
    "q4_0": Gate(10.0, 0.2, 0.84, grows=False),
    "iq4_xs": Gate(8.0, 0.16, 0.84, grows=False),
}
"""For the user's rows where the model knows them: some five times what the embedded base of 5.7 million weights shows,
tuned, on its test rows. Larger models lose less."""
KNOWN_NATS = 1.0
"""Surprise at the user's rows below which a model knows them."""
FORWARD_GATE = GATES["q8_0"]
"""llama.cpp on a quantised file against us on the same weights: it rounds activations to 8 bits."""
FORWARD_OPERATIONS = 1.2e13
"""What our forward pass with a file's weights may take, two operations a weight and token: 4B on all our own rows."""
EMBEDDING_GATES = {Type.Q5_K: "q5_k_m", Type.Q4_K: "q4_k_m"}
"""Types of the embedding that are no file's -> the file type whose gate they have."""
MERGED_GATE = Gate(1e-4, 1e-7, 0.999)


Logits = Callable[[Sequence[Sequence[int]], int], Iterable[np.ndarray]]
"""(rows of token ids, tail) -> fp32 [min(T, tail), V] of each row's last positions."""


class ExportFailed(InputError):
    """What was written does not compute what the model computes."""

    exit_status = 1


@dataclass(frozen=True)
class Difference:
    """How far two models' logits are apart over `positions` positions: natural-log KL from the reference, in nats."""

    positions: int
    max_abs: float
    spread: float
    mean_kl: float
    max_kl: float
    top1: float

    def failures(self, gate: Gate) -> list[str]:
        """What is outside `gate`, in words."""
        relative = self.max_abs / max(1.0, self.spread)
        checks = (
            (relative <= gate.difference, f"logits differ by {relative:.3g} spreads (gate {gate.difference:g})"),
            (self.mean_kl <= gate.kl, f"mean KL is {self.mean_kl:.3g} nats (gate {gate.kl:g})"),
            (self.top1 >= gate.top1, f"top-1 agreement is {self.top1:.3f} (gate {gate.top1:g})"),
        )
        return [text for good, text in checks if not good]


@dataclass(frozen=True)
class Certificate:
    """What was compared and found; written beside the file as NAME.parity.json.

    difference: from the model. known: the same on the user's rows alone, where the model knows them. forward: of
    llama.cpp from our forward pass, both with the file's weights. surprise: the median of the model's -log p, in nats,
    of the last tokens of the user's rows, None without any.
    """

    file: str
    kind: str
    bytes: int
    sha256: str
    rows: int
    difference: Difference
    gate: Gate
    known: Difference | None
    forward: Difference
    surprise: float | None
    lines: int
    lines_equal: int
    stop_ids: tuple[int, ...]
    failures: tuple[str, ...]
    weights: WeightErrors


def gate_of(kind: str, embedding: Type | None = None) -> Gate:
    """The gate of a file's type, or of its embedding's where that is looser."""
    if embedding is None:
        return GATES[kind]
    return GATES[kind].or_looser(GATES[EMBEDDING_GATES.get(embedding, embedding.name.lower())])


def certify(
    bundle: Bundle, gguf: str | Path, kind: str, rows: Sequence[Sequence[int]] = (), lines: Sequence[str] = (),
    embedding: Type | None = None, logits: Logits | None = None, pieces: Pieces | None = None,
) -> Certificate:  # fmt: skip
    """Compare a GGUF with the model it came from (weights in fp32) on `rows` of token ids and on the ids of `lines`,
    beside rows and lines of our own, and each of its tensors with the weight that it was made of.

    embedding: the embedding's type where it has one of its own. logits, pieces: give the reference and the weights when
    `bundle` holds none. Writes the certificate. Raises ExportFailed, after renaming the file to `.FAILED`, when it is
    outside its gate.
    """
    path = Path(gguf)
    _check_dtype(bundle.model)
    probes = [*(list(row) for row in rows), *probe_rows(bundle)]
    try:
        asked = _Asked(kind, gate_of(kind, embedding), probes, len(rows), (*PROBE_LINES, *lines))
        reference = logits or partial(reference_logits, bundle.model)
        certificate = _measure(bundle, path, asked, reference, pieces or held_by(bundle))
    except InputError as error:
        raise ExportFailed(f"{_mark_failed(path)}: llama.cpp cannot run the file: {error}") from error
    write_certificate(path.with_suffix(".parity.json"), certificate)
    if certificate.failures:
        reasons = "; ".join(certificate.failures)
        raise ExportFailed(f"{_mark_failed(path)}: the file does not compute what the model computes: {reasons}")
    return certificate


@dataclass(frozen=True)
class _Asked:
    """What a file is measured on and by; the first `known` rows are the user's."""

    kind: str
    gate: Gate
    rows: list[list[int]]
    known: int
    texts: tuple[str, ...]


def _measure(bundle: Bundle, path: Path, asked: _Asked, logits: Logits, pieces: Pieces) -> Certificate:
    config, texts = bundle.config, asked.texts
    tail = tail_of(config, len(asked.rows))
    stops = tuple(bundle.tokenizer.id(token) for token in bundle.chat.stop_tokens)
    found = llamacpp.inspect(path, asked.rows, tail, texts, stops)
    wanted = list(logits(asked.rows, tail))
    difference, surprise = compare(wanted, found.logits), _surprise(asked.rows[: asked.known], wanted)
    gate, layers = asked.gate.at_depth(config.num_hidden_layers), config.num_hidden_layers
    file = open_gguf(path)
    weights, unlike = check_weights(file, tensor_names(config), pieces)
    failures = difference.failures(gate) + unlike + check_keys(file, config)
    known = None
    if surprise is not None and surprise < KNOWN_NATS and asked.gate == GATES[asked.kind]:
        known = compare(wanted[: asked.known], found.logits[: asked.known])
        tighter = TRAINED_GATES.get(asked.kind, asked.gate).at_depth(layers)
        failures += [f"on rows that the model knows: {text}" for text in known.failures(tighter)]
    forward = difference
    if not unlike:
        own = _affordable(bundle, asked)
        forward = compare(_of_file(bundle, file, [asked.rows[i] for i in own], tail), [found.logits[i] for i in own])
        of_type = GATES[asked.kind] if KINDS[asked.kind][0] in FLOATS else FORWARD_GATE
        failures += [f"llama.cpp on the file's weights: {text}" for text in forward.failures(of_type.at_depth(layers))]
    wrong = [text for ids, text in zip(found.tokens, texts, strict=True) if ids != bundle.tokenizer.encode(text)]
    failures += [f"{len(wrong)} texts have other token ids, e.g. {wrong[0][:60]!r}"] if wrong else []
    deaf = [i for i, ends in zip(stops, found.ends, strict=True) if not ends]
    failures += [f"llama.cpp does not stop at {deaf}"] if deaf else []
    size, equal = path.stat().st_size, len(texts) - len(wrong)
    return Certificate(path.name, asked.kind, size, file_sha256(path), len(asked.rows), difference, gate, known,
                       forward, surprise, len(texts), equal, stops, tuple(failures), weights)  # fmt: skip


def _affordable(bundle: Bundle, asked: _Asked) -> list[int]:
    """Which of our own rows go through our forward pass once more, by index: of a large model the lines alone."""
    own = range(asked.known, len(asked.rows))
    operations = 2.0 * weights_in(bundle) * sum(len(asked.rows[i]) for i in own)
    longest = max(own, key=lambda i: len(asked.rows[i]))
    return [i for i in own if i != longest or operations <= FORWARD_OPERATIONS]


def tail_of(config: Gemma3Config, rows: int) -> int:
    """Positions compared at the end of each of so many rows."""
    return max(1, min(TAIL, LOGIT_BYTES // (4 * config.vocab_size * rows)))


def _of_file(bundle: Bundle, file: GgufFile, rows: Sequence[Sequence[int]], tail: int) -> Iterator[np.ndarray]:
    """Our logits with the weights that a file holds."""
    held = GgufWeights(file, tensor_names(bundle.config))
    for pack in packs(rows):
        yield from streamed_logits(bundle.config, held.weight, held.embedding, pack, tail)


def _surprise(rows: Sequence[Sequence[int]], logits: Sequence[np.ndarray]) -> float | None:
    """The median -log p of the rows' own next tokens at the positions compared."""
    losses = []
    for row, found in zip(rows, logits, strict=False):
        following = torch.tensor(row[len(row) - len(found) + 1 :], dtype=torch.long)
        chosen = torch.from_numpy(found[: len(following)]).double().log_softmax(-1)
        losses.append(-chosen[torch.arange(len(following)), following].numpy())
    return float(np.median(np.concatenate(losses))) if losses else None


def _mark_failed(path: Path) -> Path:
    return path.replace(path.with_name(path.name + ".FAILED"))


def probe_rows(bundle: Bundle, windows: bool = True) -> list[list[int]]:
    """<bos> and each probe line, and, with `windows`, one row of all lines that is longer than the sliding window."""
    tokenizer = bundle.tokenizer
    begin = tokenizer.id(BOS)
    lines = [tokenizer.encode(line) for line in PROBE_LINES]
    rows = [[begin, *ids] for ids in lines]
    text = [i for ids in lines for i in ids]
    length = min(bundle.config.sliding_window + TAIL, bundle.config.max_position_embeddings - 1)
    if windows:
        rows.append([begin, *(text * (length // len(text) + 1))[:length]])
    known = bundle.config.vocab_size
    return [row for row in rows if max(row) < known]


def _check_dtype(model: Gemma3) -> None:
    dtype = model.dtype
    if dtype != torch.float32:
        raise InputError(f"parity needs the model in float32, it is in {dtype}: open it with dtype='float32'")


@torch.no_grad()
def reference_logits(model: Gemma3, rows: Sequence[Sequence[int]], tail: int) -> Iterator[np.ndarray]:
    """Our logits [min(T, tail), V] of each row's last positions, in fp32. Raises InputError for other weights."""
    _check_dtype(model)
    model.eval()
    device, config = model.device, model.config
    for row in rows:
        ids = torch.tensor(row, device=device)
        position = torch.arange(len(row), device=device)
        attend = TrieAttention(position, torch.full_like(position, len(row)), config.sliding_window, config.scale)
        yield model.logits(model(ids, position, attend)[-tail:]).cpu().numpy()


def compare(ours: Iterable[np.ndarray], theirs: Iterable[np.ndarray]) -> Difference:
    """Differences over all positions of pairs of [T, V] logits; NaN or infinite logits count as infinitely far."""
    largest, variances, kls, same = [0.0], [], [], []
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, (a.shape, b.shape)
        gap = np.abs(a - b)
        largest.append(float(gap.max()) if np.isfinite(gap).all() else float("inf"))
        variances.append(float(a.var()))
        kls.append(_kl(a, b))
        same.append(a.argmax(-1) == b.argmax(-1))
    kl, top1 = np.concatenate(kls), np.concatenate(same)
    spread = float(np.mean(variances)) ** 0.5
    return Difference(len(kl), max(largest), spread, float(kl.mean()), float(kl.max()), float(top1.mean()))


def _kl(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(softmax a || softmax b) [T] in nats, in fp64."""
    log_a, log_b = (torch.from_numpy(x).double().log_softmax(-1) for x in (a, b))
    kl = (log_a.exp() * (log_a - log_b)).sum(-1).clamp_min(0.0)
    return kl.nan_to_num(nan=float("inf")).numpy()


def write_certificate(path: Path, certificate: object) -> None:
    """A certificate dataclass as indented JSON."""
    assert is_dataclass(certificate) and not isinstance(certificate, type)
    write_json(path, asdict(certificate))
