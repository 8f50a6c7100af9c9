"""Ranks of one run on this machine: started, watched and started again by torch's own elastic launcher.

torchrun gives 1 for every failure, and starts again what bad input has ended. Here the run's own exit status comes
back: a rank that ends for good leaves it in a file (dozan/world/status.py), and each new start is told in a line.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from torch.distributed.elastic.multiprocessing import LogsDest, LogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from dozan.errors import InputError
from dozan.world.environment import place_of
from dozan.world.meeting import free_port
from dozan.world.status import STATUS

BAD_INPUT, INTERRUPTED = 2, 75
_DEATH = (signal.SIGTERM, signal.SIGINT)


def launch(arguments: Sequence[str], gpus: int, restarts: int = 0, port: int | None = None) -> int:
    """Run `python -m dozan ARGUMENTS` as so many ranks of this machine; the run's exit status, as `supervise` has it.

    Raises InputError when there are fewer GPUs, when the port is taken, and within a rank.
    """
    require_ranks(gpus)
    return supervise([sys.executable, "-m", "dozan", *arguments], gpus, restarts, port)


def supervise(command: Sequence[str], gpus: int, restarts: int = 0, port: int | None = None) -> int:
    """Run a command as so many ranks; 0, what a rank has left as its status, 75 after a signal, else 1.

    A rank that is killed, or fails other than by bad input, ends all of them, and they start again, `restarts` times at
    most. SIGTERM and SIGINT reach every rank, which then has 30 seconds to save, and SIGUSR1 does too. port: where they
    meet; None for one that is free. Of the standard outputs only the first rank's is shown.
    """
    told = ""
    with tempfile.TemporaryDirectory(prefix="dozan-ranks-") as folder, _signals(), _silent():
        status = Path(folder)
        try:
            for attempt in range(restarts + 1):
                status = Path(folder) / str(attempt)
                failure = _attempt(command, gpus, status, port)
                left = _left(status)
                if failure is None or left == BAD_INPUT:
                    return left
                told = f"rank {failure[0]} {_how(failure[1])}"
                if attempt < restarts:
                    _say(f"{told}; all start again from the newest checkpoint ({attempt + 1} of {restarts})")
        except SignalException as error:
            return _stopped(status, error.sigval)
    used_up = f", and {restarts} restarts are used up" * bool(restarts)
    _say(f"{told}{used_up}; the same command goes on from the newest checkpoint")
    return 1


def require_ranks(gpus: int) -> None:
    """Raises InputError when so many ranks cannot be started here. Where there is no GPU at all they run on the CPU."""
    import torch

    if place_of(os.environ) is not None:
        raise InputError(f"--gpus {gpus}: this process is one rank of several already (RANK, WORLD_SIZE); leave --gpus "
                         "out, the launcher says how many there are")  # fmt: skip
    there = torch.cuda.device_count()
    if 0 < there < gpus:
        raise InputError(f"--gpus {gpus}: GPUs here are {there}; take --gpus {there}, or more machines with torchrun")
    if not there:
        print(f"no GPU here: {gpus} ranks on the CPU (gloo)", flush=True)


def without(arguments: Sequence[str], options: Sequence[str]) -> list[str]:
    """A command line without some options and their values."""
    kept: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in options:
            next(given, None)
        elif argument.partition("=")[0] not in options:
            kept.append(argument)
    return kept


def _attempt(command: Sequence[str], gpus: int, status: Path, port: int | None) -> tuple[int, ProcessFailure] | None:
    """Start the ranks and wait for them. The rank that failed first, if one did."""
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=gpus, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint=f"localhost:{port or 0}", rdzv_configs={"timeout": 60, "is_host": True}, max_restarts=0,
        monitor_interval=0.1, local_addr="localhost", logs_specs=_Started(status, gpus),
    )  # fmt: skip
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        return error.get_first_failure()
    except RendezvousConnectionError:
        if port is None:
            raise
        raise InputError(f"--port {port} is in use; take another one, such as {free_port()}, or leave --port out"
                         ) from None  # fmt: skip
    return None


class _Started(LogsSpecs):
    """What each rank is started with: the terminal for what it says, and where it leaves its exit status."""

    def __init__(self, status: Path, gpus: int) -> None:
        super().__init__()
        wanted = {
            "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // gpus)),
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # a lost rank is told by those that are left, not by stacks of C++
        }  # fmt: skip
        self._given = {STATUS: str(status), **{name: os.environ.get(name, value) for name, value in wanted.items()}}

    def reify(self, envs: Mapping[int, dict[str, str]]) -> LogsDest:
        for environment in envs.values():
            environment |= self._given
        terminal, nowhere = "", os.devnull
        return LogsDest(
            stdouts={rank: nowhere if rank else terminal for rank in envs}, stderrs=dict.fromkeys(envs, terminal),
            error_files=dict.fromkeys(envs, nowhere),
        )  # fmt: skip

    @property
    def root_log_dir(self) -> str:
        return os.devnull


@contextmanager
def _signals() -> Iterator[None]:
    """Within it a stop that is asked for before any rank runs is raised as the launcher raises it later, and SIGUSR1
    goes to the ranks that train."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SignalException(f"signal {number}", signal.Signals(number))

    def save(number: int, frame: FrameType | None) -> None:
        for child in _children():
            if _catches(child, number):
                os.kill(child, number)

    numbers = (*_DEATH, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in _DEATH:
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, save)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _children() -> list[int]:
    """The processes that this one has started."""
    found = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return [int(name) for names in found for name in names]


def _catches(process: int, number: int) -> bool:
    """Whether a process has a handler of a signal, which would end it otherwise."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has just ended
        return False
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


@contextmanager
def _silent() -> Iterator[None]:
    """Within it torch's launcher logs nothing: what there is to tell is told here."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _left(status: Path) -> int:
    """The exit status that a rank has left; 0 when all ended well."""
    return int(status.read_text(encoding="utf-8") or 0) if status.is_file() else 0


def _stopped(status: Path, number: signal.Signals) -> int:
    left = _left(status)
    if not left:
        _say(f"{number.name}: the ranks ended before they could say where; the same command goes on")
    return left or INTERRUPTED


def _how(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        return f"was killed by {failure.signal_name()}"
    return f"ended with exit status {failure.exitcode}"


def _say(text: str) -> None:
    print(f"dozan: {text}", file=sys.stderr, flush=True)
