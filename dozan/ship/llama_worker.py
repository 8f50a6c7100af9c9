"""The child process that holds llama.cpp: its C interface through ctypes, greedy decoding, logits and token ids.

Run as `python -m dozan.ship.llama_worker FOLDER`: reads FOLDER/request.json, writes FOLDER/result.json (logits:
row-N.npy), prints "progress DONE TOTAL" lines. llama.cpp aborts the process on a damaged file, which is why nothing
else lives here; `dozan.ship.llamacpp` is the other side. The library is the one inside the xllamacpp wheel.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_float, c_int8, c_int32, c_uint32, c_void_p
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dozan.ship.llama_grammar import Guide, read_guides

SLOTS = 16
"""Sequences decoded together: on two cores, 400 prompts took 21 s with 1, 6.6 s with 8 and 6.3 s with 32."""
CACHE_BYTES = 2 << 30
"""Memory for keys and values; large models get fewer slots."""
PREFILL = 512
"""Prompt tokens given to llama.cpp in one call."""
F32, FLASH_OFF = 0, 0
WARNING = 3
"""llama.cpp's log levels from here on are kept."""


@ctypes.CFUNCTYPE(None, c_int32, c_char_p, c_void_p)
def keep_warnings(level: int, text: bytes, _: int | None) -> None:
    """llama.cpp's log, without its notes on every tensor."""
    if level >= WARNING:
        sys.stderr.buffer.write(text)
        sys.stderr.buffer.flush()



class ContextParams(ctypes.Structure):
    """`llama_context_params` as far as we set it; the tail is room for what follows, which keeps its defaults."""

    # fmt: off
    _fields_ = [(name, c_uint32) for name in (
        "n_ctx", "n_batch", "n_ubatch", "n_seq_max", "n_rs_seq", "n_outputs_max", "n_outputs_max_per_seq")]
    _fields_ += [(name, c_int32) for name in (
        "n_threads", "n_threads_batch", "ctx_type", "rope_scaling_type", "pooling_type", "attention_type",
        "flash_attn_type")]
    _fields_ += [(name, c_float) for name in (
        "rope_freq_base", "rope_freq_scale", "yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")]
    # fmt: on
    _fields_ += [("yarn_orig_ctx", c_uint32), ("defrag_thold", c_float), ("cb_eval", c_void_p), ("cb_data", c_void_p)]
    _fields_ += [("type_k", c_int32), ("type_v", c_int32), ("tail", c_int8 * 256)]


DEFAULTS = {"n_ctx": 512, "n_batch": 2048, "n_ubatch": 512, "n_seq_max": 1, "n_threads": 4, "n_threads_batch": 4,
            "rope_scaling_type": -1, "pooling_type": -1, "attention_type": -1, "flash_attn_type": -1,
            "yarn_ext_factor": -1.0, "defrag_thold": -1.0, "cb_eval": None, "type_k": 1, "type_v": 1}  # fmt: skip
"""What llama.cpp must answer for its defaults if the layout above is that of the installed build."""


class ModelParams(ctypes.Structure):
    """`llama_model_params`, never changed: an opaque value larger than any build's."""

    _fields_ = [("opaque", c_void_p * 32)]


class Batch(ctypes.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", c_int32),
        ("token", POINTER(c_int32)),
        ("embd", POINTER(c_float)),
        ("pos", POINTER(c_int32)),
        ("n_seq_id", POINTER(c_int32)),
        ("seq_id", POINTER(POINTER(c_int32))),
        ("logits", POINTER(c_int8)),
    ]


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_log_set": (None, [c_void_p, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_is_eog": (c_bool, [c_void_p, c_int32]),
    "llama_model_n_layer": (c_int32, [c_void_p]),
    "llama_model_n_embd": (c_int32, [c_void_p]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_n_seq_max": (c_uint32, [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits_ith": (POINTER(c_float), [c_void_p, c_int32]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, POINTER(c_int32), c_int32, c_bool, c_bool]),
}


class WorkerError(Exception):
    """llama.cpp refused; the message goes to the parent."""


def load_library() -> ctypes.CDLL:
    """The shared object of the xllamacpp wheel, with the signatures above. Raises WorkerError for an unknown build."""
    spec = find_spec("xllamacpp")
    if spec is None or spec.origin is None:
        raise WorkerError("the package xllamacpp, which carries llama.cpp, is not installed: pip install xllamacpp")
    objects = sorted(Path(spec.origin).parent.glob("xllamacpp*.so")) + sorted(Path(spec.origin).parent.glob("*.pyd"))
    if not objects:
        raise WorkerError(f"no shared object beside {spec.origin}: reinstall xllamacpp")
    library = ctypes.CDLL(str(objects[0]))
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.llama_context_default_params()
    wrong = {name: getattr(found, name) for name, value in DEFAULTS.items() if getattr(found, name) != value}
    if wrong:
        raise WorkerError(f"this xllamacpp has another parameter layout than the one dozan knows ({wrong}): "
                          "install the version that dozan asks for")  # fmt: skip
    library.llama_log_set(ctypes.cast(keep_warnings, c_void_p), None)
    library.llama_backend_init()
    return library


@dataclass
class Row:
    """One token of a batch."""

    token: int
    position: int
    sequence: int
    wanted: bool


class Runtime:
    """A loaded GGUF with one context of `slots` sequences of `length` tokens each."""

    def __init__(self, gguf: str, threads: int, length: int = 0, slots: int = 1, exact: bool = False) -> None:
        self.library = load_library()
        self.model = self.library.llama_model_load_from_file(gguf.encode(), self.library.llama_model_default_params())
        if not self.model:
            raise WorkerError("llama.cpp could not load the file")
        self.vocab = self.library.llama_model_get_vocab(self.model)
        self.size = self.library.llama_vocab_n_tokens(self.vocab)
        self.slots = min(slots, max(1, CACHE_BYTES // (max(1, length) * self._token_bytes())))
        if length:
            self._open(threads, length, exact)

    def _token_bytes(self) -> int:
        """At most what a token's keys and values take in f16."""
        return 4 * int(self.library.llama_model_n_layer(self.model) * self.library.llama_model_n_embd(self.model))

    def _open(self, threads: int, length: int, exact: bool) -> None:
        params = self.library.llama_context_default_params()
        length = -(-length // 256) * 256
        params.n_ctx, params.n_seq_max, params.n_batch = length * self.slots, self.slots, max(PREFILL, self.slots)
        if exact:
            params.type_k = params.type_v = F32
            params.flash_attn_type = FLASH_OFF
        self.context = self.library.llama_init_from_model(self.model, params)
        if not self.context:
            raise WorkerError(f"llama.cpp could not make a context of {self.slots} x {length} tokens")
        got = (self.library.llama_n_ctx_seq(self.context), self.library.llama_n_seq_max(self.context))
        if got != (length, self.slots):
            raise WorkerError(f"llama.cpp opened {got} (tokens, sequences) where {(length, self.slots)} were asked for")
        self.library.llama_set_n_threads(self.context, threads, threads)
        self.memory = self.library.llama_get_memory(self.context)

    def decode(self, rows: Sequence[Row]) -> None:
        """Run one batch; the logits of its wanted rows are then readable by their index in `rows`."""
        count = len(rows)
        sequences = (c_int32 * count)(*(row.sequence for row in rows))
        step = ctypes.sizeof(c_int32)
        address = ctypes.addressof(sequences)
        pointers = (POINTER(c_int32) * count)(
            *(ctypes.cast(address + i * step, POINTER(c_int32)) for i in range(count))
        )
        batch = Batch(count, (c_int32 * count)(*(row.token for row in rows)), None,
                      (c_int32 * count)(*(row.position for row in rows)), (c_int32 * count)(*[1] * count), pointers,
                      (c_int8 * count)(*(row.wanted for row in rows)))  # fmt: skip
        code = self.library.llama_decode(self.context, batch)
        if code != 0:
            raise WorkerError(f"llama_decode returned {code} for a batch of {count} tokens")

    def logits(self, index: int) -> np.ndarray:
        """[V] float32 view of the last batch's row; valid until the next decode."""
        pointer = self.library.llama_get_logits_ith(self.context, index)
        if not pointer:
            raise WorkerError(f"llama.cpp has no logits for row {index}")
        return np.ctypeslib.as_array(pointer, shape=(self.size,))

    def keep(self, sequence: int, length: int) -> None:
        """Forget everything of a sequence from position `length` on."""
        if not self.library.llama_memory_seq_rm(self.memory, sequence, length, -1):
            raise WorkerError(f"llama.cpp could not cut sequence {sequence} at {length}")

    def copy(self, source: int, target: int) -> None:
        """Make `target` hold what `source` holds."""
        self.library.llama_memory_seq_rm(self.memory, target, -1, -1)
        self.library.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def prefill(self, sequence: int, ids: Sequence[int], start: int) -> int:
        """Feed ids[start:] and return the last one's index, by which its logits are read."""
        for at in range(start, len(ids), PREFILL):
            chunk = range(at, min(at + PREFILL, len(ids)))
            self.decode([Row(ids[i], i, sequence, i == len(ids) - 1) for i in chunk])
        return len(chunk) - 1


@dataclass
class Slot:
    """One sequence of the context: the prompt whose keys it holds and the answer in progress."""

    sequence: int
    prompt: list[int] = field(default_factory=list)
    index: int = -1
    answer: list[int] = field(default_factory=list)
    guide: Guide | None = None

    @property
    def busy(self) -> bool:
        return self.index >= 0


def shared_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that two prompts have in common from the start."""
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


def begin(runtime: Runtime, slots: Sequence[Slot], slot: Slot, index: int, prompt: list[int]) -> int:
    """Give a free slot its next prompt, reusing the longest prefix that any slot holds; its last token's index."""
    best = max(slots, key=lambda other: (shared_length(other.prompt, prompt), other is slot))
    shared = min(shared_length(best.prompt, prompt), len(prompt) - 1)
    if best is not slot and shared:
        runtime.copy(best.sequence, slot.sequence)
    runtime.keep(slot.sequence, shared)
    slot.prompt, slot.index, slot.answer = prompt, index, []
    return runtime.prefill(slot.sequence, prompt, shared)


def complete(
    runtime: Runtime, prompts: list[list[int]], most: int, stops: frozenset[int],
    guides: list[Callable[[], Guide]] | None = None,
) -> list[list[int]]:  # fmt: skip
    """Greedy answers, at most `most` tokens each, without the stop id. Prompts are taken in sorted order, so that
    neighbours share prefixes; finished slots are refilled at once. `guides` begin a guide for each prompt."""
    answers: list[list[int]] = [[] for _ in prompts]
    waiting = sorted(range(len(prompts)), key=lambda i: prompts[i], reverse=True)
    slots = [Slot(i) for i in range(runtime.slots)]
    total, left = len(prompts), len(prompts)

    def take(slot: Slot, at: int) -> None:
        nonlocal left
        logits = runtime.logits(at)
        token = int(logits.argmax()) if slot.guide is None else slot.guide.choose(logits, most - len(slot.answer))
        if token not in stops:
            slot.answer.append(token)
        if token in stops or len(slot.answer) == most:
            answers[slot.index], slot.index = slot.answer, -1
            if slot.guide is not None:
                slot.guide.close()
            left -= 1
            print(f"progress {total - left} {total}", flush=True)

    while left:
        for slot in slots:
            while waiting and not slot.busy:
                index = waiting.pop()
                at = begin(runtime, slots, slot, index, prompts[index])
                slot.guide = None if guides is None else guides[index]()
                take(slot, at)
        running = [slot for slot in slots if slot.busy]
        if running:
            runtime.decode([Row(s.answer[-1], len(s.prompt) + len(s.answer) - 1, s.sequence, True) for s in running])
            for at, slot in enumerate(running):
                take(slot, at)
    return answers


def last_logits(runtime: Runtime, ids: Sequence[int], tail: int) -> np.ndarray:
    """[min(T, tail), V] float32: the last positions of one sequence."""
    first = max(0, len(ids) - tail)
    out = np.empty((len(ids) - first, runtime.size), np.float32)
    runtime.keep(0, 0)
    for at in range(0, len(ids), PREFILL):
        chunk = range(at, min(at + PREFILL, len(ids)))
        runtime.decode([Row(ids[i], i, 0, i >= first) for i in chunk])
        for row, i in enumerate(chunk):
            if i >= first:
                out[i - first] = runtime.logits(row)
    return out


def accepts(guide: Guide, answer: list[int]) -> bool:
    """Whether an answer, without its stop id, is in the guide's language."""
    found = all(guide.take(token) for token in answer) and guide.ends()
    guide.close()
    return found


def token_ids(runtime: Runtime, line: str) -> list[int]:
    """Plain token ids of a text: no <bos>, no control tokens."""
    text = line.encode()
    room = len(text) + 8
    buffer = (c_int32 * room)()
    count = runtime.library.llama_tokenize(runtime.vocab, text, len(text), buffer, room, False, False)
    if count < 0:
        raise WorkerError(f"llama_tokenize returned {count} for a line of {len(text)} bytes")
    return list(buffer[:count])


def answer(request: dict[str, object], folder: Path) -> object:
    """Do what the request asks; the value for result.json."""
    gguf, threads = str(request["gguf"]), int(str(request["threads"]))
    match request["do"]:
        case "complete":
            prompts: list[list[int]] = request["prompts"]  # type: ignore[assignment]
            most = int(str(request["max_new_tokens"]))
            length = max(map(len, prompts)) + most
            runtime = Runtime(gguf, threads, length, min(SLOTS, len(prompts)))
            guides = read_guides(runtime.library, runtime.vocab, request, WorkerError)
            return complete(runtime, prompts, most, frozenset(request["stop_ids"]), guides)  # type: ignore[call-overload]
        case "accepts":
            answers: list[list[int]] = request["answers"]  # type: ignore[assignment]
            runtime = Runtime(gguf, threads)
            begins = read_guides(runtime.library, runtime.vocab, request, WorkerError) or []
            return [accepts(make(), answer) for make, answer in zip(begins, answers, strict=True)]
        case "inspect":
            rows: list[list[int]] = request["rows"]  # type: ignore[assignment]
            runtime = Runtime(gguf, threads, max(map(len, rows), default=0), exact=True)
            for number, ids in enumerate(rows):
                np.save(folder / f"row-{number}.npy", last_logits(runtime, ids, int(str(request["tail"]))))
            tokens = [token_ids(runtime, line) for line in request["lines"]]  # type: ignore[attr-defined]
            ends = [runtime.library.llama_vocab_is_eog(runtime.vocab, i) for i in request["ids"]]  # type: ignore[attr-defined]
            return {"tokens": tokens, "ends": ends}
        case other:
            raise AssertionError(other)


def main(folder: Path) -> int:
    """Answer one request within its memory; 1 with the reason in error.txt when llama.cpp refused."""
    request = json.loads((folder / "request.json").read_text())
    most = int(request["memory_bytes"])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    try:
        result = answer(request, folder)
    except WorkerError as error:
        (folder / "error.txt").write_text(str(error))
        return 1
    (folder / "result.json").write_text(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
