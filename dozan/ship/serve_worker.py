"""The child process of `dozan serve`: one GGUF in llama.cpp, many answers at once, each token told as it comes.

Run as `python -m dozan.ship.serve_worker`. Its input is lines of JSON: first what to open (`gguf`, `threads`, `length`,
`slots`, `stops`, `most_bytes`), then one request a line, {"do": "answer", ...} with the fields of `Job`, or
{"do": "drop", "id"}. Its output, a line of JSON each: {"ready": {"length", "slots"}}, then after every batch {"tokens":
[[id, token]...], "ends": [[id, "stop" or "length", prompt tokens that were known]...], "fails": [[id, why]...]}, and
{"fatal": why} before it gives up. It ends with its input. What a prompt shares with an earlier one is not computed
again.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from ctypes import c_int32, c_void_p
from dataclasses import dataclass, field
from typing import Any, TextIO

import numpy as np

from dozan.ship import llama_grammar
from dozan.ship.llama_grammar import Guide, Stops
from dozan.ship.llama_worker import CACHE_BYTES, PREFILL, Row, Runtime, WorkerError, shared_length

SMALL_PREFILL = 128
"""Prompt tokens in a batch while others wait for their next token."""
WORTH_COPYING = 32
"""Tokens that another place must know more of a prompt, before its keys and values are copied, or waited for."""
GRAMMARS = 32
"""Grammars kept read."""
OUTSIDE = 1e4
"""What a token outside of top_p loses: only a grammar that allows nothing inside makes it be chosen."""
LIKELY = 512
"""Tokens among which top_p is looked for first."""


class Shared(Runtime):
    """A loaded GGUF with a context of several sequences, each at most as long as the model was made for."""

    def __init__(self, gguf: str, threads: int, length: int, slots: int) -> None:
        super().__init__(gguf, threads)
        limit = self.library.llama_model_n_ctx_train
        limit.argtypes, limit.restype = [c_void_p], c_int32
        self.length = min(length, int(limit(self.model)))
        self.slots = min(slots, max(1, CACHE_BYTES // (self.length * self._token_bytes())))
        self._open(threads, self.length, exact=False)


@dataclass(frozen=True)
class Job:
    """One answer to write: at most `most` tokens after `prompt`; with temperature 0 the most likely each time."""

    id: int
    prompt: list[int]
    most: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    grammar: str | None = None


@dataclass
class Place:
    """One sequence of the context: `held` are the ids whose keys and values it has; a job of which `fed` prompt tokens
    went in, `known` of them without being computed."""

    sequence: int
    held: list[int] = field(default_factory=list)
    used: int = 0
    job: Job | None = None
    known: int = 0
    answer: list[int] = field(default_factory=list)
    guide: Guide | None = None
    draw: np.random.Generator = field(default_factory=np.random.default_rng)

    @property
    def reading(self) -> bool:
        """Whether part of its prompt has yet to go in."""
        return self.job is not None and len(self.held) < len(self.job.prompt)


class Grammars:
    """GBNF texts read by llama.cpp, the latest kept."""

    def __init__(self, runtime: Runtime, stops: Sequence[int]) -> None:
        self._library, self._vocab = runtime.library, runtime.vocab
        for name, (result, arguments) in llama_grammar.SIGNATURES.items():
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, arguments
        known = next((i for i in sorted(stops) if self._library.llama_vocab_is_eog(self._vocab, i)), None)
        if known is None:
            raise WorkerError("the file names no end of a turn among the stop tokens; export the model again")
        self._stops = Stops(frozenset(stops), known)
        self._read: OrderedDict[str, int] = OrderedDict()

    def begin(self, text: str) -> Guide | None:
        """A guide at the grammar's beginning; None for a text that llama.cpp cannot read."""
        sampler = self._read.pop(text, None) or self._library.llama_sampler_init_grammar(
            self._vocab, text.encode(), b"root"
        )
        if not sampler:
            return None
        self._read[text] = sampler
        if len(self._read) > GRAMMARS:
            self._library.llama_sampler_free(self._read.popitem(last=False)[1])
        return Guide(self._library, sampler, 0, (), self._stops)


class Desk:
    """The places, and the jobs that wait for one."""

    def __init__(self, runtime: Runtime, stops: Sequence[int]) -> None:
        self.runtime, self.stops = runtime, frozenset(stops)
        self.grammars = Grammars(runtime, stops)
        self.places = [Place(i) for i in range(runtime.slots)]
        self.waiting: list[Job] = []
        self.tokens: list[tuple[int, int]] = []
        self.ends: list[tuple[int, str, int]] = []
        self.fails: list[tuple[int, str]] = []
        self._clock = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting) or any(place.job for place in self.places)

    def take(self, request: dict[str, Any]) -> None:
        """A request of the parent."""
        if request.pop("do") == "answer":
            self.waiting.append(Job(**request))
            return
        self.waiting = [job for job in self.waiting if job.id != request["id"]]
        for place in self.places:
            if place.job is not None and place.job.id == request["id"]:
                self._leave(place)

    def step(self) -> dict[str, Any]:
        """One batch: a token of each answer and a part of the prompts that are read; what came of it."""
        self.tokens, self.ends, self.fails = [], [], []
        self.waiting = [job for job in self.waiting if not self._seat(job)]
        rows: list[Row] = []
        wanted: list[tuple[int, Place]] = []
        for place in self.places:
            if place.job is not None and not place.reading:
                wanted.append((len(rows), place))
                rows.append(Row(place.answer[-1], len(place.held), place.sequence, True))
                place.held.append(place.answer[-1])
        room = (SMALL_PREFILL if rows else PREFILL - len(self.places)) + len(rows)
        for place in sorted((p for p in self.places if p.reading), key=lambda p: p.used):
            assert place.job is not None
            part = place.job.prompt[len(place.held) :][: room - len(rows)]
            last = len(place.held) + len(part) == len(place.job.prompt)
            wanted += [(len(rows) + len(part) - 1, place)] if part and last else []
            rows += [Row(token, len(place.held) + i, place.sequence, last and i == len(part) - 1)
                     for i, token in enumerate(part)]  # fmt: skip
            place.held += part
        if rows:
            self.runtime.decode(rows)
        for at, place in wanted:
            self._choose(place, self.runtime.logits(at))
        return {"tokens": self.tokens, "ends": self.ends, "fails": self.fails}

    def _seat(self, job: Job) -> bool:
        """Give a job a free place, with what any place knows of its prompt; False when it has to wait."""
        free = [place for place in self.places if place.job is None]
        if not free:
            return False
        most = len(job.prompt) - 1
        shared = {place.sequence: min(most, shared_length(place.held, job.prompt)) for place in self.places}
        best = max(self.places, key=lambda place: shared[place.sequence])
        coming = max((min(most, shared_length(place.job.prompt, job.prompt))
                      for place in self.places if place.job is not None and place.reading), default=0)  # fmt: skip
        if coming >= shared[best.sequence] + WORTH_COPYING:
            return False
        place = max(free, key=lambda place: (shared[place.sequence], -place.used))
        guide = None if job.grammar is None else self.grammars.begin(job.grammar)
        if job.grammar is not None and guide is None:
            self.fails.append((job.id, "llama.cpp cannot read the grammar of these tools; simplify their schemas"))
            return True
        if shared[best.sequence] >= shared[place.sequence] + WORTH_COPYING:
            place = min(free, key=lambda place: place.used)
            self.runtime.copy(best.sequence, place.sequence)
            place.held, shared[place.sequence] = list(best.held), shared[best.sequence]
        known = shared[place.sequence]
        self.runtime.keep(place.sequence, known)
        self._clock += 1
        place.held, place.job, place.known, place.used = place.held[:known], job, known, self._clock
        place.answer, place.guide, place.draw = [], guide, np.random.default_rng(job.seed)
        return True

    def _choose(self, place: Place, logits: np.ndarray) -> None:
        job = place.job
        assert job is not None
        scores = logits if job.temperature == 0 else drawn(logits, job.temperature, job.top_p, place.draw)
        token = int(scores.argmax()) if place.guide is None else place.guide.choose(scores, job.most)
        stopped = token in self.stops
        if not stopped:
            place.answer.append(token)
            self.tokens.append((job.id, token))
        if stopped or len(place.answer) == job.most:
            self.ends.append((job.id, "stop" if stopped else "length", place.known))
            self._leave(place)

    def _leave(self, place: Place) -> None:
        if place.guide is not None:
            place.guide.close()
        place.job = place.guide = None


def drawn(logits: np.ndarray, temperature: float, top_p: float, draw: np.random.Generator) -> np.ndarray:
    """Scores [V] whose largest is a draw from softmax(logits / temperature), also among any part of the tokens: minus
    the logarithm of an exponential draw is Gumbel noise. Outside of the top_p likeliest all lose `OUTSIDE`."""
    scores = logits / np.float32(temperature)
    if top_p < 1:
        scores = np.where(nucleus(scores, top_p), scores, scores - np.float32(OUTSIDE))
    return scores - np.log(draw.standard_exponential(len(scores), dtype=np.float32) + np.float32(1e-30))


def nucleus(scores: np.ndarray, top_p: float) -> np.ndarray:
    """Which tokens are the fewest that have top_p of the probability together, bool [V]."""
    weights = np.exp(scores - scores.max())
    need = top_p * float(weights.sum())
    for count in (min(LIKELY, len(scores)), len(scores)):
        ids = np.argpartition(weights, -count)[-count:]
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        reached = int(np.searchsorted(np.cumsum(weights[ids], dtype=np.float64), need))
        if reached < count:
            break
    kept = np.zeros(len(scores), dtype=bool)
    kept[ids[: reached + 1]] = True
    return kept


def requests(inbox: queue.SimpleQueue[str], wait: bool) -> Iterator[dict[str, Any]]:
    """The requests that have come; with `wait`, at least one."""
    while wait or not inbox.empty():
        yield json.loads(inbox.get())
        wait = False


def listen(inbox: queue.SimpleQueue[str]) -> None:
    """Puts each line of the input into the inbox; leaves when the parent has gone."""
    for line in sys.stdin:
        inbox.put(line)
    os._exit(0)


def work(out: TextIO) -> None:
    """Open the model and answer until the input ends."""

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message, separators=(",", ":")) + "\n")
        out.flush()

    opening = json.loads(sys.stdin.readline())
    resource.setrlimit(resource.RLIMIT_AS, (opening["most_bytes"], opening["most_bytes"]))
    inbox: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    try:
        runtime = Shared(opening["gguf"], opening["threads"], opening["length"], opening["slots"])
        desk = Desk(runtime, opening["stops"])
        say({"ready": {"length": runtime.length, "slots": runtime.slots}})
        while True:
            for request in requests(inbox, wait=not desk.busy):
                desk.take(request)
            told = desk.step()
            if any(told.values()):
                say(told)
    except WorkerError as error:
        say({"fatal": str(error)})


def main() -> int:
    """Keeps the real output for messages: what a library prints goes to the errors."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    work(out)
    return 1


if __name__ == "__main__":
    sys.exit(main())
