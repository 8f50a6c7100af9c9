"""Holds greedy generation to a grammar: a row takes the most likely token that its grammar allows.

A token that is the most likely of all and allowed is also the most likely of those allowed, so a mask of the
vocabulary is only made where the grammar refuses what the model wants. A grammar alone would let an answer run on until
its tokens are spent, in the middle of a call; so when a row has only as many left as its ending may need, it takes what
closes. Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import ceil

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

from dozan.chat.grammar import Grammar
from dozan.chat.grammar_text import to_lark
from dozan.chat.tokenizer import Tokenizer
from dozan.chat.tokens import END_CALL, ESCAPE
from dozan.errors import InputError

_MARGIN, _MORE = 1.25, 16
"""A model may spell a key in more tokens than our tokenizer does, and be deep in lists when its ending comes."""


class Guide:
    """A row's place in its grammar."""

    def __init__(self, matcher: LLMatcher, reserve: int, closers: Sequence[int]) -> None:
        self._matcher, self._reserve, self._closers = matcher, reserve, closers

    def take(self, tokens: list[int], left: int) -> int:
        """Goes on by as many of the tokens as may come next, and says how many; `left` tokens, these among them, may be
        written yet."""
        room = left - self._reserve
        if room < len(tokens):
            tokens = tokens[: max(0, room)]
        taken: int = self._matcher.try_consume_tokens(tokens) if tokens else 0
        return taken

    def force(self, token: int) -> None:
        """Goes on by a token that `allowed` allows."""
        assert self._matcher.consume_token(token), self._matcher.get_error()

    def allowed(self, left: int, size: int) -> np.ndarray:
        """Which of `size` tokens may come next, bool [V]; near the end of what is left only what closes, if it may."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        assert not self._matcher.is_error(), self._matcher.get_error()
        mask = np.zeros(size, dtype=bool)
        known = np.unpackbits(bits, bitorder="little").view(bool)[:size]
        mask[: len(known)] = known
        closing = next((i for i in self._closers if mask[i]), None) if left <= self._reserve else None
        if closing is not None:
            mask[:] = False
            mask[closing] = True
        return mask


class Guides:
    """The guides of rows that each have a grammar, checked before the first of them is used.

    Raises InputError for a grammar that llguidance refuses.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Iterable[int], grammars: Sequence[Grammar]) -> None:
        tokens = ll_tokenizer(tokenizer, tuple(sorted(stops)))
        self._closers = closers(tokenizer, stops)
        self._grammars = list(grammars)
        self._made: dict[int, tuple[LLMatcher, int]] = {}
        for grammar in grammars:
            if id(grammar) not in self._made:
                self._made[id(grammar)] = compiled(grammar, tokens), ending_tokens(grammar, tokenizer)

    def different(self) -> tuple[list[Grammar], list[int], list[int], list[int]]:
        """For another who follows the grammars: the different ones, each row's, each one's reserve, and the closers."""
        kept = {id(grammar): grammar for grammar in self._grammars}
        number = {key: i for i, key in enumerate(kept)}
        reserves = [self._made[key][1] for key in kept]
        return list(kept.values()), [number[id(grammar)] for grammar in self._grammars], reserves, self._closers

    def begin(self, row: int) -> Guide:
        """The guide of a row, at its beginning."""
        matcher, reserve = self._made[id(self._grammars[row])]
        return Guide(matcher.deep_copy(), reserve, self._closers)

    def check_limits(self, limits: Sequence[int]) -> None:
        """InputError when a row may not have the tokens that its ending may need."""
        needed = [self._made[id(grammar)][1] + 1 for grammar in self._grammars]
        short = [
            (row, limit, need) for row, (limit, need) in enumerate(zip(limits, needed, strict=True)) if limit < need
        ]
        if short:
            row, limit, need = max(short, key=lambda found: found[2])
            raise InputError(f"{len(short)} rows have too few tokens to end a call (row {row}: {limit} "
                             f"of {need}); give at least {need} new tokens, or shorten the prompt")  # fmt: skip

    def check_answers(self, answers: Sequence[Sequence[int]]) -> None:
        """InputError for an answer, without its stop id, that is not in its grammar's language."""
        wrong = [row for row, answer in enumerate(answers) if not self.accepts(row, answer)]
        if wrong:
            raise InputError(f"{len(wrong)} answers are not what their grammar asks, row {wrong[0]} the first: they "
                             "did not end in time; give more new tokens")  # fmt: skip

    def accepts(self, row: int, answer: Sequence[int]) -> bool:
        """Whether an answer, without its stop id, is in the language of the row's grammar."""
        matcher = self._made[id(self._grammars[row])][0].deep_copy()
        return matcher.try_consume_tokens(list(answer)) == len(answer) and bool(matcher.is_accepting())


def guided(logits: Tensor, guides: Sequence[Guide], left: Sequence[int]) -> list[int]:
    """The most likely allowed token of each row of logits [B, V], with its guide taken on by it."""
    return corrected(logits, logits.argmax(-1).tolist(), range(len(guides)), guides, left)


def corrected(
    logits: Tensor, chosen: list[int], rows: Sequence[int], guides: Sequence[Guide], left: Sequence[int]
) -> list[int]:
    """`chosen` [B], the most likely tokens, with what the guides of `rows` refuse replaced; guides and left by row."""
    refused = [row for row in rows if not guides[row].take(chosen[row : row + 1], left[row])]
    if not refused:
        return chosen
    allowed = np.stack([guides[row].allowed(left[row], logits.shape[-1]) for row in refused])
    masked = logits[torch.tensor(refused, device=logits.device)]
    masked = masked.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))
    chosen = list(chosen)
    for row, token in zip(refused, masked.argmax(-1).tolist(), strict=True):
        guides[row].force(token)
        chosen[row] = token
    return chosen


_TOKENIZERS: weakref.WeakKeyDictionary[Tokenizer, dict[tuple[int, ...], LLTokenizer]] = weakref.WeakKeyDictionary()


def ll_tokenizer(tokenizer: Tokenizer, stops: tuple[int, ...]) -> LLTokenizer:
    """The vocabulary as llguidance reads it; made once, which takes a second or two for Gemma's 262,144 tokens."""
    known = _TOKENIZERS.setdefault(tokenizer, {})
    if stops not in known:
        known[stops] = LLTokenizer(tokenizer.definition(), eos_token=list(stops))
    return known[stops]


def compiled(grammar: Grammar, tokens: LLTokenizer) -> LLMatcher:
    """A matcher at the grammar's beginning. Raises InputError for what llguidance refuses or warns of: a server that is
    given an invalid grammar may ignore it."""
    text = LLMatcher.grammar_from_lark(to_lark(grammar))
    _, messages = LLMatcher.validate_grammar_with_warnings(text, tokens)
    matcher = LLMatcher(tokens, text)
    if messages or matcher.is_error():
        raise InputError(f"the grammar of these tools cannot be used: {'; '.join(messages) or matcher.get_error()}; "
                         "simplify their schemas")  # fmt: skip
    return matcher


def ending_tokens(grammar: Grammar, tokenizer: Tokenizer) -> int:
    """How many tokens are kept for an answer's ending."""
    count = lru_cache(maxsize=None)(lambda text: len(tokenizer.encode(text)))
    return ceil(_MARGIN * grammar.ending(count)) + _MORE


def closers(tokenizer: Tokenizer, stops: Iterable[int]) -> list[int]:
    """What ends an answer, and what leads there, the best first. In a string `<escape>` may always come, so the
    characters below are only met outside of one."""
    return [*sorted(stops), tokenizer.id(END_CALL), tokenizer.id(ESCAPE),
            *(i for character in "}]:," for i in tokenizer.encode(character))]  # fmt: skip
