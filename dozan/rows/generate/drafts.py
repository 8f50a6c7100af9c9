"""Drafts of rows: a pattern filled with values, numbers and times, and the calls that it asks for."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dozan.rows.example import Json
from dozan.rows.generate.grammar import fill, slots
from dozan.rows.generate.lexicon import MOMENTS, UNITS, Dialect, Kind, Pattern
from dozan.rows.generate.moments import digits, length, number_phrase, random_now, say, stamp, tell
from dozan.rows.generate.pools import Pools
from dozan.rows.generate.tools import type_of

TRIGGER = "You are a model that can do function calling with the following functions"
_WRITTEN = {"datetime": "%Y-%m-%dT%H:%M:%S", "date": "%Y-%m-%d", "time": "%H:%M"}
_OPENER_SHARE, _TAIL_SHARE = 0.25, 0.2
_TRIES = 1_000


@dataclass(frozen=True)
class Draft:
    """A request before it becomes a row; `calls` is empty for a text answer.

    template: dialect, tools and lines of the patterns. open: the values that the other side may not have.
    """

    dialect: str
    kind: str
    template: str
    text: str
    now: datetime
    calls: tuple[tuple[str, dict[str, Json]], ...] = ()
    answer: str = ""
    open: frozenset[str] = frozenset()


def call_draft(pools: Pools, dialect: Dialect, pattern: Pattern, now: datetime, rng: random.Random) -> Draft:
    """One call, of one of the pattern's frames, without politeness."""
    frame = rng.choice(pattern.frames)
    found = slots(frame)
    said: dict[str, str] = {}
    arguments: dict[str, Json] = dict(pattern.fixed)
    shared: set[str] = set()
    for argument in dict.fromkeys(slot.partition(".")[0] for slot in found):
        is_whole = argument in found
        words, arguments[argument] = _say(pools, dialect, pattern.tool, argument, is_whole, now, rng)
        said.update(words)
        if pools.lexicon.is_closed(pattern.tool, argument):
            shared.add(argument)
    return Draft(
        dialect.name, "call", f"{dialect.name}/{pattern.tool}/{pattern.line}", fill(frame, said), now,
        ((pattern.tool, arguments),),
        open=frozenset(str(value) for name, value in arguments.items()
                       if name not in shared and name not in pattern.fixed),
    )  # fmt: skip


def polite(pools: Pools, dialect: Dialect, pattern: Pattern, draft: Draft, rng: random.Random) -> Draft:
    """The draft with an opener or a tail, or neither; nothing follows a text that may run on."""
    if dialect.openers and rng.random() < _OPENER_SHARE:
        return replace(draft, text=f"{rng.choice(dialect.openers)} {draft.text}")
    if dialect.tails and rng.random() < _TAIL_SHARE and not ends_free(pools, pattern):
        return replace(draft, text=f"{draft.text} {rng.choice(dialect.tails)}")
    return draft


def parallel_draft(pools: Pools, dialect: Dialect, rng: random.Random) -> Draft:
    """Two calls of different tools in one request; a clause that ends with a free text comes last."""
    lexicon = pools.lexicon
    for _ in range(_TRIES):
        first, second = rng.sample(pools.clauses[dialect.name], 2)
        different = first.tool != second.tool and frozenset((first.tool, second.tool)) not in lexicon.apart
        if different and not ends_free(pools, first):
            break
    now = random_now(rng)
    one, two = (call_draft(pools, dialect, clause, now, rng) for clause in (first, second))
    return Draft(
        dialect.name, "parallel", f"{dialect.name}/{first.tool}+{second.tool}/{first.line}+{second.line}",
        f"{one.text}{rng.choice(dialect.joins)}{two.text}", now, one.calls + two.calls, open=one.open | two.open,
    )  # fmt: skip


def can_join(pools: Pools, dialect: Dialect) -> bool:
    """Whether two of the side's clauses can be joined at all."""
    clauses = pools.clauses[dialect.name]
    return any(
        first.tool != second.tool
        and frozenset((first.tool, second.tool)) not in pools.lexicon.apart
        and not ends_free(pools, first)
        for first in clauses
        for second in clauses
    )


def no_call_draft(pools: Pools, dialect: Dialect, number: int, rng: random.Random) -> Draft:
    """A request that gets a text answer; `number` walks through the pairs."""
    pairs = pools.pairs[dialect.name]
    pair = pairs[number % len(pairs)]
    return Draft(dialect.name, "no_call", f"{dialect.name}/no_call/{pair.line}", rng.choice(pair.requests),
                 random_now(rng), answer=rng.choice(pair.answers))  # fmt: skip


def ends_free(pools: Pools, pattern: Pattern) -> bool:
    """Whether some way to say the pattern ends with a text that may run on."""
    for frame in pattern.frames:
        found = slots(frame)
        if found and frame.endswith(f"{{{found[-1]}}}"):
            kind = pools.lexicon.kinds[pattern.tool, found[-1].partition(".")[0]]
            if kind.name == "free":
                return True
    return False


def row(draft: Draft, name: str, tools: Sequence[Mapping[str, Json]], tells_time: bool) -> dict[str, Json]:
    """The canonical row of a draft."""
    calls = [{"type": "function", "function": {"name": tool, "arguments": arguments}}
             for tool, arguments in draft.calls]  # fmt: skip
    reply = {"role": "assistant", "tool_calls": calls} if calls else {"role": "assistant", "content": draft.answer}
    messages = [{"role": "developer", "content": TRIGGER}]
    messages += [{"role": "developer", "content": stamp(draft.now)}] if tells_time else []
    return {"id": name, "dialect": draft.dialect, "kind": draft.kind, "template": draft.template, "tools": tools,
            "messages": [*messages, {"role": "user", "content": draft.text}, reply]}  # fmt: skip


def _say(
    pools: Pools, dialect: Dialect, tool: str, argument: str, is_whole: bool, now: datetime, rng: random.Random
) -> tuple[dict[str, str], Json]:
    """The words of an argument by slot, and its value."""
    kind = pools.lexicon.kinds[tool, argument]
    if kind.name in MOMENTS:
        for _ in range(_TRIES):
            told = tell(dialect.words, kind.name, is_whole, now, rng)
            if pools.owns(told.key):
                break
        words = {argument: say(told, rng), f"{argument}.day": told.day, f"{argument}.clock": told.clock}
        return words, told.meant.strftime(_WRITTEN[kind.name])
    key = (dialect.name, tool, argument)
    if kind.name in ("duration", "number"):
        number = rng.choice(pools.numbers[key])
        said, value = _number(dialect, kind, number, rng)
        is_text = type_of(pools.lexicon.tools[tool].arguments[argument]) == "string"
        return {argument: said}, str(value) if is_text else value
    if kind.name == "digits":
        written = "".join(str(rng.randrange(10)) if c == "#" else c for c in rng.choice(kind.forms))
        return {argument: digits(written, rng)}, written
    chosen = rng.choice(pools.values[key])
    return {argument: chosen.said}, chosen.value


def _number(dialect: Dialect, kind: Kind, number: int, rng: random.Random) -> tuple[str, int]:
    """A number as said, and as meant in the argument's unit."""
    if kind.name == "number":
        return number_phrase(dialect.words, number, rng), number
    said = length(dialect.words, number, "hours" if kind.unit == "hours" else "minutes", rng)
    return said, number * UNITS[kind.unit]
