"""Writes the Arabic mobile actions data set: `python -m scripts.mobile_actions_ar.build [folder]`."""

from __future__ import annotations

import functools
import gzip
import json
import random
import sys
from pathlib import Path
from typing import Any

from scripts.mobile_actions_ar.dialects import DIALECTS
from scripts.mobile_actions_ar.dialects.base import Dialect, Half
from scripts.mobile_actions_ar.grammar import SLOT, expand, lines
from scripts.mobile_actions_ar.rows import Draft, call_draft, clauses, half, no_call_draft, parallel_draft, polite, row
from scripts.mobile_actions_ar.similar import Neighbours, folded
from scripts.mobile_actions_ar.tools import TOOLS

FOLDER = Path(__file__).parents[2] / "dozan" / "assets" / "mobile_actions_ar"
SEED = 20260313
TEST_COUNTS = {"create_calendar_event": 9, "set_alarm": 8, "set_timer": 5, "make_call": 7, "send_message": 8,
               "send_email": 6, "get_weather": 6, "show_map": 6, "create_contact": 6, "turn_on_flashlight": 3,
               "turn_off_flashlight": 2, "open_wifi_settings": 3, "parallel": 6, "no_call": 5}  # fmt: skip
COUNTS = {
    "train": {"create_calendar_event": 380, "set_alarm": 330, "set_timer": 170, "make_call": 280, "send_message": 310,
              "send_email": 220, "get_weather": 150, "show_map": 170, "create_contact": 250, "turn_on_flashlight": 140,
              "turn_off_flashlight": 140, "open_wifi_settings": 80, "parallel": 350, "no_call": 560},
    "dev": TEST_COUNTS,
    "test": TEST_COUNTS,
}  # fmt: skip
NEAR = 0.75
NEAR_FRAME = 0.8
TRIES = 4000


def masked(frame: str) -> str:
    """The frame with every slot written alike."""
    return SLOT.sub("slot", frame)


@functools.cache
def held_out_frames() -> Neighbours:
    """The frames and clauses of the dev and test halves of all dialects, masked."""
    found = Neighbours()
    for half_ in (half(dialect, where) for dialect in DIALECTS for where in ("dev", "test")):
        plain = [frame for block in half_.frames.values() for text in lines(block) for frame in expand(text)]
        for frame in (*plain, *(frame for _, frame in clauses(half_.clauses))):
            found.add(masked(frame))
    return found


@functools.cache
def allowed(frame: str) -> bool:
    """Whether a training frame is unlike every held-out one."""
    return not held_out_frames().has_near(masked(frame), NEAR_FRAME)


def cell_frames(dialect: Dialect, tool: str, where: str) -> list[list[tuple[str, str]]]:
    """(template, plain frame) pairs of a tool, grouped by the line that they come from."""
    block: Half = half(dialect, where)
    groups = [[(f"{dialect.name}/{tool}/{where}/{line}.{index}", frame) for index, frame in enumerate(expand(text))
               if where != "train" or allowed(frame)] for line, text in enumerate(lines(block.frames[tool]))]
    return [group for group in groups if group]


def cell_clauses(dialect: Dialect, where: str) -> list[tuple[str, str]]:
    """(tool, plain frame) of every clause that the side may use."""
    return [(tool, frame) for tool, frame in clauses(half(dialect, where).clauses)
            if where != "train" or allowed(frame)]


def no_call_pairs(dialect: Dialect, where: str) -> list[list[tuple[str, str, str]]]:
    """(template, request, answers) triples, grouped by the pair that they come from."""
    block: Half = half(dialect, where)
    return [[(f"{dialect.name}/no_call/{where}/{pair}.{index}", text, answers)
             for index, text in enumerate(expand(request))] for pair, (request, answers) in enumerate(block.no_call)]


class Split:
    """The rows of one side so far, and what they may not repeat."""

    def __init__(self, where: str, *others: Split) -> None:
        self.where = where
        self.drafts: list[Draft] = []
        self.texts: set[str] = set()
        self.nows: set[str] = set()
        self.values: set[str] = set()
        self.near = Neighbours()
        self.others = others

    def admits(self, draft: Draft) -> bool:
        """Whether the draft is new here and shares nothing with the other side."""
        text = folded(draft.text)
        if text in self.texts or str(draft.now) in self.nows:
            return False
        values = argument_values(draft)
        shares = any(str(draft.now) in other.nows or not other.values.isdisjoint(values) for other in self.others)
        return not shares and not any(other.near.has_near(draft.text, NEAR) for other in self.others)

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
        return parallel_draft(cell_clauses(dialect, where), dialect, where, rng)
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


def draft_splits(seed: int = SEED) -> tuple[Split, Split, Split]:
    """Train, dev and test, each in shuffled order; train shares nothing with the others."""
    test, dev = Split("test"), Split("dev")
    train = Split("train", test, dev)
    for split, rng in ((test, random.Random(seed)), (dev, random.Random(seed + 1)), (train, random.Random(seed + 2))):
        for dialect in DIALECTS:
            fill_split(split, dialect, rng)
        rng.shuffle(split.drafts)
    return train, dev, test


def build(seed: int = SEED) -> dict[str, list[dict[str, Any]]]:
    """All sides as canonical rows; the same seed gives the same rows."""
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
