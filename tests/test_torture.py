"""A sample of the torture, and that its trials see what they are for: each guard taken away makes one of them fail."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torture import faults, finals, subject, trials
from torture.trials import Bench, Result, Trial

from dozan.rows import files, kept
from dozan.train import checkpoint, health, optim, recorded, retry, run, signals, state, step

pytestmark = pytest.mark.skipif(torch.get_num_threads() > 1 and os.environ.get("OMP_NUM_THREADS") != "1",
                                reason="processes are forked: OMP_NUM_THREADS=1")  # fmt: skip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("torture")
    subject.train(root / "warm", subject.recipe())
    return Bench(root, subject.reference(root))


SAMPLES: dict[str, tuple[Callable[[Bench], Iterator[Trial]], int]] = {
    "killed": (lambda bench: trials.killed_at_random(bench, 8, seed=7), 1),
    "killed in a write": (trials.killed_at_each_write, 29),
    "killed, written behind": (lambda bench: trials.killed_writing_behind(bench, 4), 1),
    "only the mirror left": (lambda bench: trials.only_the_mirror_is_left(bench, 4), 1),
    "signalled": (lambda bench: trials.signalled(bench, (1,)), 3),
    "damaged": (trials.damaged, 37),
    "damaged result": (trials.damaged_result, 17),
    "damaged rows": (trials.damaged_rows, 31),
    "damaged model": (finals.damaged_model, 61),
    "damaged best": (finals.damaged_best, 41),
    "disk full": (trials.full_at_each_write, 47),
    "poisoned": (trials.poisoned, 13),
    "astray": (trials.gone_astray, 2),
    "starved": (trials.starved, 9),
    "changed": (trials.changed, 4),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_of_the_torture(name: str, bench: Bench) -> None:
    make, every = SAMPLES[name]
    for trial in itertools.islice(make(bench), 0, None, every):
        result = trial()
        assert not result.lost and result.found is not False, (trial, result)


def nothing(*args: Any, **more: Any) -> None:
    """What a guard does when it is not there."""


def newest(root: Path, *more: Any) -> checkpoint.Found:
    """The newest checkpoint, whatever is in it."""
    found = checkpoint.checkpoints(root)
    return checkpoint.Found(found[0][1], found[0][0], ()) if found else checkpoint.Found(None, 0, ())


def unsealed(final: Path, write: Callable[[Path], None]) -> None:
    """A checkpoint written in its place, and without a manifest."""
    final.mkdir(exist_ok=True)
    write(final)


def deaf(self: signals.StopRequest, number: int, frame: object) -> None:
    """A signal that nobody acts on."""


def updated_anyway(self: optim.AdamW, skip: object = None) -> None:
    REAL_STEP(self, None)


REAL_STEP = optim.AdamW.step
NAN = float("nan")
OPTIMIZER = Path("checkpoints/step-000006/optimizer.safetensors")
GUARDS: dict[str, tuple[Any, str, Any, Callable[[Bench], Result]]] = {
    "checkpoints are compared with their manifest": (
        state, "newest_valid", newest, lambda bench: trials._damaged(bench, OPTIMIZER, "flip", 9000)),
    "checkpoints are staged": (
        checkpoint, "write_folder", unsealed, lambda bench: trials._killed_writing(bench, 60)),
    "the record has a hash": (
        kept, "digest", lambda run: "x", lambda bench: trials._damaged(bench, Path("run.json"), "flip", 2100)),
    "figures are kept in checkpoints": (
        state, "_restore_metrics", nothing, lambda bench: trials._damaged(bench, Path("metrics.jsonl"), "cut", 300)),
    "a finished adapter is compared": (
        run, "final_problem", nothing,
        lambda bench: trials._damaged_result(bench, "adapter_model.safetensors", "cut", 99)),
    "the record names the manifest": (
        kept, "problem", nothing, lambda bench: trials._damaged_result(bench, "manifest.json", "removed", 0)),
    "divided rows are compared": (
        files, "require_kept", nothing, lambda bench: trials._damaged_rows(bench, "train.jsonl", "flip", 99)),
    "damaged rows are written anew": (
        recorded, "mend_rows", nothing, lambda bench: trials._damaged_rows(bench, "tools.json", "cut", 9)),
    "settings are compared": (
        run, "require_same", nothing, lambda bench: trials._changed(bench, "train.learning_rate=0.02")),
    "lack of memory is known": (
        retry, "is_out_of_memory", lambda error: False, lambda bench: trials._starved(bench, "update", 3)),
    "bad steps are skipped": (
        optim.AdamW, "step", updated_anyway, lambda bench: trials._poisoned(bench, "LoRA", "gradient", NAN)),
    "bad steps are explained": (
        health, "_place", lambda *args: "?", lambda bench: trials._poisoned(bench, "LoRA", "mlp", NAN)),
    "many bad steps end the run": (
        step, "require_few_skipped", nothing, lambda bench: trials._astray(bench, NAN, False)),
    "signals are heard": (
        signals.StopRequest, "_handle", deaf, lambda bench: trials._signalled(bench, "forward", 2, 15)),
    "a mirror is asked": (subject, "fetch", lambda *args: [], lambda bench: from_the_mirror(bench)),
}  # fmt: skip


def from_the_mirror(bench: Bench) -> Result:
    """A run that was stopped, and of which only the mirror is left, begins after what was saved."""
    with subject.folder(bench.root, "lost") as root:
        out, chosen = root / "run", subject.recipe(f"train.mirror={root / 'there'}")
        subject.run(out, chosen, faults.signalled("gradients", 6))
        shutil.rmtree(out)
        notes = subject.run(out, chosen).notes
        return Result(subject.same(out, bench.expected), "resuming from step 5" in notes)


@pytest.mark.parametrize("name", GUARDS)
def test_each_guard_is_missed(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, attribute, without, trial = GUARDS[name]
    bench.stopped(bench.root / "made before")
    assert not missed(trial(bench)), "the trial fails with the guard"
    monkeypatch.setattr(module, attribute, without)
    assert missed(trial(bench)), "the trial does not see that the guard is gone"


def missed(result: Result) -> bool:
    return bool(result.lost) or result.found is False
