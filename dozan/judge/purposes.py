"""The five purposes scored: code by its tests, reasoning by its final answer, the others by held-out loss.

Answers stand beside the reference for a reader, with the measures of `rows.purposes`. Training's own rows are read as
there; code rows bring tests: MBPP's `test_list`, or HumanEval's `prompt`, `test` and `entry_point`.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dozan.chat.encode import gold
from dozan.chat.format import ChatFormat
from dozan.errors import InputError
from dozan.judge.answers import code_of, compiles, same_answer
from dozan.judge.intervals import wilson
from dozan.judge.paired import mean_interval
from dozan.judge.purposes_loss import RowLoss
from dozan.judge.sandbox import DEFAULT, KERNEL_GUARDS, Limits, run_all
from dozan.rows.errors import Errors
from dozan.rows.example import Example, Json
from dozan.rows.purposes import PURPOSES, purpose_named, stream_for
from dozan.rows.readers import raise_all
from dozan.rows.records import Broken, read_records
from dozan.rows.shards import Shard, own_rows

OnProgress = Callable[[int, int], None]
JUDGED = ("code", "reasoning")
"""The purposes whose answers are right or wrong."""
_HUMANEVAL = ("prompt", "canonical_solution", "test", "entry_point")
_TESTS = "tests"
_PREFIX = "prompt_code"


@dataclass(frozen=True)
class PurposeRow:
    """One row: what was asked, the reference, and what a model made of it.

    answer: "" when none was asked for. right: None where nothing tells. why: what was wrong, or "". loss: in nats a
    token over `tokens`, None when it was not measured. measures: by name, 0 to 1.
    """

    id: str
    place: str
    question: str
    reference: str
    answer: str
    right: bool | None
    why: str
    loss: float | None
    tokens: int
    measures: Mapping[str, float]


@dataclass(frozen=True)
class PurposeScores:
    """A purpose's rows, and the guards that held the code that was run (none when none was)."""

    purpose: str
    rows: tuple[PurposeRow, ...]
    guards: tuple[str, ...] = ()

    def summary(self) -> dict[str, Json]:
        """n; right, share, low, high (Wilson) of judged answers; loss with its interval (bootstrap over rows), in nats
        a token; the mean of each measure; wrong answers by reason. None where there is nothing to measure."""
        judged = [row for row in self.rows if row.right is not None]
        right = sum(bool(row.right) for row in judged)
        low, high = wilson(right, len(judged)) if judged else (None, None)
        loss, loss_low, loss_high = _mean_loss(self.rows)
        means = {name: sum(row.measures[name] for row in self.rows) / len(self.rows) for name in self.rows[0].measures}
        reasons = Counter(row.why.partition(":")[0] for row in judged if not row.right)
        return {
            "purpose": self.purpose, "n": len(self.rows), "judged": len(judged), "right": right,
            "share": right / len(judged) if judged else None, "low": low, "high": high, "loss": loss,
            "loss_low": loss_low, "loss_high": loss_high, "tokens": sum(row.tokens for row in self.rows),
            "measures": means, "reasons": dict(reasons.most_common()), "guards": list(self.guards),
        }  # fmt: skip

    def to_json(self) -> dict[str, Json]:
        """The summary's figures and every row."""
        return {**self.summary(), "rows": [dataclasses.asdict(row) for row in self.rows]}


def read_purpose(name: str, path: str | Path, limit: int | None = None) -> list[Example]:
    """The rows of a file for a purpose; for code each with its tests, which the question shows when the row's own text
    does not name the function. Raises InputError for a file that cannot be read, and for code without tests."""
    return read_purpose_shard(name, path, Shard(1, 1), limit)[0]


def read_purpose_shard(
    name: str, path: str | Path, shard: Shard, limit: int | None = None, beside: list[Path] | None = None
) -> tuple[list[Example], int]:
    """Of what `read_purpose` gives the rows of a shard, and how many all are. beside: as for `stream_for`."""
    purpose_named(name)
    is_humaneval = name == "code" and _is_humaneval(path)
    rows = _read_humaneval(path) if is_humaneval else stream_for(name, path, beside=beside)
    examples, total = own_rows(rows, shard, limit)
    if not total:
        raise InputError(f"{path}: no rows to score; give at least one")
    return [_with_tests(example) for example in examples] if name == "code" else examples, total


def score_purpose(
    name: str, examples: Sequence[Example], texts: Sequence[str] | None, losses: Sequence[RowLoss] | None,
    chat: ChatFormat, limits: Limits = DEFAULT, workers: int | None = None, on_progress: OnProgress | None = None,
) -> PurposeScores:  # fmt: skip
    """Scores what a model answered (`texts`, as generated) and the losses of the references; either may be missing.

    Code is run, `workers` programs at a time. Raises InputError when there are no rows or counts differ.
    """
    for given, what in ((texts, "answers"), (losses, "losses")):
        if given is not None and len(given) != len(examples):
            raise InputError(f"{len(given)} {what} for {len(examples)} rows; give one for each")
    if not examples:
        raise InputError("no rows to score; give at least one")
    references = [gold(example).text for example in examples]
    answers = [""] * len(examples) if texts is None else [chat.parse(text).text for text in texts]
    verdicts: list[tuple[bool | None, str]] = [(None, "")] * len(examples)
    guards: tuple[str, ...] = ()
    if texts is not None and name == "code":
        verdicts, guards = _run(examples, answers, limits, workers, on_progress)
    elif texts is not None and name == "reasoning":
        right = [same_answer(answer, reference) for answer, reference in zip(answers, references, strict=True)]
        verdicts = [(each, "" if each else "another answer") for each in right]
    measures = PURPOSES[name].measures if texts is not None else {}
    rows = tuple(
        PurposeRow(
            example.id, example.place, _question(example), reference, answer, *verdict,
            losses[i].loss if losses else None, losses[i].tokens if losses else 0,
            {key: one(answer, reference) for key, one in measures.items()},
        )
        for i, (example, reference, answer, verdict) in enumerate(
            zip(examples, references, answers, verdicts, strict=True)
        )
    )  # fmt: skip
    return PurposeScores(name, rows, guards)


def guard_note(scores: PurposeScores) -> str:
    """What must be said when the system offers less than every guard; "" otherwise."""
    missing = [guard for guard in KERNEL_GUARDS if scores.guards and guard not in scores.guards]
    return f"code ran without {' and '.join(missing)}, held by Python's audit events alone" if missing else ""


def program(example: Example, answer: str) -> tuple[str, tuple[str, ...]]:
    """The code of an answer, completed by the row's own where that asks for a completion, and the tests."""
    code, prefix = code_of(answer), str(example.meta.get(_PREFIX) or "")
    entry = re.escape(str(example.meta.get("entry_point") or ""))
    if prefix:
        whole = entry and re.search(rf"^(?:async )?def {entry}\b", code, re.MULTILINE)
        # A chat format strips an answer: a completion's first line, or all of it, may have lost its indentation.
        ways = (code, f"    {code}", textwrap.indent(code, "    "))
        completed = next(filter(compiles, map(prefix.__add__, ways)), prefix + code)
        code = f"{prefix}\n    pass\n\n{code}" if whole else completed
    return code, tuple(example.meta[_TESTS])


def _run(
    examples: Sequence[Example], answers: Sequence[str], limits: Limits, workers: int | None,
    on_progress: OnProgress | None,
) -> tuple[list[tuple[bool | None, str]], tuple[str, ...]]:  # fmt: skip
    programs = [program(example, answer) for example, answer in zip(examples, answers, strict=True)]
    ran = run_all(programs, limits, workers, on_progress)
    held = [set(found.guards) for found in ran if found.guards]
    guards = tuple(sorted(set.intersection(*held))) if held else ()
    said = [f"{found.reason}: {found.error}" if found.error else "" for found in ran]
    return [(found.reason == "passed", why) for found, why in zip(ran, said, strict=True)], guards


def _with_tests(example: Example) -> Example:
    """MBPP's row with its tests beneath the question, which tell the name and the arguments of the function."""
    if _TESTS in example.meta:
        return example
    tests = example.meta.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise InputError(
            f"{example.place or example.id}: test_list is missing; code is scored by its tests: give a list of assert "
            "statements, or HumanEval's prompt, canonical_solution, test and entry_point"
        )
    imports = example.meta.get("test_imports")
    setup = [*(imports if isinstance(imports, list) else ()), str(example.meta.get("test_setup_code") or "")]
    before = "\n".join(line for line in setup if line)
    shown = "\n".join(tests)
    messages = list(example.messages)
    at = max(i for i, message in enumerate(messages) if message["role"] == "user")
    asked = f"{messages[at]['content']}\nYour code should pass these tests:\n{shown}"
    messages[at] = {**messages[at], "content": asked}
    meta = {**example.meta, _TESTS: [*([before] if before else []), *tests]}
    return dataclasses.replace(example, messages=tuple(messages), meta=meta)


def _is_humaneval(path: str | Path) -> bool:
    first = next(iter(read_records(path)), None) if Path(path).is_file() else None
    value = None if first is None or isinstance(first, Broken) else first.value
    return isinstance(value, dict) and all(key in value for key in _HUMANEVAL)


def _read_humaneval(path: str | Path) -> list[Example]:
    """The function's head and docstring are the question; the reference is the whole function."""
    errors, examples = Errors(), []
    for record in read_records(path):
        if isinstance(record, Broken):
            errors.add(str(record))
            continue
        fields = record.value if isinstance(record.value, dict) else {}
        missing = [key for key in _HUMANEVAL if not isinstance(fields.get(key), str) or not fields[key].strip()]
        if missing:
            errors.add(f"{record.place}: {', '.join(missing)}: missing, or no text; rows like HumanEval's have it")
            continue
        prompt, solution = fields["prompt"], fields["canonical_solution"]
        messages = (
            {"role": "system", "content": PURPOSES["code"].system},
            {"role": "user", "content": f"Complete this function:\n```python\n{prompt.rstrip()}\n```"},
            {"role": "assistant", "content": f"```python\n{prompt}{solution.rstrip()}\n```"},
        )
        tests = [f"{fields['test']}\n\ncheck({fields['entry_point']})\n"]
        meta = {**{k: v for k, v in fields.items() if k not in _HUMANEVAL[:3]}, _TESTS: tests, _PREFIX: prompt}
        examples.append(Example(str(fields.get("task_id") or record.place), (), messages, meta, record.place))
    raise_all(errors)
    return examples


def _question(example: Example) -> str:
    """The last thing the user says."""
    said = [message.get("content") for message in example.messages if message.get("role") == "user"]
    return str(said[-1]) if said else ""


def _mean_loss(rows: Sequence[PurposeRow]) -> tuple[float | None, float | None, float | None]:
    """The loss over all tokens of all rows and its interval."""
    pairs = [(row.loss * row.tokens, float(row.tokens)) for row in rows if row.loss is not None]
    return (None, None, None) if not pairs else mean_interval(pairs)
