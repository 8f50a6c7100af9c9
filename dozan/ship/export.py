"""From a run, or a plain checkpoint, to measured GGUF files and the certificate of them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Type

from dozan.chat.encode import encode_rows
from dozan.errors import InputError
from dozan.judge.summary import Scores
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship.gguf import check_space, file_bytes, plan_entries, types_of, weights_in, write_gguf
from dozan.ship.imatrix import Importance, measure
from dozan.ship.parity import Certificate, ExportFailed, Logits, certify
from dozan.ship.parity_export import ExportParity, Measured, choose_rows
from dozan.ship.quants import EMBEDDING_KINDS, KINDS, TypeRow
from dozan.ship.source import Source, open_source

ROWS = 50
"""Rows of the user's data that go through each file."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """One file that passed; `types` says what each part of it is made of, `scores` how it answers through llama.cpp
    (None without rows to score)."""

    path: Path
    kind: str
    bytes: int
    bits_per_weight: float
    certificate: Certificate
    types: tuple[TypeRow, ...] = ()
    scores: Scores | None = None


def export(
    run_or_folder: str | Path, gguf: str | Sequence[str] = "q8_0", out: str | Path = "output/gguf",
    examples: str | Path | Sequence[Example] | None = None, imatrix: bool = False, token_embd_type: str | None = None,
    say: Say | None = None,
) -> list[Exported]:  # fmt: skip
    """Write `out/NAME-TYPE.gguf` for each type in `gguf`, a comma list or a list of `ship.quants.KINDS`.

    The adapter is merged in fp32, a tensor at a time: the model is never in memory, but where it is small enough to
    answer rows here. Merge and files are compared with base and adapter on `examples` (rows or a JSONL path; a run's
    held-out rows when not given) and on texts of our own, and answer the rows through llama.cpp; parity.json and
    certificate.html lie beside the files. imatrix: weigh each column's rounding by what it carries on `examples`, or on
    the rows that the run was trained on. token_embd_type: the type of the embedding, one of
    `ship.quants.EMBEDDING_KINDS`. `say` is told what is being done. Raises InputError for an unknown type, a model that
    llama.cpp does not compute, another base than the one trained on, no rows to measure an importance matrix on, or a
    disk too full for all files; ExportFailed when a file is outside its gate.
    """
    kinds, embedding = parse_kinds(gguf), parse_embedding(token_embd_type)
    source, folder = open_source(run_or_folder), Path(run_or_folder)
    needed = sum(file_bytes(plan_entries(source.bundle, kind, imatrix, embedding)) for kind in kinds)
    check_space(Path(out), needed)
    say = say or (lambda _: None)
    importance = _importance(source, folder, examples, say) if imatrix else None
    rows = _rows(folder, examples, ("heldout.jsonl",))[:ROWS]
    measured = choose_rows(source, rows, _ids(source, rows))
    logits = _remembered(source.trained_logits)
    say("computing what the files are measured against")
    parity = ExportParity(source, run_or_folder, Path(out), measured)
    exported = []
    for kind in kinds:
        path = Path(out) / f"{folder.resolve().name}-{kind}.gguf"
        say(f"writing {path}")
        exported.append(_one(source, path, kind, importance, embedding, measured, logits, parity))
    return exported


def parse_kinds(text: str | Sequence[str]) -> list[str]:
    """The types of a comma list or a list, in order, each once. Raises InputError naming those that we do not write."""
    names = text.split(",") if isinstance(text, str) else text
    kinds = list(dict.fromkeys(kind.strip().lower() for kind in names if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"GGUF types {unknown or text!r}: give one or more of {', '.join(KINDS)}, separated by commas")
    return kinds


def parse_embedding(name: str | None) -> Type | None:
    """The type that --token-embd-type names. Raises InputError for one that we do not write."""
    if name is None:
        return None
    if name.strip().lower() not in EMBEDDING_KINDS:
        raise InputError(f"--token-embd-type {name}: give one of {', '.join(EMBEDDING_KINDS)}")
    return EMBEDDING_KINDS[name.strip().lower()]


def _one(
    source: Source, path: Path, kind: str, importance: Importance | None, embedding: Type | None, measured: Measured,
    logits: Logits, parity: ExportParity,
) -> Exported:  # fmt: skip
    bundle = source.bundle
    types = types_of(plan_entries(bundle, kind, importance is not None, embedding))
    write_gguf(bundle, path, kind, importance, embedding, source.pieces)
    try:
        certificate = certify(bundle, path, kind, measured.ids, measured.lines, embedding, logits, source.pieces)
    except ExportFailed as error:
        parity.add_failed(path, kind, str(error))
        raise
    scores = parity.add(path, certificate)
    bits = 8 * certificate.bytes / weights_in(bundle)
    return Exported(path, kind, certificate.bytes, bits, certificate, tuple(types), scores)


def _remembered(logits: Logits) -> Logits:
    """The same for every file: the rows and the tail do not depend on its type."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}

    def once(rows: Sequence[Sequence[int]], tail: int) -> list[np.ndarray]:
        key = (sum(map(len, rows)), tail)
        if key not in found:
            found[key] = list(logits(rows, tail))
        return found[key]

    return once


def _importance(
    source: Source, folder: Path, examples: str | Path | Sequence[Example] | None, say: Say
) -> Importance:
    name = str(examples) if isinstance(examples, str | Path) else str(folder) if examples is None else "examples"
    rows = _rows(folder, examples, ("train.jsonl", "heldout.jsonl"))
    found = measure(source, _ids(source, rows), f"--imatrix {name}")
    say(f"importance matrix: {found.rows} rows, {found.tokens:,} tokens of {name}")
    return found


def _ids(source: Source, rows: list[Example]) -> list[list[int]]:
    bundle = source.bundle
    encoded = encode_rows(rows, bundle.chat, bundle.tokenizer, bundle.config.max_position_embeddings)
    return [list(row.ids) for row in encoded]


def _rows(run: Path, examples: str | Path | Sequence[Example] | None, names: tuple[str, ...]) -> list[Example]:
    """The rows that are given, or those of the first of the run's own files that is there."""
    kept = (path for name in names if (path := run / "data" / name).is_file())
    chosen = examples if examples is not None else next(kept, None)
    if chosen is None:
        return []
    return read_rows(chosen) if isinstance(chosen, str | Path) else list(chosen)
