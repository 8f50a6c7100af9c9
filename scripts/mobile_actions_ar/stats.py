"""Prints the counts of the data set: `python -m scripts.mobile_actions_ar.stats [folder]`."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from scripts.mobile_actions_ar.build import FOLDER, cell_frames
from scripts.mobile_actions_ar.dialects import DIALECTS
from scripts.mobile_actions_ar.rows import clauses, half
from scripts.mobile_actions_ar.tools import TOOLS

NAMES = tuple(str(tool["function"]["name"]) for tool in TOOLS)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, gzipped if its name says so."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def calls(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The calls (name and arguments) of a row; none for a text answer."""
    return [call["function"] for call in row["messages"][-1].get("tool_calls", [])]


def row_tools(row: dict[str, Any]) -> list[str]:
    """The names that a row calls, or "no_call"."""
    return [call["name"] for call in calls(row)] or ["no_call"]


def table(title: str, keys: Iterable[str], columns: dict[str, Counter[str]]) -> str:
    """A Markdown table of counts."""
    head = f"| {title} | " + " | ".join(columns) + " |\n|---|" + "---:|" * len(columns)
    rows = (f"| {key} | " + " | ".join(str(counts[key]) for counts in columns.values()) + " |" for key in keys)
    return "\n".join([head, *rows])


def frames_of(dialect: str, tool: str) -> int:
    """The number of training frames of a tool in a dialect, politeness not counted."""
    one = next(item for item in DIALECTS if item.name == dialect)
    return sum(len(group) for group in cell_frames(one, tool, "train"))


def report(folder: Path = FOLDER) -> str:
    """All tables as Markdown."""
    sides = {"train": read(folder / "train.jsonl.gz")}
    sides |= {side: read(folder / f"{side}.jsonl") for side in ("dev", "test")}
    dialects = [dialect.name for dialect in DIALECTS]
    by = {
        "dialect": {side: Counter(row["dialect"] for row in rows) for side, rows in sides.items()},
        "kind": {side: Counter(row["kind"] for row in rows) for side, rows in sides.items()},
        "tool": {side: Counter(name for row in rows for name in row_tools(row)) for side, rows in sides.items()},
    }
    frames = {one: Counter({tool: frames_of(one, tool) for tool in NAMES}) for one in dialects}
    clause_counts = Counter({one.name: len(clauses(half(one, "train").clauses)) for one in DIALECTS})
    parts = [table("dialect", dialects, by["dialect"]), table("kind", ("call", "parallel", "no_call"), by["kind"]),
             table("calls of", (*NAMES, "no_call"), by["tool"]), table("training frames", NAMES, frames),
             table("clauses to join", dialects, {"train": clause_counts}),
             f"rows: {', '.join(f'{side} {len(rows)}' for side, rows in sides.items())}"]
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(report(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
