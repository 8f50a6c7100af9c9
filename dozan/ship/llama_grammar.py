"""llama.cpp's grammars in the child process: a row takes the most likely token that its GBNF allows.

The most likely token of all is tried first; only where the grammar refuses it are others looked at. As in torch, a row
that has only as many tokens left as its ending may need takes what closes (`dozan.judge.guide`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_bool, c_char_p, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass

import numpy as np

LIKELY = 256
"""Tokens tried before all are."""
CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])


class Candidates(ctypes.Structure):
    """`llama_token_data_array`."""

    _fields_ = [("data", c_void_p), ("size", c_size_t), ("selected", c_int64), ("sorted", c_bool)]


SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "llama_sampler_init_grammar": (c_void_p, [c_void_p, c_char_p, c_char_p]),
    "llama_sampler_clone": (c_void_p, [c_void_p]),
    "llama_sampler_free": (None, [c_void_p]),
    "llama_sampler_apply": (None, [c_void_p, POINTER(Candidates)]),
    "llama_sampler_accept": (None, [c_void_p, c_int32]),
}


@dataclass(frozen=True)
class Stops:
    """The ids that end a row, and one of them that llama.cpp itself knows as an end."""

    ids: frozenset[int]
    known: int


class Guide:
    """A row's place in its grammar; `close` gives its memory back."""

    def __init__(
        self, library: ctypes.CDLL, sampler: int, reserve: int, closers: Sequence[int], stops: Stops
    ) -> None:
        self._library, self._sampler = library, library.llama_sampler_clone(sampler)
        self._reserve, self._closers, self._stops = reserve, closers, stops

    def close(self) -> None:
        self._library.llama_sampler_free(self._sampler)

    def choose(self, logits: np.ndarray, left: int) -> int:
        """The most likely allowed token of logits [V]; `left` tokens, this one among them, may be written yet."""
        best = int(logits.argmax())
        token = best if left > self._reserve and self.allows(best) else self._other(logits, left)
        if token not in self._stops.ids:
            self._library.llama_sampler_accept(self._sampler, token)
        return token

    def take(self, token: int) -> bool:
        """Goes on by a token that is no stop, if it may come next."""
        if self._refused(np.array([token]))[0]:
            return False
        self._library.llama_sampler_accept(self._sampler, token)
        return True

    def allows(self, token: int) -> bool:
        """Whether a token may come next: a stop wherever the grammar may end."""
        return not self._refused(np.array([self._stops.known if token in self._stops.ids else token]))[0]

    def ends(self) -> bool:
        """Whether the answer may end here."""
        return self.allows(self._stops.known)

    def _other(self, logits: np.ndarray, left: int) -> int:
        if left <= self._reserve:
            closing = next((token for token in self._closers if self.allows(token)), None)
            if closing is not None:
                return closing
        likely = np.argpartition(logits, -min(LIKELY, len(logits)))[-LIKELY:]
        for ids in (likely, np.arange(len(logits))):
            stop = np.isin(ids, list(self._stops.ids))
            allowed = np.where(stop, self.ends(), ~self._refused(ids))
            kept = ids[allowed]
            if len(kept):
                return int(kept[logits[kept].argmax()])
        raise AssertionError("a grammar that allows nothing was begun")

    def _refused(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids the grammar refuses, bool."""
        candidates = np.zeros(len(ids), dtype=CANDIDATE)
        candidates["id"] = ids
        given = Candidates(candidates.ctypes.data, len(ids), -1, False)
        self._library.llama_sampler_apply(self._sampler, ctypes.byref(given))
        return np.isneginf(candidates["logit"])


def read_guides(
    library: ctypes.CDLL, vocab: int, request: dict[str, object], fail: type[Exception]
) -> list[Callable[[], Guide]] | None:
    """What begins a guide for each prompt, or None where the request names no grammars.

    Raises `fail` for a grammar that llama.cpp cannot read: it would otherwise be left out without a word.
    """
    texts: list[str] = request.get("grammars") or []  # type: ignore[assignment]
    if not texts:
        return None
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    ids: frozenset[int] = frozenset(request["stop_ids"])  # type: ignore[call-overload]
    known = next((i for i in sorted(ids) if library.llama_vocab_is_eog(vocab, i)), None)
    if known is None:
        raise fail("the file names no end of a turn among the stop tokens; export the model again")
    samplers = [library.llama_sampler_init_grammar(vocab, text.encode(), b"root") for text in texts]
    if not all(samplers):
        raise fail(f"llama.cpp cannot read grammar {samplers.index(None)}; simplify the schemas of its tools")
    which: list[int] = request["which"]  # type: ignore[assignment]
    reserves: list[int] = request["reserves"]  # type: ignore[assignment]
    closers: list[int] = request["closers"]  # type: ignore[assignment]

    def begin(grammar: int) -> Callable[[], Guide]:
        return lambda: Guide(library, samplers[grammar], reserves[grammar], closers, Stops(ids, known))

    return [begin(grammar) for grammar in which]
