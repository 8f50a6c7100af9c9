"""Which rank a process is, by its environment: what launchers set, what is missing, launchers that start no ranks."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dozan.errors import InputError
from dozan.world.environment import Place, place_of, require_devices

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
}  # fmt: skip


def refused(**environment: str) -> str:
    with pytest.raises(InputError) as raised:
        place_of(environment)
    return str(raised.value)


def without(*names: str, **changes: str) -> dict[str, str]:
    return {name: value for name, value in (TORCHRUN | changes).items() if name not in names}


def test_torchrun_says_which_rank_this_is() -> None:
    assert place_of(TORCHRUN) == Place(5, 8, 1, 4, "10.0.0.7", 29500)
    assert place_of(without("LOCAL_WORLD_SIZE", LOCAL_SIZE="4")) == Place(5, 8, 1, 4, "10.0.0.7", 29500)  # deepspeed
    assert place_of(without("LOCAL_WORLD_SIZE")) == Place(5, 8, 1, 2, "10.0.0.7", 29500)  # at least two are here
    here = without("LOCAL_WORLD_SIZE", MASTER_ADDR="127.0.0.1")
    assert place_of(here) == Place(5, 8, 1, 8, "127.0.0.1", 29500)
    assert place_of(TORCHRUN | {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}) == place_of(TORCHRUN)


@pytest.mark.parametrize(
    "environment",
    [
        {}, {"RANK": "", "WORLD_SIZE": ""}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"},
        without(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1"),
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},  # accelerate's, of one process
        {"OMPI_COMM_WORLD_SIZE": "1"}, {"OMPI_COMM_WORLD_SIZE": "8", "WORLD_SIZE": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # salloc's shell
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"},  # sbatch's script
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "4294967290"},  # salloc's shell, as a step
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1
    ],
)  # fmt: skip
def test_one_process_alone_has_no_place(environment: dict[str, str]) -> None:
    assert place_of(environment) is None


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_that_is_missing_is_named(name: str) -> None:
    for environment in (without(name), TORCHRUN | {name: ""}):
        said = refused(**environment)
        assert f"but no {name}:" in said and "torchrun --nproc-per-node" in said


def test_all_that_are_missing_are_named_with_what_is_there() -> None:
    assert "RANK=3, but no WORLD_SIZE, MASTER_ADDR, MASTER_PORT" in refused(RANK="3")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RANK": "x"}, "RANK is 'x': must be a whole number from 0;"),
        ({"RANK": "-1"}, "RANK is '-1'"),
        ({"RANK": "٣"}, "RANK is '٣'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0': must be a whole number from 1;"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT is '65536': must be a whole number from 1 to 65535"),
        ({"LOCAL_RANK": "8"}, "LOCAL_RANK is '8': must be a whole number from 0 to 7"),
        ({"LOCAL_WORLD_SIZE": "all"}, "LOCAL_WORLD_SIZE is 'all'"),
        ({"RANK": "8"}, "RANK is 8, but WORLD_SIZE is 8: ranks go from 0 to 7"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK is 1, but WORLD_SIZE is 1"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is 4, LOCAL_WORLD_SIZE 4 and WORLD_SIZE 8"),
        ({"LOCAL_WORLD_SIZE": "9"}, "LOCAL_WORLD_SIZE 9 and WORLD_SIZE 8"),
    ],
)
def test_a_value_that_cannot_be_is_named(changes: dict[str, str], said: str) -> None:
    assert said in refused(**(TORCHRUN | changes))


def test_a_missing_local_rank_is_derived_only_where_it_is_known() -> None:
    alone = without("LOCAL_RANK", LOCAL_WORLD_SIZE="1")
    assert place_of(alone) == Place(5, 8, 0, 1, "10.0.0.7", 29500)
    for environment in (without("LOCAL_RANK"), without("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        said = refused(**environment)
        assert "LOCAL_RANK is missing" in said and "LOCAL_RANK=0" in said


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("mpirun", "OMPI_COMM_WORLD_SIZE=4", "torchrun --nproc-per-node 4 -m dozan")),
        ({"PMI_SIZE": "4", "PMI_RANK": "0"}, ("mpirun", "PMI_SIZE=4")),
        ({"MV2_COMM_WORLD_SIZE": "2"}, ("mpirun", "MV2_COMM_WORLD_SIZE=2")),
        ({"HOROVOD_SIZE": "2"}, ("horovodrun", "HOROVOD_SIZE=2")),
        ({"JSM_NAMESPACE_SIZE": "6"}, ("jsrun", "JSM_NAMESPACE_SIZE=6")),
        ({"OMPI_COMM_WORLD_SIZE": "4", "MASTER_ADDR": "n1", "MASTER_PORT": "1"}, ("mpirun",)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "8"},
         ("srun", "SLURM_NTASKS=8", "srun --ntasks-per-node=1 torchrun --nproc-per-node GPUS -m dozan")),
        ({"SLURM_PROCID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "8", "PMI_SIZE": "8"},
         ("srun", "SLURM_STEP_NUM_TASKS=8")),
    ],
)  # fmt: skip
def test_a_launcher_that_starts_no_ranks_is_named(environment: dict[str, str], said: tuple[str, ...]) -> None:
    found = refused(**environment)
    assert all(part in found for part in (*said, "same folder", "WORLD_SIZE=1")), found
    assert place_of(environment | {"WORLD_SIZE": "1"}) is None


def test_each_rank_needs_a_gpu_of_its_own() -> None:
    place = Place(5, 8, 3, 4, "n1", 29500)
    require_devices(place, 0)
    require_devices(place, 4)
    with pytest.raises(InputError, match="rank 5: LOCAL_RANK is 3, .* GPUs here are 3; .* --nproc-per-node 3,"):
        require_devices(place, 3)


def test_it_loads_no_torch() -> None:
    code = "import sys, dozan.world.environment, dozan.world; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
