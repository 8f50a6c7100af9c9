"""A clone without an installation: src/train.py, checkpoints to another disk, a tag with what a run came to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ship_models import make_folder
from test_bad_input import conversation, leave, write_rows

ROOT = Path(__file__).parents[1]
SETTINGS = ("--set", "train.max_steps=2", "--set", "train.save_steps=1", "--set", "data.holdout=0",
            "--set", "train.batch_size=2")  # fmt: skip


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with rows in it, committed."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("src/train.py", "scripts/tag_run.sh", ".gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "dozan").symlink_to(ROOT / "dozan")
    rows = [{"id": str(i), **conversation(said=said)} for i, said in enumerate(("مؤقت 5 دقائق", "خلي المؤقت 5"))]
    write_rows(folder / "rows.jsonl", *rows)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "Rows")
    return folder


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def run(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run of src/train.py whose checkpoints go to a drive as well, and its command."""
    base, drive = make_folder(tmp_path_factory.mktemp("base") / "tiny"), tmp_path_factory.mktemp("drive")
    words = ["--model", str(base), "--dataset", str(clone / "rows.jsonl"), "--out", str(clone / "output" / "first")]
    words += [*SETTINGS, "--set", f"train.mirror={drive / 'first'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "src/train.py", *words], cwd=clone, env=environment, capture_output=True,
                         text=True)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (drive / "first" / "run.json").is_file() and list((drive / "first" / "checkpoints").glob("step-*"))
    return drive / "first", words


def test_the_script_uses_the_clone_it_lies_in(clone: Path, tmp_path: Path) -> None:
    code = (
        "import runpy, sys\nsys.argv = ['train.py', '--help']\n"
        f"entry = runpy.run_path({str(clone / 'src' / 'train.py')!r})\n"
        "try:\n    entry['main']()\nexcept SystemExit as left:\n    import dozan\n    print(left.code, dozan.__file__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == f"0 {clone / 'dozan' / '__init__.py'}"
    assert "--dataset" in ran.stdout


def test_a_new_session_takes_the_run_from_the_drive(
    clone: Path, run: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(clone / "output")
    assert leave(["train", *run[1]]) == 0
    said = capsys.readouterr().out
    assert "brought back from the mirror" in said and "nothing to do" in said
    assert (clone / "output" / "first" / "adapter").is_dir()


def test_a_tag_says_what_the_run_came_to(clone: Path, run: tuple[Path, list[str]]) -> None:
    def tag(*words: str) -> subprocess.CompletedProcess[str]:
        who = {"GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org", "PYTHON": sys.executable}
        command = ["scripts/tag_run.sh", *words]
        return subprocess.run(command, cwd=clone, env={**os.environ, **who}, capture_output=True, text=True)

    if not (clone / "output").exists():
        leave(["train", *run[1]])
    (clone / "new").write_text("")
    assert tag("output/first").returncode == 2 and not git(clone, "tag")
    (clone / "new").unlink()
    done = tag("output/first", "good")
    assert done.returncode == 0, done.stderr
    assert re.search(r"on .*: 2 steps, loss \d", git(clone, "tag", "-n9", "good"))
    record = clone / "output" / "first" / "run.json"
    record.write_text(record.read_text().replace('"state": "done"', '"state": "running"'))
    assert tag("output/first", "early").returncode == 1 and git(clone, "tag").split() == ["good"]


def test_requirements_are_the_packages_without_torch_and_numpy() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    given = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["hub"]]
    assert given == [text for text in wanted if not re.match(r"(torch|numpy)\b", text)]
