"""The sandbox: right programs pass, wrong ones fail, harmful ones are contained, and each guard holds by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dozan.judge import sandbox, sandbox_child
from dozan.judge.sandbox import Limits, run_all, run_tests

MBPP = Path(os.environ.get("DOZAN_DATA", "data")) / "mbpp" / "mbpp.jsonl"
SHORT, LONG = Limits(seconds=2.0), Limits(seconds=25.0, memory_bytes=2**28)
ROOM = 30.0
"""Seconds that a loaded machine may take for what is over in a moment."""
CHILD = Path(sandbox_child.__file__)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's guards are Linux's")


def test_tests_pass_and_fail_and_are_counted() -> None:
    tests = ["assert f(1) == 2", "assert f(2) == 3", "assert f('a')"]
    ran = run_tests("def f(x):\n    return x + 1", tests[:2])
    assert (ran.reason, ran.passed, ran.tests, ran.error) == ("passed", 2, 2, "")
    ran = run_tests("def f(x):\n    return x + 1 if x < 2 else 0", tests)
    assert (ran.reason, ran.passed) == ("failed test", 1) and ran.error.startswith("test 2: AssertionError")
    ran = run_tests("def f(x):\n    return x + 1", tests)
    assert (ran.reason, ran.passed) == ("error", 2) and "TypeError" in ran.error
    ran = run_tests("def f(x) return", tests)
    assert (ran.reason, ran.passed) == ("error", 0) and "code: SyntaxError" in ran.error
    assert run_tests("print('سلام')", []).output.strip() == "سلام"


@pytest.mark.parametrize(
    ("code", "reason", "said"),
    [
        ("while True: pass", "time", "not done"),
        ("import time\ntime.sleep(100)", "time", "not done"),
        ("held = []\nwhile True: held.append('a' * 10**7)", "memory", "MemoryError"),
        ("import os\nwhile True: os.fork()", "error", "PermissionError"),
        ("import subprocess\nsubprocess.run(['ls'])", "error", "PermissionError"),
        ("import os\nos.system('ls')", "error", "PermissionError"),
        ("import os\nos.kill(os.getppid(), 9)", "error", "PermissionError"),
        ("import os\nos.killpg(0, 9)", "error", "PermissionError"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 80))", "error", "PermissionError"),
        ("import ctypes\nctypes.CDLL(None).getpid()", "error", "PermissionError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))", "error", "PermissionError"),
        ("import os\nos.chmod('.', 0)", "error", "PermissionError"),
        ("while True: print('x' * 1000)", "error", "File too large"),
        ("open('big', 'wb').write(bytes(2**21))", "error", "File too large"),
        ("for i in range(1000): open(str(i), 'w')", "error", "PermissionError"),
        ("def f(): f()\nf()", "error", "RecursionError"),
        ("import os\nos._exit(0)", "left", "status 0"),
        ("raise SystemExit", "left", "status 0"),
        ("import os\nos.closerange(0, 60)", "left", "status"),
        ("import sys\nsys.excepthook = print\nraise SystemExit", "left", "status 0"),
    ],
)
def test_what_does_harm_or_leaves_early_is_contained(code: str, reason: str, said: str) -> None:
    started = time.monotonic()
    ran = run_tests(code, ["assert True"], SHORT if reason == "time" else LONG)
    assert (ran.reason, ran.passed) == (reason, 0) and said in ran.error
    assert time.monotonic() - started < ROOM and len(ran.output) <= 2000


def test_files_are_its_own(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("kept", encoding="utf-8")
    for act in (
        f"open({str(other)!r}, 'w')", f"import os\nos.remove({str(other)!r})", f"open({str(tmp_path / 'new')!r}, 'x')",
        f"import os\nos.rename({str(other)!r}, 'mine')", f"import os\nos.mkdir({str(tmp_path / 'made')!r})",
        f"import os\nos.symlink({str(tmp_path)!r}, 'way')\nopen('way/other', 'w')",
    ):  # fmt: skip
        ran = run_tests(act, [], LONG)
        assert ran.reason == "error" and "Permission" in ran.error, act
    assert [path.name for path in tmp_path.iterdir()] == ["other"] and other.read_text(encoding="utf-8") == "kept"
    ran = run_tests("open('a', 'w').write('x')\nimport os\nfound = os.listdir('.')", ["assert found == ['a']"])
    assert ran.reason == "passed"
    assert run_tests("import os", ["assert os.listdir('.') == []"]).reason == "passed"


def test_a_program_cannot_claim_to_have_passed_by_what_it_prints_or_writes() -> None:
    code = "import os\nfor i in range(3, 60):\n    try: os.write(i, b'x\\tstage\\tcode\\nx\\tstage\\ttest 1\\n')\n"
    ran = run_tests(code + "    except OSError: pass", ["assert False"], LONG)
    assert (ran.reason, ran.passed) == ("failed test", 0)


def guarded(script: str) -> str:
    """What a process prints that closes one guard of the child by itself."""
    head = f"import sys, ctypes, os\nsys.path.insert(0, {str(CHILD.parent)!r})\nimport sandbox_child as child\n"
    head += "libc = ctypes.CDLL(None, use_errno=True)\n"
    done = subprocess.run([sys.executable, "-c", head + script], capture_output=True, text=True, timeout=ROOM)
    return done.stdout.strip() or (done.stderr.strip().splitlines() or ["nothing"])[-1]


KERNEL_ACTS = {
    "os.fork() or os._exit(0)": "PermissionError", "os.kill(os.getppid(), 0)": "PermissionError",
    "os.execv('/bin/true', ['true'])": "PermissionError", "__import__('socket').socket()": "PermissionError",
    "os.setsid()": "PermissionError", "os.chmod('.', 0o755)": "PermissionError",
    "__import__('resource').setrlimit(0, (9, 9))": "not allowed",
}  # fmt: skip


@linux
@pytest.mark.parametrize("act", KERNEL_ACTS)
def test_seccomp_alone_refuses(act: str, tmp_path: Path) -> None:
    closed = f"os.chdir({str(tmp_path)!r})\nassert child.seccomp(libc)\n"
    assert KERNEL_ACTS[act] in guarded(closed + act)
    assert "Error" not in guarded(f"os.chdir({str(tmp_path)!r})\n{act}\nprint('open')")


@linux
def test_seccomp_leaves_threads() -> None:
    use = "import threading\nassert child.seccomp(libc)\nthread = threading.Thread(target=print, args=('done',))\n"
    assert guarded(use + "thread.start()\nthread.join()") == "done"


@linux
def test_landlock_alone_keeps_other_folders(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir(), other.mkdir()
    (other / "file").write_text("kept", encoding="utf-8")
    close = f"if not child.landlock(libc, {str(own)!r}): print('absent'); raise SystemExit\n"
    if guarded(close + "print('closed')") == "absent":
        pytest.skip("the kernel has no Landlock")
    for act in ("open({!r}, 'w')", "os.remove({!r})", "os.truncate({!r}, 0)", "os.rename({!r}, 'x')"):
        assert "PermissionError" in guarded(close + act.format(str(other / "file"))), act
    assert "PermissionError" in guarded(close + f"os.mkdir({str(other / 'made')!r})")
    assert guarded(close + f"open({str(own / 'a')!r}, 'w'); open(os.devnull, 'w'); print('mine')") == "mine"
    assert (other / "file").read_text(encoding="utf-8") == "kept"
    assert guarded(f"os.truncate({str(other / 'file')!r}, 0); print('open')") == "open"


@pytest.mark.parametrize(
    "act",
    ["os.fork()", "os.kill(os.getppid(), 0)", "os.execv('/bin/true', ['true'])", "__import__('socket').socket()",
     "os.system('true')", "__import__('subprocess').run('true')", "ctypes.CDLL(None)", "open('/tmp/dozan-audit', 'w')",
     "os.mkdir('/tmp/dozan-audit')", "os.rename('/tmp', '/tmp/dozan-audit')", "os.truncate('/dev/null', 0)"],
)  # fmt: skip
def test_the_audit_hook_alone_refuses(act: str, tmp_path: Path) -> None:
    assert "PermissionError" in guarded(f"child.audit({str(tmp_path)!r})\n{act}")
    assert guarded(f"child.audit({str(tmp_path)!r})\nopen({str(tmp_path / 'a')!r}, 'w')\nprint('mine')") == "mine"


def test_the_limits_alone_hold() -> None:
    close = "child.limit(1, 2**28, 4096)\n"
    assert guarded(close + "x = bytes(2**29)") == "MemoryError"
    assert "File too large" in guarded(close + "open('/tmp/dozan-limit', 'wb').write(bytes(9999))")
    Path("/tmp/dozan-limit").unlink()
    assert guarded("x = bytes(2**29); print('open')") == "open"
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(CHILD.parent)!r})\nimport sandbox_child\n"
         "sandbox_child.limit(1, 2**30, 4096)\nwhile True: pass"], timeout=ROOM)  # fmt: skip
    assert ended.returncode < 0


def test_every_guard_of_this_machine_is_told_and_one_that_cannot_close_stops_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guards = run_tests("", []).guards
    assert {"limits", "audit"} <= set(guards) and set(guards) <= {"limits", "audit", *sandbox.KERNEL_GUARDS}
    broken = tmp_path / "child.py"
    broken.write_text(CHILD.read_text(encoding="utf-8").replace("0x20080522", "0x0"), encoding="utf-8")
    monkeypatch.setattr(sandbox, "_CHILD", broken)
    if "seccomp" in guards:
        with pytest.raises(RuntimeError, match=r"did not start[\s\S]*closed: capset"):
            run_tests("", [])


@pytest.mark.skipif(not MBPP.is_file(), reason="the rows are not here")
def test_canonical_solutions_pass_and_broken_ones_fail() -> None:
    rows = [json.loads(line) for line in MBPP.read_text(encoding="utf-8").splitlines()][::12]
    tests = [[row["test_setup_code"], *row["test_list"]] for row in rows]
    workers = min(2, os.cpu_count() or 1)
    right = run_all([(row["code"], test) for row, test in zip(rows, tests, strict=True)], workers=workers)
    assert [row["task_id"] for row, ran in zip(rows, right, strict=True) if ran.reason != "passed"] == []
    broken = [row["code"].replace("return", "return None #") for row in rows]
    wrong = run_all(list(zip(broken, tests, strict=True)), workers=workers)
    assert [row["task_id"] for row, ran in zip(rows, wrong, strict=True) if ran.reason == "passed"] == []
