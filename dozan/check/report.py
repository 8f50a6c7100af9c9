"""What a check found: counts by code, places, and what the set is made of; many findings of one code lie on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from dozan.check.finding import Finding, Rule
from dozan.rows.example import Json

MOST_IN_MEMORY = 1_000
_MOST_PLACES = 1_000


class FindingStore:
    """Findings by code in the order in which they came: 1,000 a code in memory, the others in a file without a name."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.rules: dict[str, Rule] = {}
        self._first: dict[str, list[Finding]] = {}
        self._spilled: IO[bytes] | None = None

    def add(self, finding: Finding) -> None:
        """Adds a finding; it counts once for a place in a row, and as `finding.count` for a set."""
        code = finding.code
        first = self._first.setdefault(code, [])
        self.rules[code] = finding.rule
        self.counts[code] = self.counts.get(code, 0) + finding.count
        if len(first) < MOST_IN_MEMORY:
            first.append(finding)
            return
        if self._spilled is None:
            self._spilled = tempfile.TemporaryFile(prefix="dozan-findings-")  # noqa: SIM115
        line = [code, finding.place, finding.path, finding.message, finding.row, finding.count, list(finding.places)]
        self._spilled.write(json.dumps(line).encode("ascii") + b"\n")

    def first(self, code: str, most: int = MOST_IN_MEMORY) -> list[Finding]:
        """The first findings of a code."""
        return self._first.get(code, [])[:most]

    def __iter__(self) -> Iterator[Finding]:
        """Every finding: those in memory by code, then those on disk as they came."""
        for code in sorted(self._first):
            yield from self._first[code]
        if self._spilled is None:
            return
        at = 0
        while True:
            self._spilled.seek(at)
            line = self._spilled.readline()
            at = self._spilled.tell()
            if not line:
                return
            code, place, path, message, row, count, places = json.loads(line)
            yield Finding(self.rules[code], place, path, message, row, count, tuple(places))


@dataclass(frozen=True)
class Report:
    """The result of `check`.

    rows: by file, evaluation files included. unread: rows that could not be read. bytes_a_row: what the near-duplicate
    index took on disk. stats: what the set is made of (`rows`, `eval_rows`, `with_tools`, `calls`, `no_call`,
    `near_duplicates`, `dialects`, `tools`, `tokenizer`).
    """

    files: tuple[str, ...]
    eval_files: tuple[str, ...]
    shapes: tuple[str, ...]
    rows: Mapping[str, int]
    unread: int
    seconds: float
    bytes_a_row: float
    findings: FindingStore = field(repr=False)
    stats: Mapping[str, Json] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How often each code was found, by code."""
        return dict(sorted(self.findings.counts.items()))

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return self._count("error")

    @property
    def warnings(self) -> int:
        """How many findings are warnings."""
        return self._count("warning")

    @property
    def exit_code(self) -> int:
        """2 when there are errors, else 0."""
        return 2 if self.errors else 0

    def _count(self, severity: str) -> int:
        rules = self.findings.rules
        return sum(count for code, count in self.counts.items() if rules[code].severity == severity)

    def examples(self, code: str, most: int = 5) -> list[Finding]:
        """The first findings of a code."""
        return self.findings.first(code, most)

    def to_dict(self) -> dict[str, Json]:
        """The report as JSON values: codes with their counts and up to 1,000 places each."""
        return {
            "files": list(self.files),
            "eval_files": list(self.eval_files),
            "shapes": list(self.shapes),
            "rows": dict(self.rows),
            "unread": self.unread,
            "seconds": round(self.seconds, 3),
            "errors": self.errors,
            "warnings": self.warnings,
            "index_bytes_a_row": round(self.bytes_a_row, 1),
            "findings": [self._code(code, count) for code, count in self.counts.items()],
            "stats": dict(self.stats),
        }

    def to_json(self, path: str | Path) -> None:
        """Writes `to_dict` as a JSON file, in UTF-8."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1)
        Path(path).write_bytes((text + "\n").encode("utf-8", "replace"))

    def _code(self, code: str, count: int) -> dict[str, Json]:
        rule = self.findings.rules[code]
        first = self.findings.first(code, _MOST_PLACES)
        return {
            "code": code,
            "name": rule.name,
            "severity": rule.severity,
            "scope": rule.scope,
            "count": count,
            "title": rule.title,
            "why": rule.why,
            "remedy": rule.remedy,
            "fixable": rule.fixable,
            "places": [_place(finding) for finding in first],
        }


def _place(finding: Finding) -> dict[str, Json]:
    found: dict[str, Json] = {"place": finding.place, "path": finding.path, "message": finding.message}
    if finding.row and finding.row != finding.place:
        found["row"] = finding.row
    if finding.places:
        found["rows"] = list(finding.places)
    if finding.count != 1:
        found["count"] = finding.count
    return found
