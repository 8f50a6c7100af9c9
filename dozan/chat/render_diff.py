"""Where two renderings of a row differ, and why: the places, each with what the one and the other write."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from dozan.chat.render_ollama import SENTENCE
from dozan.chat.tokens import (
    CONTROL_TOKENS,
    END_DECLARATION,
    END_TURN,
    ESCAPE,
    START_DECLARATION,
    START_RESPONSE,
    START_TURN,
)

_STRING = f"{ESCAPE}[^<]*{ESCAPE}"
_WORD = "[\\w.\u0610-\u061a\u064b-\u065f\u0670-]+"
_PIECE = re.compile(
    "|".join([rf"\w+:{_STRING}", _STRING, *map(re.escape, CONTROL_TOKENS), r"\w+:", _WORD, r"\s", r"."]), re.DOTALL
)
_NUMBER = re.compile(r"[-+.\deE]+")
_LOST = re.compile(r"(\w+):")
_MOVED_IN = re.compile(r"\([A-Za-z]+: .*\)")
_AROUND = 32
ORDER = "keys stand in another order"


@dataclass(frozen=True)
class Place:
    """One difference: `at` is the byte in the trained text; `before` and `after` are what surrounds it there."""

    at: int
    trained: str
    theirs: str
    before: str
    after: str
    why: str


def differences(trained: str, theirs: str) -> list[Place]:
    """The places where `theirs` is not what was trained, in order."""
    ours, other = _PIECE.findall(trained), _PIECE.findall(theirs)
    starts = _starts(ours)
    found = []
    for a, b, c, d in _hunks(ours, other):
        start, stop = starts[a], starts[b]
        found.append((start, stop, trained[start:stop], "".join(other[c:d])))
    gone = Counter(piece for _, _, ours, _ in found for piece in _known(ours))
    come = Counter(piece for _, _, _, theirs in found for piece in _known(theirs))
    lost, new = gone - come, come - gone
    return [
        Place(
            len(trained[:start].encode()), ours, theirs, trained[max(0, start - _AROUND) : start],
            trained[stop : stop + _AROUND], _why(ours, theirs, trained[:start], lost, new),
        )
        for start, stop, ours, theirs in found
    ]  # fmt: skip


def reasons(places: Sequence[Place]) -> list[tuple[str, int]]:
    """How many places there are of each reason, the most first."""
    return Counter(place.why for place in places).most_common()


def _starts(pieces: Sequence[str]) -> list[int]:
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece))
    return starts


def _hunks(ours: Sequence[str], other: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Stretches [a, b) of ours that stand for [c, d) of the other; those that only a comma or a token parts are one."""
    hunks: list[tuple[int, int, int, int]] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, ours, other, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        if hunks and a - hunks[-1][1] <= 2:
            hunks[-1] = (hunks[-1][0], b, hunks[-1][2], d)
        else:
            hunks.append((a, b, c, d))
    return hunks


def _known(text: str) -> list[str]:
    """The pieces by which a stretch is known: all but punctuation."""
    return [piece for piece in _PIECE.findall(text) if any(map(str.isalnum, piece))]


def _why(ours: str, theirs: str, before: str, lost: Counter[str], new: Counter[str]) -> str:
    """lost, new: the pieces that are on one side only, in all places together; others stand elsewhere."""
    declaring = before.rfind(START_DECLARATION) > before.rfind(END_DECLARATION)
    missing = {key for piece in _known(ours) if lost[piece] for key in _LOST.findall(piece)[:1]}
    added = [piece for piece in _known(theirs) if new[piece]]
    only_moved = not added and not any(lost[piece] for piece in _known(ours))
    rules = (
        (SENTENCE in theirs, "a sentence of the runtime's own stands before the declarations"),
        (not ours.strip() and not theirs.strip(), "other line breaks or spaces"),
        (START_RESPONSE in ours and END_TURN in theirs, f"a call ends with {END_TURN}"),
        (START_TURN in ours + theirs, "turns begin or end elsewhere"),
        (bool(_NUMBER.fullmatch(ours)) and bool(_NUMBER.fullmatch(theirs)), "a number is written another way"),
        (only_moved, ORDER),
        (declaring and bool(_MOVED_IN.search(ours)), "no words in the description for what the template would lose"),
        (declaring and "enum" in missing, "an enum is not shown"),
        (declaring and "items" in missing, "a list's items are not shown"),
        (declaring and "properties" in missing, "nested properties are not shown"),
        (declaring and bool(added), "keys that the template does not print"),
        (declaring, "a declaration is written another way"),
        ("response:" in before.rpartition(START_RESPONSE)[2], "a tool's response is written another way"),
    )
    return next((why for holds, why in rules if holds), "other text")
