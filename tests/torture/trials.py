"""The trials: each puts one fault into one run, goes on with it, and says what was lost and what was found."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from safetensors.torch import load_file

from dozan.model.sealed import MANIFEST
from dozan.train import keeper, loop
from dozan.train.loop import train
from torture import faults, subject
from torture.subject import INTERVAL, STEPS, Whole

MODELS = {"LoRA": (), "rsLoRA": ("adapter.rslora=true",), "DoRA": ("adapter.dora=true",),
          "both": ("adapter.rslora=true", "adapter.dora=true")}  # fmt: skip
CHANGES = ("train.learning_rate=0.02", "train.seed=1", "adapter.alpha=9.0", "adapter.rank=8", "train.batch_size=5",
           "train.max_steps=9", "train.schedule=linear", "adapter.dora=true", "train.weight_decay=0.1")  # fmt: skip
OF_ROWS = ["train.max_steps=2", "adapter.rank=2", "train.batch_size=3", "data.holdout=0.3"]
OFFSETS = 20
_ATTEMPTS, _EARLIER = 6, 0.8
_OOM_RELATIVE = 1e-6


@dataclass(frozen=True)
class Result:
    """One trial. lost: why the run could not be brought to its end as if nothing had been; found: whether the fault was
    noticed, where there is something to notice. struck: whether it came while the run was under way."""

    lost: str = ""
    found: bool | None = None
    back: int = 0
    seconds: float = 0.0
    struck: bool = True


@dataclass
class Tally:
    """The trials of one fault."""

    fault: str
    results: list[Result] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """As the record has it."""
        lost = Counter(result.lost for result in self.results if result.lost)
        looked = [result for result in self.results if result.found is not None]
        return {
            "fault": self.fault, "trials": len(self.results), "lost": sum(lost.values()),
            "struck": sum(result.struck for result in self.results), "why": dict(lost.most_common(5)),
            "found": sum(bool(result.found) for result in looked) if looked else None,
            "to_find": len(looked) or None, "most_steps_back": max((r.back for r in self.results), default=0),
            "longest_seconds": round(max((r.seconds for r in self.results), default=0.0), 2),
        }  # fmt: skip


Trial = Callable[[], Result]


@dataclass(frozen=True)
class Bench:
    """Where trials run, and the undisturbed run that they are compared with."""

    root: Path
    expected: Whole

    def to_the_end(self, out: Path, *changes: str) -> tuple[str, str]:
        """Go on with a run; how it differs in the end, and what it told."""
        outcome = subject.run(out, subject.recipe(*changes))
        if outcome.status:
            return f"resume exits {outcome.status}: {outcome.notes.strip()[-200:]}", outcome.notes
        return subject.same(out, self.expected), outcome.notes

    def stopped(self, out: Path, step: int = 6) -> None:
        """A run in `out` that was stopped in the step after `step`."""
        pattern = self.root / f"stopped-{step}"
        if not pattern.is_dir():
            building = self.root / f"stopped-{step}-{os.getpid()}"
            outcome = subject.run(building, disturb=faults.signalled("gradients", step + 1))
            assert outcome.status == 75, outcome
            if not pattern.is_dir():
                os.rename(building, pattern)
        shutil.copytree(pattern, out, dirs_exist_ok=True)


def killed_at_random(bench: Bench, count: int, seed: int = 0) -> Iterator[Trial]:
    """kill -9 at a random moment of the run; a third of them a second time while it goes on."""
    draw = random.Random(seed)
    for i in range(count):
        moments = [draw.random() for _ in range(1 + (i % 3 == 0))]
        yield partial(_killed, bench, f"kill-{seed}-{i}", moments)


def _killed(bench: Bench, name: str, moments: list[float]) -> Result:
    """A kill that came when the run had ended already is made again, earlier."""
    result = Result(struck=False)
    for attempt in range(_ATTEMPTS):
        result = _killed_once(bench, name, [moment * _EARLIER**attempt for moment in moments])
        if result.struck or result.lost:
            break
    return result


def _killed_once(bench: Bench, name: str, moments: list[float]) -> Result:
    back = 0
    with subject.folder(bench.root, name) as out:
        outcomes = [subject.run(out, kill_after=pace(bench).moment(moment)) for moment in moments]
        struck = [outcome.status == -signal.SIGKILL for outcome in outcomes]
        made = _steps_made(out)
        lost, notes = bench.to_the_end(out)
        back = made - _resumed_from(notes) if notes and "nothing to do" not in notes else 0
        lost = lost or (f"{back} steps back" if back > INTERVAL else "")
        return Result(lost, None, max(0, back), struck=any(struck))


def pace(bench: Bench) -> subject.Pace:
    """The pace of this process's trials."""
    if bench.root not in _PACES:
        place = bench.root / f"pace-{os.getpid()}"

        def measure() -> subject.Outcome:
            shutil.rmtree(place, ignore_errors=True)
            return subject.run(place)

        _PACES[bench.root] = subject.Pace(measure)
    return _PACES[bench.root]


_PACES: dict[Path, subject.Pace] = {}


def _steps_made(out: Path) -> int:
    return max((line["step"] for line in subject.metrics(out) if "train/loss" in line), default=0)


def _resumed_from(notes: str) -> int:
    found = [line for line in notes.splitlines() if line.startswith("resuming from step ")]
    return int(found[-1].split()[-1]) if found else 0


def killed_writing_behind(bench: Bench, count: int) -> Iterator[Trial]:
    """kill -9 at a random moment while a thread writes the checkpoints, as on a GPU: one may still be on its way."""
    draw = random.Random(2)
    for i in range(count):
        yield partial(_killed_behind, bench, i, draw.random())


def behind() -> None:
    """Have checkpoints written by a thread in this process."""
    loop.Keeper = partial(keeper.Keeper, background=True)  # type: ignore[assignment,misc]


def _killed_behind(bench: Bench, i: int, moment: float) -> Result:
    with subject.folder(bench.root, f"behind-{i}") as out:
        struck = subject.run(out, disturb=behind, kill_after=pace(bench).moment(moment)).status == -signal.SIGKILL
        made = _steps_made(out)
        outcome = subject.run(out, disturb=behind)
        lost = f"resume exits {outcome.status}" if outcome.status else subject.same(out, bench.expected)
        back = 0 if "nothing to do" in outcome.notes else made - _resumed_from(outcome.notes)
        lost = lost or (f"{back} steps back" if back > 2 * INTERVAL else "")
        return Result(lost, None, max(0, back), struck=struck)


def only_the_mirror_is_left(bench: Bench, count: int) -> Iterator[Trial]:
    """kill -9 at a random moment, and the run folder gone: the same command goes on from the mirror."""
    draw = random.Random(3)
    for i in range(count):
        yield partial(_mirrored, bench, i, draw.random())


def _mirrored(bench: Bench, i: int, moment: float) -> Result:
    with subject.folder(bench.root, f"mirror-{i}") as root:
        out, there = root / "run", root / "there"
        mirrored = subject.recipe(f"train.mirror={there}")
        struck = subject.run(out, mirrored, kill_after=pace(bench).moment(moment)).status == -signal.SIGKILL
        shutil.rmtree(out, ignore_errors=True)
        outcome = subject.run(out, mirrored)
        if outcome.status:
            return Result(f"exits {outcome.status}: {outcome.notes[-160:]}")
        return Result(subject.same(out, bench.expected), struck=struck)


def writes_of(bench: Bench) -> int:
    """How often an undisturbed run writes."""
    with subject.folder(bench.root, "count") as out:
        file = bench.root / "count.txt"

        def disturb() -> None:
            writes = faults.Writes(out)
            writes.install()
            real = subject.fit

            def fit(*args: object, **more: object) -> object:
                result = real(*args, **more)  # type: ignore[arg-type]
                file.write_text(str(writes.count))
                return result

            subject.fit = fit  # type: ignore[assignment]

        assert subject.run(out, disturb=disturb).status == 0
        return int(file.read_text())


def killed_at_each_write(bench: Bench, every: int = 1) -> Iterator[Trial]:
    """kill -9 in the middle of each write, sync, rename and removal."""
    for at in range(1, writes_of(bench) + 1, every):
        yield partial(_killed_writing, bench, at)


def _killed_writing(bench: Bench, at: int) -> Result:
    with subject.folder(bench.root, f"write-{at}") as out:
        outcome = subject.run(out, disturb=faults.Writes(out, at, faults.die).install)
        if outcome.status != -signal.SIGKILL:
            return Result(f"not killed: {outcome.status}")
        made = _steps_made(out)
        lost, notes = bench.to_the_end(out)
        back = 0 if "nothing to do" in notes else made - _resumed_from(notes)
        return Result(lost or (f"{back} steps back" if back > INTERVAL else ""), None, max(0, back))


def full_at_each_write(bench: Bench, every: int = 1) -> Iterator[Trial]:
    """ENOSPC at each write, once and for good; the run stops with 75, what it had stands, and it goes on later."""
    for at in range(1, writes_of(bench) + 1, every):
        for for_good in (False, True):
            yield partial(_full, bench, at, for_good)


def _full(bench: Bench, at: int, for_good: bool) -> Result:
    with subject.folder(bench.root, f"full-{at}-{for_good}") as out:
        outcome = subject.run(out, disturb=faults.Writes(out, at, faults.full, for_good).install)
        told = outcome.status == 75 and ("No space left" in outcome.notes or "are free" in outcome.notes)
        made = _steps_made(out)
        lost, notes = bench.to_the_end(out)
        back = 0 if "nothing to do" in notes else made - _resumed_from(notes)
        if outcome.status not in (0, 75):
            lost = lost or f"exits {outcome.status}: {outcome.notes.strip()[-160:]}"
        lost = lost or (f"{back} steps back" if back > INTERVAL else "")
        return Result(lost, told or outcome.status == 0, max(0, back))


def damaged(bench: Bench, offsets: int = OFFSETS) -> Iterator[Trial]:
    """Every file of the newest checkpoint and of the run: a flipped bit and a cut at so many offsets, and removed."""
    with subject.folder(bench.root, "names") as out:
        bench.stopped(out)
        newest = max((out / "checkpoints").iterdir())
        files = [path.relative_to(out) for path in sorted(newest.iterdir())] + [Path("run.json"), Path("metrics.jsonl")]
        sizes = {name: (out / name).stat().st_size for name in files}
    for name, size in sizes.items():
        for offset in sorted({size * i // offsets for i in range(offsets)}):
            yield partial(_damaged, bench, name, "flip", offset)
            yield partial(_damaged, bench, name, "cut", offset)
        yield partial(_damaged, bench, name, "removed", 0)


def damage(path: Path, kind: str, offset: int) -> None:
    """Flip a bit of a file, cut it short, or remove it."""
    content = path.read_bytes()
    if kind == "removed":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[:offset])
    else:
        path.write_bytes(content[:offset] + bytes([content[offset] ^ (1 << offset % 8)]) + content[offset + 1 :])


def _damaged(bench: Bench, name: Path, kind: str, offset: int) -> Result:
    with subject.folder(bench.root, f"damage-{name.name}-{kind}-{offset}") as out:
        bench.stopped(out)
        damage(out / name, kind, offset)
        lost, notes = bench.to_the_end(out)
        return Result(lost, name.name in notes or (name.name == MANIFEST and f"{name.parent.name} is damaged" in notes))


def damaged_result(bench: Bench, offsets: int = OFFSETS) -> Iterator[Trial]:
    """The adapter of a finished run: refused when it is used, and written again when the run is asked for."""
    for name in ("adapter_model.safetensors", "adapter_config.json", MANIFEST):
        size = (bench.root / "whole" / "adapter" / name).stat().st_size
        for offset in sorted({size * i // offsets for i in range(offsets)}):
            for kind in ("flip", "cut"):
                yield partial(_damaged_result, bench, name, kind, offset)
        yield partial(_damaged_result, bench, name, "removed", 0)


def _damaged_result(bench: Bench, name: str, kind: str, offset: int) -> Result:
    from models import tiny_model

    from dozan.errors import InputError
    from dozan.model.weights import load_adapter

    with subject.folder(bench.root, f"result-{name}-{kind}-{offset}") as out:
        shutil.copytree(bench.root / "whole", out, dirs_exist_ok=True)
        damage(out / "adapter" / name, kind, offset)
        refused = False
        try:
            load_adapter(out / "adapter", tiny_model(num_hidden_layers=2))
        except InputError as error:
            refused = name in str(error)
        lost, notes = bench.to_the_end(out)
        return Result(lost, refused and name in notes)


def damaged_rows(bench: Bench, offsets: int = OFFSETS) -> Iterator[Trial]:
    """The rows that a run divided: refused when they are read, and written again when the run is asked for."""
    made = rows_run(bench)
    for name in sorted(path.name for path in (made / "data").iterdir()):
        size = (made / "data" / name).stat().st_size
        for offset in sorted({size * i // offsets for i in range(offsets)}):
            for kind in ("flip", "cut"):
                yield partial(_damaged_rows, bench, name, kind, offset)
        yield partial(_damaged_rows, bench, name, "removed", 0)


def rows_run(bench: Bench) -> Path:
    """A finished run of real rows, through the whole command."""
    from ship_models import make_folder
    from test_bad_input import conversation, write_rows

    made = bench.root / "of-rows"
    if not made.is_dir():
        base = make_folder(bench.root / "base-of-rows")
        said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
        numbered = ({"id": f"r{i}", **conversation(said=text)} for i, text in enumerate(said))
        train(write_rows(bench.root / "rows.jsonl", *numbered), base, made, overrides=OF_ROWS, on_event=lambda e: None)
    return made


def _damaged_rows(bench: Bench, name: str, kind: str, offset: int) -> Result:
    from dozan.errors import InputError
    from dozan.rows.readers import read_rows

    made, notes = rows_run(bench), list[str]()
    with subject.folder(bench.root, f"rows-{name}-{kind}-{offset}") as out:
        shutil.copytree(made, out, dirs_exist_ok=True)
        damage(out / "data" / name, kind, offset)
        refused = False
        try:
            read_rows(out / "data" / (name if name.endswith("l") else "train.jsonl"))
        except InputError as error:
            refused = name in str(error)
        train(bench.root / "rows.jsonl", bench.root / "base-of-rows", out, overrides=OF_ROWS,
              on_event=lambda event: notes.append(event.get("text", "")))  # fmt: skip
        same = (out / "data" / name).read_bytes() == (made / "data" / name).read_bytes()
        told = any(name in text and "written anew" in text for text in notes)
        return Result("" if same else "not written anew", refused and told)


def poisoned(bench: Bench, every: int = 1) -> Iterator[Trial]:
    """NaN, inf and what overflows, in loss, gradient and activations, for each kind of adapter."""
    cases = [(kind, where, value) for kind in MODELS for where in faults.POISONED
             for value in (math.nan, math.inf, -math.inf, 3e38)]  # fmt: skip
    for kind, where, value in cases[::every]:
        yield partial(_poisoned, bench, kind, where, value)


def _poisoned(bench: Bench, kind: str, where: str, value: float) -> Result:
    with subject.folder(bench.root, f"poison-{kind}-{where}-{value}") as out:
        chosen = subject.recipe(*MODELS[kind], "adapter.dropout=0")
        outcome = subject.run(out, chosen, faults.poisoned(where, value, "row9"))
        if outcome.status:
            return Result(f"exits {outcome.status}: {outcome.notes.strip()[-160:]}", False)
        tensors = load_file(out / "adapter" / "adapter_model.safetensors")
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            return Result("weights are not finite", False)
        skipped = sum("train/skipped" in line for line in subject.metrics(out))
        final = json.loads((out / "run.json").read_text())["final"]
        if not skipped or final["skipped_steps"] != skipped:
            return Result("" if value == 3e38 and not skipped else "skipped steps are not counted", None)
        place = {"loss": "logits", "gradient": "gradient of"}.get(where) or faults.PLACES[where]
        told = [line for line in outcome.notes.splitlines() if "not finite" in line]
        places = (place, "the norm of the gradients") if value == 3e38 else (place,)
        named = len(told) == skipped and all("row9" in line and any(p in line for p in places) for line in told)
        return Result("" if named else f"told: {told[:1]}", named)


def gone_astray(bench: Bench) -> Iterator[Trial]:
    """Three steps in a row that are not finite: back to the last good checkpoint, with half the rate; then stopped."""
    for value in (math.nan, math.inf):
        for once in (True, False):
            yield partial(_astray, bench, value, once)


def _astray(bench: Bench, value: float, once: bool) -> Result:
    from dozan.train import step as steps

    def disturb() -> None:
        real, calls = steps.gradients, Counter[int]()

        def gradients(trainee: object, batch: object, total: float, step: int) -> object:
            loss = real(trainee, batch, total, step)  # type: ignore[arg-type]
            calls[step] += 1
            return loss * value if step >= 5 and (not once or calls[step] == 1) else loss

        steps.gradients = gradients  # type: ignore[assignment]

    with subject.folder(bench.root, f"astray-{value}-{once}") as out:
        outcome = subject.run(out, disturb=disturb)
        run = json.loads((out / "run.json").read_text())
        if not once:
            good = outcome.status == 2 and "not finite in 3 steps in a row" in outcome.notes
            return Result("" if good and run["recoveries"] else f"exits {outcome.status}: {outcome.notes[-160:]}", good)
        rates = [line["train/learning_rate"] for line in subject.metrics(out) if "train/loss" in line]
        slower = [each["rate_factor"] for each in run["recoveries"]] == [0.5]
        good = outcome.status == 0 and slower and run["final"]["skipped_steps"] == 3 and len(rates) == STEPS
        told = "back to the checkpoint" in outcome.notes
        return Result("" if good else f"exits {outcome.status}: {outcome.notes[-160:]}", told)


def signalled(bench: Bench, at: tuple[int, ...] = (1, 2, 5)) -> Iterator[Trial]:
    """SIGTERM and SIGINT in each phase: saved, exit 75 within 20 seconds, and gone on with bit for bit."""
    for phase in faults.PHASES:
        for number in (signal.SIGTERM, signal.SIGINT):
            for times in (at if phase in ("forward", "backward", "update", "gradients", "saving") else (1,)):
                yield partial(_signalled, bench, phase, times, number)


def _signalled(bench: Bench, phase: str, at: int, number: int) -> Result:
    with subject.folder(bench.root, f"signal-{phase}-{at}-{number}") as out:
        outcome = subject.run(out, disturb=faults.signalled(phase, at, number))
        last = phase == "the last save" or (phase == "saving" and at > STEPS // INTERVAL)
        lost, notes = bench.to_the_end(out)
        if outcome.status != 75 and not (last and outcome.status == 0):
            lost = lost or f"exits {outcome.status}"
        return Result(lost or ("too slow" if outcome.seconds > 20 else ""), None, 0, outcome.seconds)


def signalled_at_random(bench: Bench, count: int, seed: int = 1) -> Iterator[Trial]:
    """SIGTERM at a random moment; of every third a second one, which ends the process at once."""
    draw = random.Random(seed)
    for i in range(count):
        yield partial(_signalled_at_random, bench, i, draw.random())


def _signalled_at_random(bench: Bench, i: int, moment: float) -> Result:
    with subject.folder(bench.root, f"sigterm-{i}") as out:
        outcome = subject.run(out, kill_after=pace(bench).moment(moment), number=signal.SIGTERM)
        made = _steps_made(out)
        lost, notes = bench.to_the_end(out)
        resumed = outcome.status == 75 and "nothing to do" not in notes  # else it came when all was written
        back = made - _resumed_from(notes) if resumed else 0
        lost = lost or (f"{back} steps back" if back else "")
        return Result(lost, None, max(0, back), outcome.seconds, outcome.status == 75)


def starved(bench: Bench) -> Iterator[Trial]:
    """Out of memory in forward, backward and update of each step: the losses are those of the run without it."""
    for where in ("forward", "backward", "update", "amid the update"):
        for at in range(1, STEPS + 1):
            yield partial(_starved, bench, where, at)


def _starved(bench: Bench, where: str, at: int) -> Result:
    changes = ("adapter.dropout=0",)
    with subject.folder(bench.root, f"oom-{where}-{at}") as out:
        expected = bench.root / "without-dropout"
        if not (expected / "adapter").is_dir():
            subject.run(expected, subject.recipe(*changes))
        outcome = subject.run(out, subject.recipe(*changes), faults.starved(where, at))
        if outcome.status and where == "amid the update" and at <= INTERVAL:
            return Result("" if "no checkpoint to go back to" in outcome.notes else outcome.notes[-160:], True)
        if outcome.status:
            return Result(f"exits {outcome.status}: {outcome.notes.strip()[-160:]}", False)
        pairs = [(a["train/loss"], b["train/loss"]) for a, b in
                 zip(subject.metrics(out), subject.metrics(expected), strict=True) if "train/loss" in a]  # fmt: skip
        apart = max(abs(a - b) / b for a, b in pairs)
        told = "out of memory in a pack" in outcome.notes or "back to the checkpoint" in outcome.notes
        return Result("" if apart <= _OOM_RELATIVE and len(pairs) == STEPS else f"losses differ by {apart:.1e}", told)


def changed(bench: Bench) -> Iterator[Trial]:
    """Another setting, rows or base on resume: refused, with the difference shown."""
    for change in CHANGES:
        yield partial(_changed, bench, change)


def _changed(bench: Bench, change: str) -> Result:
    with subject.folder(bench.root, f"changed-{change}") as out:
        bench.stopped(out)
        outcome = subject.run(out, subject.recipe(change))
        key, _, value = change.partition("=")
        refused = outcome.status == 2 and f"{key}: the run has " in outcome.notes and value in outcome.notes
        lost, _ = bench.to_the_end(out)
        return Result(lost, refused)
