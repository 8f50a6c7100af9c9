"""`check`: files of rows through every rule in one pass, to a report; memory does not grow with the files.

read (this process) -> view, row rules, facts (a process a core) -> set rules (this process) -> report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dozan.chat import chat_format, detect_chat
from dozan.chat.tokenizer import Tokenizer
from dozan.check.catalog import RULES
from dozan.check.finding import Finding
from dozan.check.reading_rules import reading_finding
from dozan.check.report import FindingStore, Report
from dozan.check.set_rules import SetRules
from dozan.check.tokens import Sample, load_tokenizer, measure, tokenizer_findings
from dozan.check.worker import Job, check_stream
from dozan.errors import InputError
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_examples
from dozan.rows.records import Broken

EMBEDDED = Path(__file__).parents[1] / "assets" / "base"
_FIRST = 100

Progress = Callable[[int], None]


def check(
    files: Sequence[str | Path],
    shape: str | None = None,
    model: str | Path | None = None,
    eval_files: Sequence[str | Path] = (),
    chat: str = "auto",
    max_tokens: int = 4096,
    only: Sequence[str] = (),
    except_: Sequence[str] = (),
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Checks training files as one set, and evaluation files against it.

    shape: of all files, else each is told by its first rows. model: a folder with the tokenizer of the model to be
    trained; without one, tokens are counted by the embedded base's, and no tokenizer is judged. chat: `functiongemma`,
    `gemma3`, or `auto`: by the model's tokenizer; without a model, FunctionGemma's when the first rows have tools.
    only, except_: codes, beginnings of codes (`DZ5`) or names of rules. processes: for the row rules; None: one a core
    for large files. progress: called with the number of rows so far. Raises InputError for files that are not there,
    and for unknown codes, formats and shapes; everything else is a finding.
    """
    started = time.perf_counter()
    if not files:
        raise InputError("check: no file; name one or more files of rows")
    wanted = choose_codes(only, except_)
    folder = Path(model) if model is not None else EMBEDDED
    form = _chat(chat, folder if model is not None else None, files[0], shape)
    job = Job(form, str(folder), max_tokens, _any(wanted, "row"), _any(wanted, "set"))
    run = _Run(job, wanted, shape, processes, progress, ", ".join(map(str, files)))
    for file in files:
        run.read(file, is_eval=False)
    for file in eval_files:
        run.read(file, is_eval=True)
    tokenizer = run.finish(folder if model is not None else None)
    return Report(
        files=tuple(map(str, files)),
        eval_files=tuple(map(str, eval_files)),
        shapes=tuple(run.said),
        rows=run.rows,
        unread=run.unread,
        seconds=time.perf_counter() - started,
        bytes_a_row=run.sets.repeats.index.bytes_a_row,
        findings=run.store,
        stats={**run.stats(), "chat": form, "tokenizer": tokenizer},
    )


def choose_codes(only: Sequence[str] = (), except_: Sequence[str] = ()) -> frozenset[str]:
    """The codes that are asked for. Raises InputError for what is no code, beginning of a code or name of a rule."""
    chosen = frozenset(code for word in only for code in _codes(word)) if only else frozenset(r.code for r in RULES)
    return chosen - frozenset(code for word in except_ for code in _codes(word))


def _codes(word: str) -> list[str]:
    found = [rule.code for rule in RULES if word == rule.name or word and rule.code.startswith(word.upper())]
    if not found:
        raise InputError(f"{word!r}: no rule of that code or name; `dozan data rules` lists them, such as DZ402")
    return found


def _any(wanted: frozenset[str], scope: str) -> bool:
    return any(rule.scope == scope for rule in RULES if rule.code in wanted)


def _chat(name: str, model: Path | None, file: str | Path, shape: str | None) -> str:
    """The chat format's name."""
    if name != "auto":
        return chat_format(name).name
    if model is not None:
        return detect_chat(Tokenizer.load(model)).name
    for count, example in enumerate(read_examples(file, shape, lambda broken: None)):
        if example.tools:
            return "functiongemma"
        if count >= _FIRST:
            break
    return "gemma3"


class _Run:
    """One check under way."""

    def __init__(
        self, job: Job, wanted: frozenset[str], shape: str | None, processes: int | None, progress: Progress | None,
        place: str,
    ) -> None:  # fmt: skip
        self.store = FindingStore()
        self.sets = SetRules(place)
        self.said: list[str] = []
        self.rows: dict[str, int] = {}
        self.unread = 0
        self._job, self._wanted, self._shape = job, wanted, shape
        self._processes, self._progress = processes, progress
        self._sample = Sample()
        self._total = 0
        self._eval_rows = 0

    def read(self, file: str | Path, is_eval: bool) -> None:
        """One file, through the row rules and into the set rules."""
        count = 0
        for example, (findings, facts) in check_stream(self._examples(file), self._job, self._processes):
            count += 1
            for finding in findings:
                self._add(finding)
            if facts is not None and is_eval:
                self.sets.add_eval(facts)
            elif facts is not None:
                self.sets.add(facts, example)
            if not is_eval:
                self._sample.add(example)
            if self._progress is not None and count % 1_000 == 0:
                self._progress(self._total + count)
        self.rows[str(file)] = self.rows.get(str(file), 0) + count
        self._total += count
        self._eval_rows += count if is_eval else 0

    def finish(self, model: Path | None) -> dict[str, Json]:
        """The findings of the set and of the tokenizer, whose figures are returned."""
        if self._job.with_facts:
            for finding in self.sets.findings():
                self._add(finding)
        figures = measure(load_tokenizer(model or EMBEDDED), *self._sample.texts(), name=str(model or "embedded base"))
        for finding in tokenizer_findings(figures) if model is not None else ():
            self._add(finding)
        return figures.to_dict()

    def stats(self) -> dict[str, Json]:
        """What the training rows are made of."""
        balance = self.sets.balance
        return {
            "rows": self._total - self._eval_rows,
            "eval_rows": self._eval_rows,
            "with_tools": balance.with_tools,
            "calls": balance.calls.total,
            "no_call": balance.no_call.count,
            "near_duplicates": self.sets.repeats.near_rows,
            "dialects": dict(balance.dialects.top()),
            "tools": dict(balance.calls.top()),
        }

    def _examples(self, file: str | Path) -> Iterator[Example]:
        yield from read_examples(file, self._shape, self._broken, self.said.append)

    def _broken(self, broken: Broken) -> None:
        self.unread += 0 if broken.usable else 1
        self._add(reading_finding(broken))

    def _add(self, finding: Finding) -> None:
        if finding.code in self._wanted:
            self.store.add(finding)
