"""Whether a regular expression can take exponential time, told from its parse tree and never by running it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# The parser of `re`, under its name since Python 3.11; the tree has no public reader.
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT)
_LONGEST = 2000


def pattern_problem(pattern: str) -> str | None:
    """Why a pattern cannot be used: it does not compile, is very long, or may take exponential time; else None."""
    if len(pattern) > _LONGEST:
        return f"{len(pattern):,} characters long"
    try:
        tree = parser.parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"does not compile ({error})"
    return "repeats a repetition, which can take exponential time" if _explodes(tree, False) else None


def _explodes(tree: Sequence[Any], repeated: bool) -> bool:
    """Whether an unbounded repetition holds another one, or alternatives that begin alike."""
    for operator, argument in tree:
        if operator in _REPEATS:
            low, high, inner = argument
            unbounded = high == constants.MAXREPEAT or high > 100
            if repeated and unbounded:
                return True
            if _explodes(inner, repeated or unbounded):
                return True
        elif operator is constants.BRANCH:
            if repeated and _alike(argument[1]):
                return True
            if any(_explodes(part, repeated) for part in argument[1]):
                return True
        elif any(_explodes(part, repeated) for part in _parts(argument)):
            return True
    return False


def _alike(branches: Sequence[Any]) -> bool:
    """Whether two alternatives can begin with the same thing, as (a|a) and (a|ab) do."""
    first = [repr(branch[0]) if len(branch) else "" for branch in branches]
    return len(set(first)) < len(first)


def _parts(argument: Any) -> Iterator[Sequence[Any]]:
    for part in argument if isinstance(argument, tuple) else ():
        if isinstance(part, parser.SubPattern):
            yield part
