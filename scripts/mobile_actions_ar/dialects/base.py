"""What one variety of Arabic must supply: time words, sentence frames, message bodies and refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dozan.rows.generate.words import TimeWords


@dataclass(frozen=True)
class Half:
    """What one side of the split (train, dev or test) may use: frames by tool, clauses, bodies, kin, and no-call pairs.

    A frame is one line of `grammar.expand`. `clauses` are short frames ("tool: frame") that join into a parallel
    request. Bodies are `bodies` and each of `body_heads` followed by each of `body_objects`. `no_call` pairs a request
    with its answers. `women` are those of `kin` that are women (`names.FEMALE` has others).
    """

    frames: Mapping[str, str]
    clauses: str
    bodies: str
    body_heads: str
    body_objects: str
    kin: str
    no_call: tuple[tuple[str, str], ...]
    women: str = ""


@dataclass(frozen=True)
class Dialect:
    """One variety: its name, politeness before and after a request, joins of two requests, time words, its halves."""

    name: str
    openers: tuple[str, ...]
    tails: tuple[str, ...]
    joins: tuple[str, ...]
    time: TimeWords
    train: Half
    test: Half
    dev: Half | None = None
