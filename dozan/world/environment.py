"""What the environment says of this process: which rank of how many it is, or that its launcher is none for ranks.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT; accelerate, deepspeed and Ray
set the same. mpirun and srun alone do not: every process would train the whole run, all into one folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dozan.errors import InputError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOCAL = ("localhost", "127.0.0.1", "::1")
_TORCHRUN = "torchrun --nproc-per-node {0} -m dozan …"
_PORTS = 65536
_WHOLE_JOBS = ("batch", "interactive", "4294967290", "4294967291")
"""Slurm's names of the steps that a job's own shell runs in: one process, whatever the job's number of tasks."""


@dataclass(frozen=True)
class Place:
    """One rank of several. rank: 0 … size - 1; local_rank: the same on its own machine, of `local_size` as far as the
    launcher says; address, port: where the first rank is met."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int


def place_of(environment: Mapping[str, str]) -> Place | None:
    """This process's place among the ranks of a run; None when it is alone.

    Raises InputError for variables that are missing, are no numbers or contradict each other, and where another
    launcher has started several processes without them.
    """
    if not any(environment.get(name) for name in ("RANK", "WORLD_SIZE")):
        _require_no_other_launcher(environment)
        return None
    if environment.get("WORLD_SIZE") == "1" and environment.get("RANK", "0") == "0":
        return None
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        given = ", ".join(f"{name}={environment[name]}" for name in _NEEDED if environment.get(name))
        raise InputError(f"the environment has {given}, but no {', '.join(missing)}: a rank needs all four; start "
                         "ranks with torchrun --nproc-per-node 2 -m dozan …, which sets them, or unset what is left "
                         "over")  # fmt: skip
    size, port = _number(environment, "WORLD_SIZE", 1), _number(environment, "MASTER_PORT", 1, _PORTS)
    rank = _number(environment, "RANK", 0)
    if rank >= size:
        raise InputError(f"RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {size - 1}")
    if size == 1:
        return None
    address = environment["MASTER_ADDR"]
    local_rank = _local_rank(environment, size)
    known = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if environment.get(name)), None)
    if known is None:
        return Place(rank, size, local_rank, size if address in _LOCAL else local_rank + 1, address, port)
    local_size = _number(environment, known, 1)
    if local_rank >= local_size or local_size > size:
        raise InputError(f"LOCAL_RANK is {local_rank}, {known} {local_size} and WORLD_SIZE {size}: a machine's ranks "
                         f"go from 0 to {known} - 1, and are no more than WORLD_SIZE")  # fmt: skip
    return Place(rank, size, local_rank, local_size, address, port)


def require_devices(place: Place, gpus: int) -> None:
    """Raises InputError when this rank has no GPU of its own among the `gpus` of its machine; 0 is for the CPU."""
    if gpus and place.local_rank >= gpus:
        raise InputError(f"rank {place.rank}: LOCAL_RANK is {place.local_rank}, counted from 0, and GPUs here are "
                         f"{gpus}; one rank a GPU: start with --nproc-per-node {gpus}, or show more "
                         "(CUDA_VISIBLE_DEVICES)")  # fmt: skip


def _local_rank(environment: Mapping[str, str], size: int) -> int:
    if environment.get("LOCAL_RANK"):
        return _number(environment, "LOCAL_RANK", 0, size)
    if environment.get("LOCAL_WORLD_SIZE") == "1":
        return 0
    raise InputError("LOCAL_RANK is missing: which of its machine's ranks this one is, from 0; torchrun sets it. Where "
                     "each machine runs one rank: LOCAL_RANK=0")  # fmt: skip


def _number(environment: Mapping[str, str], name: str, least: int, end: int | None = None) -> int:
    """A variable's whole number, from `least` to below `end`."""
    text = environment[name]
    found = int(text) if text.isascii() and text.isdigit() else -1
    if found < least or (end is not None and found >= end):
        wanted = f"a whole number from {least}" + ("" if end is None else f" to {end - 1}")
        raise InputError(f"{name} is {text!r}: must be {wanted}; torchrun sets it")
    return found


def _require_no_other_launcher(environment: Mapping[str, str]) -> None:
    """Raises InputError when something other than torchrun has started several of this process."""
    found = _other_launcher(environment)
    if found is None:
        return
    launcher, variable, count = found
    remedy = _TORCHRUN.format(count)
    if launcher == "srun":
        remedy = f"srun --ntasks-per-node=1 {_TORCHRUN.format('GPUS')} (examples/cluster/slurm.sbatch)"
    raise InputError(
        f"{launcher} has started {count} processes ({variable}={count}) that do not know of each other: each would "
        f"train the whole run into the same folder; start one rank a GPU with {remedy}; or, where each is "
        "a run of its own in its own folder, set WORLD_SIZE=1"
    )


def _other_launcher(environment: Mapping[str, str]) -> tuple[str, str, int] | None:
    """The launcher that has started more than one process, the variable that says so, and how many."""
    counts = {
        "OMPI_COMM_WORLD_SIZE": "mpirun", "HOROVOD_SIZE": "horovodrun", "MV2_COMM_WORLD_SIZE": "mpirun",
        "JSM_NAMESPACE_SIZE": "jsrun",
    }  # fmt: skip
    in_step = environment.get("SLURM_STEP_ID", _WHOLE_JOBS[0]) not in _WHOLE_JOBS and "SLURM_PROCID" in environment
    if in_step:
        tasks = "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
        counts[tasks] = "srun"
    counts["PMI_SIZE"] = "mpirun"
    for variable, launcher in counts.items():
        text = environment.get(variable, "")
        if text.isascii() and text.isdigit() and int(text) > 1:
            return launcher, variable, int(text)
    return None
