"""The forms of which a grammar's rules are made: characters, control tokens, and how they follow each other."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Literal:
    """Plain text, not empty; never a control token, whatever it spells."""

    text: str


@dataclass(frozen=True)
class Control:
    """One control token, by name: the token itself, not its characters."""

    token: str


@dataclass(frozen=True)
class Characters:
    """One character of these ranges (first, last), or with `but` one outside of them."""

    ranges: tuple[tuple[str, str], ...]
    but: bool = False


@dataclass(frozen=True)
class Rule:
    """What the rule or pattern of this name says."""

    name: str


@dataclass(frozen=True)
class Series:
    """One after the other; nothing at all without parts."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Choice:
    """One of them."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Repeat:
    """At least so many times, at most so many (None: no limit)."""

    part: Node
    least: int
    most: int | None


Node = Literal | Control | Characters | Rule | Series | Choice | Repeat


def optional(part: Node) -> Node:
    """The part or nothing."""
    return Repeat(part, 0, 1)


def series(*parts: Node) -> Node:
    """One after the other, what is empty left out."""
    kept = tuple(part for part in parts if part != Series(()))
    return kept[0] if len(kept) == 1 else Series(kept)


def characters(spelt: str, but: bool = False) -> Characters:
    """`a-z_` as ranges; a minus that is meant stands last."""
    ranges: list[tuple[str, str]] = []
    at = 0
    while at < len(spelt):
        wide = spelt[at + 1 : at + 2] == "-" and at + 2 < len(spelt)
        ranges.append((spelt[at], spelt[at + 2] if wide else spelt[at]))
        at += 3 if wide else 1
    return Characters(tuple(ranges), but)
