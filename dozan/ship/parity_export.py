"""The certificate of an export: adapter, merged model and every GGUF on the same token ids, and what each answers.

`parity.json` lies beside the files. Files of the same model that were measured before on the same rows stay in it as
long as they lie there unchanged in size; those of another model go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dozan.chat.encode import encode_prompt, gold
from dozan.errors import InputError
from dozan.html.page import isolated, page
from dozan.judge.report_certificate import certificate_section
from dozan.judge.report_style import STYLE
from dozan.judge.summary import Scores
from dozan.model.bundle import open_model
from dozan.model.files import read_json, write_whole
from dozan.rows.example import Example, Json
from dozan.ship.gguf import weights_in
from dozan.ship.manifest import origin, write_json
from dozan.ship.parity import MERGED_GATE, Certificate, ExportFailed, compare, probe_rows, tail_of
from dozan.ship.served import evaluate
from dozan.ship.source import Source

PARITY, PAGE = "parity.json", "certificate.html"
PROBE_OPERATIONS = 4e13
"""What a pass over all rows may take, two operations a weight and token: 12B goes through 1,700 tokens (and one row of
the user's in any case), models of up to 400M weights through 50 rows of 1,000."""
SCORED_OPERATIONS = 4e13
"""The same of prompts and answers that are scored."""
TORCH_BYTES = 4 << 30
"""Largest model in fp32 that is opened here to answer the rows beside its files."""
ANSWER_TOKENS = 256
STRICT_LOSS = {"f32": 0.0, "f16": 0.02, "bf16": 0.04, "q8_0": 0.04, "q6_k": 0.06, "q5_k_m": 0.1, "q4_k_m": 0.2,
               "q4_0": 0.3, "iq4_xs": 0.3}  # fmt: skip
"""Share of the rows, beside one row, that a file may answer right less often than the model does."""


@dataclass(frozen=True)
class Measured:
    """What an export is measured on. ids: the user's rows as tokens, lines: their texts, scored: those that are
    answered and scored, unscored: why there are none, "" where there are."""

    ids: list[list[int]]
    lines: list[str]
    scored: list[Example]
    unscored: str


def spread(lengths: Sequence[int], most: float) -> list[int]:
    """As many as have together at most so many tokens, evenly from the first to the last, by index."""
    for count in range(len(lengths), 0, -1):
        kept = [i * len(lengths) // count for i in range(count)]
        if sum(lengths[i] for i in kept) <= most:
            return kept
    return []


def choose_rows(source: Source, rows: Sequence[Example], ids: Sequence[list[int]]) -> Measured:
    """The rows that this size of model can be measured on in minutes; ids: of every row."""
    weights = 2.0 * weights_in(source.bundle)
    own = sum(map(len, probe_rows(source.bundle)))
    kept = spread([len(row) for row in ids], PROBE_OPERATIONS / weights - own)
    if ids and not kept:
        kept = [min(range(len(ids)), key=lambda i: len(ids[i]))]
    lines = [str(message["content"]) for i in kept for message in rows[i].messages if message.get("content")]
    prompts = [(row, tokens) for row in rows if (tokens := _prompt_tokens(source, row)) is not None]
    answered = spread([tokens + ANSWER_TOKENS for _, tokens in prompts], SCORED_OPERATIONS / weights)
    why = "there are no rows with an expected answer"
    if prompts and not answered:
        why = f"{weights / 2e9:.1f} billion weights answer too slowly here; score the file with dozan eval"
    return Measured([ids[i] for i in kept], lines, [prompts[i][0] for i in answered], "" if answered else why)


def _prompt_tokens(source: Source, row: Example) -> int | None:
    """None for a row without an expected answer, or one that fills the context."""
    try:
        gold(row)
        tokens = len(encode_prompt(row, source.bundle.chat, source.bundle.tokenizer))
    except InputError:
        return None
    return tokens if tokens + ANSWER_TOKENS <= source.bundle.config.max_position_embeddings else None


class ExportParity:
    """The certificate as it grows, file by file; merge and adapter are compared before anything is written."""

    def __init__(self, source: Source, path: str | Path, out: Path, measured: Measured) -> None:
        self._source, self._out, self._measured = source, out, measured
        rows = [*measured.ids, *probe_rows(source.bundle)]
        self._rows, self._tail = rows, tail_of(source.bundle.config, len(rows))
        self._ours = self._answered(path)
        merged = self._merged()
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        self._found: dict[str, Json] = {
            "model": Path(path).resolve().name, **origin(source), "rows": len(measured.ids), "probe_rows": len(rows),
            "tokens": sum(map(len, rows)), "token_ids_sha256": digest,
            "reference": "the adapter beside its base in fp32" if source.adapters else "the checkpoint in fp32",
            "merged": merged, "scores": self._scores(), "files": {},
        }  # fmt: skip
        self._found["files"] = self._earlier()

    def _merged(self) -> Json:
        """The merge in fp32 against the adapter beside its base; ExportFailed when they differ."""
        if not self._source.adapters:
            return None
        gate = MERGED_GATE.at_depth(self._source.bundle.config.num_hidden_layers)
        lines = probe_rows(self._source.bundle, windows=False)
        found = compare(self._source.trained_logits(lines, self._tail), self._source.logits(lines, self._tail))
        failures = found.failures(gate)
        if failures:
            raise ExportFailed(f"merged in fp32: {'; '.join(failures)}; nothing was written")
        return {"difference": asdict(found), "gate": asdict(gate)}

    def _answered(self, path: str | Path) -> Scores | None:
        """The model's own answers, in torch; None where it is too large for that here."""
        large = 4 * weights_in(self._source.bundle) > TORCH_BYTES and not torch.cuda.is_available()
        if large or not self._measured.scored:
            return None
        bundle = open_model(path, device="cuda" if torch.cuda.is_available() else "cpu")
        return evaluate(bundle, self._measured.scored, max_new_tokens=ANSWER_TOKENS)

    def _scores(self) -> Json:
        rows = len(self._measured.scored)
        said = {"rows": rows, "max_new_tokens": ANSWER_TOKENS} if rows else {"rows": 0, "why": self._measured.unscored}
        return {**said, "model": None if self._ours is None else brief(self._ours)}

    def _earlier(self) -> dict[str, Json]:
        """What an earlier parity.json says of files of this model on these rows that are still there."""
        path = self._out / PARITY
        try:
            before = read_json(path) if path.is_file() else {}
        except InputError:
            before = {}
        same = all(before.get(key) == self._found[key] for key in ("base_sha256", "adapter_sha256", "token_ids_sha256"))
        files: Mapping[str, Mapping[str, Json]] = before.get("files") or {} if same else {}
        there = {file.name: file.stat().st_size for file in self._out.glob("*.gguf*")}
        return {name: said for name, said in files.items() if there.get(name, -1) == said.get("bytes")}

    def add(self, path: Path, certificate: Certificate) -> Scores | None:
        """Score the file through llama.cpp, and write parity.json anew with it. Raises ExportFailed, the file renamed
        to `.FAILED`, when it answers fewer rows right than its type may."""
        said = {key: value for key, value in asdict(certificate).items() if key != "file"}
        scores = None
        if self._measured.scored:
            scores = evaluate(path, self._measured.scored, max_new_tokens=ANSWER_TOKENS)
            said["scores"] = brief(scores)
            said["failures"] = [*certificate.failures, *self._lost(certificate.kind, scores)]
        name = path.name
        if said["failures"]:
            name = path.replace(path.with_name(f"{path.name}.FAILED")).name
        self._found["files"][name] = said
        self._write()
        if said["failures"]:
            raise ExportFailed(f"{self._out / name}: {'; '.join(said['failures'])}")
        return scores

    def add_failed(self, path: Path, kind: str, reason: str) -> None:
        """Put a file that missed its gate into parity.json."""
        self._found["files"][f"{path.name}.FAILED"] = {"kind": kind, "failures": [reason]}
        self._write()

    def _write(self) -> None:
        write_json(self._out / PARITY, self._found)
        title = f"Certificate of {self._found['model']}"
        text = page(title, f"<h1>{isolated(title)}</h1>{certificate_section(self._found)}", STYLE)

        def write(staging: Path) -> None:
            staging.write_text(text, encoding="utf-8")

        write_whole(self._out / PAGE, write)

    def _lost(self, kind: str, scores: Scores) -> list[str]:
        if self._ours is None:
            return []
        ours, theirs = (sum(row.strict for row in each.rows) for each in (self._ours, scores))
        allowed = int(STRICT_LOSS[kind] * len(scores.rows)) + 1
        if ours - theirs <= allowed:
            return []
        return [f"through llama.cpp {theirs} of {len(scores.rows)} rows are strictly right, {ours} with the model "
                f"(at most {allowed} fewer for {kind})"]  # fmt: skip


def brief(scores: Scores) -> dict[str, Json]:
    """The strict and the normalised score, with their intervals."""
    summary: Mapping[str, Json] = scores.summary()
    return {name: {"share": summary[name], **summary["intervals"][name]} for name in ("strict", "normalised")}
