"""Records as text: a table for each figure, and what makes two programs' figures incomparable.

`python -m bench.table RECORD.json ...` joins runs that measured other workloads or peers on the same device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.workloads import NAMES

OURS = "ours"
TOLERANCE = 0.01
"""The first step's loss and gradient norm may differ from ours by this share."""
SAME = ("commit", "device", "model", "steps")
Record = dict[str, Any]
_Cell = Callable[[Record], str]
_Ratio = Callable[[Record], float | None]


@dataclass(frozen=True)
class Difference:
    """A figure of the first step that is not ours."""

    work: str
    impl: str
    what: str
    ours: float
    theirs: float

    @property
    def share(self) -> float:
        return abs(self.theirs - self.ours) / max(abs(self.ours), 1e-12)

    def __str__(self) -> str:
        return f"{self.work}, {self.impl}: {self.what} {self.theirs:.6g} against our {self.ours:.6g} ({self.share:.2%})"


def differences(record: Record, tolerance: float = TOLERANCE) -> list[Difference]:
    """Where a peer's first step has another loss or gradient norm than ours; a NaN differs from everything."""
    found = []
    ours = record["impls"].get(OURS, {"works": {}})["works"]
    for impl, result in record["impls"].items():
        packed = result.get("options", {}).get("pack")
        for work, figures in result["works"].items():
            if impl == OURS or packed or "error" in figures or "error" in ours.get(work, {"error": ""}):
                continue
            for what, key in (("loss", "losses"), ("gradient norm", "grad_norms")):
                found.append(Difference(work, impl, what, ours[work][key][0], figures[key][0]))
    return [difference for difference in found if not difference.share <= tolerance]


def joined(records: list[Record]) -> Record:
    """One record of several. Raises ValueError when they are of different programs, devices or models."""
    first, *others = records
    impls: dict[str, Record] = {}
    for record in records:
        unequal = [key for key in SAME if record[key] != first[key]]
        if unequal:
            raise ValueError(f"records differ in {', '.join(unequal)}: {[record[key] for key in unequal]}")
        for impl, result in record["impls"].items():
            known = impls.setdefault(impl, {**result, "works": {}})
            known["works"].update(result["works"])
    return {**first, "command": [record["command"] for record in records], "impls": impls}


def render(record: Record) -> str:
    """The tables, the differences and the errors. "ours / best" compares with the peer that is best at that figure."""
    impls = [OURS, *(impl for impl in record["impls"] if impl != OURS)]
    works = [work for work in NAMES if any(work in record["impls"].get(impl, {"works": {}})["works"] for impl in impls)]
    wrong = differences(record)
    marked = {(difference.work, difference.impl) for difference in wrong}
    lines = [f"{record['device']}, {record['model']}, {record['steps']} steps, commit {record['commit']}"]
    for title, cell, ratio, best in _TABLES:
        lines += ["", _line(title, impls, "ours / best")]
        for work in works:
            figures = [_figures(record, impl, work) for impl in impls]
            cells = [_shown(found, cell) for found in figures]
            cells = [text + "!" * ((work, impl) in marked) for text, impl in zip(cells, impls, strict=True)]
            lines.append(_line(work, cells, _compared(figures, ratio, best)))
    lines += ["", _process(record, impls)]
    if wrong:
        lines += ["", f"! not the same work: the first step differs from ours by over {TOLERANCE:.0%}"]
        lines += [f"  {difference}" for difference in wrong]
    results = [(work, impl, _figures(record, impl, work)) for work in works for impl in impls]
    errors = [(work, impl, found["error"]) for work, impl, found in results if found and "error" in found]
    lines += [f"{work}, {impl}: {error.splitlines()[-1][:200]}" for work, impl, error in errors]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _figures(record: Record, impl: str, work: str) -> Record | None:
    found: Record | None = record["impls"].get(impl, {"works": {}})["works"].get(work)
    return found


def _shown(found: Record | None, cell: _Cell) -> str:
    if found is None:
        return "-"
    return "failed" if "error" in found else cell(found)


def _compared(figures: list[Record | None], ratio: _Ratio, best: Callable[..., float]) -> str:
    values = [ratio(found) if found is not None and "error" not in found else None for found in figures]
    peers = [value for value in values[1:] if value is not None]
    return f"{values[0] / best(peers):.2f}x" if values[0] is not None and peers else ""


def _line(head: str, cells: list[str], last: str) -> str:
    return f"{head:<18}" + "".join(f"{cell:>12}" for cell in cells) + f"{last:>13}"


def _memory(found: Record) -> str:
    allocated, reserved = found["allocated_gib"], found["reserved_gib"]
    return "-" if allocated is None else f"{allocated:.1f} / {reserved:.1f}"


_TABLES: list[tuple[str, _Cell, _Ratio, Callable[..., float]]] = [
    ("examples/s", lambda found: f"{found['examples_s']:,.1f}", lambda found: found["examples_s"], max),
    ("original tokens/s", lambda found: f"{found['tokens_s']:,.0f}", lambda found: found["tokens_s"], max),
    ("GiB alloc. / res.", _memory, lambda found: found["allocated_gib"], min),
    ("first step, s", lambda found: f"{found['first_step_s']:.1f}", lambda found: found["first_step_s"], min),
]


def _process(record: Record, impls: list[str]) -> str:
    """The cold start of each process, which its first workload alone pays."""
    seconds = {impl: record["impls"].get(impl, {}).get("process_to_first_step_s") for impl in impls}
    shown = ", ".join(f"{impl} {value:.1f}" for impl, value in seconds.items() if value is not None)
    return f"from process start to its first step, s: {shown or '-'}"


if __name__ == "__main__":
    print(render(joined([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]])), end="")
