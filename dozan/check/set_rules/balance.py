"""DZ611 to DZ619: what the set has too much and too little of, each told from chance by a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dozan.check.finding import Catalog, Rule
from dozan.check.set_rules.chance import (
    SIGNIFICANT,
    binomial_at_least,
    binomial_at_most,
    chi_square,
    said,
)
from dozan.check.set_rules.facts import RowFacts
from dozan.check.set_rules.found import Places, SetFound, ordered, share
from dozan.check.set_rules.tally import Tally
from dozan.check.set_rules.values import date_form
from dozan.rows.arabic import fold
from dozan.rows.tool_lists import Tools

REFUSAL = Rule(
    "DZ611", "constant-refusal", "warning", "set", "One sentence answers the requests that need no tool",
    "The model learns to recite it, also where an answer or a question back was due.",
    "Write answers that fit the request, in its dialect.",
)  # fmt: skip
FEW_NO_CALL = Rule(
    "DZ612", "few-no-call", "warning", "set", "Too few rows that need no tool",
    "A model that has seen only calls calls always.",
    "Add requests that no tool serves; one row in ten or more.",
)  # fmt: skip
DIALECTS = Rule(
    "DZ613", "dialect-imbalance", "warning", "set", "A dialect has far fewer rows than another",
    "The model is worse at it, and its score rests on too few rows to show it.",
    "Add rows for the dialects that have few.",
)  # fmt: skip
TOOL_BALANCE = Rule(
    "DZ614", "tool-imbalance", "warning", "set", "One tool takes far more than its share of the calls",
    "The model calls it when in doubt.",
    "Add rows for the others.",
)  # fmt: skip
CONSTANT_NOW = Rule(
    "DZ615", "constant-now", "warning", "set", "One current date in half of the rows or more",
    "The model learns the dates by heart instead of counting from the prompt's.",
    "Vary the date in the developer message, and the answers with it.",
)  # fmt: skip
NOW_TELLS = Rule(
    "DZ616", "date-tells-answer", "warning", "set", "The date in the prompt tells whether a call is due",
    "The rows without a call share a date that the others do not have; the model needs to read nothing else.",
    "Draw the dates of all rows alike.",
)  # fmt: skip
SMALL = Rule(
    "DZ618", "small-set", "warning", "set", "Fewer than 500 rows",
    "About 50 rows are learnt by heart; 500 to 1,000 generalise; 5,000 to 10,000 make a professional set.",
    "Add rows; `data generate` makes them from your tools and your own sentences.",
)  # fmt: skip
SIZE = Rule(
    "DZ619", "set-size", "note", "set", "How far a set of this size carries",
    "About 50 rows are learnt by heart; 500 to 1,000 generalise; 5,000 to 10,000 make a professional set.",
    "Count rows without near-duplicates.",
)  # fmt: skip
RULES = Catalog([REFUSAL, FEW_NO_CALL, DIALECTS, TOOL_BALANCE, CONSTANT_NOW, NOW_TELLS, SMALL, SIZE])

_FEWEST_REFUSALS = 10
_NO_CALL_SHARE, _NO_CALL_LEVEL = 0.05, 0.01
_FEWEST_LABELLED, _DIALECT_RATIO = 50, 4
_FEWEST_CALLS, _FEWEST_TOOLS, _TOOL_SHARE = 50, 3, 5
_FEWEST_DATED, _HALF = 20, 0.5
SIZE_VERDICTS = (
    (5_000, "the size of a professional set"),
    (500, "enough to generalise; 5,000 to 10,000 make a professional set"),
    (50, "likely to overfit; 500 to 1,000 generalise"),
    (0, "learnt by heart; 500 to 1,000 generalise"),
)


class Balance:
    """Counts of rows by what they answer, their dialect, tools and dates; tallies are bounded."""

    def __init__(self) -> None:
        self.rows = 0
        self.with_tools = 0
        self.calls: Tally[str] = Tally(5_000)
        self.dialects: Tally[str] = Tally(200)
        self.no_call = Places()
        self._offered: Tally[str] = Tally(5_000)
        self._answers: Tally[str] = Tally()
        self._said: dict[str, str] = {}
        self._now: dict[bool, Tally[str]] = {True: Tally(), False: Tally()}
        self._dated = Places()

    def add(self, facts: RowFacts, tools: Tools) -> None:
        self.rows += 1
        if facts.dialect:
            self.dialects.add(facts.dialect, facts.place)
        if facts.now and facts.names:
            self._now[bool(facts.called)].add(facts.now[:10], facts.place)
            if any(isinstance(v.value, str) and date_form(v.value).startswith("YYYY-MM-DD") for v in facts.values):
                self._dated.add(facts.place)
        if not facts.names:
            return
        self.with_tools += 1
        for name in facts.names:
            self._offered.add(name)
        for name in facts.called:
            self.calls.add(name, facts.place)
        if not facts.called:
            self.no_call.add(facts.place)
            if facts.answer:
                self._answers.add(fold(facts.answer), facts.answer)

    def findings(self) -> Iterator[SetFound]:
        yield from self._refusal()
        yield from self._few_no_call()
        yield from self._dialects()
        yield from self._tools()
        yield from self._dates()

    def size(self, near_rows: int) -> Iterator[SetFound]:
        """The verdict on the set's size, near-duplicates (rows like an earlier one) not counted."""
        distinct = self.rows - near_rows
        verdict = next(words for least, words in SIZE_VERDICTS if distinct >= least)
        left = f" ({self.rows} with near-duplicates)" if near_rows else ""
        yield SetFound(SIZE if distinct >= 500 else SMALL, "", f"{distinct} rows{left}: {verdict}", distinct)

    def _refusal(self) -> Iterator[SetFound]:
        total = self._answers.total
        if total < _FEWEST_REFUSALS:
            return
        answer, count = self._answers.top(1)[0]
        if count >= _HALF * total:
            text = self._answers.place(answer)
            words = f"{count} of {total} rows without a call are answered {text[:80]!r}"
            yield SetFound(REFUSAL, "messages", words, count, self.no_call.first)

    def _few_no_call(self) -> Iterator[SetFound]:
        if not self.calls.total or not self.with_tools:
            return
        count = self.no_call.count
        p = binomial_at_most(count, self.with_tools, _NO_CALL_SHARE)
        if p < _NO_CALL_LEVEL:
            words = (
                f"{count} of {self.with_tools} rows with tools need none ({share(count, self.with_tools)}); "
                f"fewer than one in twenty ({said(p)})"
            )
            yield SetFound(FEW_NO_CALL, "", words, self.with_tools, self.no_call.first)

    def _dialects(self) -> Iterator[SetFound]:
        counts = self.dialects.top()
        total = self.dialects.total
        if len(counts) < 2 or total < _FEWEST_LABELLED:
            return
        p = chi_square([n for _, n in counts], [total / len(counts)] * len(counts))
        few = [(name, n) for name, n in counts if n * _DIALECT_RATIO <= counts[0][1]]
        if p < SIGNIFICANT and few:
            scarce = ordered([name for name, _ in few])
            listed = ordered([f"{name} {n}" for name, n in counts])
            words = f"{listed} rows; {scarce} with a quarter of {counts[0][0]} or less ({said(p)})"
            places = tuple(self.dialects.place(name) for name, _ in few)
            yield SetFound(DIALECTS, "dialect", words, sum(n for _, n in few), places)

    def _tools(self) -> Iterator[SetFound]:
        counts, total, tools = self.calls.top(), self.calls.total, len(self._offered)
        if total < _FEWEST_CALLS or tools < _FEWEST_TOOLS or not self._offered.is_exact:
            return
        name, most = counts[0]
        fair = self._offered[name] / self._offered.total
        p = binomial_at_least(most, total, fair) if 0 < fair < 1 else 1.0
        if p < SIGNIFICANT and most >= min(_HALF, _TOOL_SHARE * fair) * total:
            words = (
                f"{name} takes {most} of {total} calls ({share(most, total)}), being {100 * fair:.1f} % of the tools "
                f"offered ({said(p)})"
            )
            yield SetFound(TOOL_BALANCE, name, words, most, (self.calls.place(name),))

    def _dates(self) -> Iterator[SetFound]:
        days: Counter[str] = Counter()
        for tally in self._now.values():
            days.update(dict(tally.top()))
        total = sum(days.values())
        if self._dated.count >= _FEWEST_DATED:
            day, count = days.most_common(1)[0]
            if count >= _HALF * total:
                words = f"now is {day} in {count} of {total} rows; {self._dated.count} rows compute dates"
                yield SetFound(CONSTANT_NOW, "messages[0].content", words, count, self._dated.first)
        yield from self._giveaway()

    def _giveaway(self) -> Iterator[SetFound]:
        calls, none = self._now[True], self._now[False]
        if none.total < _FEWEST_REFUSALS or calls.total < _FEWEST_REFUSALS:
            return
        day, count = none.top(1)[0]
        elsewhere = calls[day] / calls.total
        p = binomial_at_least(count, none.total, max(elsewhere, 1 / calls.total))
        if count >= _HALF * none.total and elsewhere < _HALF * count / none.total and p < SIGNIFICANT:
            words = (
                f"now is {day} in {count} of {none.total} rows without a call and in {calls[day]} of {calls.total} "
                f"with one ({said(p)})"
            )
            yield SetFound(NOW_TELLS, "messages[0].content", words, count, self.no_call.first)
