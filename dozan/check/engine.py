"""`check`: files of rows through every rule in one pass, to a report; memory does not grow with the files.

read (this process) -> view, row rules, facts (a process a core) -> set rules (this process) -> report. `check.shards`
does the middle of it in parts, which may be made anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.chat import chat_format, detect_chat
from dozan.chat.tokenizer import Tokenizer
from dozan.check.catalog import RULES
from dozan.check.finding import Finding
from dozan.check.reading_rules import reading_finding
from dozan.check.report import FindingStore, Report
from dozan.check.set_rules import SetRules
from dozan.check.tokens import Sample, load_tokenizer, measure, tokenizer_findings
from dozan.check.worker import Checked, Job, check_stream
from dozan.errors import InputError
from dozan.rows.example import Example, Json
from dozan.rows.readers import read_examples
from dozan.rows.records import Broken
from dozan.rows.shapes import Options
from dozan.rows.tool_lists import Tools

EMBEDDED = Path(__file__).parents[1] / "assets" / "base"
_FIRST = 100

Progress = Callable[[int], None]
Add = Callable[[Finding], None]


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
    checks = checks_for(files, shape, model, chat, max_tokens, only, except_)
    found = Found(checks.wanted, ", ".join(map(str, files)))
    reading = Reading(shape, found.add)
    count = 0
    for file, is_eval in [*((file, False) for file in files), *((file, True) for file in eval_files)]:
        for example, checked in check_stream(reading.examples(file, is_eval), checks.job, processes):
            found.row(checked, example.tools, is_eval)
            count += 1
            if progress is not None and count % 1_000 == 0:
                progress(count)
    found.finish(checks.job.with_facts)
    tokenizer = reading.judge(checks, found.add)
    stats = {**reading.stats(), **found.stats(), "chat": checks.job.chat, "tokenizer": tokenizer}
    return Report(
        files=tuple(map(str, files)),
        eval_files=tuple(map(str, eval_files)),
        shapes=tuple(reading.said),
        rows=reading.rows,
        unread=reading.unread,
        seconds=time.perf_counter() - started,
        bytes_a_row=found.sets.repeats.index.bytes_a_row,
        findings=found.store,
        stats=stats,
    )


@dataclass(frozen=True)
class Checks:
    """What is checked and how: the job of the row rules, the codes that are wanted, and the tokenizer to be judged:
    that of the model, if one is named."""

    job: Job
    wanted: frozenset[str]
    model: Path | None


def checks_for(
    files: Sequence[str | Path], shape: str | None, model: str | Path | None, chat: str, max_tokens: int,
    only: Sequence[str], except_: Sequence[str],
) -> Checks:  # fmt: skip
    """What `check` is to do. Raises InputError."""
    if not files:
        raise InputError("check: no file; name one or more files of rows")
    wanted = choose_codes(only, except_)
    folder = Path(model) if model is not None else None
    form = _chat(chat, folder, files[0], shape)
    return Checks(
        Job(form, str(folder or EMBEDDED), max_tokens, _any(wanted, "row"), _any(wanted, "set")), wanted, folder
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


class Reading:
    """What reading alone tells of files: shapes, counts, what is broken, and a sample for the tokenizer.

    add: gets the findings. beside: files that rows named and that were read with them.
    """

    def __init__(self, shape: str | None, add: Add) -> None:
        self.said: list[str] = []
        self.rows: dict[str, int] = {}
        self.eval_rows = 0
        self.unread = 0
        self.beside: list[Path] = []
        self._shape, self._add = shape, add
        self._sample = Sample()

    def examples(self, file: str | Path, is_eval: bool) -> Iterator[Example]:
        """The rows of a file that can be read."""
        self.rows.setdefault(str(file), 0)
        options = Options(beside=self.beside)
        for example in read_examples(file, self._shape, self._broken, self.said.append, options):
            self.rows[str(file)] += 1
            self.eval_rows += is_eval
            if not is_eval:
                self._sample.add(example)
            yield example

    def stats(self) -> dict[str, Json]:
        """How many rows are trained, and how many are held out."""
        return {"rows": sum(self.rows.values()) - self.eval_rows, "eval_rows": self.eval_rows}

    def judge(self, checks: Checks, add: Add) -> dict[str, Json]:
        """The figures of the tokenizer on the sample; what they mean goes to `add` when it is the model's."""
        name = str(checks.model or "embedded base")
        figures = measure(load_tokenizer(checks.job.tokenizer), *self._sample.texts(), name=name)
        for finding in tokenizer_findings(figures) if checks.model is not None else ():
            add(finding)
        return figures.to_dict()

    def _broken(self, broken: Broken) -> None:
        self.unread += 0 if broken.usable else 1
        self._add(reading_finding(broken))


class Found:
    """The findings that are wanted, of rows as they come and then of their set, which is called `place`."""

    def __init__(self, wanted: frozenset[str], place: str) -> None:
        self.store = FindingStore()
        self.sets = SetRules(place)
        self._wanted = wanted

    def add(self, finding: Finding) -> None:
        if finding.code in self._wanted:
            self.store.add(finding)

    def row(self, checked: Checked, tools: Tools, is_eval: bool) -> None:
        """A row: the training rows in order, then the evaluation rows."""
        findings, facts = checked
        for finding in findings:
            self.add(finding)
        if facts is not None and is_eval:
            self.sets.add_eval(facts)
        elif facts is not None:
            self.sets.add(facts, tools)

    def finish(self, with_sets: bool) -> None:
        """The findings of the set."""
        for finding in self.sets.findings() if with_sets else ():
            self.add(finding)

    def stats(self) -> dict[str, Json]:
        """What the training rows are made of."""
        balance = self.sets.balance
        return {
            "with_tools": balance.with_tools,
            "calls": balance.calls.total,
            "no_call": balance.no_call.count,
            "near_duplicates": self.sets.repeats.near_rows,
            "dialects": dict(balance.dialects.top()),
            "tools": dict(balance.calls.top()),
        }
