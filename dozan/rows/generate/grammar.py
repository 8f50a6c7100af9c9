"""Sentence frames: alternations "(a|b|)" expand to plain frames, "{slot}" marks take values."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping

SLOT = re.compile(r"\{([\w.]+)\}")
CLITIC = re.compile(r"(?:^|\s)[وف]?[لب]$")


def lines(block: str) -> list[str]:
    """The non-empty lines of a block, stripped."""
    return [line.strip() for line in block.splitlines() if line.strip()]


def items(block: str) -> list[str]:
    """The values of a block separated by "،" or new lines, in order, each once."""
    return list(dict.fromkeys(part.strip() for part in re.split(r"[،\n]", block) if part.strip()))


def words(block: str) -> list[str]:
    """The words of a block, in order, each once."""
    return list(dict.fromkeys(block.split()))


@functools.cache
def expand(frame: str) -> tuple[str, ...]:
    """Every plain frame that a frame with alternations stands for, in order, each once."""
    parts = [part.split("|") for part in re.split(r"\(([^()]*)\)", frame)]
    for index in range(0, len(parts), 2):
        assert len(parts[index]) == 1, f"a bar outside brackets in {frame!r}"
    return tuple(dict.fromkeys(" ".join("".join(choice).split()) for choice in itertools.product(*parts)))


def slots(frame: str) -> list[str]:
    """The slot names of a frame in order."""
    return SLOT.findall(frame)


def has_clitic(frame: str) -> bool:
    """Whether a proclitic is attached to a slot of the frame."""
    return any(CLITIC.search(frame[: match.start()]) for match in SLOT.finditer(frame))


def fill(frame: str, values: Mapping[str, str]) -> str:
    """The frame with its slots filled; "ل" before a definite value is written apart ("لـ"): the value stays whole."""
    text = ""
    at = 0
    for match in SLOT.finditer(frame):
        text += frame[at : match.start()]
        value = values[match.group(1)]
        if CLITIC.search(text) and value.startswith("ال"):
            text += "ـ "
        text += value
        at = match.end()
    return text + frame[at:]
