"""Rows of a lexicon, balanced over dialects and tools, new each, and on two sides that share nothing."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dozan.errors import InputError
from dozan.rows.arabic import fold
from dozan.rows.example import Json
from dozan.rows.generate.alike import Neighbours
from dozan.rows.generate.drafts import Draft, call_draft, can_join, no_call_draft, parallel_draft, polite, row
from dozan.rows.generate.grammar import slots
from dozan.rows.generate.lexicon import Dialect
from dozan.rows.generate.moments import random_now
from dozan.rows.generate.pools import Pools, divided, ways, whole
from dozan.rows.generate.reading import read_lexicon
from dozan.rows.generate.tools import read_tools_file

PARALLEL, NO_CALL = "parallel", "no_call"
_NEAR_OTHER, _NEAR_OWN = 0.7, 0.7
_TRIES_EACH, _STRICT_SHARE = 60, 0.5
_LEAST_TRIES = 400
_WORD = re.compile(r"[^\W_]+")
Cells = dict[tuple[str, str], int]


def generate_rows(
    tools_file: Path, lexicon_file: Path, rows: int, seed: int = 0, dialects: Sequence[str] = (), holdout: float = 0.0
) -> tuple[list[dict[str, Json]], list[dict[str, Json]]]:
    """(training, held out) canonical rows, `rows` together; `holdout` is the share held out, 0 for none.

    The same files and settings give the same rows. The sides share no pattern, no open value, no time and no request
    that is 75 % alike. Raises InputError with everything wrong in the files, and for more rows than there are
    combinations, with the number possible.
    """
    written, tools = read_tools_file(tools_file)
    lexicon = read_lexicon(lexicon_file, tools, dialects)
    if rows < 1:
        raise InputError(f"--rows {rows}: give 1 or more, such as 500")
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout {holdout}: no share of rows; give 0 or more and less than 1, such as 0.1")
    held = round(rows * holdout)
    train, test = divided(lexicon, holdout, seed) if held else (whole(lexicon), None)
    sides = [(train, rows - held)] if test is None else [(train, rows - held), (test, held)]
    _refuse_too_many(sides, rows)
    evaluation = Side(test, held, random.Random(f"eval {seed}")) if test else None
    training = Side(train, rows - held, random.Random(f"train {seed}"), evaluation)
    return tuple(  # type: ignore[return-value]
        [row(draft, f"{name}-{i:05d}", written, lexicon.tells_time) for i, draft in enumerate(side.drafts)]
        if side else [] for name, side in (("train", training), ("eval", evaluation))
    )  # fmt: skip


class Side:
    """The rows of one side, made at once, in shuffled order."""

    def __init__(self, pools: Pools, rows: int, rng: random.Random, other: Side | None = None) -> None:
        self.pools, self.other, self.rng = pools, other, rng
        self.drafts: list[Draft] = []
        self.texts: set[str] = set()
        self.open: set[str] = set()
        self.nows: set[str] = set()
        self.near = Neighbours(_grams)
        by_name = {dialect.name: dialect for dialect in pools.lexicon.dialects}
        for (dialect, what), count in cells(pools, rows).items():
            self._fill(by_name[dialect], what, count)
        rng.shuffle(self.drafts)

    def _fill(self, dialect: Dialect, what: str, count: int) -> None:
        made, tries = 0, max(_LEAST_TRIES, _TRIES_EACH * count)
        for number in range(tries):
            if made == count:
                return
            draft = self._draft(dialect, what, number)
            if self._admits(draft, strict=number < _STRICT_SHARE * tries):
                self._add(draft)
                made += 1
        if made < count:
            line, where, _ = _cell_place(self.pools, dialect, what)
            message = f"only {made} of {count} rows found that are new and unlike the other side's"
            remedy = "add patterns, alternations or values, or ask for fewer rows (--rows)"
            raise InputError(f"{self.pools.lexicon.path}:{line}: {where}: {message}; {remedy}")

    def _draft(self, dialect: Dialect, what: str, number: int) -> Draft:
        if what == PARALLEL:
            return parallel_draft(self.pools, dialect, self.rng)
        if what == NO_CALL:
            return no_call_draft(self.pools, dialect, number, self.rng)
        patterns = self.pools.patterns[dialect.name, what]
        pattern = patterns[number % len(patterns)]
        draft = call_draft(self.pools, dialect, pattern, random_now(self.rng), self.rng)
        return polite(self.pools, dialect, pattern, draft, self.rng)

    def _admits(self, draft: Draft, strict: bool) -> bool:
        """Whether the draft is new here and shares nothing with the other side; strict: unlike every row here too."""
        if fold(draft.text) in self.texts:
            return False
        other = self.other
        if other is not None:
            shares = str(draft.now) in other.nows or not other.open.isdisjoint(draft.open)
            if shares or other.near.has_near(draft.text, _NEAR_OTHER):
                return False
        return not strict or not self.near.has_near(draft.text, _NEAR_OWN)

    def _add(self, draft: Draft) -> None:
        self.drafts.append(draft)
        self.texts.add(fold(draft.text))
        self.open |= draft.open
        self.nows.add(str(draft.now))
        self.near.add(draft.text)


def cells(pools: Pools, rows: int) -> Cells:
    """How many rows of each dialect are for each tool, `parallel` and `no_call`.

    Dialects differ by one row at most, and so do tools over all dialects that have the same shares.
    """
    lexicon, found, given = pools.lexicon, Cells(), 0
    tools = list(lexicon.tools)
    for i, dialect in enumerate(lexicon.dialects):
        many = len(lexicon.dialects)
        own = rows * (i + 1) // many - rows * i // many
        found[dialect.name, NO_CALL] = round(lexicon.no_call * own) if pools.pairs[dialect.name] else 0
        found[dialect.name, PARALLEL] = round(lexicon.parallel * own) if can_join(pools, dialect) else 0
        left = own - found[dialect.name, NO_CALL] - found[dialect.name, PARALLEL]
        each, more = divmod(left, len(tools))
        extra = {tools[(given + k) % len(tools)] for k in range(more)}
        given += more
        found.update({(dialect.name, tool): each + (tool in extra) for tool in tools})
    return found


def possible(pools: Pools, dialect: Dialect, what: str) -> int:
    """How many requests of a cell differ after folding: combinations of frames, values and politeness.

    Requests without slots that an earlier dialect has too are counted there.
    """
    if what == PARALLEL:
        sizes = [
            (clause.tool, _filled(pools, dialect, clause.frames, clause.tool) + len(_plain(clause.frames)))
            for clause in pools.clauses[dialect.name]
        ]
        return sum(a * b for tool, a in sizes for other, b in sizes if tool != other) * len(set(dialect.joins))
    plain = _plain(_frames(pools, dialect, what))
    for earlier in pools.lexicon.dialects:
        if earlier is dialect:
            break
        plain -= _plain(_frames(pools, earlier, what))
    if what == NO_CALL:
        return len(plain)
    polite_ways = 1 + len(set(dialect.openers)) + len(set(dialect.tails))
    return (len(plain) + _filled(pools, dialect, _frames(pools, dialect, what), what)) * polite_ways


def _frames(pools: Pools, dialect: Dialect, what: str) -> list[str]:
    if what == NO_CALL:
        return [request for pair in pools.pairs[dialect.name] for request in pair.requests]
    return [frame for pattern in pools.patterns[dialect.name, what] for frame in pattern.frames]


def _plain(frames: Sequence[str]) -> set[str]:
    """The frames that have no slot, folded."""
    return {fold(frame) for frame in frames if not slots(frame)}


def _filled(pools: Pools, dialect: Dialect, frames: Sequence[str], tool: str) -> int:
    """In how many ways the frames that have slots can be filled."""
    total = 0
    for frame in {fold(frame): frame for frame in frames}.values():
        named = {slot.partition(".")[0] for slot in slots(frame)}
        total += math.prod(ways(pools, dialect.name, tool, argument) for argument in named) if named else 0
    return total


def _refuse_too_many(sides: Sequence[tuple[Pools, int]], rows: int) -> None:
    """Raises InputError naming every cell that wants more rows than it has combinations, and the number possible."""
    problems = list(dict.fromkeys(line for pools, wanted in sides for line in _short(pools, wanted)))
    if not problems:
        return
    least, most = 0, rows
    while most - least > 1:
        middle = (least + most) // 2
        fits = not any(list(_short(pools, round(middle * wanted / rows))) for pools, wanted in sides)
        least, most = (middle, most) if fits else (least, middle)
    said = f"ask for {least} rows at most (--rows {least})" if least else "no number of rows is possible so far"
    raise InputError(
        "\n".join([*problems[:20], f"{rows} rows are more than the lexicon can say: {said}, or add to it"])
    )


def _short(pools: Pools, rows: int) -> Iterator[str]:
    by_name: Mapping[str, Dialect] = {dialect.name: dialect for dialect in pools.lexicon.dialects}
    for (name, what), count in cells(pools, rows).items():
        found = possible(pools, by_name[name], what) if count else 0
        if found < count:
            line, where, text = _cell_place(pools, by_name[name], what)
            message = f"{count} rows wanted, {found} different requests possible{' on the held-out side' * pools.held}"
            yield f"{pools.lexicon.path}:{line}: {where}: {message}; add alternations or patterns (first: {text!r:.60})"


def _cell_place(pools: Pools, dialect: Dialect, what: str) -> tuple[int, str, str]:
    """The line, path and first pattern of a cell."""
    if what == NO_CALL:
        pair = pools.pairs[dialect.name][0]
        return pair.line, f"dialects.{dialect.name}.no_call", pair.requests[0]
    found = pools.clauses[dialect.name] if what == PARALLEL else pools.patterns[dialect.name, what]
    return found[0].line, found[0].where, found[0].text


def _grams(text: str) -> frozenset[str]:
    padded = " ".join(["", *_WORD.findall(fold(text)), ""])
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))
