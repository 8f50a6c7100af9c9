"""From a run, or a plain checkpoint, to measured GGUF files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.chat.encode import encode_rows
from dozan.errors import InputError
from dozan.model.bundle import Bundle, open_model
from dozan.rows.example import Example
from dozan.rows.readers import read_rows
from dozan.ship.gguf import KINDS, weights_in, write_gguf
from dozan.ship.parity import Certificate, certify

ROWS = 50
"""Rows of the user's data that go through each file."""


@dataclass(frozen=True)
class Exported:
    """One file that passed."""

    path: Path
    kind: str
    bytes: int
    bits_per_weight: float
    certificate: Certificate


def export(run_or_folder: str | Path, gguf: str | Sequence[str] = "q8_0", out: str | Path = "output/gguf",
           examples: str | Path | Sequence[Example] | None = None) -> list[Exported]:  # fmt: skip
    """Write `out/NAME-TYPE.gguf` for each type in `gguf`, a comma list or a list (f32, f16, bf16, q8_0).

    The adapter is merged in fp32. Each file is compared with the model on `examples` (rows or a JSONL path; a run's
    held-out rows when not given) and on texts of our own; the certificate lies beside it. Raises InputError for an
    unknown type or a model that llama.cpp does not compute, ExportFailed when a file is outside its gate.
    """
    kinds = parse_kinds(gguf)
    bundle = open_model(run_or_folder, dtype="float32")
    rows = _rows(Path(run_or_folder), examples)[:ROWS]
    encoded = encode_rows(rows, bundle.chat, bundle.tokenizer, bundle.config.max_position_embeddings)
    ids = [list(row.ids) for row in encoded]
    lines = [str(message["content"]) for row in rows for message in row.messages if message.get("content")]
    name = Path(run_or_folder).resolve().name
    return [_one(bundle, Path(out) / f"{name}-{kind}.gguf", kind, ids, lines) for kind in kinds]


def parse_kinds(text: str | Sequence[str]) -> list[str]:
    """The types of a comma list or a list, in order, each once. Raises InputError naming those that we do not write."""
    names = text.split(",") if isinstance(text, str) else text
    kinds = list(dict.fromkeys(kind.strip().lower() for kind in names if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(f"GGUF types {unknown or text!r}: give one or more of {', '.join(KINDS)}, separated by commas")
    return kinds


def _one(bundle: Bundle, path: Path, kind: str, ids: list[list[int]], lines: list[str]) -> Exported:
    write_gguf(bundle, path, kind)
    certificate = certify(bundle, path, kind, ids, lines)
    return Exported(path, kind, certificate.bytes, 8 * certificate.bytes / weights_in(bundle), certificate)


def _rows(source: Path, examples: str | Path | Sequence[Example] | None) -> list[Example]:
    heldout = source / "data" / "heldout.jsonl"
    chosen = examples if examples is not None else heldout if heldout.is_file() else None
    if chosen is None:
        return []
    return read_rows(chosen) if isinstance(chosen, str | Path) else list(chosen)
