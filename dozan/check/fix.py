"""`dozan data fix`: rows repaired where it is safe, the rest untouched; what cannot be repaired is set aside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dozan.check.fixes.diff import Differ
from dozan.check.fixes.repair import choose
from dozan.check.fixes.stream import Outcome, repaired_rows
from dozan.errors import InputError
from dozan.rows.readers import Say
from dozan.rows.renames import FIELD, Renames, joined_renames
from dozan.rows.staged import refuse_existing, staged


@dataclass(frozen=True)
class FixResult:
    """What `fix` did. rows: all that were read, broken lines included; each is one of the four kinds after it.

    converted: sound rows of another shape, written in the canonical one. repairs: how many under each code. reasons:
    the errors of quarantined rows by code. renamed: old names of arguments by tool and path (`rows/renames.py`).
    files: what was written, the rows last; () after a dry run.
    """

    rows: int
    clean: int
    repaired: int
    converted: int
    quarantined: int
    repairs: Mapping[str, int]
    reasons: Mapping[str, int]
    renamed: Renames
    files: tuple[Path, ...]


@dataclass
class Tally:
    """Counts of outcomes, as they come."""

    states: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    renamed: dict[str, dict[str, str]] = field(default_factory=dict)
    tools_files: dict[Path, None] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        self.states[outcome.state] += 1
        self.repairs.update(repair.code for repair in outcome.repairs)
        counts = self.reasons if outcome.state == "quarantined" else self.findings
        counts.update(finding.code for finding in outcome.findings)
        renamed = outcome.after.meta.get(FIELD) if outcome.after is not None and outcome.repairs else None
        if renamed:
            self.renamed = joined_renames(self.renamed, renamed)
        if outcome.tools_file is not None:
            self.tools_files[outcome.tools_file] = None

    def result(self, files: Sequence[Path]) -> FixResult:
        kinds = {kind: self.states[kind] for kind in ("clean", "repaired", "converted", "quarantined")}
        repairs, reasons = (dict(sorted(counts.items())) for counts in (self.repairs, self.reasons))
        return FixResult(sum(kinds.values()), **kinds, repairs=repairs, reasons=reasons, renamed=self.renamed,
                         files=tuple(files))  # fmt: skip


def fix(
    files: Sequence[str | Path], out: str | Path, only: Collection[str] = (), except_: Collection[str] = (),
    dry_run: bool = False, shape: str | None = None, chat: str = "auto", say: Say | None = None,
    on_diff: Callable[[str], None] | None = None,
) -> FixResult:  # fmt: skip
    """Repair files into the JSONL file `out`; beside it `.repairs.jsonl` (each repair), `.diff`, `.quarantine.jsonl`.

    Sound canonical rows keep their very bytes. A row that still has an error goes to the quarantine as it was, with the
    reasons, and so does a line that is no row. only, except_: codes (DZ511), beginnings of codes (DZ5) or names; what
    is left out is neither repaired nor a reason. Repairs that a person must look at (DZ403: names of arguments) are
    made when they are named in `only`. on_diff gets each row's diff. Repairing `out` again changes nothing.

    Raises InputError, before anything is written, when an output exists or is an input, or a code is unknown.
    """
    chosen = choose(only, except_)
    paths = output_paths(Path(out))
    refuse_existing(paths, files)
    rows = repaired_rows(files, chosen, shape, chat, say)
    if dry_run:
        tally, differ = Tally(), Differ()
        for outcome in rows:
            tally.add(outcome)
            _show(outcome, differ, on_diff)
        return tally.result(())
    with staged(paths) as written:
        tally, ended = Tally(), True
        for outcome in log_repairs(rows, written[:-1], on_diff):
            tally.add(outcome)
            if outcome.state != "quarantined":
                written[-1].write(outcome.line if ended else b"\n" + outcome.line)
                ended = outcome.line.endswith(b"\n")
        copies = tools_copies(tally.tools_files, Path(out).parent)
    for path, content in copies.items():
        with staged([path]) as (file,):
            file.write(content)
    return tally.result([*copies, *paths])


def output_paths(out: Path) -> list[Path]:
    """The files that go with an output, itself last: repairs, diff, quarantine, rows."""
    stem = out.with_suffix("") if out.suffix in (".jsonl", ".json") else out
    return [stem.with_name(stem.name + ending) for ending in (".repairs.jsonl", ".diff", ".quarantine.jsonl")] + [out]


def log_repairs(
    rows: Iterable[Outcome], written: Sequence[IO[bytes]], on_diff: Callable[[str], None] | None = None
) -> Iterator[Outcome]:
    """Writes each row's repairs, diff and, where it ends there, quarantine line to three files, and passes it on."""
    repairs, diff, quarantine = written
    differ = Differ()
    for outcome in rows:
        for repair in outcome.repairs:
            logged = {"code": repair.code, "place": outcome.place, "path": repair.path, "before": repair.before,
                      "after": repair.after}  # fmt: skip
            repairs.write(json.dumps(logged, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        diff.write(_show(outcome, differ, on_diff).encode("utf-8", "backslashreplace"))
        if outcome.state == "quarantined":
            quarantine.write(outcome.line if outcome.line.endswith(b"\n") else outcome.line + b"\n")
        yield outcome


def _show(outcome: Outcome, differ: Differ, on_diff: Callable[[str], None] | None) -> str:
    """The row's diff, which is shown as well."""
    if not outcome.repairs or outcome.before is None or outcome.after is None:
        return ""
    text = differ.diff(outcome.before, outcome.after, outcome.repairs)
    if text and on_diff is not None:
        on_diff(text)
    return text


def tools_copies(files: Iterable[Path], folder: Path) -> dict[Path, bytes]:
    """Where the files that rows name as their tools are copied to, so that the rows can be read there.

    Raises InputError when another file of that name is there.
    """
    copies: dict[Path, bytes] = {}
    for file in files:
        path, content = folder / file.name, file.read_bytes()
        if copies.get(path, content) != content or path.exists() and path.read_bytes() != content:
            raise InputError(
                f"{path}: rows name {file} as their tools, but another file has its place; use another folder"
            )
        if not path.exists():
            copies[path] = content
    return copies
