"""What a set of rows is made of: sizes, tokens, tools, dialects, and what shared beginnings save, now or rearranged."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from dozan.chat.arranged import Arrangement, arranged
from dozan.chat.format import ChatFormat
from dozan.chat.keys import key
from dozan.chat.messages import Notes, read_calls
from dozan.chat.tokenizer import Tokenizer
from dozan.check.encoded import Encoded, encode_examples
from dozan.check.row_rules.dialect import LABEL_KEYS
from dozan.check.set_rules.balance import SIZE_VERDICTS
from dozan.check.sharing import Sharing, measure
from dozan.rows.example import Example, Json
from dozan.rows.splits import sentence_pattern

SAMPLE = 4_000
_ARRANGEMENTS = {
    "tools in one order": Arrangement("canonical"),
    "date after the tools": Arrangement(now="after_tools"),
    "both": Arrangement("canonical", "after_tools"),
}
"""What the options `data.tool_order` and `data.now` of a recipe would give."""


@dataclass(frozen=True)
class Spread:
    """A quantity over rows: its sum, quantiles (of the rows that have it), and how many rows have each value."""

    values: Mapping[int, int]

    @property
    def rows(self) -> int:
        return sum(self.values.values())

    @property
    def total(self) -> int:
        return sum(value * rows for value, rows in self.values.items())

    @property
    def mean(self) -> float:
        return self.total / max(1, self.rows)

    def quantile(self, share: float) -> int:
        """The smallest value that at least `share` of the rows do not exceed; 0 without rows."""
        left = share * self.rows
        for value, rows in sorted(self.values.items()):
            left -= rows
            if left <= 1e-9:
                return value
        return max(self.values, default=0)

    def histogram(self, bars: int = 24) -> list[tuple[int, int, int]]:
        """(from, to, rows) of equally wide classes, both ends included, from the smallest value to the largest."""
        if not self.values:
            return []
        low, high = min(self.values), max(self.values)
        width = max(1, -(-(high - low + 1) // bars))
        counts: Counter[int] = Counter()
        for value, rows in self.values.items():
            counts[(value - low) // width] += rows
        return [(low + i * width, low + (i + 1) * width - 1, counts[i]) for i in range((high - low) // width + 1)]

    def summary(self) -> dict[str, Json]:
        named = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
        quantiles = {name: self.quantile(share) for name, share in named.items()}
        return {"total": self.total, "mean": round(self.mean, 1), "min": self.quantile(0.0), **quantiles}


@dataclass(frozen=True)
class Stats:
    """Figures of a set of rows.

    refused: rows that cannot be rendered, and are in `rows`, `called`, `declared` and `dialects` alone. tokens,
    trained: by row. called: how often each tool is called; declared: how many rows offer it. calls: rows by how many
    calls they ask for. patterns: sentence patterns in the sample of `sampled` rows, on which `sharing` is measured:
    with the rows as they are, with the tools of a row in one order for all, and with the date after the tools.
    """

    rows: int
    refused: int
    tokens: Spread
    trained: Spread
    called: Mapping[str, int]
    declared: Mapping[str, int]
    calls: Mapping[int, int]
    dialects: Mapping[str, int]
    patterns: int
    sampled: int
    sharing: Mapping[str, Sharing]
    batch_rows: int
    pack_tokens: int

    @property
    def share_trained(self) -> float:
        return self.trained.total / max(1, self.tokens.total)

    def to_dict(self) -> dict[str, Json]:
        """The figures as JSON values."""
        sharing = {
            name: {**asdict(found), "shuffled": round(found.shuffled, 3), "sorted": round(found.sorted, 3)}
            for name, found in self.sharing.items()
        }
        return {
            "rows": self.rows, "refused": self.refused, "verdict": size_verdict(self.rows),
            "tokens": {**self.tokens.summary(), "histogram": self.tokens.histogram()},
            "trained": {**self.trained.summary(), "share": round(self.share_trained, 4)},
            "calls_a_row": {str(calls): rows for calls, rows in sorted(self.calls.items())},
            "called": dict(self.called), "declared": dict(self.declared), "dialects": dict(self.dialects),
            "sampled": self.sampled, "patterns_in_sample": self.patterns,
            "sharing": sharing, "batch_rows": self.batch_rows, "pack_tokens": self.pack_tokens,
        }  # fmt: skip


@dataclass
class _Counts:
    """What is counted as rows pass."""

    rows: int = 0
    refused: int = 0
    tokens: Counter[int] = field(default_factory=Counter)
    trained: Counter[int] = field(default_factory=Counter)
    called: Counter[str] = field(default_factory=Counter)
    declared: Counter[str] = field(default_factory=Counter)
    calls: Counter[int] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)

    def passing(self, examples: Iterable[Example]) -> Iterator[Example]:
        for example in examples:
            self.rows += 1
            names = [name for message in example.messages for name in _called(message)]
            self.called.update(names)
            self.calls[len(names)] += 1
            self.declared.update(dict.fromkeys(map(_tool_name, example.tools), 1))
            label = next((example.meta[k] for k in LABEL_KEYS if isinstance(example.meta.get(k), str)), None)
            if label is not None:
                self.dialects[label] += 1
            yield example

    def encoded(self, row: Encoded) -> None:
        self.tokens[len(row.ids)] += 1
        self.trained[sum(weight > 0 for weight in row.weights)] += 1

    def refuse(self, example: Example, why: str) -> None:
        self.refused += 1


def measure_rows(
    examples: Iterable[Example], chat: ChatFormat, tokenizer: Tokenizer, batch_rows: int = 16,
    pack_tokens: int = 8192, sample: int = SAMPLE, seed: int = 0,
) -> Stats:  # fmt: skip
    """The figures of rows that pass once; in memory stay counters and a random sample of at most `sample` rows.

    batch_rows, pack_tokens: as training takes them; sharing is measured with these.
    """
    counts, draw = _Counts(), random.Random(seed)
    kept: list[tuple[Example, bytes]] = []
    for i, row in enumerate(encode_examples(counts.passing(examples), chat, tokenizer, counts.refuse)):
        counts.encoded(row)
        at = i if i < sample else draw.randrange(i + 1)
        if at < sample:
            kept[at : at + 1] = [(row.example, key(row.ids))]
    rows = [example for example, _ in kept]
    sharing = {"as they are": measure([packed for _, packed in kept], batch_rows, pack_tokens, seed)}
    for name, arrangement in _ARRANGEMENTS.items():
        keys = _keys_of(rows, arranged(chat, arrangement), tokenizer)
        if keys is not None:
            sharing[name] = measure(keys, batch_rows, pack_tokens, seed)
    return Stats(
        counts.rows, counts.refused, Spread(counts.tokens), Spread(counts.trained), _most_first(counts.called),
        _most_first(counts.declared), counts.calls, _most_first(counts.dialects),
        len({sentence_pattern(example) for example in rows}), len(rows), sharing, batch_rows, pack_tokens,
    )  # fmt: skip


def size_verdict(rows: int) -> str:
    """What a set of so many rows is good for."""
    return f"{rows:,} rows: {next(words for least, words in SIZE_VERDICTS if rows >= least)}"


def _keys_of(examples: Iterable[Example], chat: ChatFormat, tokenizer: Tokenizer) -> list[bytes] | None:
    """The rows' ids as `sharing` compares them; None when the format cannot write one of them so."""
    refused: list[Example] = []
    keys = [key(row.ids) for row in encode_examples(examples, chat, tokenizer, lambda row, why: refused.append(row))]
    return None if refused else keys


def _called(message: Mapping[str, Json]) -> Sequence[str]:
    if message.get("role") != "assistant" or not message.get("tool_calls"):
        return ()
    return [call.name for call in read_calls(message, "", Notes(""))]


def _tool_name(tool: Mapping[str, Json]) -> str:
    function = tool.get("function", tool)
    return str(function.get("name", "")) if isinstance(function, Mapping) else ""


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
