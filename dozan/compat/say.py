"""What the familiar API says aloud, and how it weighs arguments: honoured, said to change nothing, or refused."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dozan.errors import InputError
from dozan.redact import HIDDEN, redact

Fate = Literal["honoured", "no effect", "refused"]
_SECRET = ("token", "hub_token", "use_auth_token", "push_to_hub_token")
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


@dataclass(frozen=True)
class Argument:
    """An argument of a call: its default, what becomes of it, and what it means here. Of a refused one `meaning` says
    what to do instead; `neutral` are values beside the default that ask for nothing."""

    name: str
    default: Any
    fate: Fate
    meaning: str
    neutral: tuple[Any, ...] = ()

    def asks(self, value: object) -> bool:
        """Whether a value asks for something that the default does not."""
        return not any(_same(value, other) for other in (self.default, *self.neutral))


def say(text: str) -> None:
    """Tell the user."""
    print(f"dozan: {text}", flush=True)


def weigh(call: str, table: Iterable[Argument], given: Mapping[str, object]) -> None:
    """Say which of the given arguments change nothing. Raises InputError with all that are refused or not known."""
    known = {argument.name: argument for argument in table}
    problems = [_unknown(call, name, known) for name in given if name not in known]
    for name, argument in known.items():
        if name not in given or not argument.asks(given[name]):
            continue
        shown = f"{name}={HIDDEN if name in _SECRET else redact(repr(given[name]))[:80]}"
        if argument.fate == "refused":
            problems.append(f"{call}: {shown} is not offered; {argument.meaning}")
        elif argument.fate == "no effect":
            say(f"{call}: {shown} changes nothing here: {argument.meaning}")
    if problems:
        raise InputError("\n".join(problems))


def refuse_unknown(call: str, given: Mapping[str, object]) -> None:
    """Raises InputError with the names of arguments that a call does not know."""
    if given:
        raise InputError(f"{call}: {', '.join(given)} not offered; leave out")


def _unknown(call: str, name: str, known: Mapping[str, Argument]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f": did you mean {close[0]!r}?" if close else "; leave it out"
    return f"{call}: unknown argument {name!r}{hint}"


def _same(value: object, other: object) -> bool:
    return value is other or (isinstance(value, _PLAIN) and isinstance(other, _PLAIN) and value == other)
