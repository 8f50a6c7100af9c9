"""`dozan data generate`: rows for anyone's tools, written only when check finds no error in them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.check.engine import check
from dozan.check.finding import Finding
from dozan.check.report import Report
from dozan.errors import InputError
from dozan.rows.example import Json
from dozan.rows.generate.rows import generate_rows
from dozan.rows.staged import refuse_existing, staged

_SHOWN = 5


@dataclass(frozen=True)
class Generated:
    """What `generate` wrote: its files, the rows of each, and how they are balanced.

    dialects, kinds (call, parallel, no_call): rows. tools: calls. warnings: findings of check that are no errors nor
    notes, one for each rule: its code, title and first message.
    """

    files: tuple[Path, ...]
    train_rows: int
    eval_rows: int
    dialects: Mapping[str, int]
    kinds: Mapping[str, int]
    tools: Mapping[str, int]
    warnings: tuple[Finding, ...]


def generate(
    tools: str | Path, lexicon: str | Path, out: str | Path, eval_out: str | Path | None = None, rows: int = 500,
    seed: int = 0, dialects: Sequence[str] = (), holdout: float = 0.1,
) -> Generated:  # fmt: skip
    """Write `rows` canonical rows into the JSONL file `out`, or a share `holdout` of them into `eval_out`.

    tools: a JSON array of declarations. lexicon: YAML such as `examples/lexicon_phone_ar.yaml`. dialects: of the
    lexicon, all without any. The two files share no pattern, no open value, no time and no near-duplicate; the same
    files and settings give the same bytes.

    Raises InputError, and writes nothing, when a file exists, for everything that is wrong in the lexicon, for more
    rows than it can say, and when check finds an error in the rows.
    """
    paths = [Path(path) for path in (out, eval_out) if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"{paths[0]}: named by --out and --eval-out; give each a file of its own")
    refuse_existing(paths, [tools, lexicon])
    sides = generate_rows(Path(tools), Path(lexicon), rows, seed, dialects, holdout if eval_out is not None else 0.0)
    texts = [_text(side) for side in sides[: len(paths)]]
    report = _checked(texts, tools)
    with staged(paths) as written:
        for file, text in zip(written, texts, strict=True):
            file.write(text)
    made = [item for side in sides for item in side]
    called = Counter(call["function"]["name"] for item in made for call in item["messages"][-1].get("tool_calls", ()))
    return Generated(
        tuple(paths), len(sides[0]), len(sides[1]), Counter(item["dialect"] for item in made),
        Counter(item["kind"] for item in made), called, tuple(_of(report, "warning")),
    )  # fmt: skip


def _text(rows: Sequence[Mapping[str, Json]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def _checked(texts: Sequence[bytes], tools: str | Path) -> Report:
    """The report of check on the rows. Raises InputError when it has an error."""
    with tempfile.TemporaryDirectory(prefix="dozan-generate-") as folder:
        files = [Path(folder) / name for name in ("train.jsonl", "eval.jsonl")][: len(texts)]
        for file, text in zip(files, texts, strict=True):
            file.write_bytes(text)
        # A share so small that it rounds to no row leaves an empty file, which is no set to check against.
        report = check(files[:1], eval_files=[file for file in files[1:] if file.stat().st_size])
    errors = _of(report, "error")
    if errors:
        found = [f"{f.code} {f.rule.title}: {f.path}: {f.message}; {f.rule.remedy}" for f in errors[:_SHOWN]]
        head = f"{tools}: rows for these tools would have errors, so none are written:"
        raise InputError("\n".join([head, *found]))
    return report


def _of(report: Report, severity: str) -> list[Finding]:
    """The first finding of each rule of a severity."""
    found = (report.examples(code, 1) for code in report.counts if report.findings.rules[code].severity == severity)
    return [finding for first in found for finding in first]
