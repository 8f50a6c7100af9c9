"""One model behind `dozan serve`: its worker process, the answers in progress, and those that wait their turn.

The worker holds llama.cpp, which can abort on a damaged file: whatever happens to it, an answer ends in tokens or in
`EngineError`, and the next request starts a new worker. Clients take turns: of those who wait, one answer each.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from dozan.ship.llama_worker import CACHE_BYTES
from dozan.ship.serve_worker import Job

SPARE_BYTES = 6 << 30
"""Address space that the worker may have beside the file and its keys and values: libraries, buffers, stacks."""
LINE_BYTES = 1 << 20
SHOWN = 3


class EngineError(Exception):
    """The model could not answer; the message says why and what to do."""


class Busy(EngineError):
    """Too many wait already."""


class Refused(EngineError):
    """The worker cannot take this request; another may be well."""


@dataclass(frozen=True)
class Limits:
    """slots: answers at the same time; length: tokens of a prompt and its answer; waiting: answers in the queue;
    quiet_seconds: how long the worker may say nothing with an answer in progress; load_seconds: to open the file."""

    slots: int = 8
    length: int = 4096
    waiting: int = 256
    threads: int = 0
    quiet_seconds: float = 300.0
    load_seconds: float = 600.0


@dataclass(frozen=True)
class End:
    """reason: "stop" or "length"; known: prompt tokens that did not have to be computed."""

    reason: str
    known: int


Event = int | End | EngineError


@dataclass(eq=False)
class Ticket:
    """An answer asked for, and what has come of it."""

    job: Job
    client: str
    events: asyncio.Queue[Event] = field(default_factory=asyncio.Queue)


class Line:
    """Who waits: clients in turn, each with its answers in order."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Ticket]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def put(self, ticket: Ticket) -> None:
        self._clients.setdefault(ticket.client, deque()).append(ticket)

    def take(self) -> Ticket:
        """The first answer of the client whose turn it is, who then goes to the end."""
        client, tickets = self._clients.popitem(last=False)
        ticket = tickets.popleft()
        if tickets:
            self._clients[client] = tickets
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget an answer, if it still waits."""
        tickets = self._clients.get(ticket.client, deque())
        if ticket in tickets:
            tickets.remove(ticket)
            if not tickets:
                del self._clients[ticket.client]


class Engine:
    """A GGUF that answers: `slots` at the same time, each of at most `length` tokens of prompt and answer. Both are the
    worker's own once `start` has returned: it opens fewer where memory asks for it."""

    def __init__(self, gguf: str | Path, stops: Sequence[int], limits: Limits) -> None:
        self.gguf, self.limits, self.length = Path(gguf).resolve(), limits, limits.length
        self._stops, self._numbers = list(stops), itertools.count(1)
        self._line, self._active = Line(), dict[int, Ticket]()
        self.slots = limits.slots
        self._process: asyncio.subprocess.Process | None = None
        self._log: BinaryIO | None = None
        self._heard = 0.0
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Open the file. Raises EngineError when llama.cpp cannot."""
        await self._open()
        self._tasks.append(asyncio.create_task(self._serve()))

    async def close(self) -> None:
        """End the worker; answers in progress fail."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end("the server is going down")

    @property
    def pid(self) -> int | None:
        """The worker's process id, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def load(self) -> tuple[int, int]:
        """Answers in progress, and those that wait."""
        return len(self._active), len(self._line)

    async def answer(
        self, prompt: list[int], most: int, client: str = "", temperature: float = 0.0, top_p: float = 1.0,
        seed: int = 0, grammar: str | None = None,
    ) -> AsyncIterator[int | End]:  # fmt: skip
        """The ids of an answer as they come, its stop id left out, and its end. Leaving early stops the model.

        Raises Busy when too many wait, Refused for a request that cannot be run, EngineError when the worker was lost.
        """
        free = max(0, self.slots - len(self._active))
        if len(self._line) >= self.limits.waiting + free:
            raise Busy(f"{len(self._line)} requests wait already; try again in a moment")
        job = Job(next(self._numbers), prompt, most, temperature, top_p, seed, grammar)
        ticket = Ticket(job, client)
        self._line.put(ticket)
        self._wake.set()
        try:
            while True:
                event = await ticket.events.get()
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, End):
                    return
        finally:
            self._line.drop(ticket)
            if self._active.pop(job.id, None) is not None:
                self._send({"do": "drop", "id": job.id})
            self._wake.set()

    async def _serve(self) -> None:
        """Sends what waits to the worker as places become free; opens the file again when the worker was lost."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while len(self._line) and len(self._active) < self.slots:
                if self._process is None:
                    try:
                        await self._open()
                    except EngineError as error:
                        while len(self._line):
                            self._line.take().events.put_nowait(error)
                        continue
                if len(self._line):
                    ticket = self._line.take()
                    self._active[ticket.job.id] = ticket
                    self._send({"do": "answer", **asdict(ticket.job)})

    async def _open(self) -> None:
        """A new worker that has opened the file."""
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "dozan.ship.serve_worker", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=self._log, limit=LINE_BYTES,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        limits = self.limits
        bytes_ = 2 * self.gguf.stat().st_size + CACHE_BYTES + SPARE_BYTES if self.gguf.is_file() else SPARE_BYTES
        self._send({"gguf": str(self.gguf), "threads": limits.threads, "length": limits.length, "slots": limits.slots,
                    "stops": self._stops, "most_bytes": bytes_})  # fmt: skip
        try:
            async with asyncio.timeout(limits.load_seconds):
                message = await self._hear()
        except TimeoutError:
            await self._end("")
            raise EngineError(f"{self.gguf.name}: llama.cpp did not open it in {limits.load_seconds:g} s") from None
        if message is None or "fatal" in message:
            why = await self._end("" if message is None else str(message["fatal"]))
            raise EngineError(f"{self.gguf.name} cannot be run: {why}; export the model again")
        self.length, self.slots = message["ready"]["length"], message["ready"]["slots"]
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks += [asyncio.create_task(self._listen()), asyncio.create_task(self._watch(self._process))]

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(json.dumps(message).encode() + b"\n")

    async def _hear(self) -> dict[str, Any] | None:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        self._heard = asyncio.get_running_loop().time()
        return json.loads(line) if line.endswith(b"\n") else None

    async def _listen(self) -> None:
        """Hands out what the worker says, until it is gone."""
        while (message := await self._hear()) is not None and "fatal" not in message:
            for number, token in message["tokens"]:
                self._tell(number, token)
            for number, reason, known in message["ends"]:
                self._tell(number, End(reason, known))
            for number, why in message["fails"]:
                self._tell(number, Refused(why))
        await self._end("" if message is None else str(message["fatal"]))

    def _tell(self, number: int, event: Event) -> None:
        ticket = self._active.get(number)
        if ticket is not None:
            ticket.events.put_nowait(event)
            if not isinstance(event, int):
                del self._active[number]
                self._wake.set()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kills a worker that says nothing while it should."""
        pause = min(1.0, self.limits.quiet_seconds / 4)
        clock, idle = asyncio.get_running_loop().time, 0.0
        while process.returncode is None:
            await asyncio.sleep(pause)
            idle = idle if self._active else clock()
            if clock() - max(idle, self._heard) > self.limits.quiet_seconds:
                await self._end(f"it said nothing for {self.limits.quiet_seconds:g} seconds")
                return

    async def _end(self, said: str) -> str:
        """Take leave of the worker, dead or not; everyone it owed an answer is told why."""
        process, self._process = self._process, None
        if process is None:
            return said
        with contextlib.suppress(ProcessLookupError):
            process.kill() if said or process.returncode is None and not await self._gone(process) else None
        code = await process.wait()
        why = said or f"it ended {f'by signal {-code}' if code < 0 else f'with exit code {code}'}{self._last_words()}"
        lost = EngineError(f"the model's process was lost: {why}; the next request starts it again")
        active, self._active = self._active, {}
        for ticket in active.values():
            ticket.events.put_nowait(lost)
        self._wake.set()
        return why

    @staticmethod
    async def _gone(process: asyncio.subprocess.Process) -> bool:
        """Whether a process whose output has ended is about to end by itself."""
        try:
            async with asyncio.timeout(5.0):
                await process.wait()
        except TimeoutError:
            return False
        return True

    def _last_words(self) -> str:
        """What llama.cpp said of an error."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        words = [line.strip() for line in lines if "error" in line.lower() or "assert" in line.lower()]
        self._log.close()
        self._log = None
        return f" ({' | '.join(words[-SHOWN:])})" if words else ""
