"""Chat templates of strangers, held to limits of time, memory and output: another process renders them.

A template is a program. Jinja's sandbox keeps it from Python's insides, not from running for ever or filling the
memory. A limit in this process would not do: an alarm reaches only the main thread, and no single long operation. So a
child that stays for all the rows of a template renders it (`chat.template_worker`): 0.1 s to start, 0.1 ms a row.
A template that is known, byte for byte, is rendered here.
"""

from __future__ import annotations

import hashlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from dozan.chat.format import Message, Tool
from dozan.chat.template_worker import FAILURES, compiled, written
from dozan.chat.tokens import BOS, EOS
from dozan.errors import InputError

_WORKER = Path(__file__).with_name("template_worker.py")
_STARTING_SECONDS = 60.0
_WAITING = 10
"""Times its processor time that a rendering may take by the clock: the machine may be busy."""


@dataclass(frozen=True)
class Limits:
    """What one rendering may take: seconds of the processor, bytes of the process's address space, bytes of output and
    of the template itself."""

    seconds: float = 2.0
    memory_bytes: int = 2**29
    output_bytes: int = 2**20
    template_bytes: int = 2**20


DEFAULT = Limits()


class TemplateFailed(Exception):
    """A template is wrong, or raised an error for a row; the text says which."""


def functiongemma_template() -> str:
    """Our Jinja template of FunctionGemma's format: the renderer's bytes for input that needs no repair."""
    return Path(__file__).with_name("functiongemma.jinja").read_text(encoding="utf-8")


@cache
def known_templates() -> frozenset[str]:
    """SHA-256 of the templates that need no limits."""
    return frozenset({_sha256(functiongemma_template())})


class ChatTemplate:
    """A template of `place`, as a context: its process, begun with the first row, ends with it.

    Raises InputError for a template that is too large.
    """

    def __init__(self, text: str, place: str | Path, limits: Limits = DEFAULT) -> None:
        size = len(text.encode("utf-8", "surrogatepass"))
        if size > limits.template_bytes:
            over = f"{size:,} bytes, over {limits.template_bytes:,}"
            raise InputError(f"{place}: the chat template has {over}; {_REMEDY}")
        self._text, self._place, self._limits = text, place, limits
        self._own = compiled(text) if _sha256(text) in known_templates() else None
        self._child: subprocess.Popen[bytes] | None = None
        self._said: IO[bytes] | None = None

    def __enter__(self) -> ChatTemplate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def render(self, messages: Sequence[Message], tools: Sequence[Tool], generate: bool = False, row: str = "") -> str:
        """What the template writes for a row. Raises TemplateFailed where it fails, and InputError where it takes more
        than its limits, with the place, the row and what to do."""
        names = {"messages": list(messages), "tools": list(tools) or None, "add_generation_prompt": generate,
                 "bos_token": BOS, "eos_token": EOS}  # fmt: skip
        if self._own is not None:
            try:
                return written(self._own, names)
            except FAILURES as error:
                raise TemplateFailed(f"{type(error).__name__}: {error}") from None
        if self._child is None:
            self._begin()
        answer = self._asked(names, _WAITING * self._limits.seconds)
        if "error" in answer:
            raise TemplateFailed(answer["error"])
        if "limit" in answer:
            self._end()
            raise InputError(f"{self._place}: the chat template {self._over(answer['limit'])}"
                             f"{f' in {row}' if row else ''}; {_REMEDY}")  # fmt: skip
        return str(answer["text"])

    def _begin(self) -> None:
        """Start the process: it sees the packages and libraries of this one, and nothing else of its environment."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        shared = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-B", str(_WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._said, env={**shared, "PYTHONPATH": path, "PYTHONUTF8": "1"}, start_new_session=True,
        )  # fmt: skip
        limits = self._limits
        answer = self._asked({"template": self._text, "seconds": limits.seconds, "memory": limits.memory_bytes,
                              "bytes": limits.output_bytes}, _STARTING_SECONDS)  # fmt: skip
        if "ready" not in answer:
            said = self._words()
            self._end()
            raise RuntimeError(f"the process for chat templates did not start ({answer}): {said}")

    def _asked(self, line: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The process's answer to a line; where there is none, which limit ended it."""
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(json.dumps(line).encode() + b"\n")
            child.stdin.flush()
            found = _read_line(child.stdout.fileno(), time.monotonic() + seconds, 8 * self._limits.output_bytes)
        except BrokenPipeError:
            found = b""
        if found.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(found)
            return answer
        if found or child.poll() is None and not _ends(child):
            return {"limit": "time"}
        code = child.wait()
        return {"limit": "time" if code == -signal.SIGPROF else "memory" if code < 0 else f"status {code}"}

    def _over(self, limit: str) -> str:
        limits = self._limits
        known = {"time": f"takes more than {limits.seconds:g} s of the processor",
                 "memory": f"takes more than {limits.memory_bytes / 2**20:.0f} MiB of memory",
                 "output": f"writes more than {limits.output_bytes:,} bytes"}  # fmt: skip
        return known.get(limit) or f"ended its process with {limit} ({self._words()})"

    def _words(self) -> str:
        if self._said is None:
            return ""
        self._said.seek(0)
        return self._said.read(2**16).decode(errors="replace").strip()[-300:]

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.communicate()
        if self._said is not None:
            self._said.close()
            self._said = None


_REMEDY = (
    "nothing was rendered with it: put the original checkpoint's template in its place, or remove it, and rows are "
    "written in dozan's own bytes of the format"
)


def _ends(child: subprocess.Popen[bytes]) -> bool:
    """Whether a process that closed its pipe ends."""
    try:
        child.wait(1.0)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read_line(reads: int, until: float, most_bytes: int) -> bytes:
    """A line, or what came of it until the time was up, the end or so many bytes."""
    found = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(reads, selectors.EVENT_READ)
        while not found.endswith(b"\n") and len(found) < most_bytes:
            if not selector.select(max(0.0, until - time.monotonic())):
                break
            part = os.read(reads, 2**16)
            if not part:
                break
            found += part
    return bytes(found)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
