"""`dozan push`: what would be sent, that nothing is sent unasked, and the hub's own client against a server that speaks
its protocol (repositories, upload modes, large files, commits)."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ship_models import make_folder, make_run

from dozan.cli import main
from dozan.errors import InputError
from dozan.ship.export import export
from dozan.ship.merge import merge
from dozan.ship.push import prepare
from dozan.train.run import hash_base

pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.usefixtures("short_answers")
TOKEN = "hf_" + "s3cret" * 6
REPO = "someone/phone-commands-ar"
ROW = {"messages": [{"role": "user", "content": "كم الساعة الآن؟"}, {"role": "assistant", "content": "الثالثة"}]}


class Hub(ThreadingHTTPServer):
    """Keeps what was uploaded; refuses other tokens than TOKEN."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.created: list[dict[str, Any]] = []
        self.private = False
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def do_PUT(self) -> None:
        self.server.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, {})

    def _answer(self, body: bytes | None) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if self.headers["Authorization"] not in (f"Bearer {TOKEN}", None):
            return self._send(401, {"error": f"Invalid token {self.headers['Authorization']}"})
        if path == "/api/repos/create":
            hub.created.append(json.loads(body or b""))
            return self._send(200, {"url": f"{hub.address}/{REPO}", "name": REPO, "id": "1"})
        if path == f"/api/models/{REPO}":
            return self._send(200, {"id": REPO, "private": hub.private})
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path.startswith(f"/api/models/{REPO}/preupload/"):
            files = [{"path": file["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if file["path"].endswith((".gguf", ".safetensors")) else "regular"}
                     for file in json.loads(body or b"")["files"]]  # fmt: skip
            return self._send(200, {"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [{**each, "actions": {"upload": {"href": f"{hub.address}/lfs/{each['oid']}"}}}
                       for each in json.loads(body or b"")["objects"]]  # fmt: skip
            return self._send(200, {"transfer": "basic", "objects": objects})
        if path.startswith(f"/api/models/{REPO}/commit/"):
            for line in map(json.loads, (body or b"").splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                if line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            done = {"commitUrl": f"{hub.address}/{REPO}/commit/abc", "commitOid": "abc", "success": True}
            return self._send(200, done)
        self._send(404, {"error": "not found"})

    def _send(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("push")
    run = make_run(root / "run", make_folder(root / "base"), rslora=True)
    recipe = {"adapter": {"rank": 4, "rslora": True}, "train": {"epochs": 1.0}}
    record = {"base": str(root / "base"), "base_sha256": hash_base(root / "base"), "chat": "functiongemma",
              "recipe": recipe, "rows": 1200, "heldout_rows": 3, "tokens": 50_000, "notes": []}  # fmt: skip
    (run / "run.json").write_text(json.dumps(record))
    (run / "recipe.yaml").write_text(f"name: x\nnote: {TOKEN}\n")
    (run / "data").mkdir()
    lines = (json.dumps({"id": str(i), "tools": [], **ROW}, ensure_ascii=False) for i in range(3))
    (run / "data" / "heldout.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    export(run, "q8_0,f32", root / "gguf")
    return run


def dozan(*arguments: str, hub: Hub | None = None, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, with nothing of the hub's in its environment but what is given."""
    hidden = ("HF_", "HUGGING")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": "/nonexistent"}
    environment |= {"HF_ENDPOINT": hub.address} if hub else {}
    environment |= {"HF_TOKEN": token} if token else {}
    return subprocess.run([sys.executable, "-m", "dozan", *arguments], capture_output=True, text=True,
                          env=environment, stdin=subprocess.DEVNULL)  # fmt: skip


def test_what_is_sent_is_what_was_shown(run: Path, hub: Hub, tmp_path: Path) -> None:
    gguf = str(run.parent / "gguf")
    hub.private = True
    done = dozan("push", str(run), REPO, "--private", "--gguf", gguf, "--yes", hub=hub)
    assert done.returncode == 0, done.stderr
    shown = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("    ")]
    assert sorted(hub.files) == sorted(shown) == sorted([
        "README.md", "adapter_config.json", "adapter_model.safetensors", "certificate.html", "parity.json",
        "recipe.yaml", "run-f32.gguf", "run-q8_0.gguf"])  # fmt: skip
    (created,) = hub.created
    assert created.get("private") or created["visibility"] == "private"
    for name in ("run-q8_0.gguf", "parity.json"):
        assert hub.files[name] == (run.parent / "gguf" / name).read_bytes()
    assert hub.files["adapter_model.safetensors"] == (run / "adapter" / "adapter_model.safetensors").read_bytes()
    everything = b"".join(content for name, content in hub.files.items() if not name.endswith((".gguf", "safetensors")))
    assert TOKEN.encode() not in everything and str(run.parent).encode() not in everything
    assert TOKEN not in done.stdout + done.stderr
    dry = tmp_path / "dry"
    done = dozan("push", str(run), REPO, "--gguf", gguf, "--dry-run", str(dry), token=None)
    assert done.returncode == 0 and "nothing was sent" in done.stdout
    assert {path.name: path.read_bytes() for path in dry.iterdir()} == hub.files


def test_the_card_says_what_it_is(run: Path) -> None:
    parcel = prepare(run, REPO, gguf=run.parent / "gguf")
    (card,) = (item.content.decode() for item in parcel.items if item.name == "README.md")  # type: ignore[union-attr]
    head = yaml.safe_load(card.split("---")[1])
    assert head["license"] == "gemma" and head["language"] == ["ar"] and "base_model" not in head
    assert {"gguf", "function-calling"} <= set(head["tags"]) and head["library_name"] == "peft"
    for words in ("1,200 rows, 50,000 tokens; 3 rows were held out", "| rank | 4 |", "| rslora | yes |",
                  "`run-q8_0.gguf`, llama.cpp |", "ai.google.dev/gemma/terms", "--model run-q8_0.gguf", "شغّل",
                  "## Certificate"):  # fmt: skip
        assert words in card, words


def test_nothing_goes_out_unasked(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    done = dozan("push", str(run), REPO, hub=hub)
    assert done.returncode == 2 and "asks before it sends" in done.stderr
    done = dozan("push", str(run), REPO, "--yes", hub=hub, token=None)
    assert done.returncode == 2 and "HF_TOKEN is not set" in done.stderr
    assert hub.requests == []


def test_a_terminal_is_asked(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text: bool(asked.append(text)))
    with pytest.raises(SystemExit) as done:
        main(["push", str(run), REPO])
    assert done.value.code == 1 and asked == ["Send this?"]
    assert "nothing was sent" in capsys.readouterr().out


def test_the_hubs_refusal_shows_no_token(run: Path, hub: Hub) -> None:
    wrong = "hf_" + "wr0ng" * 7
    done = dozan("push", str(run), REPO, "--yes", hub=hub, token=wrong)
    assert done.returncode == 2 and "the hub refused" in done.stderr and "write access" in done.stderr
    assert wrong not in done.stdout + done.stderr


def test_private_never_becomes_public(run: Path, hub: Hub) -> None:
    done = dozan("push", str(run), REPO, "--private", "--yes", hub=hub)
    assert done.returncode == 2 and "public" in done.stderr
    assert hub.files == {}


def test_a_merged_folder_goes_as_it_was_certified(run: Path, tmp_path: Path) -> None:
    merged = merge(run, tmp_path / "merged")
    parcel = prepare(merged, REPO, gguf=run.parent / "gguf")
    names = {item.name for item in parcel.items}
    assert {path.name for path in merged.iterdir()} | {"README.md", "run-q8_0.gguf", "certificate.html"} <= names
    with (merged / "config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(InputError, match="changed since it was merged .config.json"):
        prepare(merged, REPO)


def test_what_cannot_be_sent(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="write OWNER/NAME"):
        prepare(run, "nobody")
    with pytest.raises(InputError, match="neither a run nor a merged folder"):
        prepare(tmp_path, REPO)
    with pytest.raises(InputError, match=r"has no parity.json"):
        prepare(run, REPO, gguf=tmp_path)
    other = make_run(tmp_path / "other", run.parent / "base", seed=5)
    with pytest.raises(InputError, match="made from another adapter"):
        prepare(other, REPO, gguf=run.parent / "gguf")
    copy = tmp_path / "gguf"
    copy.mkdir()
    for path in (run.parent / "gguf").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    with (copy / "run-f32.gguf").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    with pytest.raises(InputError, match=r"run-f32.gguf: not what parity.json certifies"):
        prepare(run, REPO, gguf=copy)
