"""Deterministic rows of tokens, shaped like the training sets that matter: what they share, and where it stands.

The tokens are random, so a workload measures speed and memory; losses only show that two programs did the same work.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

BOS = 2
FIRST_WORD, LAST_WORD = 300, 200_000
"""Ids are drawn from here: neither special tokens nor the vocabulary's reserved end."""
VOCABULARY = 262_144
SHAPE_270M = {
    "vocab_size": VOCABULARY, "hidden_size": 640, "num_hidden_layers": 18, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 2048, "sliding_window": 512,
    "query_pre_attn_scalar": 256,
}  # fmt: skip
"""Gemma 3 270M, as its config.json says it."""
SPARE_STEPS = 4
"""Rows for some more steps than are run, for those that fetch ahead."""

_HEADER, _DATE, _DECLARATION = 7, 20, 800


@dataclass(frozen=True)
class Row:
    """A conversation's token ids, of which the last `supervised` are trained on."""

    ids: tuple[int, ...]
    supervised: int

    @property
    def mask(self) -> tuple[int, ...]:
        """1 for each token that is trained on, else 0."""
        return (0,) * (len(self.ids) - self.supervised) + (1,) * self.supervised


@dataclass(frozen=True)
class Workload:
    """Rows in the order in which they are trained on, `batch` of them an optimiser step."""

    name: str
    batch: int
    rows: tuple[Row, ...]

    def tokens(self, steps: int) -> int:
        """Original tokens of the first `steps` steps: padding is not counted, and a shared token once a row."""
        return sum(len(row.ids) for row in self.rows[: steps * self.batch])

    def write(self, path: Path) -> None:
        """A line that names the workload, then a line a row."""
        head = {"name": self.name, "batch": self.batch}
        rows = ({"ids": row.ids, "supervised": row.supervised} for row in self.rows)
        with path.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(line, separators=(",", ":")) + "\n" for line in chain([head], rows))


def read(path: Path) -> Workload:
    """What `Workload.write` wrote."""
    with path.open(encoding="utf-8") as lines:
        head = json.loads(next(lines))
        rows = tuple(Row(tuple(row["ids"]), row["supervised"]) for row in map(json.loads, lines))
    return Workload(head["name"], head["batch"], rows)


class _Words:
    """Random ids from one seed."""

    def __init__(self, seed: str, vocabulary: int) -> None:
        self.random = random.Random(seed)
        self._ids = range(FIRST_WORD, min(LAST_WORD, vocabulary))

    def some(self, count: int) -> tuple[int, ...]:
        return tuple(self.random.choices(self._ids, k=count))

    def between(self, low: int, high: int) -> tuple[int, ...]:
        """`low` to `high` ids."""
        return self.some(self.random.randint(low, high))


def _answered(words: _Words, prompt: tuple[int, ...]) -> Row:
    """A short query and its call after `prompt`."""
    query, answer = words.between(16, 55), words.between(20, 59)
    return Row(prompt + query + answer, len(answer))


def _tool(words: _Words, count: int, shared: int = _DECLARATION) -> list[Row]:
    """Every row begins with the same `shared` tokens of declaration."""
    declaration = (BOS, *words.some(shared - 1))
    return [_answered(words, declaration) for _ in range(count)]


def _own(words: _Words, count: int) -> list[Row]:
    """As `_tool`, but no two rows share a declaration."""
    return [_answered(words, (BOS, *words.some(_DECLARATION - 1))) for _ in range(count)]


def _mobile(words: _Words, count: int) -> list[Row]:
    """Mobile Actions as published: a date of its own stands before the declaration that all rows have."""
    header, declaration = (BOS, *words.some(_HEADER)), words.some(_DECLARATION)
    return [_answered(words, header + words.some(_DATE) + declaration) for _ in range(count)]


def _aisa(words: _Words, count: int) -> list[Row]:
    """AISA-ArabicFC as published: after the date 4 of 27 tools, sampled and ordered at random for each row."""
    header = (BOS, *words.some(_HEADER))
    tools = [words.between(60, 140) for _ in range(27)]
    rows = []
    for _ in range(count):
        offered = chain.from_iterable(words.random.sample(tools, 4))
        prompt = (*header, *words.some(_DATE), *offered, *words.between(8, 40))
        answer = words.between(15, 70)
        rows.append(Row(prompt + answer, len(answer)))
    return rows


def _long(words: _Words, count: int) -> list[Row]:
    """4,096 tokens that share nothing, the second half trained on."""
    return [Row((BOS, *words.some(4095)), 2048) for _ in range(count)]


_KINDS: dict[str, tuple[int, Callable[[_Words, int], list[Row]]]] = {
    "tool-64": (64, _tool),
    "tool-256": (256, _tool),
    "tool-16": (16, _tool),
    "tool27-64": (64, partial(_tool, shared=2700)),
    "own-64": (64, _own),
    "mobile-64": (64, _mobile),
    "aisa-64": (64, _aisa),
    "long-4": (4, _long),
}
NAMES = tuple(_KINDS)


def workload(name: str, steps: int, vocabulary: int = VOCABULARY) -> Workload:
    """The rows of a workload for `steps` optimiser steps; the same name and vocabulary always begin the same way.

    Raises ValueError for an unknown name.
    """
    if name not in _KINDS:
        raise ValueError(f"no workload {name!r}; choose among {', '.join(NAMES)}")
    batch, make = _KINDS[name]
    return Workload(name, batch, tuple(make(_Words(name, vocabulary), batch * (steps + SPARE_STEPS))))


def tool(batch: int, steps: int) -> Workload:
    """The rows of `tool-N` for any N."""
    name = f"tool-{batch}"
    return Workload(name, batch, tuple(_tool(_Words(name, VOCABULARY), batch * (steps + SPARE_STEPS))))


def chosen(patterns: str) -> list[str]:
    """The workloads of a list with commas: a full name, or the part before the hyphen for all of a kind.

    Raises ValueError for what names none.
    """
    wanted = [pattern for pattern in patterns.split(",") if pattern]
    wrong = [pattern for pattern in wanted if not any(pattern in (name, name.split("-")[0]) for name in NAMES)]
    if wrong:
        raise ValueError(f"no workload {', '.join(wrong)}; choose among {', '.join(NAMES)}")
    return [name for name in NAMES if not wanted or name in wanted or name.split("-")[0] in wanted]
