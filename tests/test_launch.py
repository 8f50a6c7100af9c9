"""Ranks that torch's launcher starts: whose words are shown, which exit status comes back, what is started again; and
`dozan train --gpus 2` as a user has it, with a rank that is killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ship_models import make_folder
from test_bad_input import conversation, leave, write_rows
from torch.distributed import HashStore

from dozan.cli import main
from dozan.errors import InputError, Interrupted
from dozan.launch import launch, supervise, without
from dozan.train import signals
from dozan.train.signals import StopRequest, leaving_at_once
from dozan.world import World
from dozan.world.environment import Place
from dozan.world.meeting import _together

SECONDS = 120.0
"""Until a process counts as hung; the machine may be busy."""


def forked(work: Callable[[], int | None], out: Path) -> int:
    """Start `work` in a process of its own whose words go to the file `out`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        status = work() or 0
    except SystemExit as error:
        status = int(error.code or 0)
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """The exit status of a child; minus the signal that ended it."""
    end = time.monotonic() + SECONDS
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(found[1])


def rank(code: str) -> list[str]:
    """A rank that is started quickly: `code` with os, signal, sys, time, its rank `r`, and `rest`, which a signal that
    comes just before it ends too."""
    rest = "def rest():\n    for _ in range(3000): time.sleep(0.02)"
    return [sys.executable, "-S", "-c", f"import os, signal, sys, time\nr = int(os.environ['RANK'])\n{rest}\n{code}"]


STATUS = "open(os.environ['DOZAN_STATUS'], 'x').write"
ONE_IS_KILLED = "os.kill(os.getpid(), 9) if r == 1 else rest()"


def test_the_first_rank_has_the_terminal_and_all_may_warn(capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise(rank("print('out', r); print('warned', r, file=sys.stderr)"), 3) == 0
    said = capfd.readouterr()
    assert said.out == "out 0\n" and sorted(said.err.splitlines()) == ["warned 0", "warned 1", "warned 2"]


def test_ranks_know_their_place_and_share_the_processors(capfd: pytest.CaptureFixture[str]) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr(os, "cpu_count", lambda: 7)
        assert supervise(rank(f"print(*(os.environ[name] for name in {names}), file=sys.stderr)"), 2) == 0
    assert sorted(capfd.readouterr().err.splitlines()) == ["0 2 0 2 localhost 3", "1 2 1 2 localhost 3"]


@pytest.mark.parametrize("status", [2, 75])
def test_a_final_status_comes_back_and_nothing_is_started_again(status: int, tmp_path: Path) -> None:
    count = f"open({str(tmp_path / 'started')!r}, 'a').write(str(r)); r or {STATUS}('{status}')"
    assert supervise(rank(count), 2, restarts=3) == status
    assert sorted((tmp_path / "started").read_text()) == ["0", "1"]


def test_bad_input_ends_it_although_another_rank_fails() -> None:
    assert supervise(rank(f"{STATUS}('2') if r == 0 else sys.exit(1)"), 2, restarts=3) == 2


def test_a_killed_rank_ends_the_others_and_is_named(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert supervise(rank(ONE_IS_KILLED), 2) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    said = capfd.readouterr().err
    assert said == "dozan: rank 1 was killed by SIGKILL; the same command goes on from the newest checkpoint\n"


def test_each_new_start_is_told_until_they_are_used_up(capfd: pytest.CaptureFixture[str]) -> None:
    assert supervise(rank(ONE_IS_KILLED), 2, restarts=2) == 1
    first, second, last = capfd.readouterr().err.splitlines()
    assert first == "dozan: rank 1 was killed by SIGKILL; all start again from the newest checkpoint (1 of 2)"
    assert second.endswith("(2 of 2)")
    assert last.startswith("dozan: rank 1 was killed by SIGKILL, and 2 restarts are used up;")
    assert supervise(rank("sys.exit(3 * r)"), 2) == 1
    assert "dozan: rank 1 ended with exit status 3;" in capfd.readouterr().err


def test_what_a_rank_left_before_a_new_start_is_not_the_last_word(tmp_path: Path) -> None:
    """A rank that the launcher ends because of another one takes this for a stop that was asked for."""
    mark = str(tmp_path / "second")
    first = f"""
if os.path.exists({mark!r}): sys.exit(0)
if r == 1:
    time.sleep(0.3); open({mark!r}, 'w'); os.kill(os.getpid(), 9)
signal.signal(signal.SIGTERM, lambda *_: ({STATUS}('75'), os._exit(0)))
rest()"""
    assert supervise(rank(first), 2, restarts=1) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_every_rank_and_their_status_comes_back(number: signal.Signals, tmp_path: Path) -> None:
    works = f"""
def stop(number, frame):
    open({str(tmp_path)!r} + f'/{{r}}-{{number}}', 'w')
    r or {STATUS}('75')
    sys.exit(0)
signal.signal(signal.{number.name}, stop)
open({str(tmp_path)!r} + f'/ready-{{r}}', 'w')
rest()"""
    child = forked(lambda: supervise(rank(works), 2, restarts=3), tmp_path / "said")
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    os.kill(child, number)
    assert ended(child) == 75
    assert {path.name for path in tmp_path.glob(f"*-{number.value}")} == {f"{r}-{number.value}" for r in (0, 1)}
    assert (tmp_path / "said").read_text() == ""


def test_a_stop_before_a_rank_can_say_anything_is_resumable_too(tmp_path: Path) -> None:
    child = forked(lambda: supervise(rank(f"open({str(tmp_path)!r} + f'/ready-{{r}}', 'w'); rest()"), 2),
                   tmp_path / "said")  # fmt: skip
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    os.kill(child, signal.SIGTERM)
    assert ended(child) == 75
    assert "dozan: SIGTERM: the ranks ended before they could say where" in (tmp_path / "said").read_text()


def test_a_wish_to_save_reaches_every_rank(tmp_path: Path) -> None:
    works = f"""
signal.signal(signal.SIGUSR1, lambda number, frame: (open({str(tmp_path)!r} + f'/saved-{{r}}', 'w'), sys.exit(0)))
open({str(tmp_path)!r} + f'/ready-{{r}}', 'w')
rest()"""
    child = forked(lambda: supervise(rank(works), 2), tmp_path / "said")
    wait_for(lambda: len(list(tmp_path.glob("ready-*"))) == 2)
    os.kill(child, signal.SIGUSR1)
    assert ended(child) == 0 and len(list(tmp_path.glob("saved-*"))) == 2


def test_signals_and_logs_are_as_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)]
    assert supervise(rank("pass"), 1) == 0
    assert before == [signal.getsignal(number) for number in signal.valid_signals() if number not in (9, 19)]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_ranks_that_are_started_again_do_not_meet_those_before_them() -> None:
    """A machine's own count of restarts may lag behind, and torchrun's store keeps what the first start has written."""
    store, (first, second) = HashStore(), [Place(rank, 2, 0, 1, "n1", 1) for rank in (0, 1)]
    with ThreadPoolExecutor(1) as pool:
        before = pool.submit(_together, store, second, SECONDS)
        old = _together(store, first, SECONDS)
        before.result(SECONDS)
        came = old.get("here/1")
        again = pool.submit(_together, store, second, SECONDS)  # it meets the first start's part, for it is early
        wait_for(lambda: old.get("here/1") != came)
        _together(store, first, SECONDS).set("said", "second")
        assert again.result(SECONDS).get("said") == b"second"
    with pytest.raises(InputError, match="rank 0 of 2 did not come"):
        _together(store, second, 0.1)


# What cannot be launched


def test_a_port_in_use_is_named_with_a_free_one() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        with pytest.raises(InputError, match=rf"--port {port} is in use; .* such as \d+,"):
            supervise(rank("pass"), 2, port=port)
    assert supervise(rank("pass"), 1, port=port) == 0


def test_ranks_cannot_be_launched_within_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="--gpus 2: this process is one rank of several already"):
        launch(["--version"], 2)


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(InputError, match="--gpus 3: GPUs here are 2; take --gpus 2,"):
        launch(["--version"], 3)


@pytest.mark.parametrize("option", [("--restarts", "1"), ("--port", "29500")])
def test_what_is_for_several_ranks_is_refused_for_one(option: tuple[str, str], capsys: Any, tmp_path: Path) -> None:
    assert leave(["train", "--data", str(tmp_path / "rows.jsonl"), *option]) == 2
    assert f"{option[0]} is for several ranks: give --gpus 2" in capsys.readouterr().err


def test_a_command_line_without_its_launch() -> None:
    given = ["train", "--gpus", "8", "--data", "a.jsonl", "--port=29500", "--restarts", "0", "--set", "x=--gpus"]
    assert without(given, ("--gpus", "--restarts", "--port")) == ["train", "--data", "a.jsonl", "--set", "x=--gpus"]
    assert without(["train", "--gpus"], ("--gpus",)) == ["train"]


# A stop that a rank hears of twice


def twice(size: int, echo_seconds: float, stops: Callable[[], object]) -> int:
    signals.current = lambda: World(0, size)  # type: ignore[attr-defined, assignment]
    signals._ECHO_SECONDS = echo_seconds
    try:
        stops()
    except Interrupted:
        os.kill(os.getpid(), signal.SIGTERM)
        return 7
    return 1


def stopped_between_steps() -> None:
    with leaving_at_once():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_within_a_step() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(8 if stop.requested == "SIGTERM" else 1)


@pytest.mark.parametrize(
    ("size", "echo_seconds", "stops", "status"),
    [
        (2, 60.0, stopped_within_a_step, 8), (2, 0.0, stopped_within_a_step, 143),
        (1, 60.0, stopped_within_a_step, 143), (2, 60.0, stopped_between_steps, -15),
        (2, 0.0, stopped_between_steps, 143), (1, 60.0, stopped_between_steps, 143),
    ],
)  # fmt: skip
def test_a_second_signal_leaves_at_once_unless_a_rank_hears_an_echo(
    size: int, echo_seconds: float, stops: Callable[[], object], status: int, tmp_path: Path
) -> None:
    assert ended(forked(lambda: twice(size, echo_seconds, stops), tmp_path / "said")) == status


# dozan train --gpus 2

STEPS = 24
SETTINGS = (
    "train.dtype=float32", f"train.max_steps={STEPS}", "train.save_steps=6", "train.eval_steps=12", "adapter.rank=4",
    "train.batch_size=4", "train.learning_rate=0.001", "data.holdout=0.3",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base, ragged rows, and `alone`: the run of one process."""
    place = tmp_path_factory.mktemp("launch")
    make_folder(place / "base", num_hidden_layers=2)
    write_rows(place / "rows.jsonl", *(conversation(said=f"مؤقت {i} دقائق " + "الآن " * (i % 5)) for i in range(16)))
    assert leave(command(place, "alone")) == 0
    return place


def command(place: Path, out: str, *more: str, rows: str = "rows.jsonl") -> list[str]:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    return ["train", "--model", str(place / "base"), "--data", str(place / rows), "--out", str(place / out), *settings,
            *more]  # fmt: skip


def require_same_losses(one: Path, other: Path) -> None:
    """Every loss of one run, by step and name, is the other's within 1e-6."""
    first, second = losses(one), losses(other)
    assert first == {name: pytest.approx(loss, rel=1e-6, abs=1e-6) for name, loss in second.items()}


def losses(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("train/loss", "eval/loss")
    return {f"{line['step']} {name}": line[name] for line in lines for name in names if name in line}


def begun(run: Path, steps: int = 8) -> None:
    """Wait until a run has made some steps."""
    path = run / "metrics.jsonl"
    wait_for(lambda: path.is_file() and len(path.read_bytes().splitlines()) >= steps)


def rank_of(launcher: int, number: int) -> int:
    """The process of a rank."""
    lists = Path(f"/proc/{launcher}/task").glob("*/children")
    children = [child for path in lists for child in path.read_text().split()]
    (found,) = (c for c in children if f"\0RANK={number}\0".encode() in Path(f"/proc/{c}/environ").read_bytes())
    return int(found)


def test_a_killed_rank_costs_no_more_than_the_steps_since_the_checkpoint(place: Path) -> None:
    child = forked(lambda: main(command(place, "killed", "--gpus", "2")), place / "said")
    begun(place / "killed")
    os.kill(rank_of(child, 1), signal.SIGKILL)
    assert ended(child) == 0, (place / "said").read_text()
    said = (place / "said").read_text().splitlines()
    assert said[0] == "no GPU here: 2 ranks on the CPU (gloo)"
    told = "dozan: rank 1 was killed by SIGKILL; all start again from the newest checkpoint (1 of 3)"
    assert sum(line.startswith("dozan: rank 1") for line in said) == 2 and told in said
    assert sum(line.startswith(f"step {STEPS}/{STEPS} ") for line in said) == 1
    require_same_losses(place / "killed", place / "alone")


def test_a_stop_is_saved_and_one_process_goes_on_with_what_two_began(place: Path) -> None:
    child = forked(lambda: main(command(place, "stopped", "--gpus", "2")), place / "said")
    begun(place / "stopped")
    asked = time.monotonic()
    os.kill(child, signal.SIGTERM)
    assert ended(child) == 75 and time.monotonic() - asked < 20
    said = (place / "said").read_text().splitlines()
    stops = [line for line in said if "SIGTERM" in line]
    assert len(stops) == 1 and "saved in" in stops[0] and "Traceback" not in said
    assert leave(["resume", str(place / "stopped")]) == 0
    require_same_losses(place / "stopped", place / "alone")


def test_bad_rows_are_told_once(place: Path) -> None:
    write_rows(place / "bad.jsonl", conversation(), {"messages": [{"role": "usr", "content": "x"}]})
    child = forked(lambda: main(command(place, "bad", "--gpus", "2", rows="bad.jsonl")), place / "said")
    assert ended(child) == 2
    assert (place / "said").read_text().count("bad.jsonl:2: messages[0].role: unknown role 'usr'") == 1
