"""Trials of what a run keeps beside its checkpoints: the model of a run that trains every weight, and `best/`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dozan.errors import InputError
from torture import subject
from torture.trials import OFFSETS, Bench, Result, Trial, damage

SCORED = ["train.batch_size=8", "train.max_steps=3", "score.rows=2", "score.steps=2", "score.max_new_tokens=8",
          "adapter.rank=4"]  # fmt: skip


def _damages(folder: Path, offsets: int) -> Iterator[tuple[str, str, int]]:
    """Every file of a folder: a flipped bit and a cut at so many offsets, and removed."""
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        for offset in sorted({size * i // offsets for i in range(offsets)}):
            yield path.name, "flip", offset
            yield path.name, "cut", offset
        yield path.name, "removed", 0


def damaged_model(bench: Bench, offsets: int = OFFSETS) -> Iterator[Trial]:
    """The model of a finished run that trains every weight: refused when it is opened, and written anew."""
    base, made = bench.root / "base-of-full", bench.root / "full"
    if not made.is_dir():
        from ship_models import make_folder
        from test_full import run

        make_folder(base)
        run(made, base)
    for name, kind, offset in _damages(made / "model", offsets):
        yield partial(_damaged_model, bench, name, kind, offset)


def _damaged_model(bench: Bench, name: str, kind: str, offset: int) -> Result:
    from test_full import run

    from dozan.model.bundle import open_model

    made = bench.root / "full"
    with subject.folder(bench.root, f"model-{name}-{kind}-{offset}") as out:
        shutil.copytree(made, out, dirs_exist_ok=True)
        damage(out / "model" / name, kind, offset)
        refused = False
        try:
            open_model(out)
        except InputError as error:
            refused = name in str(error)
        _, events = run(out, bench.root / "base-of-full")
        files = [path.name for path in (made / "model").iterdir()]
        wrong = [each for each in files if (out / "model" / each).read_bytes() != (made / "model" / each).read_bytes()]
        return Result(", ".join(wrong), refused and name in events.notes())


def damaged_best(bench: Bench, offsets: int = OFFSETS) -> Iterator[Trial]:
    """The best adapter of an unfinished run: told, and never given to the model; the best is chosen anew."""
    made = bench.root / "scored"
    if not made.is_dir():
        from dozan.demo import TEST
        from dozan.rows.readers import read_rows
        from dozan.train.loop import train

        rows = read_rows(TEST)[:24]
        train(rows[:16], None, made, overrides=SCORED, eval_data=rows[16:], on_event=lambda event: None)
    (kept,) = (made / "best").iterdir()
    for name, kind, offset in _damages(kept, offsets):
        yield partial(_damaged_best, bench, f"{kept.name}/{name}", kind, offset)


def _damaged_best(bench: Bench, name: str, kind: str, offset: int) -> Result:
    from dozan.train.scoring import settle_best
    from dozan.train.state import STATE, Progress

    notes = list[str]()
    with subject.folder(bench.root, f"best-{name.replace('/', '-')}-{kind}-{offset}") as out:
        shutil.copytree(bench.root / "scored", out, dirs_exist_ok=True)
        state = json.loads((max((out / "checkpoints").iterdir()) / STATE).read_bytes())
        progress = Progress(**{key: value for key, value in state.items() if key in Progress.__dataclass_fields__})
        assert progress.best_step is not None
        damage(out / "best" / name, kind, offset)
        after = settle_best(out, progress, lambda event: notes.append(event["text"]))
        left = "" if after.best_step is None and after.best_score is None else "a damaged best counts"
        return Result(left, any(f"the best of step {progress.best_step} is not in" in text for text in notes))
