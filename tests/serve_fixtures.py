"""A real server over the embedded model as a GGUF, in a process of its own, for the tests of `dozan serve`."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dozan
from dozan.model.bundle import open_model
from dozan.ship.gguf import write_gguf

ROOT = Path(__file__).parents[1]
NOW = "Now is 2026-03-13T14:27 Friday"
TRIGGER = "You are a model that can do function calling with the following functions"
Json = Any


@dataclass(frozen=True)
class Server:
    """Where it listens, its own process, and what it printed first."""

    host: str
    port: int
    pid: int
    said: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def worker(self) -> int:
        """The process id of the first model's worker."""
        found = children(self.pid)
        assert found, "the server has no worker"
        return found[0]

    def ask(self, method: str = "GET", path: str = "/v1/models", body: Json = None, raw: bytes | None = None,
            **headers: str | None) -> tuple[int, Json]:  # fmt: skip
        """(status, JSON) of one request; a header that is None is left out, `_` in its name is `-`."""
        sent: dict[str, str] = {"Host": f"127.0.0.1:{self.port}"}
        payload = raw if raw is not None else None if body is None else json.dumps(body).encode()
        if payload is not None:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(payload))}
        for name, value in headers.items():
            sent.pop(name.replace("_", "-").title(), None)
            if value is not None:
                sent[name.replace("_", "-").title()] = value
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            connection.endheaders(payload)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        is_json = (answer.headers.get("content-type") or "").startswith("application/json")
        return answer.status, json.loads(text) if is_json else text.decode()


def children(pid: int) -> list[int]:
    """The processes that a process has started, in order."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


@lru_cache
def embedded_gguf(folder: Path) -> Path:
    """The embedded base in f32 GGUF."""
    return write_gguf(open_model(dozan.EMBEDDED_BASE), folder / "embedded.gguf", "f32")


@contextmanager
def serving(*arguments: object, **environment: str) -> Iterator[Server]:
    """`dozan serve` with these arguments on a free port, until told to end; it must end well and leave nothing."""
    command = [sys.executable, "-m", "dozan", "serve", *map(str, arguments), "--port", "0"]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1", **environment})  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    while not any(line.startswith("Ctrl-C") for line in said):
        line = process.stdout.readline()
        assert line, f"the server ended: {process.communicate()[1]}"
        said.append(line)
        assert time.monotonic() - started < 120
    found = re.search(r"http://(\S+):(\d+)/v1", "".join(said))
    assert found is not None
    try:
        yield Server(found[1], int(found[2]), process.pid, "".join(said))
    finally:
        workers = children(process.pid)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not [pid for pid in workers if Path(f"/proc/{pid}/exe").exists() and alive(pid)]


def alive(pid: int) -> bool:
    """Whether a process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def messages(said: str) -> list[dict[str, Any]]:
    """A conversation as the embedded rows have it."""
    return [{"role": "developer", "content": TRIGGER}, {"role": "developer", "content": NOW},
            {"role": "user", "content": said}]  # fmt: skip
