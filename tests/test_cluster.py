"""The examples for clusters: each is well formed, and starts what torchrun and `dozan train` take."""

from __future__ import annotations

import os
import py_compile
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_bad_input import leave
from torch.distributed.run import get_args_parser

CLUSTER = Path(__file__).parents[1] / "examples" / "cluster"
GIVEN = ["--data", "rows.jsonl", "--out", "/shared/a run"]
FAKES = {
    "scontrol": 'if [ "$1" = show ]; then printf "n07\\nn08\\n"; else echo "$@" >> "$PLACE/asked"; fi',
    "scancel": 'echo "scancel $*" >> "$PLACE/asked"; kill -TERM "$(cat "$PLACE/srun.pid")"',
    "srun": 'printf "%s\\n" "$@" > "$PLACE/srun.new"; mv "$PLACE/srun.new" "$PLACE/srun"\n'
            'echo $$ > "$PLACE/srun.pid"; eval "$WORK"',
}  # fmt: skip
SAVES = 'trap \'echo 75 > "$DOZAN_STATUS"; exit 0\' TERM; : > "$PLACE/ready"; while :; do sleep 0.02; done'


def slurm(place: Path, work: str) -> subprocess.Popen[str]:
    """The script under a Slurm of shell scripts; `work`: what its step does."""
    for name, text in FAKES.items():
        path = place / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PLACE": str(place), "WORK": work, "SLURM_JOB_ID": "41234",
        "SLURM_JOB_NODELIST": "n[07-08]", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_ON_NODE": "64", "SLURM_SUBMIT_DIR": str(place),
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(CLUSTER / "slurm.sbatch"), *GIVEN], env=environment, text=True, stderr=subprocess.PIPE
    )


def asked(place: Path) -> list[str]:
    path = place / "asked"
    return path.read_text().splitlines() if path.is_file() else []


def torchrun(arguments: list[str]) -> Any:
    """What torchrun makes of its arguments."""
    return get_args_parser().parse_args(arguments)


def test_slurm_starts_torchrun_once_a_node(tmp_path: Path) -> None:
    with slurm(tmp_path, 'echo "$DOZAN_STATUS $OMP_NUM_THREADS $DOZAN_WAIT_SECONDS" > "$PLACE/set"; exit 0') as job:
        assert job.wait(30) == 0, job.stderr.read() if job.stderr else ""
    words = (tmp_path / "srun").read_text().splitlines()
    assert words[: words.index("torchrun")] == ["--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    run = torchrun(words[words.index("torchrun") + 1 :])
    assert (run.nnodes, run.nproc_per_node, run.max_restarts) == ("2", "4", 3)
    assert (run.rdzv_backend, run.rdzv_endpoint, run.rdzv_id) == ("c10d", "n07:21234", "41234")
    assert (run.module, run.training_script, run.training_script_args) == (True, "dozan", ["train", *GIVEN])
    assert (tmp_path / "set").read_text() == f"{tmp_path}/dozan-41234-0.status 16 120\n"
    assert asked(tmp_path) == []


@pytest.mark.parametrize(
    ("work", "status"), [('echo 2 > "$DOZAN_STATUS"', 2), ("exit 1", 1), ('echo 75 > "$DOZAN_STATUS"', 75)]
)
def test_slurm_ends_as_the_ranks_say(work: str, status: int, tmp_path: Path) -> None:
    with slurm(tmp_path, work) as job:
        assert job.wait(30) == status
    assert asked(tmp_path) == [] and list(tmp_path.glob("*.status")) == []


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (signal.SIGUSR1, ["scancel --signal=TERM 41234.0", "requeue 41234"]),  # the end of its time: queued again
        (signal.SIGTERM, []),  # cancelled, or preempted: Slurm tells the step, and queues again what it preempts
    ],
)
def test_slurm_saves_before_the_end_and_is_queued_again(
    number: signal.Signals, expected: list[str], tmp_path: Path
) -> None:
    with slurm(tmp_path, SAVES) as job:
        end = time.monotonic() + 30
        while not (tmp_path / "ready").exists():
            assert time.monotonic() < end
            time.sleep(0.01)
        job.send_signal(number)
        if number == signal.SIGTERM:
            time.sleep(0.1)
            assert job.poll() is None, "the script waits for what the ranks save"
            os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
        assert job.wait(30) == 75
    assert asked(tmp_path) == expected


def test_slurm_needs_gpus(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(CLUSTER / "slurm.sbatch")], capture_output=True, text=True, cwd=tmp_path,
                          env={"PATH": os.environ["PATH"]})  # fmt: skip
    assert done.returncode == 1 and "give sbatch --gpus-per-node" in done.stderr


def test_skypilot_starts_torchrun_on_each_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text(encoding="utf-8"))
    assert set(task) == {"name", "num_nodes", "resources", "workdir", "file_mounts", "envs", "setup", "run"}
    assert task["num_nodes"] == 2 and task["resources"]["use_spot"] is True
    (bucket,) = task["file_mounts"]
    for part in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[part], text=True, check=True)
    fake = tmp_path / ".venv" / "bin" / "torchrun"
    fake.parent.mkdir(parents=True)
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {
        "PATH": os.environ["PATH"], "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_GPUS_PER_NODE": "8", **task["envs"],
    }  # fmt: skip
    done = subprocess.run(["bash", "-e", "-c", task["run"]], cwd=tmp_path, env=environment, check=True,
                          capture_output=True, text=True)  # fmt: skip
    run = torchrun(done.stdout.splitlines())
    assert (run.nnodes, run.node_rank, run.nproc_per_node, run.max_restarts) == ("2", 1, "8", 3)
    assert (run.master_addr, run.master_port, run.training_script) == ("10.0.0.1", 29500, "dozan")
    assert leave([*run.training_script_args, "--print-config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["mirror"] == f"{bucket}/{task['envs']['RUN']}"


def test_ray_is_python(tmp_path: Path) -> None:
    assert py_compile.compile(str(CLUSTER / "ray_train.py"), str(tmp_path / "x.pyc"), doraise=True)
