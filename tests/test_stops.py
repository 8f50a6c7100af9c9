"""Signals in every phase, and a run that hangs: saved, exit 75, gone on with bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ship_models import make_folder
from test_bad_input import conversation, leave, write_rows
from test_keeper import equal
from test_train import metrics, recipe, run

import dozan
from dozan.errors import Interrupted
from dozan.train import evaluation, gather, kept_rows, loop, passes, prepare, scoring, state
from dozan.train.signals import Stopped, StopRequest, leaving_at_once
from dozan.train.watchdog import STACKS, Watchdog

ROOT = Path(__file__).parents[1]
CHOSEN = recipe("train.save_steps=3", "train.eval_steps=2", "train.micro_batch_size=2")


def signalling(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, at: int, number: int = signal.SIGTERM
) -> list[int]:
    """Send this process a signal as a function is called for the n-th time."""
    real, calls = getattr(module, name), list[int]()

    def called(*args: Any, **more: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), number)
        return real(*args, **more)

    monkeypatch.setattr(module, name, called)
    return calls


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    run(out, CHOSEN)
    return out


@pytest.mark.parametrize(("module", "name", "at"), [
    (passes, "_loss", 4), (passes, "_back", 3), (evaluation, "evaluation_loss", 2), (passes, "batch_loss", 8),
    (state, "save_adapter", 2), (state, "save_checkpoint", 1), (loop, "evaluated", 4),
])  # fmt: skip
def test_a_signal_in_each_phase(
    module: Any, name: str, at: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="SIGTERM: stopped after step"):
        signalling(patch, module, name, at)
        run(tmp_path / "run", CHOSEN)
    run(tmp_path / "run", CHOSEN)
    assert equal(tmp_path / "run", undisturbed)


def test_an_evaluation_that_was_cut_short_is_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no checkpoint due at that step, twice in a row, and at the last step."""
    chosen = recipe("train.save_steps=9", "train.eval_steps=4")
    run(tmp_path / "whole", chosen)
    for at in (1, 1, 3, 1):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            signalling(patch, evaluation, "evaluation_loss", at)
            run(tmp_path / "run", chosen)
    kept = max((tmp_path / "run" / "checkpoints").iterdir())
    assert kept.name == "step-000009" and json.loads((kept / "state.json").read_text())["owed"] is True
    run(tmp_path / "run", chosen)
    assert equal(tmp_path / "run", tmp_path / "whole")
    assert [line["step"] for line in metrics(tmp_path / "run") if "eval/loss" in line] == [4, 8, 9]


def test_what_is_owed_but_no_longer_due_does_not_hold_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signalling(patch, evaluation, "evaluation_loss", 1)
        run(tmp_path, recipe("train.eval_steps=4"))
    assert run(tmp_path, recipe("train.eval_steps=5"))[0].steps == 9


def test_only_the_first_signal_waits() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.save and stop.requested is None and list(stop.through([1, 2])) == [1, 2]
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            list(stop.through([1]))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("given")
    said = ["مؤقت 5 دقائق", "ذكرني بعد 5 دقائق", "خلي المؤقت 5", "5 دقائق للشاي", "ابدأ العد 5", "بدي مؤقت 5"]
    rows = [{"id": str(i), **conversation(said=text)} for i, text in enumerate(said)]
    return make_folder(folder / "base"), write_rows(folder / "rows.jsonl", *rows)


SHORT = ["train.max_steps=3", "train.batch_size=2", "adapter.rank=4", "data.holdout=0.4", "score.rows=2",
         "score.steps=2", "score.max_new_tokens=4"]  # fmt: skip


def trained(given: tuple[Path, Path], out: Path) -> Path:
    dozan.train(given[1], given[0], out, overrides=SHORT, on_event=lambda event: None)
    return out


@pytest.fixture(scope="module")
def whole(given: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(given, tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.parametrize(("module", "name", "at"), [
    (loop, "prepare", 1), (prepare, "gather_rows", 1), (gather, "_encode", 1), (prepare, "open_model", 1),
    (prepare, "attach", 1), (loop, "fitted", 1), (kept_rows, "write_split", 1), (loop, "restore_state", 1),
    (scoring, "generate", 1), (scoring, "score_rows", 1), (loop, "take_best", 1), (loop, "save_final", 1),
])  # fmt: skip
def test_from_the_rows_to_the_last_file(
    module: Any, name: str, at: int, given: tuple[Path, Path], whole: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        called = signalling(patch, module, name, at)
        if name in ("take_best", "save_final"):  # so close to the end it is brought to it
            trained(given, tmp_path / "run")
        else:
            with pytest.raises(Interrupted, match="SIGTERM"):
                trained(given, tmp_path / "run")
    assert called
    trained(given, tmp_path / "run")
    assert equal(tmp_path / "run", whole)
    scores = [[line["step"] for line in metrics(each) if "score/rows" in line] for each in (tmp_path / "run", whole)]
    assert scores[0] == scores[1] and len(scores[0]) == 2


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    with pytest.raises(Interrupted), leaving_at_once(), StopRequest():
        raise Interrupted
    with pytest.raises(Interrupted, match="SIGINT: stopped between steps"), leaving_at_once():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before


def test_resume_goes_on_and_says_what_it_lacks(
    given: tuple[Path, Path], whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signalling(patch, scoring, "score_rows", 1)
        trained(given, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert leave(["resume", "run"]) == 0
    assert "resuming from step 2" in capsys.readouterr().out and equal(tmp_path / "run", whole)
    assert leave(["resume", "run"]) == 0 and "nothing to do" in capsys.readouterr().out
    assert leave(["resume", "absent"]) == 2 and "absent holds no run" in capsys.readouterr().err
    (tmp_path / "run" / "recipe.yaml").unlink()
    assert leave(["resume", "run"]) == 2 and "give the command of the run again" in capsys.readouterr().err


def test_a_run_begun_from_python_wants_its_rows(
    given: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dozan.rows.readers import read_rows

    dozan.train(read_rows(given[1]), given[0], tmp_path, overrides=SHORT, on_event=lambda event: None)
    assert leave(["resume", str(tmp_path)]) == 2 and "rows in memory" in capsys.readouterr().err
    assert leave(["resume", str(tmp_path), "--data", str(given[1])]) == 0


HANGS = """
import sys, time
sys.path.insert(0, "tests")
from test_train import recipe, run
from dozan.errors import Interrupted
from dozan.train import loop, step, watchdog
watchdog._FIRST = 1
real = loop.Watchdog
loop.Watchdog = lambda out, stop, limit: real(out, stop, limit, grace_seconds=6.0)
gradients, calls = step.gradients, []
def hanging(*args):
    calls.append(1)
    if len(calls) == 6:
        for _ in range(int(float(sys.argv[2]) * 20)):
            time.sleep(0.05)
    return gradients(*args)
step.gradients = hanging
try:
    run(__import__("pathlib").Path(sys.argv[1]), recipe("train.save_steps=2", "train.stall_minutes=0.01"))
except Interrupted as stopped:
    print(stopped)
    sys.exit(75)
"""


@pytest.mark.parametrize(("seconds", "told"), [(60.0, "did not answer"), (3.0, "stopped after step 5")])
def test_a_run_that_hangs_leaves_its_stacks_and_a_checkpoint(seconds: float, told: str, tmp_path: Path) -> None:
    """One that never answers is ended; one that does saves what it has."""
    done = subprocess.run([sys.executable, "-c", HANGS, str(tmp_path / "run"), str(seconds)], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)  # fmt: skip
    assert done.returncode == 75, done.stderr
    assert told in done.stdout + done.stderr and "nothing ended for" in done.stderr
    assert "hanging" in (tmp_path / "run" / STACKS).read_text()
    whole = recipe("train.save_steps=2")
    run(tmp_path / "run", whole)
    run(tmp_path / "whole", whole)
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_signs_of_life_keep_the_watchdog_quiet(tmp_path: Path) -> None:
    with StopRequest() as stop, Watchdog(tmp_path, stop, 0.4):
        for _ in range(20):
            time.sleep(0.05)
            stop.check()
    assert stop.requested is None and not (tmp_path / STACKS).exists()


def test_a_slow_run_is_given_ten_of_its_own_steps(tmp_path: Path) -> None:
    watch = Watchdog(tmp_path, StopRequest(), 5.0)
    assert watch.allowed() == 15.0, "the first step compiles"
    for gap in (2.0, 2.0, 2.0):
        watch._gaps.append(gap)
    assert watch.allowed() == 20.0
    watch._gaps.extend([0.01] * 9)
    assert watch.allowed() == 5.0


def test_a_process_that_was_suspended_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom dozan.train.signals import StopRequest\n"
        "from dozan.train.watchdog import Watchdog\n"
        "with StopRequest() as stop, Watchdog(Path(sys.argv[1]), stop, 0.5):\n"
        "    print('ready', flush=True)\n    for _ in range(80):\n        time.sleep(0.05)\n        stop.check()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGSTOP)
    time.sleep(2)
    child.send_signal(signal.SIGCONT)
    assert child.wait(60) == 0 and not (tmp_path / STACKS).exists()

