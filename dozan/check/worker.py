"""Row rules in processes of their own: batches of rows in order in, findings and facts in the same order out.

The child is `python -m dozan.check.worker`, which reads pickles on its standard input and writes them on its standard
output: it inherits neither threads nor locks, and it needs no `if __name__ == "__main__"` in the program that asks.
A thread for each child waits for it, and no more than two batches a child are under way, so memory stays flat.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from queue import SimpleQueue
from typing import IO

from dozan.chat import chat_format
from dozan.chat.tokenizer import Tokenizer
from dozan.check.finding import Finding
from dozan.check.row_rules import check_row
from dozan.check.set_rules.facts import RowFacts, facts_of
from dozan.check.view import view_row
from dozan.rows.example import Example
from dozan.rows.tool_lists import ToolLists

BATCH = 64
ALONE = 1_500
"""Rows up to which no child is started: a child takes as long to start as these take to check."""

Checked = tuple[list[Finding], RowFacts | None]
"""A row's findings, and its facts for the set rules when they are asked for."""


@dataclass(frozen=True)
class Job:
    """How rows are checked: the chat format by name, the tokenizer's folder, the longest row, what is wanted."""

    chat: str
    tokenizer: str
    max_tokens: int
    with_rules: bool = True
    with_facts: bool = True


class RowChecker:
    """Checks batches of rows in this process."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._chat = chat_format(job.chat)
        self._tokenizer = Tokenizer.load(job.tokenizer)

    def check(self, examples: Sequence[Example]) -> list[Checked]:
        """Findings and facts of each row, in order."""
        job = self._job
        views = [view_row(example, self._chat, self._count, job.max_tokens) for example in examples]
        findings = [check_row(view) if job.with_rules else [] for view in views]
        facts: Sequence[RowFacts | None] = facts_of(views) if job.with_facts else [None] * len(views)
        return list(zip(findings, facts, strict=True))

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text))


def check_stream(
    examples: Iterable[Example], job: Job, processes: int | None = None
) -> Iterator[tuple[Example, Checked]]:
    """Each row with what was found, in order. processes: how many to use; None: one a core when there are many rows."""
    stream = iter(examples)
    many = max(1, os.cpu_count() or 1) if processes is None else processes
    first = list(islice(stream, ALONE + 1)) if processes is None else []
    if many <= 1 or processes is None and len(first) <= ALONE:
        checker = RowChecker(job)
        for batch in _batches(chain(first, stream)):
            yield from zip(batch, checker.check(batch), strict=True)
        return
    with ExitStack() as stack:
        children: SimpleQueue[_Child] = SimpleQueue()
        for _ in range(many):
            children.put(stack.enter_context(_Child(job)))
        pool = stack.enter_context(ThreadPoolExecutor(many))
        waiting: deque[tuple[list[Example], Future[list[Checked]]]] = deque()
        for batch in _batches(chain(first, stream)):
            waiting.append((batch, pool.submit(_ask, children, batch)))
            if len(waiting) >= 2 * many:
                yield from _done(waiting)
        while waiting:
            yield from _done(waiting)


class _Child:
    """One process that checks rows, as long as it is entered."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __enter__(self) -> _Child:
        command = [sys.executable, "-m", "dozan.check.worker"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        pickle.dump(self._job, self._to)
        return self

    def __exit__(self, *_: object) -> None:
        self._to.close()
        self._process.wait()
        self._from.close()

    def check(self, batch: list[Example]) -> list[Checked]:
        pickle.dump(batch, self._to, pickle.HIGHEST_PROTOCOL)
        self._to.flush()
        return pickle.load(self._from)


def _ask(children: SimpleQueue[_Child], batch: list[Example]) -> list[Checked]:
    child = children.get()
    try:
        return child.check(batch)
    finally:
        children.put(child)


def _done(waiting: deque[tuple[list[Example], Future[list[Checked]]]]) -> Iterator[tuple[Example, Checked]]:
    batch, future = waiting.popleft()
    yield from zip(batch, future.result(), strict=True)


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while batch := list(islice(examples, BATCH)):
        yield batch


def serve(source: IO[bytes], out: IO[bytes]) -> None:
    """Answers batches until the other side closes; the same tool lists come as the same objects, as from a file."""
    checker = RowChecker(pickle.load(source))
    lists = ToolLists()
    while True:
        try:
            batch: list[Example] = pickle.load(source)
        except EOFError:
            return
        rows = [Example(row.id, lists.one(row.tools), row.messages, row.meta, row.place) for row in batch]
        pickle.dump(checker.check(rows), out, pickle.HIGHEST_PROTOCOL)
        out.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
