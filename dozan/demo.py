"""The whole way on the embedded base: rows, check, train, score base and tuned, merge, GGUF, llama.cpp, one table."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dozan
from dozan.errors import InputError
from dozan.recipe import load_recipe
from dozan.rows.readers import read_rows
from dozan.terminal import console, duration, isolate, percent, print_line, print_scores, progress, show
from dozan.verb import callable_as

if TYPE_CHECKING:
    from dozan.judge.summary import RowScore, Scores
    from dozan.rows.example import Example

callable_as("dozan.demo", "dozan.demo")

ROWS = Path(dozan.EMBEDDED_BASE).parent / "mobile_actions_ar"
TRAIN, TEST = ROWS / "train.jsonl.gz", ROWS / "test.jsonl"
RECIPE, KIND = "mobile-actions", "q8_0"
MARK = "demo.json"
SAMPLES, CERTIFIED = 3, 20
MAX_NEW_TOKENS = 256


@dataclass
class Stages:
    """The demo's steps in `out`: what an earlier call finished, with its seconds, is not done again."""

    out: Path
    fingerprint: str
    seconds: dict[str, float] = field(default_factory=dict)
    reused: int = 0

    def run(self, name: str, title: str, work: Callable[[], object]) -> None:
        """Do `work` unless it is done, say so, and keep its time."""
        if name in self.seconds:
            self.reused += 1
            console.print(f"[dim]{title}: done earlier ({duration(self.seconds[name])})[/dim]")
            return
        console.print(f"[bold]{title}[/bold]")
        started = time.monotonic()
        work()
        self.seconds[name] = time.monotonic() - started
        console.print(f"  {duration(self.seconds[name])}")
        self._write()

    def _write(self) -> None:
        whole = {"fingerprint": self.fingerprint, "seconds": self.seconds}
        partial_file = self.out / f"{MARK}.partial"
        partial_file.write_text(json.dumps(whole, indent=1), encoding="utf-8")
        partial_file.replace(self.out / MARK)


def demo(out: str | Path = "output/demo", fresh: bool = False) -> None:
    """Train, score, merge, export and score again on the embedded rows; prints one table and writes report.html.

    What an earlier call finished in `out` is used again; `fresh` forgets it. Raises InputError when `out` holds
    something else.
    """
    from dozan.judge.evaluate import read_scores
    from dozan.judge.report import report_run

    out = Path(out)
    started = time.monotonic()
    stages = open_stages(out, fresh)
    training, test = read_rows(TRAIN), read_rows(TEST)
    console.print(f"{len(training)} Arabic rows to train on, {len(test)} to test on, with the embedded base")
    run, merged, gguf = out / "run", out / "merged", out / "gguf"
    stages.run("check", "Checking the rows", partial(check, training, test))
    base = dozan.EMBEDDED_BASE
    stages.run("base", "Scoring the base on the test rows", partial(score, base, test, out / "base.json"))
    stages.run("train", "Training an adapter", partial(train, run))
    stages.run("tuned", "Scoring the tuned model on the test rows", partial(score, run, test, out / "tuned.json"))
    stages.run("merge", "Merging the adapter into the base", partial(merge, run, merged))
    stages.run("export", "Writing GGUF files, each measured against the tuned model", partial(export, run, gguf))
    stages.run("gguf", "Scoring the GGUF through llama.cpp", partial(score, gguf_file(gguf), test, out / "gguf.json"))
    names = {"base": "base", "tuned": "tuned", f"GGUF {KIND}": "gguf"}
    scores = {name: read_scores(out / f"{file}.json") for name, file in names.items()}
    certificate = json.loads((gguf / "parity.json").read_text(encoding="utf-8"))
    report_run(out / "report.html", run, scores, "dozan demo: Arabic phone commands", certificate=certificate)
    print_scores(scores)
    print_samples(scores["base"], scores["tuned"])
    print_files({"run": run, "merged": merged, "GGUF": gguf_file(gguf), "report": out / "report.html"})
    again = "; start afresh with: dozan demo --fresh" if stages.reused else ""
    console.print(f"{duration(time.monotonic() - started)} in all{again}")


def open_stages(out: Path, fresh: bool) -> Stages:
    """The stages of an earlier demo in `out` that ran on the same base, rows and recipe; anything else is refused."""
    mark = out / MARK
    if out.exists() and not mark.is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} holds something that is no demo; choose another folder with --out")
    now = fingerprint()
    found = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
    if fresh and found:
        shutil.rmtree(out)
        found = {}
    if found and found["fingerprint"] != now:
        raise InputError(f"{out} holds a demo of another base, rows or recipe; start afresh with: dozan demo --fresh")
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out, now, dict(found.get("seconds", {})))
    stages._write()
    return stages


def fingerprint() -> str:
    """SHA-256 over what decides the demo's figures: the version, the recipe, the base and the rows."""
    digest = hashlib.sha256(f"{dozan.__version__} {load_recipe(RECIPE).model_dump_json()}".encode())
    for path in sorted([*Path(dozan.EMBEDDED_BASE).iterdir(), *ROWS.iterdir()]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def check(training: Sequence[Example], test: Sequence[Example]) -> None:
    """Print what the rows are, and refuse test rows that say what a training row says."""
    from dozan.rows.splits import near_duplicates

    calls = [len(row.messages[-1].get("tool_calls") or ()) for row in training]
    console.print(
        f"  {len(training[0].tools)} tools; {sum(n == 0 for n in calls)} training rows ask for no call, "
        f"{sum(n > 1 for n in calls)} for several"
    )
    twins = near_duplicates(training, test)
    if twins:
        raise InputError(f"{len(twins)} test rows are near-duplicates of training rows: {twins[:3]}")
    console.print("  no test row is a near-duplicate of a training row")


def train(run: Path) -> None:
    """The demo's recipe on the embedded rows; an interrupted run goes on."""
    dozan.train(TRAIN, dozan.EMBEDDED_BASE, run, RECIPE, eval_data=TEST)


def score(model: str | Path, rows: Sequence[Example], json_file: Path) -> None:
    """Answer and score the rows; every figure and answer goes to `json_file`."""
    with progress(f"  {Path(model).name}") as on_progress:
        dozan.evaluate(model, rows, json=json_file, max_new_tokens=MAX_NEW_TOKENS, on_progress=on_progress)


def merge(run: Path, folder: Path) -> None:
    """The merged folder; what an interrupted merge left there goes."""
    shutil.rmtree(folder, ignore_errors=True)
    dozan.merge(run, folder)


def export(run: Path, folder: Path) -> None:
    """The GGUF to ship, and one in f32 that shows how near llama.cpp computes; scored on the first of the test rows."""
    for exported in dozan.export(run, f"f32,{KIND}", folder, examples=read_rows(TEST)[:CERTIFIED]):
        apart = exported.certificate.difference
        console.print(
            f"  {exported.path.name}: {exported.bytes / 2**20:.1f} MiB; logits at most {apart.max_abs:.2g} apart, "
            f"same first choice at {percent(apart.top1)} of {apart.positions} positions"
        )


def gguf_file(folder: Path) -> Path:
    """Where the GGUF to ship lies."""
    return folder / f"run-{KIND}.gguf"


def print_samples(base: Scores, tuned: Scores) -> None:
    """Commands with what base and tuned answer: the first of each of several dialects."""
    answers = {row.id: row for row in base.rows}
    for row in pick_samples(tuned.rows):
        print_line(f"\n{isolate(row.query)}  ({row.dialect})", style="bold")
        for name, found in (("base", answers[row.id]), ("tuned", row)):
            print_line(f"  {name:6}{_answer(found)}")
    console.print()


def pick_samples(rows: Sequence[RowScore]) -> list[RowScore]:
    """The first call row of each dialect, right or wrong, at most SAMPLES."""
    first: dict[str, RowScore] = {}
    for row in rows:
        if row.gold and row.gold[0].arguments:
            first.setdefault(row.dialect, row)
    return list(first.values())[:SAMPLES]


def _answer(row: RowScore) -> str:
    from dozan.chat.format import Parsed

    text = "" if row.calls else row.prediction
    return show(Parsed(row.calls, text[:200], row.problems)).replace("\n", "\n        ")


def print_files(files: dict[str, Path]) -> None:
    """Where everything is."""
    for name, path in files.items():
        print_line(f"{name:7}{path}")
