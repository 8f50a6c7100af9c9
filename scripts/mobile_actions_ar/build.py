"""Writes the Arabic mobile actions data set: `python -m scripts.mobile_actions_ar.build [folder]`."""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

from scripts.mobile_actions_ar.dialects import DIALECTS
from scripts.mobile_actions_ar.dialects.base import Dialect, Half
from scripts.mobile_actions_ar.grammar import expand, lines
from scripts.mobile_actions_ar.rows import Draft, call_draft, no_call_draft, parallel_draft, polite, row
from scripts.mobile_actions_ar.similar import Neighbours, folded
from scripts.mobile_actions_ar.tools import TOOLS

FOLDER = Path(__file__).parents[2] / "dozan" / "assets" / "mobile_actions_ar"
SEED = 20260313
COUNTS = {
    "train": {"create_calendar_event": 250, "set_alarm": 210, "set_timer": 110, "make_call": 120, "send_message": 150,
              "send_email": 120, "get_weather": 90, "show_map": 100, "create_contact": 130, "turn_on_flashlight": 70,
              "turn_off_flashlight": 70, "open_wifi_settings": 60, "parallel": 130, "no_call": 140},
    "test": {"create_calendar_event": 9, "set_alarm": 8, "set_timer": 5, "make_call": 7, "send_message": 8,
             "send_email": 6, "get_weather": 6, "show_map": 6, "create_contact": 6, "turn_on_flashlight": 3,
             "turn_off_flashlight": 2, "open_wifi_settings": 3, "parallel": 6, "no_call": 5},
}
NEAR = 0.75
TRIES = 4000


def cell_frames(dialect: Dialect, tool: str, where: str) -> list[list[tuple[str, str]]]:
    """(template, plain frame) pairs of a tool, grouped by the line that they come from."""
    block: Half = dialect.train if where == "train" else dialect.test
    return [[(f"{dialect.name}/{tool}/{where}/{line}.{index}", frame) for index, frame in enumerate(expand(text))]
            for line, text in enumerate(lines(block.frames[tool]))]


def no_call_pairs(dialect: Dialect, where: str) -> list[list[tuple[str, str, str]]]:
    """(template, request, answers) triples, grouped by the pair that they come from."""
    block: Half = dialect.train if where == "train" else dialect.test
    return [[(f"{dialect.name}/no_call/{where}/{pair}.{index}", text, answers)
             for index, text in enumerate(expand(request))] for pair, (request, answers) in enumerate(block.no_call)]


class Split:
    """The rows of one side so far, and what they may not repeat."""

    def __init__(self, where: str, other: Split | None) -> None:
        self.where = where
        self.drafts: list[Draft] = []
        self.texts: set[str] = set()
        self.nows: set[str] = set()
        self.values: set[str] = set()
        self.near = Neighbours()
        self.other = other

    def admits(self, draft: Draft) -> bool:
        """Whether the draft is new here and shares nothing with the other side."""
        text = folded(draft.text)
        if text in self.texts or str(draft.now) in self.nows:
            return False
        if self.other is None:
            return True
        shares = str(draft.now) in self.other.nows or not self.other.values.isdisjoint(argument_values(draft))
        return not shares and self.other.near.nearest(draft.text) < NEAR

    def add(self, draft: Draft) -> None:
        """Keeps the draft."""
        self.drafts.append(draft)
        self.texts.add(folded(draft.text))
        self.nows.add(str(draft.now))
        self.values |= argument_values(draft)
        self.near.add(draft.text)


def argument_values(draft: Draft) -> set[str]:
    """Every argument value of the draft as text."""
    return {str(value) for _, arguments in draft.calls for value in arguments.values()}


def make(kind: str, dialect: Dialect, where: str, number: int, rng: random.Random) -> Draft:
    """The next try at a draft of a tool, `parallel` or `no_call`; `number` walks through the lines of frames."""
    if kind == "parallel":
        return parallel_draft(dialect, where, rng)
    if kind == "no_call":
        groups = no_call_pairs(dialect, where)
        template, request, answers = rng.choice(groups[number % len(groups)])
        return no_call_draft(request, answers, template, dialect, rng)
    frames = cell_frames(dialect, kind, where)
    template, frame = rng.choice(frames[number % len(frames)])
    draft = call_draft(kind, frame, template, dialect, where, rng)
    return polite(draft, frame, dialect, rng) if where == "train" else draft


def fill_split(split: Split, dialect: Dialect, rng: random.Random) -> None:
    """Adds the rows of one dialect."""
    for kind, count in COUNTS[split.where].items():
        number = made = 0
        while made < count:
            assert number < TRIES, f"no more new rows for {dialect.name} {kind} {split.where}: {made} of {count}"
            draft = make(kind, dialect, split.where, number, rng)
            number += 1
            if split.admits(draft):
                split.add(draft)
                made += 1


def draft_splits(seed: int = SEED) -> tuple[Split, Split]:
    """Train and test, each in shuffled order."""
    rng = random.Random(seed)
    test = Split("test", None)
    train = Split("train", test)
    for split in (test, train):
        for dialect in DIALECTS:
            fill_split(split, dialect, rng)
        rng.shuffle(split.drafts)
    return train, test


def build(seed: int = SEED) -> dict[str, list[dict[str, Any]]]:
    """Both sides as canonical rows; the same seed gives the same rows."""
    return {split.where: [row(draft, f"ma-{split.where}-{index:04d}") for index, draft in enumerate(split.drafts)]
            for split in draft_splits(seed)}


def write(folder: Path, seed: int = SEED) -> None:
    """Writes tools.json, train.jsonl.gz and test.jsonl into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = "[\n" + ",\n".join(json.dumps(tool, ensure_ascii=False) for tool in TOOLS) + "\n]\n"
    (folder / "tools.json").write_text(tools, encoding="utf-8")
    for where, rows in build(seed).items():
        text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows)
        if where == "train":
            (folder / "train.jsonl.gz").write_bytes(gzip.compress(text.encode("utf-8"), mtime=0))
        else:
            (folder / f"{where}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
