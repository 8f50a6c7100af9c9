"""What is looked at before a run, and what runs leave: each verdict with its fix, a table, what may go."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from test_bad_input import leave
from test_train import recipe, run, stop_after

from dozan import doctor as look
from dozan import runs
from dozan.doctor import Check, check_hub, check_packages, gpu_check, hub_check
from dozan.errors import InputError, Interrupted
from dozan.train.checkpoint import checkpoints, seal
from dozan.train.run import locked

GIB = 2**30
Captured = pytest.CaptureFixture[str]


def test_every_check_has_a_verdict_and_a_fix_where_it_is_not_ok(tmp_path: Path) -> None:
    found = look.doctor(tmp_path / "absent" / "run")
    assert {"Python", "torch", "GPU", "memory", "disk", "writing", "clock", "port"} <= {check.name for check in found}
    assert all(bool(check.fix) == (check.verdict != "ok") for check in found)
    assert str(tmp_path) in next(check for check in found if check.name == "disk").found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("capability", "free", "verdict", "words"),
    [((8, 0), 15.0, "ok", "bfloat16"), ((7, 5), 15.0, "ok", "float16 (no bfloat16"), ((6, 1), 15.0, "fail", "float16"),
     ((9, 0), 3.0, "warn", "3.0 of 16.0 GiB free")],
)  # fmt: skip
def test_a_gpu_by_its_capability(capability: tuple[int, int], free: float, verdict: str, words: str) -> None:
    found = gpu_check("Card", capability, int(free * GIB), 16 * GIB)
    assert found.verdict == verdict and words in found.found


def test_versions_that_are_absent_or_untested() -> None:
    def version(name: str) -> str:
        if name == "gguf":
            raise metadata.PackageNotFoundError
        return {"torch": "2.9.1+cu128"}.get(name, "5.0")

    found = {check.name: check for check in check_packages(version)}
    assert found["gguf"].verdict == "fail" and found["gguf"].fix == "pip install gguf"
    assert found["torch"].verdict == "warn" and "2.11" in found["torch"].fix and found["numpy"].verdict == "ok"


def test_disk_and_memory_and_writing_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, verdict in ((GIB // 2, "fail"), (5 * GIB, "warn"), (50 * GIB, "ok")):
        monkeypatch.setattr(look.shutil, "disk_usage", lambda path, free=free: type("Usage", (), {"free": free}))
        assert look.check_disk(tmp_path).verdict == verdict
    assert look.check_speed(tmp_path / "absent", 10).verdict == "fail"
    monkeypatch.setattr(look, "_SLOW", 2**60)
    assert look.check_speed(tmp_path, 1000).verdict == "warn" and list(tmp_path.iterdir()) == []


def test_a_clock_in_the_past_or_apart_from_the_hub() -> None:
    assert look.check_clock(0.0).verdict == "fail"
    assert look.check_clock(2e9, 2e9 + 3600).verdict == "warn" and look.check_clock(2e9, 2e9 + 2).verdict == "ok"


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert look.check_port(taken.getsockname()[1]).verdict == "warn"


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: 401 without a valid token, 403 without access."""

    def do_HEAD(self) -> None:
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        gated = {"": 401, "wrong-token": 401, "no-access-token": 403}.get(token, 200)
        self.send_response(404 if "absent" in self.path else gated if "gated" in self.path else 200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    server.shutdown()


def test_the_hub_s_answers_are_told_apart(hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    for token in ("", "wrong-token", "no-access-token", "good-token"):
        monkeypatch.setenv("HF_TOKEN", token)
        seen[token] = check_hub("org/gated")[0]
    assert [check.verdict for check in seen.values()] == ["fail", "fail", "fail", "ok"]
    assert "no token was given" in seen[""].found and "set HF_TOKEN" in seen[""].fix
    assert "401, HF_TOKEN is not valid" in seen["wrong-token"].found
    assert "403" in seen["no-access-token"].found and "accept the licence" in seen["no-access-token"].fix
    assert check_hub("org/absent")[0].found.startswith("org/absent: 404") and check_hub("org/open")[0].verdict == "ok"
    assert hub_check("a/b", 503, False).verdict == "fail"


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    found = check_hub("a/b")
    assert [check.verdict for check in found] == ["fail"] and "cannot be reached" in found[0].found


def test_doctor_s_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    assert leave(["doctor", "--out", str(tmp_path)]) == 0
    monkeypatch.setattr(look, "check_python", lambda: Check("Python", "fail", "2.7", "install Python 3.11 or newer"))
    assert leave(["doctor", "--out", str(tmp_path)]) == 1
    assert "fail  Python: 2.7\n      fix: install Python 3.11" in capsys.readouterr().out
    leave(["doctor", "--out", str(tmp_path), "--json"])
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "fail"


@pytest.fixture
def some_runs(tmp_path: Path) -> Path:
    run(tmp_path / "a" / "done", recipe("train.save_steps=2"))
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", recipe(), stop_after(4))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    return tmp_path


def test_runs_are_listed_with_their_state(some_runs: Path, capsys: Captured) -> None:
    found = {info.folder.name: info for info in runs.list_runs(some_runs)}
    assert {name: info.state for name, info in found.items()} == {
        "done": "done", "stopped": "stopped", "broken": "damaged",
    }  # fmt: skip
    assert (found["done"].step, found["done"].steps, found["stopped"].step) == (9, 9, 4)
    assert found["done"].loss is not None and found["done"].bytes > 10_000 and "not readable" in found["broken"].problem
    with locked(some_runs / "stopped"):
        assert {info.folder.name: info.state for info in runs.list_runs(some_runs)}["stopped"] == "running"
    assert leave(["runs", str(some_runs)]) == 0
    shown = capsys.readouterr().out
    assert "a/done" in shown and "4/9" in shown and "goes on with: dozan resume" in shown.replace("\n", " ")
    assert leave(["runs", str(some_runs), "--json"]) == 0 and len(json.loads(capsys.readouterr().out)) == 3
    assert leave(["runs", str(some_runs / "absent")]) == 2


def test_clean_says_what_may_go_and_removes_nothing_by_itself(some_runs: Path, capsys: Captured) -> None:
    saved = some_runs / "a" / "done" / "checkpoints"
    (some_runs / "stopped" / "checkpoints" / ".staging-step-000009").mkdir()
    (some_runs / "stopped" / "checkpoints" / "damaged-step-000002").mkdir()
    before = sorted(some_runs.rglob("*"))
    assert leave(["clean", str(some_runs)]) == 0
    told = capsys.readouterr().out
    assert "a damaged checkpoint" in told and "left by a save" in told and "would be freed" in told
    assert sorted(some_runs.rglob("*")) == before
    with locked(some_runs / "stopped"):
        assert {each.why for each in runs.waste(some_runs)} == {"a finished run's older checkpoint"}
    assert leave(["clean", str(some_runs), "--yes"]) == 0 and "freed" in capsys.readouterr().out
    assert [step for step, _ in checkpoints(saved)] == [9]
    left = [path.name for path in (some_runs / "stopped" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-000003", "step-000004"] and leave(["clean", str(some_runs)]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_an_absent_folder_is_bad_input() -> None:
    with pytest.raises(InputError, match="no such folder"):
        runs.list_runs("/nowhere")


def test_clean_leaves_the_only_valid_copy(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"fingerprint": {}, "state": "done", "recipe": {}}))
    root = tmp_path / "checkpoints"
    for name in ("step-000002", "step-000004", "step-000006", ".replaced-step-000006", ".replaced-step-000008"):
        (root / name).mkdir(parents=True)
        (root / name / "weights").write_text(name)
        seal(root / name)

    def named() -> dict[str, str]:
        return {each.path.name: each.why for each in runs.waste(tmp_path)}

    older = "a finished run's older checkpoint"
    assert named() == {"step-000002": older, "step-000004": older, ".replaced-step-000006": "left by a save that was "
                       "killed"}, "its successor is valid"  # fmt: skip
    (root / "step-000006" / "weights").write_text("flipped")
    assert named() == {"step-000002": older, "step-000006": "a damaged checkpoint"}
    for name in ("step-000002", "step-000004"):
        (root / name / "weights").write_text("flipped")
    assert named() == {}
