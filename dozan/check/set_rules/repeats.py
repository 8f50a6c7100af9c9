"""DZ601 to DZ607: rows that repeat each other, contradict each other, or stand on both sides of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from dozan.check.finding import Catalog, Rule
from dozan.check.near import NearIndex, Pair, repeats
from dozan.check.set_rules.facts import RowFacts
from dozan.check.set_rules.found import Places, SetFound, share
from dozan.check.set_rules.tally import Tally
from dozan.rows.tool_lists import Tools

DUPLICATE = Rule(
    "DZ601", "duplicate-row", "warning", "set", "Rows with the same request and the same answer",
    "They weigh twice; one that falls on the evaluation side makes its figure too good.",
    "Keep one of each.",
)  # fmt: skip
CONFLICT = Rule(
    "DZ602", "conflicting-answers", "warning", "set", "The same request under the same tools, answered differently",
    "The model is trained to answer by chance.",
    "Decide for one answer, or say in the request what makes the difference.",
)  # fmt: skip
NEAR = Rule(
    "DZ603", "near-duplicate-rows", "note", "set", "Requests that are 80 % alike or more after folding",
    "Few are natural; they must not be divided between training and evaluation.",
    "Let dozan divide the rows: `data split` keeps them on one side.",
)  # fmt: skip
MANY_NEAR = Rule(
    "DZ604", "many-near-duplicates", "warning", "set", "Over a fifth of the rows are near-duplicates",
    "The set is smaller than it looks, and the model recites its frames.",
    "Write more sentence frames; count the rows without their near-duplicates.",
)  # fmt: skip
LEAK = Rule(
    "DZ605", "leak", "error", "set", "Evaluation rows that are trained",
    "The same request with the same answer is on both sides, so the score measures memory.",
    "Take them out of the training file.",
)  # fmt: skip
NEAR_LEAK = Rule(
    "DZ606", "near-leak", "warning", "set", "Evaluation rows that are 80 % alike or more to a training row",
    "The score is too good by what the model can copy.",
    "Divide the rows with `data split`, which keeps near-duplicates on one side.",
)  # fmt: skip
RECITED = Rule(
    "DZ607", "recited-templates", "warning", "set", "A few sentence patterns make up a quarter of the rows or more",
    "Patterns that come 20 times and more are learnt by heart; other wordings then fail.",
    "Write more patterns: forty a tool and dialect were worth 0.1 over seven in a measured case.",
)  # fmt: skip
RULES = Catalog([DUPLICATE, CONFLICT, NEAR, MANY_NEAR, LEAK, NEAR_LEAK, RECITED])

_MANY = 0.2
_OFTEN, _RECITED_SHARE, _FEWEST = 20, 0.25, 100
_MOST_PATTERNS = 20_000


class Repeats:
    """All rows in a disk-backed index; training and evaluation rows are told apart."""

    def __init__(self, with_near: bool = True) -> None:
        self.index = NearIndex()
        self.near_rows = 0
        self._with_near = with_near
        self._patterns: Tally[str] = Tally(_MOST_PATTERNS)

    def add(self, facts: RowFacts, tools: Tools) -> None:
        self.index.add(facts.seen, facts.keys, facts.place)
        if facts.pattern:
            self._patterns.add(facts.pattern, facts.place)

    def add_eval(self, facts: RowFacts) -> None:
        self.index.add(facts.seen, facts.keys, facts.place, side=1)

    def findings(self) -> Iterator[SetFound]:
        sides = self.index.column("side")
        training, held = np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)
        request, context, answer = map(self.index.column, ("request", "context", "answer"))
        yield from self._duplicates(request[training], answer[training])
        yield from self._conflicts(request[training], context[training], answer[training])
        if len(held):
            yield from self._leaks(training, held, request, answer)
        if self._with_near:
            yield from self._near(request, len(training))
        yield from self._recited()

    def same_ids(self) -> Iterator[tuple[str, str]]:
        """(place, place of the earlier row) of training rows with an id that came before."""
        training = np.flatnonzero(self.index.column("side") == 0)
        for first, others in repeats(self.index.column("id")[training]):
            yield from ((self.index.place(int(row)), self.index.place(first)) for row in others)

    def _duplicates(self, request: np.ndarray, answer: np.ndarray) -> Iterator[SetFound]:
        places = Places()
        for first, others in repeats(request, answer):
            for row in others:
                places.add(f"{self.index.place(int(row))} = {self.index.place(first)}" if places.count < 100 else "")
        if places.count:
            words = f"{places.count} rows repeat an earlier request and its answer, both folded"
            yield SetFound(DUPLICATE, "", words, places.count, places.first)

    def _conflicts(self, request: np.ndarray, context: np.ndarray, answer: np.ndarray) -> Iterator[SetFound]:
        places = Places()
        for first, others in repeats(request, context):
            rows = np.concatenate([[first], others])
            if len(np.unique(answer[rows])) > 1:
                different = [int(row) for row in others if answer[row] != answer[first]]
                for row in different:
                    places.add(f"{self.index.place(row)} / {self.index.place(first)}" if places.count < 100 else "")
        if places.count:
            words = f"{places.count} rows answer an earlier request otherwise, under the same tools and system text"
            yield SetFound(CONFLICT, "", words, places.count, places.first)

    def _leaks(
        self, training: np.ndarray, held: np.ndarray, request: np.ndarray, answer: np.ndarray
    ) -> Iterator[SetFound]:
        known: dict[tuple[int, int], int] = {}
        wanted = {(int(request[row]), int(answer[row])) for row in held}
        for row in training[np.isin(request[training], request[held])]:
            key = (int(request[row]), int(answer[row]))
            if key in wanted:
                known.setdefault(key, int(row))
        pairs = [(int(row), known.get((int(request[row]), int(answer[row])))) for row in held]
        exact = {row: first for row, first in pairs if first is not None}
        if exact:
            places = [
                f"{self.index.place(row)} = {self.index.place(first)}" for row, first in list(exact.items())[:100]
            ]
            words = f"{len(exact)} of {len(held)} evaluation rows are training rows, request and answer (folded)"
            yield SetFound(LEAK, "", words, len(exact), tuple(places))
        if self._with_near:
            near = sorted((p for p in self.index.leaks() if p.second not in exact), key=lambda p: -p.similarity)
            words = f"{len(near)} of {len(held)} evaluation rows are 80 % alike or more to a training row"
            if near:
                yield SetFound(NEAR_LEAK, "", words, len(near), self._named(near))

    def _near(self, request: np.ndarray, rows: int) -> Iterator[SetFound]:
        pairs = list(self.index.pairs())
        self.near_rows = len(pairs)
        unequal = [pair for pair in pairs if request[pair.first] != request[pair.second]]
        if unequal:
            count = len(unequal)
            rule = MANY_NEAR if count > _MANY * rows else NEAR
            words = f"{count} of {rows} rows ({share(count, rows)}) are 80 % alike or more to an earlier one"
            best = sorted(unequal, key=lambda pair: -pair.similarity)
            yield SetFound(rule, "", f"{words}, equal requests not counted", count, self._named(best))

    def _named(self, pairs: list[Pair]) -> tuple[str, ...]:
        return tuple(f"{self.index.place(b)} ~ {self.index.place(a)} ({s:.0%})" for a, b, s in pairs[:100])

    def _recited(self) -> Iterator[SetFound]:
        often = [(pattern, count) for pattern, count in self._patterns.top() if count >= _OFTEN]
        rows = sum(count for _, count in often)
        if self._patterns.total >= _FEWEST and rows >= _RECITED_SHARE * self._patterns.total:
            pattern, most = often[0]
            words = (
                f"{len(often)} sentence patterns make {rows} of {self._patterns.total} rows "
                f"({share(rows, self._patterns.total)}); the most frequent, {most} times: {pattern[:80]!r}"
            )
            places = chain(self._patterns.place(pattern) for pattern, _ in often[:100])
            yield SetFound(RECITED, "", words, rows, tuple(places))
