"""`check` in parts: each puts its rows through the row rules and notes what the set rules need; a join runs these.

Every part reads all rows, which costs a fiftieth of checking them, and checks its own. The first also holds what
reading alone tells: broken lines, shapes, and the tokenizer's figures. In the join the set rules see the facts of all
rows in their order, as in `check`: the report is the same, but for `seconds`, those of all parts and of the join.
"""

from __future__ import annotations

import platform
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import dozan
from dozan.check.catalog import RULES
from dozan.check.engine import Checks, Found, Progress, Reading, checks_for
from dozan.check.finding import Finding
from dozan.check.near import Keys, Sketch
from dozan.check.report import FindingStore, Report
from dozan.check.set_rules.facts import RowFacts, Value, tool_names
from dozan.check.worker import Checked, check_stream
from dozan.errors import InputError
from dozan.rows.example import Example, Json
from dozan.rows.hub import hub_files, is_hub_id
from dozan.rows.kept import sha256
from dozan.rows.parts import Head, Part, dealt, hash_of, require_whole, write_part
from dozan.rows.readers import detect_file
from dozan.rows.shards import Shard, owners
from dozan.rows.tool_lists import Tool, ToolLists, Tools

KIND = "data check"
_MOST_TOOLS = 4096


@dataclass(frozen=True)
class CheckedShard:
    """What a part holds: its own rows, how many there are in all files, and how many errors its rows have so far."""

    own: int
    rows: int
    errors: int


def check_shard(
    shard: Shard,
    out: str | Path,
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
) -> CheckedShard:
    """Writes one part of what `check` would do with these arguments. Raises InputError as it does."""
    checks = checks_for(files, shape, model, chat, max_tokens, only, except_)
    head = Head(KIND, shard, _same(checks, files, eval_files, shape), {
        "files": list(map(str, files)), "eval_files": list(map(str, eval_files)), "chat": checks.job.chat,
        "shape": shape, "with_sets": checks.job.with_facts, "codes": sorted(checks.wanted),
    })  # fmt: skip
    work = _Work(shard, checks, shape, processes, progress)
    write_part(out, head, work.rows(files, eval_files), work.result)
    return CheckedShard(work.own, work.total, work.errors)


def join_checks(parts: Sequence[Part]) -> Report:
    """The report that one `check` of all rows would give, of parts in any order. Raises InputError."""
    started = time.perf_counter()
    parts = require_whole(parts)
    about, told = parts[0].head.about, parts[0].result
    found = Found(frozenset(about["codes"]), ", ".join(about["files"]))
    lists = ToolLists()
    training, total = told["stats"]["rows"], sum(told["rows"].values())
    streams = [_entries(part, lists, found.add) for part in parts]
    for at, (checked, tools) in enumerate(dealt(parts, streams, total)):
        found.row(checked, tools, is_eval=at >= training)
    found.finish(about["with_sets"])
    for item in told["tokenizer_findings"]:
        found.add(_finding(item))
    stats = {**told["stats"], **found.stats(), "chat": about["chat"], "tokenizer": told["tokenizer"]}
    return Report(
        files=tuple(about["files"]),
        eval_files=tuple(about["eval_files"]),
        shapes=tuple(told["said"]),
        rows=told["rows"],
        unread=told["unread"],
        seconds=sum(part.result["seconds"] for part in parts) + time.perf_counter() - started,
        bytes_a_row=found.sets.repeats.index.bytes_a_row,
        findings=found.store,
        stats=stats,
    )


def require_same_files(head: Head) -> None:
    """Raises InputError when the files that a part was made from are not here any more, or are others."""
    for key, value in _hashes(head.about["files"], head.about["eval_files"]).items():
        if head.same.get(key) != value:
            raise InputError(f"{key}: is not the file that the parts were made from; the page quotes its rows: put it "
                             "back, or leave --html out")  # fmt: skip


class _Work:
    """One part under way."""

    def __init__(
        self, shard: Shard, checks: Checks, shape: str | None, processes: int | None, progress: Progress | None
    ) -> None:
        self.own = self.errors = 0
        self._shard, self._checks, self._processes, self._progress = shard, checks, processes, progress
        self._started = time.perf_counter()
        self._broken, self._judged = FindingStore(), list[Finding]()
        self._reading = Reading(shape, self._add_broken)
        self._told = _Told()
        self._owners = owners(shard.count)

    @property
    def total(self) -> int:
        return sum(self._reading.rows.values())

    def rows(self, files: Sequence[str | Path], eval_files: Sequence[str | Path]) -> Iterator[Json]:
        """An entry for each row of this shard; in the first shard, one for everything broken then."""
        job = self._checks.job
        for file, is_eval in [*((file, False) for file in files), *((file, True) for file in eval_files)]:
            for example, checked in check_stream(self._mine(file, is_eval), job, self._processes):
                self.own += 1
                kept = [found for found in checked[0] if found.code in self._checks.wanted]
                self.errors += sum(found.count for found in kept if found.severity == "error")
                yield self._told.entry((kept, checked[1]), example.tools)
                if self._progress is not None and self.own % 1_000 == 0:
                    self._progress(self.own)
        yield from ({"broken": _item(finding)} for finding in self._broken)

    def result(self) -> dict[str, Json]:
        reading, seconds = self._reading, time.perf_counter() - self._started
        beside = {f"{path.parent.name}/{path.name}": sha256(path) for path in dict.fromkeys(reading.beside)}
        counts = {"rows in all": f"{self.total:,}", "rows not read": f"{reading.unread:,}"}
        found: dict[str, Json] = {"same": {**counts, **beside}, "seconds": seconds}
        if self._shard.index > 1:
            return found
        tokenizer = reading.judge(self._checks, self._judged.append)
        judged = [_item(finding) for finding in self._judged if finding.code in self._checks.wanted]
        return {**found, "rows": reading.rows, "unread": reading.unread, "said": reading.said,
                "stats": reading.stats(), "tokenizer": tokenizer, "tokenizer_findings": judged}  # fmt: skip

    def _mine(self, file: str | Path, is_eval: bool) -> Iterator[Example]:
        for example in self._reading.examples(file, is_eval):
            if next(self._owners) == self._shard.index:
                yield example

    def _add_broken(self, finding: Finding) -> None:
        if self._shard.index == 1 and finding.code in self._checks.wanted:
            self._broken.add(finding)


class _Told:
    """Rows as JSON. A tool stands whole where it first comes, and by its number from then on; 4,096 have one."""

    def __init__(self) -> None:
        self._numbers: dict[int, tuple[int, Tool]] = {}

    def entry(self, checked: Checked, tools: Tools) -> dict[str, Json]:
        findings, facts = checked
        found: dict[str, Json] = {"found": [_item(finding) for finding in findings]} if findings else {}
        if facts is not None:
            found |= {"facts": _facts_item(facts), "tools": [self._tool(tool) for tool in tools]}
        return found

    def _tool(self, tool: Tool) -> Json:
        known = self._numbers.get(id(tool))
        if known is not None:
            return known[0]
        if len(self._numbers) >= _MOST_TOOLS:
            self._numbers.clear()
        self._numbers[id(tool)] = (len(self._numbers), tool)
        return tool


def _entries(part: Part, lists: ToolLists, add: Callable[[Finding], None]) -> Iterator[tuple[Checked, Tools]]:
    """The rows of a part as they were checked; what is broken goes to `add`."""
    known: list[Tool] = []
    for entry in part.rows():
        if "broken" in entry:
            add(_finding(entry["broken"]))
            continue
        tools: list[Tool] = []
        for item in entry.get("tools", ()):
            if isinstance(item, int):
                tools.append(known[item])
                continue
            if len(known) >= _MOST_TOOLS:
                known.clear()
            known.append(item)
            tools.append(item)
        shared = lists.one(tools)
        facts = _read_facts(entry["facts"], tool_names(shared)) if "facts" in entry else None
        yield ([_finding(item) for item in entry.get("found", ())], facts), shared


def _item(finding: Finding) -> Json:
    return [finding.code, finding.place, finding.path, finding.message, finding.row, finding.count,
            list(finding.places)]  # fmt: skip


def _finding(item: Json) -> Finding:
    code, place, path, message, row, count, places = item
    return Finding(RULES[code], place, path, message, row, count, tuple(places))


def _facts_item(facts: RowFacts) -> Json:
    seen = [facts.seen.text, b64encode(facts.seen.bands).decode(), b64encode(facts.seen.marks).decode()]
    values = [[value.tool, value.name, value.value, value.copied] for value in facts.values]
    return [facts.place, facts.row, list(facts.called), values, facts.answer, facts.now, facts.dialect, facts.request,
            facts.pattern, seen, list(facts.keys)]  # fmt: skip


def _read_facts(item: Json, names: tuple[str, ...]) -> RowFacts:
    place, row, called, values, answer, now, dialect, request, pattern, (text, bands, marks), keys = item
    seen = Sketch(text, b64decode(bands), b64decode(marks))
    return RowFacts(place, row, names, tuple(called), tuple(Value(*value) for value in values), answer, now, dialect,
                    request, pattern, seen, Keys(*keys))  # fmt: skip


def _same(
    checks: Checks, files: Sequence[str | Path], eval_files: Sequence[str | Path], shape: str | None
) -> dict[str, str]:
    job = checks.job
    return {
        **_hashes(files, eval_files),
        "tokenizer": sha256(Path(job.tokenizer) / "tokenizer.json"),
        "the model's own": "yes" if checks.model else "no",
        "chat": job.chat, "shape": shape or "told by the rows", "max_tokens": str(job.max_tokens),
        "rules": _codes(checks.wanted),
        "dozan": dozan.__version__, "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: metadata.version(name) for name in ("rensa", "tokenizers", "numpy")},
    }  # fmt: skip


def _codes(wanted: frozenset[str]) -> str:
    """All rules, or those that were asked for; so many that they cannot be read are told apart by their hash."""
    listed = " ".join(sorted(wanted))
    return "all" if len(wanted) == len(list(RULES)) else listed if len(wanted) <= 10 else hash_of(listed)


def _hashes(files: Sequence[str | Path], eval_files: Sequence[str | Path]) -> dict[str, str]:
    """SHA-256 of every file, by its place among them and its name."""
    found: dict[str, str] = {}
    for title, group in (("rows", files), ("evaluation rows", eval_files)):
        for number, file in enumerate(group, 1):
            paths = [path for _, path in hub_files(str(file))] if is_hub_id(file) else [file]
            for path in paths:
                detect_file(path)  # says what is wrong with a file that cannot be opened
            found[f"{title} {number}, {Path(file).name}"] = " ".join(sha256(Path(path)) for path in paths)
    return found
